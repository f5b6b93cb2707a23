//! The data plane in the kernel, and how it is updated from the world. All of it is a set of lines
//! for `ip`: lines that are no longer needed are deleted, and new ones are added.
//!
//! Strict reverse path filtering drops IPv4 packets with a source that the ENI does not have. IPv6
//! has no such filter: there, rules for the VPC's end of the ENI accept only its own sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::data_plane::Names;
use super::id::{EniId, InstanceId, VpcId};
use super::world::{Eni, Place, World};
use crate::Namespace;

/// Settings that every end in the VPC inherits. `all` must not be stricter than any end.
const SYSCTLS: [(&str, &str); 8] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/proxy_arp", "1"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];

/// The priorities of the rules that check sources.
const PASS: u32 = 100;
const DROP: u32 = 200;

/// The first end in the VPC has the index after this; lower indexes are left to the kernel.
const FIRST_INDEX: u32 = 1000;

/// The index of the end with this number.
fn index_of(number: u16) -> u32 {
    FIRST_INDEX + u32::from(number)
}

/// The MAC address of the end with this index.
pub(super) fn mac_at(index: u32) -> Option<[u8; 6]> {
    let number = index
        .checked_sub(FIRST_INDEX)
        .filter(|number| *number != 0)?;
    let [high, low] = u16::try_from(number).ok()?.to_be_bytes();
    Some([0x0e, 0, 0, 0, high, low])
}

/// What `ip` calls a rule.
const RULE: &str = "rule";

