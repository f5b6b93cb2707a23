//! The keys that every plugin with an interface has. What only one of them reads is in that
//! plugin.

use super::options::Options;
use crate::cni::args::ConfArgs;
use crate::cni::config::NetConf;
use crate::cni::ipam::IpamPlugin;
use crate::cni::result::Dns;
use crate::error::{Error, Result};

/// What a configuration says of an attachment, whatever its interface is.
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
    /// The configuration of any command.
    ///
    /// # Errors
    /// Code 6 for what cannot be read, 7 for a value that cannot be right.
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

/// The error of an ADD whose result would be without addresses. Those of 0.1.0 and 0.2.0
/// consist of addresses: without any, the attachment could not be reported.
pub(super) fn not_expressible(conf: &ConfArgs) -> Error {
    let version = conf.version;
    Error::config("cannot convert: no valid IP addresses").with_details(format!(
        "cniVersion {version} cannot express an interface without ipam"
    ))
}
