//! What the plugin that attaches an interface has recorded, for the plugins that are executed
//! after it: an IPAM plugin, or the next one of a chain.

use serde::de::IgnoredAny;

use super::{Attachment, Records};
use crate::cni::args::CmdArgs;
use crate::cni::identifier::ContainerId;
use crate::error::Result;
use crate::ifname::IfName;
use crate::kernel::netns::{NetNs, NetNsId};

/// The plugins that write a record of each attachment.
const RECORDING: [&str; 2] = ["ipvlan", "host-device"];

/// The record of an attachment, without what only its plugin knows. A damaged record proves
/// nothing.
///
/// # Errors
/// Code 5 naming the record that the system fails to read.
pub fn recorded(
    network: &str,
    container_id: &ContainerId,
    ifname: &IfName,
) -> Result<Option<Attachment<IgnoredAny>>> {
    let mut found = None;
    for plugin in RECORDING {
        let record = Records::of(plugin).read_of(network, container_id, ifname);
        match record {
            Err(error) if error.errno().is_some() => return Err(error),
            record => found = found.or(record.ok().flatten()),
        }
    }
    Ok(found)
}

/// Which namespace an ADD is about, by everything that identifies it. To find that out, the
/// namespace is entered; where a record of this boot has it, the plugin that has written that has
/// done so just before. `boot` is the value of [`boot_id`](super::boot_id).
///
/// # Errors
/// Code 8 when the namespace cannot be opened or examined.
pub fn netns_id(args: &CmdArgs, boot: &str) -> Result<NetNsId> {
    let record = recorded(&args.conf.network, &args.container_id, &args.ifname);
    let record = record.ok().flatten().filter(|record| {
        let is_of_call = record.boot_id == boot && record.netns == args.netns;
        is_of_call && record.netns_id.is_at(&args.netns).unwrap_or(false)
    });
    // Earlier versions have not recorded everything.
    match record.filter(|record| record.netns_id.nsid.is_some()) {
        Some(record) => Ok(record.netns_id),
        None => NetNs::open(&args.netns)?.id_to_record(),
    }
}
