//! Sets the interface of an ENI up, with the MTU of the VPC unless another MTU was set. Nothing
//! else is changed.

use std::thread;
use std::time::{Duration, Instant};

use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::{Link, LinkChange, Netlink};
use tracing::{info, warn};

use crate::deadline::Deadline;

/// The largest MTU in a VPC. Source: Amazon EC2 User Guide, "Network MTU for your EC2
/// instance".
const VPC_MTU: u32 = 9001;
/// The MTU of an interface whose MTU was not set.
const DEFAULT_MTU: u32 = 1500;
/// How long an interface must have its name before it is set up: udev renames new interfaces,
/// and cannot rename one that is up.
pub(crate) const SETTLED: Duration = Duration::from_secs(2);
/// How long the kernel may take to show a device that EC2 has attached.
const APPEARS: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// Sets the interface of an ENI up.
///
/// # Errors
/// Code 999 with the kernel's error.
pub(crate) fn set_up(netlink: &mut Netlink, id: &str, link: &Link) -> Result<()> {
    let name = &link.name;
    let mut mtu = link.mtu;
    if mtu == DEFAULT_MTU {
        let larger = LinkChange {
            mtu: Some(VPC_MTU),
            ..LinkChange::default()
        };
        let what = || format!("failed to give {name} of {id} the MTU {VPC_MTU}");
        match netlink.change_link(link.index, larger, what) {
            Ok(()) => mtu = VPC_MTU,
            // A device with a lower limit can be used with the MTU that it has.
            Err(error) => warn!(eni = id, interface = name, "{error}"),
        }
    }
    let up = LinkChange {
        up: Some(true),
        ..LinkChange::default()
    };
    netlink.change_link(link.index, up, || {
        format!("failed to set {name} of {id} up")
    })?;
    info!(
        eni = id,
        interface = name,
        mtu,
        "{name} of {id} was down; it is up, with MTU {mtu}"
    );
    Ok(())
}

/// Waits until the interface of an ENI that was just attached has its name, and sets it up
/// unless it is up already. Returns its name.
///
/// # Errors
/// Code 11 when there is no such interface in time, 999 with the kernel's error.
pub(crate) fn await_and_set_up(id: &str, mac: &str, deadline: Deadline) -> Result<String> {
    let time = deadline.left_of(APPEARS);
    let deadline = Deadline::after(time);
    let mut netlink = Netlink::open()?;
    let mut seen: Option<(u32, String, Instant)> = None;
    loop {
        let links = netlink.links()?;
        let found = Link::of_hardware(&links, mac);
        if let Some(link) = found.filter(|link| link.controller.is_none()) {
            if link.up {
                return Ok(link.name.clone());
            }
            let is_same = |(index, name, _): &(u32, String, Instant)| {
                *index == link.index && *name == link.name
            };
            let known = seen.take().filter(is_same);
            let known = known.unwrap_or((link.index, link.name.clone(), Instant::now()));
            if known.2.elapsed() >= SETTLED {
                set_up(&mut netlink, id, link)?;
                return Ok(link.name.clone());
            }
            seen = Some(known);
        }
        if deadline.is_over() {
            return Err(absent(id, mac, time));
        }
        thread::sleep(LOOK);
    }
}

fn absent(id: &str, mac: &str, time: Duration) -> Error {
    let (seconds, settled) = (time.as_secs(), SETTLED.as_secs());
    let msg = format!("{id} is attached, but no interface of the node has {mac}");
    let details = format!(
        "the kernel has not shown it in {seconds} seconds, or not under one name for {settled}"
    );
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}
