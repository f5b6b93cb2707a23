//! What the kernel needs at least for an attachment: the same netlink requests from a
//! process that runs already and has its sockets open.

use common::address::Cidr;
use common::kernel::netlink::{Dad, Kind, Link, LinkChange, Made, Netlink, NewLink};
use common::kernel::netns::NetNs;
use harness::{Node, Pod};

use crate::process::{Cost, cost_of_thread};
use crate::samples::{Step, attachment};
use crate::site::IFNAME;

/// A node with a pod.
#[derive(Debug)]
pub struct Floor {
    node: Node,
    pod: Pod,
}

/// The sockets of both, and their namespaces.
struct Sockets {
    node: Netlink,
    node_netns: NetNs,
    pod: Netlink,
    pod_netns: NetNs,
}

impl Floor {
    pub fn new(node: Node) -> Self {
        Self {
            node,
            pod: Pod::new("pod"),
        }
    }

    /// What the kernel needs for moving a device into the pod and back.
    pub fn move_device(&self, device: &str, has_address: bool) -> Vec<(Step, Cost)> {
        self.inside(|sockets| {
            let (add, ()) = cost_of_thread(|| sockets.move_in(device, has_address));
            let (del, ()) = cost_of_thread(|| sockets.move_out(device));
            attachment(add, del)
        })
    }

    /// What the kernel needs for an ipvlan interface with an address.
    pub fn make_ipvlan(&self, master: &str) -> Vec<(Step, Cost)> {
        self.inside(|sockets| {
            let (add, ()) = cost_of_thread(|| sockets.create(master));
            let (del, ()) = cost_of_thread(|| sockets.delete());
            attachment(add, del)
        })
    }

    fn inside<T: Send>(&self, work: impl FnOnce(&mut Sockets) -> T + Send) -> T {
        self.node.inside(|| work(&mut Sockets::open(&self.pod)))
    }
}

impl Sockets {
    fn open(pod: &Pod) -> Self {
        let node_netns = NetNs::open("/proc/thread-self/ns/net").expect("the node has a namespace");
        let pod_netns = NetNs::open(&pod.netns.path()).expect("the pod has a namespace");
        Self {
            node: Netlink::open().expect("there can be a socket"),
            node_netns,
            pod: Netlink::open_in(&pod_netns).expect("there can be a socket"),
            pod_netns,
        }
    }

    fn move_in(&mut self, device: &str, has_address: bool) {
        let link = find(&mut self.node, device);
        let change = LinkChange {
            netns: Some(&self.pod_netns),
            name: Some(IFNAME),
            alias: Some(device),
            ..LinkChange::default()
        };
        change_link(&mut self.node, &link, change);
        self.set_up(has_address);
    }

    fn move_out(&mut self, device: &str) {
        let link = find(&mut self.pod, IFNAME);
        let change = LinkChange {
            netns: Some(&self.node_netns),
            name: Some(device),
            alias: Some(""),
            up: Some(false),
            ..LinkChange::default()
        };
        change_link(&mut self.pod, &link, change);
    }

    fn create(&mut self, master: &str) {
        let master = find(&mut self.node, master);
        let new = NewLink {
            name: IFNAME,
            lower: master.index,
            netns: Some(&self.pod_netns),
            kind: Kind::Ipvlan { mode: 0, flags: 0 },
            mtu: None,
        };
        let made = self.node.create_link(new);
        assert!(
            matches!(made, Made::Done(())),
            "the kernel has ipvlan: {made:?}"
        );
        self.set_up(true);
    }

    fn delete(&mut self) {
        let link = find(&mut self.pod, IFNAME);
        let deleted = self.pod.delete_link(&link);
        deleted.expect("the link can be deleted");
    }

    fn set_up(&mut self, has_address: bool) {
        let link = find(&mut self.pod, IFNAME);
        let up = LinkChange {
            up: Some(true),
            ..LinkChange::default()
        };
        change_link(&mut self.pod, &link, up);
        if has_address {
            let address = Cidr::new([10, 0, 0, 2].into(), 24).expect("it is an address");
            let added = self.pod.add_address(&link, address, Dad::Off);
            added.expect("the address can be added");
        }
    }
}

fn find(socket: &mut Netlink, name: &str) -> Link {
    let link = socket.link_by_name(name).expect("the kernel answers");
    link.unwrap_or_else(|| panic!("there is no link {name}"))
}

fn change_link(socket: &mut Netlink, link: &Link, change: LinkChange<'_>) {
    let changed = socket.change_link(link.index, change, || "failed".to_owned());
    changed.expect("the link can be changed");
}
