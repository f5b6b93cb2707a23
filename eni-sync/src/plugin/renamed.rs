//! A DEL under another network name than that of the ADD: the network may have been renamed since. A
//! container has one interface with a name, so the attachment is meant if it has certainly ended,
//! or if the DEL is about its namespace and has its address in `prevResult`.

use std::net::IpAddr;

use common::cni::args::CmdArgs;
use common::kernel::netns::Holders;

use crate::ledger::Owner;

/// What a DEL proves about attachments of other networks.
pub(super) struct Renamed<'a> {
    args: &'a CmdArgs,
    /// The addresses in its `prevResult`.
    addresses: Vec<IpAddr>,
    holders: Holders,
}

impl<'a> Renamed<'a> {
    pub(super) fn of(args: &'a CmdArgs) -> Self {
        Self {
            args,
            addresses: args.conf.document.known_addresses(args.conf.version),
            holders: Holders::default(),
        }
    }

    /// Whether the DEL is about the attachment of `owner`, which has this address.
    pub(super) fn is_meant(&self, owner: &Owner, address: Option<IpAddr>) -> bool {
        let (container, ifname) = (self.args.container_id.as_str(), self.args.ifname.as_str());
        if !owner.is_interface(container, ifname) {
            return false;
        }
        let is_named = address.is_some_and(|address| self.addresses.contains(&address));
        is_named && self.is_here(owner) || owner.presence(&self.holders).has_ended()
    }

    fn is_here(&self, owner: &Owner) -> bool {
        let id = owner.netns_id();
        id.is_some_and(|id| id.is_at(&self.args.netns).unwrap_or(false))
    }
}
