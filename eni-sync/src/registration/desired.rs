//! Which addresses an attachment needs on which ENI, by the result of the plugins before this
//! one and the MAC addresses of its interfaces. Subnets are never compared: two ENIs may be in
//! the same subnet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::attach::Sandbox;
use common::cni::args::CmdArgs;
use common::cni::result::{AddResult, Interface};
use common::error::{Error, Result};
use host_device::device::Device;

use crate::vpc::eni::is_routed;

/// The addresses of an attachment, by the MAC address of the interface that they are on, in
/// lower case with colons.
pub(crate) type Wanted = BTreeMap<String, Vec<IpAddr>>;

/// The addresses on the container's interfaces in the result of the plugins before this one. An
/// address on the node's side, such as that of a bridge, does not belong to the pod.
///
/// # Errors
/// Code 7 when an address is on an interface that the result lacks, or the MAC address of its
/// interface cannot be found; 8 when the container's namespace cannot be opened.
pub(crate) fn by_mac(prev_result: &AddResult, args: &CmdArgs) -> Result<Wanted> {
    let own = Interface {
        name: args.ifname.to_string(),
        sandbox: args.netns.clone(),
        ..Interface::default()
    };
    let mut wanted = Wanted::new();
    for ip in &prev_result.ips {
        let address = ip.address.address();
        let interface = match ip.interface {
            // Results before 0.3.0 have no interfaces: there is only that of the attachment.
            None => &own,
            Some(index) => prev_result.interfaces.get(index).ok_or_else(|| {
                let msg = format!("prevResult has {address} on interface {index}, which it lacks");
                Error::config(msg)
            })?,
        };
        if interface.sandbox.is_empty() || !is_routed(address) {
            continue;
        }
        let addresses = wanted.entry(mac_of(interface, args)?).or_default();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(wanted)
}

fn mac_of(interface: &Interface, args: &CmdArgs) -> Result<String> {
    if interface.name == args.ifname.as_str()
        && let Some(mac) = recorded_mac(args)?
    {
        return Ok(mac);
    }
    if !interface.mac.is_empty() {
        return Ok(interface.mac.to_lowercase());
    }
    if let Some(link) = Sandbox::open(&args.netns)?
        .netlink
        .link_by_name(&interface.name)?
    {
        return Ok(link.mac);
    }
    let msg = format!("interface {:?} has no MAC address", interface.name);
    let details = "it is not in prevResult, and the container has no such interface";
    Err(Error::config(msg).with_details(details))
}

/// The MAC address of the ENI that an attachment is on, if a plugin of this suite has made its
/// interface. That of the interface can be another one, or there is none: a macvlan in mode passthru
/// sets that of the interface below it, and a driver for user space takes a device from the kernel.
///
/// # Errors
/// Code 5 naming a record that cannot be read.
pub(crate) fn recorded_mac(args: &CmdArgs) -> Result<Option<String>> {
    let on_master = ipvlan::records().read::<ipvlan::device::Device>(args)?;
    let mac = match on_master {
        Some(record) => record.device.eni_mac().to_lowercase(),
        None => {
            let whole = host_device::records().read::<Device>(args)?;
            let mac = whole.map(|record| record.device.hardware_mac().to_lowercase());
            mac.unwrap_or_default()
        }
    };
    Ok(Some(mac).filter(|mac| !mac.is_empty()))
}
