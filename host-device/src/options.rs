//! The keys that the Go plugin does not have, validated: the driver for the device,
//! whether it keeps its addresses, whether it may be in use, and the file that describes
//! it. Without them the plugin behaves like the Go plugin.

use std::path::Path;

use common::cni::config::Document;
use common::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

/// The drivers that give a device to a program in user space. Such a device has no
/// network interface that could be moved.
pub const DPDK_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// The values of these keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `driver`: bind the device to this driver for user space.
    pub driver: Option<UserDriver>,
    /// `keepAddresses`: the device keeps its addresses and routes in the container.
    pub keep_addresses: bool,
    /// `allowInUse`: a device is taken even if the node or other interfaces use it.
    pub allow_in_use: bool,
    /// `runtimeConfig.CNIDeviceInfoFile`: the absolute path of the file that ADD writes
    /// the description of the device to.
    pub device_info_file: Option<String>,
}

/// The name of a driver that gives a device to a program in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserDriver(&'static str);

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Keys {
    runtime_config: RuntimeConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeConfig {
    #[serde(rename = "CNIDeviceInfoFile")]
    device_info_file: Value,
}

impl Options {
    /// The options of a configuration.
    ///
    /// # Errors
    /// Code 7 naming the key and the value.
    pub fn parse(document: &Document) -> Result<Self> {
        let options = Self {
            driver: document.get("driver").map_or(Ok(None), driver)?,
            keep_addresses: flag(document, "keepAddresses")?,
            allow_in_use: flag(document, "allowInUse")?,
            device_info_file: device_info_file(document)?,
        };
        match options.driver {
            Some(driver) if options.keep_addresses => Err(Error::config(format!(
                "keepAddresses true cannot be combined with driver {:?}",
                driver.as_str()
            ))
            .with_details("such a device has no interface in the container")),
            _ => Ok(options),
        }
    }
}

impl UserDriver {
    /// The name as the kernel writes it.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

/// The driver; an empty text counts as absent, as for every other key.
fn driver(value: &Value) -> Result<Option<UserDriver>> {
    let name = value.as_str();
    if name == Some("") {
        return Ok(None);
    }
    let mut known = DPDK_DRIVERS.into_iter();
    match known.find(|known| name == Some(known)) {
        Some(known) => Ok(Some(UserDriver(known))),
        None => Err(Error::config(format!("unknown driver: {value}"))
            .with_details(format!("it is one of {}", DPDK_DRIVERS.join(", ")))),
    }
}

fn flag(document: &Document, key: &str) -> Result<bool> {
    let Some(value) = document.get(key) else {
        return Ok(false);
    };
    value.as_bool().ok_or_else(|| {
        Error::config(format!("invalid {key}: {value}")).with_details("it is true or false")
    })
}

fn device_info_file(document: &Document) -> Result<Option<String>> {
    let keys: Keys = document.read("failed to load netconf")?;
    let value = keys.runtime_config.device_info_file;
    if value.is_null() {
        return Ok(None);
    }
    match value.as_str() {
        Some("") => Ok(None),
        Some(path) if is_absolute_file(path) => Ok(Some(path.to_owned())),
        _ => Err(
            Error::config(format!("invalid runtimeConfig.CNIDeviceInfoFile: {value}"))
                .with_details("it is the absolute path of a file"),
        ),
    }
}

fn is_absolute_file(text: &str) -> bool {
    let path = Path::new(text);
    path.is_absolute() && path.file_name().is_some() && !text.ends_with('/') && !text.contains('\0')
}
