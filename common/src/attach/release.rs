//! The release of an attachment's addresses, by the delegate that has reserved them, and at a
//! moment at which no interface has an address that the delegate can give to another container.

use std::borrow::Cow;

use crate::cni::args::{CmdArgs, ConfArgs};
use crate::cni::config::NetConf;
use crate::cni::ipam::IpamPlugin;
use crate::error::Result;
use crate::kernel::netlink::{Link, Netlink};
use crate::records::Attachment;
use crate::say;

/// A release of addresses that is to be done.
#[derive(Debug)]
pub struct Release<'a> {
    args: &'a CmdArgs,
    /// The file name of the delegate; empty means that nothing is reserved.
    ipam: String,
    /// The configuration for the delegate.
    conf: Cow<'a, ConfArgs>,
    /// The outcome, if the release was done before the interface was removed.
    early: Option<Result<()>>,
}

impl<'a> Release<'a> {
    /// The release of the addresses of the record's delegate, or without a record of the
    /// configuration's.
    pub(super) fn of<D>(args: &'a CmdArgs, record: Option<&Attachment<D>>) -> Self {
        let ipam = match record {
            Some(record) => record.ipam_plugin(),
            None => configured_name(&args.conf),
        };
        Self {
            args,
            ipam,
            conf: conf(args, record),
            early: None,
        }
    }

    /// Whether the delegate needs the interface to release its addresses: `dhcp` sends a
    /// message to its server. All others release them after the interface was removed, so that
    /// no interface has an address when another container gets it.
    pub fn needs_link(&self) -> bool {
        self.ipam == "dhcp"
    }

    /// For a delegate that needs the interface: removes the addresses from `link`, which is
    /// about to be removed, and lets the delegate release them. For all others this does
    /// nothing.
    pub fn before_removal(&mut self, netlink: &mut Netlink, link: &Link) {
        // A missing plugin is reported after the link was removed.
        if !self.needs_link() || self.find().is_err() {
            return;
        }
        match netlink.remove_addresses(link) {
            Ok(()) => self.early = Some(self.execute()),
            Err(error) => say!(
                "the addresses are released when {:?} has gone: {error}",
                link.name
            ),
        }
    }

    /// Releases what is not released yet.
    ///
    /// # Errors
    /// As for [`IpamPlugin::find`] and [`IpamPlugin::del`].
    pub(super) fn finish(mut self) -> Result<()> {
        match self.early.take() {
            Some(outcome) => outcome,
            None => self.execute(),
        }
    }

    fn find(&self) -> Result<Option<IpamPlugin>> {
        IpamPlugin::find_configured(&self.ipam, &self.args.conf.delegates)
    }

    fn execute(&self) -> Result<()> {
        match self.find()? {
            Some(ipam) => ipam.del(self.args, &self.conf),
            None => Ok(()),
        }
    }
}

/// The configuration for the delegate's DEL: the stdin of this DEL byte for byte, if it has the
/// `ipam` section of the ADD. Otherwise its section is replaced by that of the ADD, because it
/// says where the reservation is.
fn conf<'a, D>(args: &'a CmdArgs, record: Option<&Attachment<D>>) -> Cow<'a, ConfArgs> {
    match record {
        Some(record)
            if !record.ipam.is_null() && args.conf.document.get("ipam") != Some(&record.ipam) =>
        {
            Cow::Owned(args.conf.with("ipam", &record.ipam))
        }
        _ => Cow::Borrowed(&args.conf),
    }
}

/// The plugin that the configuration names, even if other keys are invalid: DEL must not depend
/// on them.
fn configured_name(conf: &ConfArgs) -> String {
    let conf = conf.document.read::<NetConf>("failed to load netconf");
    conf.map(|conf| conf.ipam.plugin).unwrap_or_default()
}
