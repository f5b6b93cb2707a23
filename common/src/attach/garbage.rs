//! GC: ends the attachments of a network that are not valid.

use super::end::end;
use super::{Interface, records};
use crate::attach::turn::Turn;
use crate::cni::args::{CmdArgs, ConfArgs};
use crate::cni::config::is_listed;
use crate::cni::ipam::IpamPlugin;
use crate::error::{Errors, Result};

/// Ends every attachment of the network that is not listed as valid, and passes the command on
/// to the delegate. An error does not stop the rest. Without a list nothing is removed.
pub(super) fn collect<I: Interface>(conf: &ConfArgs) -> Result<()> {
    let Some(valid) = conf.document.valid_attachments()? else {
        return Ok(());
    };
    collect_recorded::<I>(conf, |container_id, ifname| {
        is_listed(&valid, container_id, ifname)
    })?;
    I::collect_unrecorded(conf)
}

fn collect_recorded<I: Interface>(
    conf: &ConfArgs,
    is_valid: impl Fn(&str, &str) -> bool,
) -> Result<()> {
    let _turn = Turn::to_collect(&conf.network)?;
    let mut errors = Errors::default();
    let records = records::<I>().read_network::<I::Device>(&conf.network, &mut errors);
    for record in records {
        if !is_valid(record.container_id.as_str(), record.ifname.as_str()) {
            let args = record.del_args(&conf.delegates);
            errors.keep(args.and_then(|args| end_if_recorded::<I>(&args)));
        }
    }
    errors.keep(IpamPlugin::forward_gc(conf));
    errors.into_result()
}

/// Waits for the turn of the container, and ends the attachment if it still has a record.
fn end_if_recorded<I: Interface>(args: &CmdArgs) -> Result<()> {
    let _turn = Turn::to_detach(args)?;
    match records::<I>().read(args)? {
        Some(record) => end::<I>(args, &record),
        None => Ok(()),
    }
}
