//! What is attached, by which plugins, and the configuration of its network.

use std::fmt;

use serde_json::{Value, json};

use super::{MASTER, MASTERS};

/// What is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Only an address.
    HostLocal,
    /// A separate device for each pod, with an address.
    HostDevice,
    /// As `HostDevice`, with the addresses, routes and neighbours that the device has on
    /// the node.
    KeptDevice,
    /// As `KeptDevice`, with a network card, which only the test VM has.
    Nic,
    /// A network card that is bound to a driver for user space.
    BoundNic,
    /// An interface on a master, with an address.
    Ipvlan,
    /// An address that is registered in the VPC: eni-sync after host-local in a chain.
    /// The scene adds the interface that ipvlan would have made to the result.
    Registered,
    /// As `Registered`, with eni-sync after ipvlan.
    RegisteredIpvlan,
}

/// The plugins that are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// Ours.
    Ours,
    /// Those of the CNI project, from Debian's package.
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

/// The configuration of the network with this number. The networks of a VPC are in one
/// subnet, that of the only ENI.
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
    // Debian's package does not support a later version.
    let version = match maker {
        Maker::Ours => "1.1.0",
        Maker::Go => "1.0.0",
    };
    json!({"cniVersion": version, "name": format!("net{number}"), "plugins": plugins})
}