/// An object in the VPC: its type for `ip`, and the rest of the line after `add` or `del`.
type Line = (&'static str, String);

/// A node of the VPC.
#[derive(Debug)]
struct Node {
    netns: Namespace,
    names: Names,
}

/// The VPC's end of an ENI.
#[derive(Debug)]
struct Port {
    number: u16,
    mac: String,
    instance: InstanceId,
    place: Place,
    /// Whether its sources are checked; `None` until that is set.
    is_strict: Option<bool>,
}

impl Port {
    fn is_of(&self, eni: &Eni) -> bool {
        let attachment = eni.attachment.as_ref();
        let is_there =
            attachment.is_some_and(|a| a.instance == self.instance && a.place() == self.place);
        is_there && self.mac == eni.mac
    }

    fn name(&self) -> String {
        format!("eni{}", self.number)
    }

    /// The gateway for packets to the ENI: its only neighbour, because the VPC sends no ARP
    /// requests to instances.
    fn next_hop(&self, ipv6: bool) -> String {
        match ipv6 {
            false => format!("169.254.{}.{}", self.number >> 8, self.number & 0xff),
            true => format!("fe80::e:{:x}", self.number),
        }
    }
}

/// The links, routes and rules of the VPC.
#[derive(Debug)]
pub(super) struct Wires {
    vpc: VpcId,
    network: Arc<Namespace>,
    nodes: BTreeMap<InstanceId, Node>,
    ports: BTreeMap<EniId, Port>,
    lines: BTreeSet<Line>,
    last_number: u16,
}

impl Wires {
    pub(super) fn new(vpc: &VpcId, network: &Arc<Namespace>) -> Self {
        network.run(|| SYSCTLS.map(|(name, value)| set(name, value)));
        Self {
            vpc: vpc.clone(),
            network: Arc::clone(network),
            nodes: BTreeMap::new(),
            ports: BTreeMap::new(),
            lines: BTreeSet::new(),
            last_number: 0,
        }
    }

    pub(super) fn connect(&mut self, instance: &InstanceId, netns: Namespace, names: Names) {
        let node = Node { netns, names };
        self.nodes.insert(instance.clone(), node);
    }

    /// The node of an attached ENI, and the name of its link there.
    pub(super) fn link(&self, eni: &Eni) -> Option<(&Namespace, String)> {
        let attachment = eni.attachment.as_ref()?;
        let node = self.nodes.get(&attachment.instance)?;
        Some((&node.netns, node.names.of(attachment.place())))
    }

    /// Updates the kernel from the world.
    pub(super) fn follow(&mut self, world: &World) {
        let enis = self.connected(world);
        let is_kept = |id: &EniId, port: &Port| enis.get(id).is_some_and(|eni| port.is_of(eni));
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.ports)
            .into_iter()
            .partition(|(id, port)| is_kept(id, port));
        self.ports = kept;
        let new: Vec<&Eni> = enis
            .values()
            .filter(|eni| !self.ports.contains_key(&eni.id))
            .copied()
            .collect();
        let made: String = new.iter().map(|eni| self.make(eni)).collect();
        let lines = self.wanted(world, &enis);
        let unplugged = gone
            .values()
            .map(|port| format!("link del {}\n", port.name()));
        // The kernel may have deleted a link with the pod's namespace.
        self.run(
            &["-force"],
            "del",
            self.lines.difference(&lines),
            unplugged.collect(),
        );
        let failed = self.run(&[], "add", lines.difference(&self.lines), made);
        assert!(failed.is_empty(), "the data plane cannot follow: {failed}");
        self.lines = lines;
        self.guard(&enis);
    }

    /// The ENIs that are attached to a connected node that runs.
    fn connected<'a>(&self, world: &'a World) -> BTreeMap<EniId, &'a Eni> {
        let enis = world.enis.values().map(Arc::as_ref);
        let is_connected = |eni: &&Eni| {
            let node = eni.instance();
            eni.vpc == self.vpc
                && world.is_running(node)
                && node.is_some_and(|node| self.nodes.contains_key(node))
        };
        enis.filter(is_connected)
            .map(|eni| (eni.id.clone(), eni))
            .collect()
    }

    /// A new port for the ENI, and the lines for its link.
    fn make(&mut self, eni: &Eni) -> String {
        let (node, link) = self.link(eni).expect("the ENI is at a connected node");
        let node = node.path();
        self.last_number += 1;
        let number = self.last_number;
        let attachment = eni.attachment.as_ref().expect("the ENI is attached");
        let port = Port {
            number,
            mac: eni.mac.clone(),
            instance: attachment.instance.clone(),
            place: attachment.place(),
            is_strict: None,
        };
        let (name, index, mac) = (port.name(), index_of(number), &eni.mac);
        let own = mac_at(index).map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
        let own = own.expect("the index is that of an end");
        let text = format!(
            "link add {name} index {index} address {own} mtu 9001 type veth peer name {link} address {mac} netns {node}\n\
             link set {name} up\n"
        );
        self.ports.insert(eni.id.clone(), port);
        text
    }

    /// All lines except those for links.
    fn wanted(&self, world: &World, enis: &BTreeMap<EniId, &Eni>) -> BTreeSet<Line> {
        let subnets = world
            .subnets
            .values()
            .filter(|subnet| subnet.vpc == self.vpc);
        let routers = subnets.filter_map(|subnet| subnet.cidr?.nth(1));
        let routers = routers.map(|address| ("address", format!("{address}/32 dev lo")));
        let ports = enis
            .values()
            .flat_map(|eni| lines_of(&self.ports[&eni.id], eni));
        routers.chain(ports).collect()
    }

    /// Sets at each end whether packets with a source that its ENI does not have are dropped.
    fn guard(&mut self, enis: &BTreeMap<EniId, &Eni>) {
        for (id, port) in &mut self.ports {
            let is_strict = enis[id].source_dest_check;
            if port.is_strict == Some(is_strict) {
                continue;
            }
            let name = port.name();
            let filter = format!("ipv4/conf/{name}/rp_filter");
            let delay = format!("ipv4/neigh/{name}/proxy_delay");
            self.network.run(|| {
                set(&filter, if is_strict { "1" } else { "0" });
                set(&delay, "0");
            });
            port.is_strict = Some(is_strict);
        }
    }

    /// Adds or deletes lines after those for links, and returns the errors of `ip`.
    fn run<'a>(
        &self,
        options: &[&str],
        verb: &str,
        lines: impl Iterator<Item = &'a Line>,
        links: String,
    ) -> String {
        let (mut any, mut rules) = (links, String::new());
        for (object, rest) in lines {
            let text = if *object == RULE {
                &mut rules
            } else {
                &mut any
            };
            text.push_str(&format!("{object} {verb} {rest}\n"));
        }
        // `ip` does not derive the family of a rule from its addresses.
        [
            self.ip(options, &any),
            self.ip(&[&["-6"], options].concat(), &rules),
        ]
        .concat()
    }

    /// Runs `ip` with these lines in the VPC, and returns its errors.
    fn ip(&self, options: &[&str], lines: &str) -> String {
        if lines.is_empty() {
            return String::new();
        }
        let mut command = Command::new("ip");
        command.args(options).args(["-batch", "-"]);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut ip = self
            .network
            .run(|| command.spawn())
            .expect("ip can be executed");
        let mut input = ip.stdin.take().expect("it has an input");
        // If it ends before it has read everything, its output contains the reason.
        input.write_all(lines.as_bytes()).ok();
        drop(input);
        let done = ip.wait_with_output().expect("ip ends");
        String::from_utf8_lossy(&done.stderr).into_owned()
    }
}

/// The lines for an ENI.
fn lines_of(port: &Port, eni: &Eni) -> Vec<Line> {
    let (name, mac) = (port.name(), &port.mac);
    let mut lines: Vec<Line> = [false, true]
        .map(|ipv6| {
            let hop = port.next_hop(ipv6);
            (
                "neigh",
                format!("{hop} lladdr {mac} dev {name} nud permanent"),
            )
        })
        .into();
    for range in ranges_of(eni) {
        let hop = port.next_hop(range.is_ipv6());
        lines.push(("route", format!("{range} via {hop} dev {name} onlink")));
        if range.is_ipv6() && eni.source_dest_check {
            lines.push((
                "rule",
                format!("pref {PASS} from {range} iif {name} lookup main"),
            ));
        }
    }
    if eni.source_dest_check {
        lines.push((
            "rule",
            format!("pref {DROP} from ::/0 iif {name} blackhole"),
        ));
    }
    lines
}

/// The addresses and prefixes that the VPC delivers to an ENI.
fn ranges_of(eni: &Eni) -> impl Iterator<Item = IpNetwork> + '_ {
    eni.all()
        .map(IpNetwork::from)
        .chain(eni.prefixes.iter().copied())
}

/// Sets a parameter below `/proc/sys/net` in the namespace of the calling thread.
fn set(name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).unwrap_or_else(|cause| panic!("cannot write {path}: {cause}"));
}
