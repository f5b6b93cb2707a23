//! Whether an ENI may have left this node, by what the node itself shows. A description of EC2 may be
//! of the time before it went to another node with its addresses.

use common::error::Result;
use common::kernel::netlink::Netlink;

use crate::registration::attached::is_elsewhere;
use crate::vpc::clients::Aws;

/// The reason why the ENI with this MAC address may be on another node, if there is one. The kernel
/// removes the interface at that moment. Without one, a pod or a driver for user space may have
/// it; then the metadata show the ENI.
///
/// # Errors
/// Those of the kernel and of [`Aws::imds`].
pub(crate) fn reason_to_doubt(aws: &Aws, mac: &str) -> Result<Option<String>> {
    if !is_elsewhere(&Netlink::open()?.links()?, mac) {
        return Ok(None);
    }
    let without = "the ENI may be on another node: its interface is not on this one, and";
    Ok(match aws.imds_soon()?.macs() {
        Ok(macs) if macs.contains(mac) => None,
        Ok(_) => Some(format!("{without} the metadata do not show it")),
        Err(why) => Some(format!("{without} the metadata cannot be asked: {why}")),
    })
}
