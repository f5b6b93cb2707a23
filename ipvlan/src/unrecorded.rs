//! Attachments whose DEL finds no readable record under its network's name: which interface
//! belongs to the attachment, and what proves that.

use common::attach::{Release, sandbox_for_del};
use common::cni::args::CmdArgs;
use common::cni::result::AddResult;
use common::error::Result;
use common::kernel::netlink::{Link, Netlink};
use common::records::Attachment;

use crate::config::NetConf;
use crate::device::Device;
use crate::lower_device::KIND;
use crate::{master, records};

/// Whether the DEL of a network that was renamed is about this attachment: its result has the
/// interface, or the container has ended and the master is the configured one. While the
/// container exists, the master alone proves nothing: the DEL may follow a refused ADD of
/// another network with the same master.
pub fn is_renamed(args: &CmdArgs, record: &Attachment<Device>) -> bool {
    // Errors here only mean that nothing is proven; DEL must not fail because of them.
    let document = &args.conf.document;
    let result = document.prev_result(args.conf.version).ok().flatten();
    let reported = result.and_then(|result| {
        let index = result.find_interface(args.ifname.as_str(), &args.netns)?;
        Some(result.interfaces.get(index)?.mac.to_ascii_lowercase())
    });
    if reported.is_some_and(|mac| mac == record.device.master_mac) {
        return true;
    }
    if record.is_alive().unwrap_or(true) {
        return false;
    }
    let find = || master::find(&NetConf::parse(&args.conf)?, &mut Netlink::open()?);
    let is_named = document.get("master").is_some() || document.get("masterSelector").is_some();
    let lower = record.device.lower;
    let is_configured = |master: Link| master.index == lower.index;
    let is_on_node = !lower.in_container && lower.third_netns.is_none();
    is_named && is_on_node && find().is_ok_and(is_configured)
}

/// Whether DEL can end an attachment whose record cannot be read: its configuration names the
/// delegate that has reserved the addresses, and the container has no ipvlan interface of that
/// name, or one that the result of ADD shows.
fn is_proven(args: &CmdArgs) -> Result<bool> {
    let keys = ["ipam", "master", "masterSelector"];
    if !keys.iter().any(|key| args.conf.document.get(key).is_some()) {
        return Ok(false);
    }
    let Some(mut sandbox) = sandbox_for_del::<Device>(args, None)? else {
        return Ok(true);
    };
    let link = sandbox.netlink.link_by_name(args.ifname.as_str())?;
    Ok(link.is_none_or(|link| link.kind != KIND || is_reported(args, &link)))
}

/// Removes the interface that the result of ADD shows, which the runtime passes to DEL: for
/// example one that the Go plugin has made. If the record `is_damaged`, nothing is changed
/// unless DEL can end the attachment without it. Returns whether it can.
///
/// # Errors
/// As for [`sandbox_for_del`], and code 999 when the kernel does not answer.
pub fn remove(args: &CmdArgs, is_damaged: bool, release: &mut Release<'_>) -> Result<bool> {
    if is_damaged && !is_proven(args)? {
        return Ok(false);
    }
    let Some(mut sandbox) = sandbox_for_del::<Device>(args, None)? else {
        return Ok(true);
    };
    let link = sandbox.netlink.link_by_name(args.ifname.as_str())?;
    let Some(link) = link.filter(|link| is_reported(args, link)) else {
        return Ok(true);
    };
    if !records().has_other::<Device>(args, &sandbox.netns)? {
        release.before_removal(&mut sandbox.netlink, &link);
        sandbox.netlink.delete_link(&link)?;
    }
    Ok(true)
}

/// Whether the result of ADD shows that `link` belongs to the attachment.
fn is_reported(args: &CmdArgs, link: &Link) -> bool {
    // A result that cannot be read proves nothing; DEL must not fail because of it.
    let prev_result = args
        .conf
        .document
        .prev_result(args.conf.version)
        .ok()
        .flatten();
    let is_shown = |result: AddResult| result.find_interface(&link.name, &args.netns).is_some();
    link.kind == KIND && prev_result.is_some_and(is_shown)
}
