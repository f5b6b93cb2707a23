//! Everything that can be measured, in the order of the table.

use crate::figure::Report;
use crate::options::Effort;
use crate::{
    enis, host_device, host_local, ipvlan, node, parallel, pods, processes, programs, records,
    taken, throttled,
};

/// One row of the table: a work and how it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub about: &'static str,
    /// Whether the kernel must have ipvlan and dummy interfaces.
    pub needs_ipvlan: bool,
    pub measure: fn(&Effort) -> Report,
}

const fn row(name: &'static str, about: &'static str, measure: fn(&Effort) -> Report) -> Row {
    Row {
        name,
        about,
        needs_ipvlan: false,
        measure,
    }
}

const fn ipvlan_row(
    name: &'static str,
    about: &'static str,
    measure: fn(&Effort) -> Report,
) -> Row {
    Row {
        needs_ipvlan: true,
        ..row(name, about, measure)
    }
}

/// All rows.
pub fn all() -> Vec<Row> {
    vec![
        row("programs", "the plugins' files", programs::size),
        row(
            "parse",
            "VERSION, and a long configuration",
            host_local::parse,
        ),
        row("host-local/empty", "nothing is reserved", host_local::empty),
        row(
            "host-local/1000",
            "1,000 addresses are reserved",
            |effort| taken::taken(effort, 1000, 10.0),
        ),
        row(
            "host-local/10000",
            "10,000 addresses are reserved",
            |effort| taken::taken(effort, 10_000, 50.0),
        ),
        row(
            "host-local/60000",
            "60,000 addresses are reserved",
            |effort| taken::taken(effort, 60_000, 300.0),
        ),
        row(
            "host-local/shared",
            "both take turns on one directory",
            taken::shared,
        ),
        row(
            "host-local/nearly-full",
            "5 addresses of a /20 are free",
            taken::nearly_full,
        ),
        row(
            "host-local/exhausted",
            "no address of a /20 is free",
            taken::exhausted,
        ),
        row(
            "host-local/parallel",
            "100 calls at once on one network",
            parallel::parallel,
        ),
        row("host-device/bare", "a veth, no IPAM", host_device::bare),
        row(
            "host-device/host-local",
            "a veth with an IPv4 address",
            host_device::with_ipam,
        ),
        row(
            "host-device/ipv6",
            "a veth with an IPv6 address",
            host_device::ipv6,
        ),
        row(
            "processes/host-device",
            "with host-local, in one process and in two",
            processes::host_device,
        ),
        row(
            "throttled/host-device",
            "pods that start at once, 3 networks each, little CPU",
            throttled::host_device,
        ),
        row(
            "scale/reservations",
            "host-local by the number of reservations",
            taken::curve,
        ),
        row(
            "scale/pods",
            "host-device by the number of pods with 3 networks",
            pods::curve,
        ),
        row(
            "scale/records-host-device",
            "1,000 records of attachments",
            records::host_device,
        ),
        row(
            "eni-sync/socket",
            "eni-sync with its agent beside host-local",
            enis::socket,
        ),
        row(
            "eni-sync/enis",
            "15 ENIs with 50 addresses each",
            enis::full_node,
        ),
        row(
            "eni-sync/agent",
            "its agent with 1,000 addresses",
            node::agent,
        ),
        row(
            "eni-sync/attach",
            "from a node without an ENI for pods to its first pod",
            node::first_pod,
        ),
        ipvlan_row(
            "ipvlan/host-local",
            "an IPv4 address of host-local",
            ipvlan::with_ipam,
        ),
        ipvlan_row(
            "processes/ipvlan",
            "with host-local, in one process and in two",
            processes::ipvlan,
        ),
        ipvlan_row(
            "throttled/ipvlan",
            "pods that start at once, 3 networks each, little CPU",
            throttled::ipvlan,
        ),
        ipvlan_row(
            "scale/records-ipvlan",
            "1,000 records of attachments",
            records::ipvlan,
        ),
    ]
}
