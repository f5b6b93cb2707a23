//! host-device with an end of a veth: beside Go's, and beside the kernel's part of it.

use harness::Node;
use serde_json::{Value, json};

use crate::count;
use crate::figure::{Figure, Report};
use crate::floor::Floor;
use crate::host_local::empty_process;
use crate::options::Effort;
use crate::samples::{ALL, Limits, Party, Samples};
use crate::site::{Site, Sites};

/// The device that is moved.
pub const DEVICE: &str = "dev0";
/// How much more an IPv6 address may cost than an IPv4 address.
const LIKE_IPV4: f64 = 1.2;
/// How much more an ADD and a DEL may cost than the kernel's part and two empty processes.
const FROM_FLOOR: f64 = 1.4;

/// A node with the device, whose link is up when it is.
pub fn node() -> Node {
    let node = Node::new();
    let veth = ["type", "veth", "peer", "name", "peer0"];
    node.netns
        .ip(&[&["link", "add", DEVICE][..], &veth].concat());
    node.netns.ip(&["link", "set", "peer0", "up"]);
    node
}

/// The network's configuration, with a subnet of host-local or without any address.
pub fn conf(subnet: Option<&str>) -> Value {
    let mut conf = json!({ "type": "host-device", "device": DEVICE });
    if let Some(subnet) = subnet {
        conf["ipam"] = json!({ "type": "host-local", "subnet": subnet });
    }
    conf
}

pub fn bare(effort: &Effort) -> Report {
    let limits = Limits {
        cpu: Some(0.3),
        wall: None,
    };
    compare(effort, None, limits)
}

pub fn with_ipam(effort: &Effort) -> Report {
    compare(effort, Some("10.0.0.0/24"), Limits::new(0.22, 0.7))
}

fn compare(effort: &Effort, subnet: Option<&str>, limits: Limits) -> Report {
    let sites = Sites::new(node, &conf(subnet));
    let floor = Floor::new(node());
    let samples = Samples::take(&ALL, effort.rounds, |party| match party {
        Party::Reference => {
            let mut steps = floor.move_device(DEVICE, subnet.is_some());
            steps.push(("process", empty_process()));
            steps
        }
        party => sites.of(party).attach(),
    });
    let steps = [
        samples.beside_go("ADD", Limits::default()),
        samples.beside_go("DEL", Limits::default()),
        samples.beside_go("ADD + DEL", limits),
    ];
    let kernel = samples.beside_reference("the kernel's part", "ADD + DEL", Limits::default());
    // ADD and DEL are a process each.
    let of = |step| samples.cpu(Party::Reference, step);
    let least = Figure::new("ADD + DEL CPU", "ms", samples.cpu(Party::Ours, "ADD + DEL"))
        .beside(
            "kernel + 2 processes",
            of("ADD + DEL") + 2.0 * of("process"),
        )
        .at_most_times(FROM_FLOOR);
    let kernel = kernel.into_iter().chain([least]);
    let counts = count::attachment(|party, command, counter| sites.count(party, command, counter));
    Report::of(steps.into_iter().flatten().chain(kernel).chain(counts))
}

/// Go's plugin waits until the kernel has looked for other owners of the address.
pub fn ipv6(effort: &Effort) -> Report {
    let sites = Sites::new(node, &conf(Some("2001:db8::/64")));
    let ipv4 = Site::new(Party::Ours, node(), &conf(Some("10.0.0.0/24")));
    let samples = Samples::take(&ALL, effort.fewest().max(3), |party| match party {
        Party::Reference => ipv4.attach(),
        party => sites.of(party).attach(),
    });
    let beside_go = samples.beside_go("ADD", Limits::default());
    let limits = Limits::new(LIKE_IPV4, LIKE_IPV4);
    let beside_ipv4 = samples.beside_reference("ours, IPv4", "ADD", limits);
    let figures: Vec<Figure> = beside_go.into_iter().chain(beside_ipv4).collect();
    Report::of(figures)
}
