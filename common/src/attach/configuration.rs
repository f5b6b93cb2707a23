//! The keys that all plugins with an interface have. The keys of only one plugin are in
//! that plugin.

use super::options::Options;
use crate::cni::args::ConfArgs;
use crate::cni::config::NetConf;
use crate::cni::ipam::IpamPlugin;
use crate::cni::result::Dns;
use crate::error::{Error, Result};

/// The keys of a configuration that do not depend on the kind of interface.
#[derive(Debug)]
pub struct Configuration {
    /// The file name of the address management plugin; empty means none.
    pub ipam: String,
    /// Name servers for the result.
    pub dns: Dns,
    /// Duplicate address detection and source routing.
    pub options: Options,
}

impl Configuration {
    /// Reads the configuration, for any command.
    ///
    /// # Errors
    /// Code 6 for a key that cannot be read, 7 for an invalid value.
    pub fn of(conf: &ConfArgs) -> Result<Self> {
        let keys: NetConf = conf.document.read("failed to load netconf")?;
        Ok(Self {
            ipam: keys.ipam.plugin,
            dns: keys.dns,
            options: Options::from_document(&conf.document)?,
        })
    }

    /// The address management plugin, if there is one.
    ///
    /// # Errors
    /// As for [`IpamPlugin::find`].
    pub fn find_ipam(&self, conf: &ConfArgs) -> Result<Option<IpamPlugin>> {
        IpamPlugin::find_configured(&self.ipam, &conf.delegates)
    }
}

/// The error of an ADD in version 0.1.0 or 0.2.0 whose result would have no addresses:
/// results of these versions have nothing but addresses.
pub(super) fn not_expressible(conf: &ConfArgs) -> Error {
    let version = conf.version;
    Error::config("cannot convert: no valid IP addresses").with_details(format!(
        "cniVersion {version} cannot express an interface without ipam"
    ))
}
