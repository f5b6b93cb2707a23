//! What is attached, by whose plugins, and the network of it.

use std::fmt;

use serde_json::{Value, json};

use super::{MASTER, MASTERS};

/// What is attached, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// An address and nothing else.
    HostLocal,
    /// A device of its own for each pod, with an address.
    HostDevice,
    /// The same with the addresses, routes and neighbours that it has on the node.
    KeptDevice,
    /// The same with a network card, which only the test VM has.
    Nic,
    /// A network card that is bound to a driver for user space.
    BoundNic,
    /// An interface on a master, with an address.
    Ipvlan,
    /// An address that is registered in the VPC: eni-sync behind host-local, to which
    /// the scene adds the interface that ipvlan would have made.
    Registered,
    /// The same behind ipvlan itself.
    RegisteredIpvlan,
}

/// Whose plugins are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// Ours.
    Ours,
    /// Those of the CNI project, as Debian packages them.
    Go,
}

impl Subject {
    /// Whether each pod gets a device.
    pub fn has_devices(self) -> bool {
        matches!(self, Self::HostDevice | Self::KeptDevice) || self.has_nics()
    }

    /// Whether they are network cards.
    pub fn has_nics(self) -> bool {
        matches!(self, Self::Nic | Self::BoundNic)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostLocal => "host-local",
            Self::HostDevice => "host-device",
            Self::KeptDevice => "host-device with keepAddresses",
            Self::Nic => "host-device of a network card with keepAddresses",
            Self::BoundNic => "host-device of a network card with a driver",
            Self::Ipvlan => "ipvlan",
            Self::Registered => "eni-sync",
            Self::RegisteredIpvlan => "eni-sync behind ipvlan",
        })
    }
}

/// The network with this number. Those of a VPC are in one subnet, which is that of
/// the one ENI.
pub(super) fn conf(subject: Subject, maker: Maker, number: usize) -> Value {
    let (v4, v6) = (
        format!("10.0.{}", 4 + number),
        format!("2001:db8:4::{number}"),
    );
    let ranges = json!([
        [{"subnet": "10.0.4.0/22", "rangeStart": format!("{v4}.20"), "rangeEnd": format!("{v4}.250")}],
        [{"subnet": "2001:db8:4::/64", "rangeStart": format!("{v6}:20"), "rangeEnd": format!("{v6}:ffff")}],
    ]);
    let ipam = json!({"type": "host-local", "ranges": ranges});
    let master = match subject {
        Subject::Ipvlan => MASTERS[number % MASTERS.len()],
        _ => MASTER,
    };
    let sync = json!({"type": "eni-sync", "cooldownSeconds": 0});
    let ipvlan = json!({"type": "ipvlan", "master": master, "mode": "l2", "ipam": ipam});
    let plugins = match subject {
        Subject::HostLocal => json!([{"type": "host-local", "ipam": ipam}]),
        Subject::HostDevice => json!([{"type": "host-device", "ipam": ipam}]),
        Subject::KeptDevice | Subject::Nic => {
            json!([{"type": "host-device", "keepAddresses": true, "ipam": ipam}])
        }
        Subject::BoundNic => {
            json!([{"type": "host-device", "driver": "vfio-pci", "ipam": ipam}])
        }
        Subject::Ipvlan => json!([ipvlan]),
        Subject::Registered => json!([{"type": "host-local", "ipam": ipam}, sync]),
        Subject::RegisteredIpvlan => json!([ipvlan, sync]),
    };
    // What Debian packages knows no later one.
    let version = match maker {
        Maker::Ours => "1.1.0",
        Maker::Go => "1.0.0",
    };
    json!({"cniVersion": version, "name": format!("net{number}"), "plugins": plugins})
}
