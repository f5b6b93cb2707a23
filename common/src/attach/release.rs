//! The release of an attachment's addresses: by the delegate that has reserved them, and at the
//! moment at which nobody can have an address that another container gets.

use std::borrow::Cow;

use crate::cni::args::{CmdArgs, ConfArgs};
use crate::cni::config::NetConf;
use crate::cni::ipam::IpamPlugin;
use crate::error::Result;
use crate::kernel::netlink::{Link, Netlink};
use crate::records::Attachment;
use crate::say;

/// What is to be released, and by whom.
#[derive(Debug)]
pub struct Release<'a> {
    args: &'a CmdArgs,
    /// The file name of the delegate; empty means that nothing is reserved.
    ipam: String,
    /// What the delegate reads.
    conf: Cow<'a, ConfArgs>,
    /// What has come of it, where it was done before the interface was removed.
    early: Option<Result<()>>,
}

impl<'a> Release<'a> {
    /// The release of what the record says, or without one of what the configuration says.
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

    /// Whether the delegate releases addresses through the interface that has them: `dhcp`
    /// tells its server. All others release them when the interface has gone, so that nobody
    /// can have an address when another container gets it.
    pub fn needs_link(&self) -> bool {
        self.ipam == "dhcp"
    }

    /// Takes the addresses off `link`, which is about to be removed, and lets a delegate that
    /// needs it release them. All others are still to release them.
    pub fn before_removal(&mut self, netlink: &mut Netlink, link: &Link) {
        // A missing plugin is reported when the link has gone.
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

/// What a delegate reads on DEL: our stdin byte for byte, unless the `ipam` section
/// is not the one that ADD used. Then ADD's counts, because the reservation is where
/// that section says, and a stripped section says nothing at all.
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

/// What the configuration names, whatever else is wrong with it: DEL must not depend
/// on the rest.
fn configured_name(conf: &ConfArgs) -> String {
    let conf = conf.document.read::<NetConf>("failed to load netconf");
    conf.map(|conf| conf.ipam.plugin).unwrap_or_default()
}
