//! Addresses in namespaces to which no path leads: the kernel shows them by the number that the
//! node has for the namespace. An address that is on an interface is seen by every test that sees
//! the processes inside, so each has its own.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;

use fixtures::kernel_calls::Trace;
use harness::vpc::{Vpc, VpcNode, eventually};
use harness::{Namespace, Output, Pod, Resident};

use super::visibility::{batch, gc_due, hide, named_pod, names, release, run};

/// What keeps a namespace, without a process that is in it.
const SOCKET: &str = "inside = socket_inside()\nstay()";

/// A pod of a network without eni-sync, with the address on an interface whose other end is on the
/// node. Its runtime has mounted it where this node does not see it.
fn stranger(node: &VpcNode, address: &str) -> Pod {
    let pod = Pod::new("stranger");
    let node = &node.node.netns;
    node.ip(&[
        "link", "add", "far7", "type", "veth", "peer", "name", "net1",
    ]);
    node.ip(&["link", "set", "net1", "netns", &pod.netns.path()]);
    give(&pod.netns, address);
    pod
}

/// Puts the address on the interface in a namespace.
fn give(netns: &Namespace, address: &str) {
    netns.ip(&["address", "add", &format!("{address}/24"), "dev", "net1"]);
}

/// How the namespace of the stranger is named: by the number that the kernel says.
fn place(node: &VpcNode) -> String {
    let link = node.node.netns.link("far7").unwrap();
    format!(
        "network namespace {} of `ip netns list-id`",
        link["link_netnsid"]
    )
}

/// An address of an attachment that has ended, with its namespace.
fn ended(node: &VpcNode, address: &str) {
    let pod = Pod::new("ended");
    node.add(&pod, &[address]).ok();
    node.del(&pod);
}

/// Releases what is due, as an agent that sees neither the processes of the node nor the mounts.
fn sync_under(node: &VpcNode, address: &str, program: &str, arguments: &[&str]) -> Output {
    node.end_cooldown(address);
    let call = node.call("").without("CNI_COMMAND");
    let mut sync = call.process_under(program, arguments);
    sync.args(["sync", "--once"]);
    node.node.inside(|| call.run_as(sync))
}

#[test]
fn rule_7_an_address_stays_while_it_is_in_a_namespace_to_which_no_path_leads() {
    let address = "10.0.4.161";
    let vpc = Vpc::new();
    let node = vpc.node();
    let stranger = stranger(&node, address);
    stranger.netns.ip(&["address", "flush", "dev", "net1"]);
    ended(&node, address);
    give(&stranger.netns, address);
    fs::create_dir_all(names(&node)).unwrap();
    hide(&node, "stranger");
    let blind = ["--pid", "--fork", "--mount-proc"];
    let by_agent = sync_under(&node, address, "unshare", &blind);
    let why = format!("it is on an interface of a pod, in {}", place(&node));
    for said in [by_agent.to_string(), gc_due(&node, address)] {
        assert!(said.contains(&format!("{address} stays: {why}")), "{said}");
    }
    assert_eq!(node.addresses(), [address]);
    let next = Pod::new("c2");
    let error = node.add(&next, &[address]).error_code(11);
    assert_eq!(error.details, why);
    stranger.netns.ip(&["address", "flush", "dev", "net1"]);
    gc_due(&node, address);
    assert_eq!(node.addresses(), [""; 0]);
}

/// A pod that has ended, and whose namespace only a socket keeps, as the kernel does for a
/// connection that it goes on with.
fn kept_by_a_socket(node: &VpcNode, address: &str, before: impl FnOnce(&Pod)) -> Resident {
    let pod = named_pod(node, "c1");
    let netns = &pod.netns;
    netns.ip(&["link", "add", "net1", "type", "veth", "peer", "name", "far"]);
    give(netns, address);
    run(node, "ADD", &pod, address);
    let socket = Resident::holding(&netns.path(), SOCKET);
    fs::remove_file(names(node).join("c1")).unwrap();
    run(node, "DEL", &pod, address);
    before(&pod);
    let _ended = pod.netns.end();
    socket
}

fn delete_interface(pod: &Pod) {
    pod.netns.ip(&["link", "delete", "net1"]);
}

#[test]
fn an_address_is_free_when_the_namespace_that_a_socket_keeps_has_it_no_more() {
    let address = "10.0.4.162";
    let vpc = Vpc::new();
    let node = vpc.node();
    let _socket = kept_by_a_socket(&node, address, delete_interface);
    let next = Pod::new("c2");
    node.add(&next, &[address]).ok();
    node.del(&next);
    let said = gc_due(&node, address);
    assert_eq!(node.addresses(), [""; 0], "{said}");
}

#[test]
fn rule_7_an_address_stays_in_the_namespace_that_a_socket_keeps() {
    let address = "10.0.4.163";
    let vpc = Vpc::new();
    let node = vpc.node();
    let socket = kept_by_a_socket(&node, address, |_| {});
    let said = gc_due(&node, address);
    let text = format!("{address} stays: it is on an interface of a pod, in network namespace ");
    assert!(said.contains(&text), "{said}");
    assert_eq!(node.addresses(), [address]);
    drop(socket);
    let is_released = || {
        gc_due(&node, address);
        node.addresses().is_empty()
    };
    assert!(eventually(is_released), "{:?}", node.ledger());
}

/// The node has no number for the second namespace, but the first one has.
#[test]
fn rule_7_an_address_stays_when_its_interface_has_gone_on_from_there() {
    let address = "10.0.4.164";
    let vpc = Vpc::new();
    let node = vpc.node();
    let nested = Pod::new("nested");
    let path = nested.netns.path();
    let inner = Resident::holding(&path, SOCKET);
    let socket = kept_by_a_socket(&node, address, |pod| {
        pod.netns.ip(&["link", "set", "net1", "netns", &path]);
        give(&nested.netns, address);
    });
    let _ended = nested.netns.end();
    let said = gc_due(&node, address);
    assert!(
        said.contains(&format!("{address} stays: it may be in use")),
        "{said}"
    );
    assert_eq!(node.addresses(), [address]);
    drop(inner);
    let is_released = || {
        gc_due(&node, address);
        node.addresses().is_empty()
    };
    assert!(eventually(is_released), "{:?}", node.ledger());
    drop(socket);
}

/// The DEL has come. What a runtime has left at the path says nothing.
#[test]
fn an_address_is_free_when_the_namespace_of_its_last_owner_is_hidden_and_does_not_have_it() {
    let address = "10.0.4.165";
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = named_pod(&node, "c1");
    run(&node, "ADD", &pod, address);
    run(&node, "DEL", &pod, address);
    hide(&node, "c1");
    pod.netns.ip(&["address", "add", address, "dev", "lo"]);
    let said = gc_due(&node, address);
    assert_eq!(node.addresses(), [address], "{said}");
    pod.netns.ip(&["address", "delete", address, "dev", "lo"]);
    let said = gc_due(&node, address);
    assert_eq!(node.addresses(), [""; 0], "{said}");
}

#[test]
fn a_namespace_with_too_many_addresses_to_which_no_path_leads_keeps_what_its_pod_had() {
    let (address, other) = ("10.0.4.166", "10.0.4.167");
    let vpc = Vpc::new();
    let node = vpc.node();
    let _socket = kept_by_a_socket(&node, address, |pod| {
        delete_interface(pod);
        batch(pod, &addresses(0, 4097));
    });
    ended(&node, other);
    node.end_cooldown(other);
    let said = gc_due(&node, address);
    assert_eq!(node.addresses(), [address], "{said}");
    let said = release(&node, address, 1).to_string();
    assert!(said.contains("it may be in use"), "{said}");
}

/// Commands that give as many addresses of the group to a namespace.
fn addresses(group: usize, count: usize) -> String {
    let mut commands = String::new();
    for n in 0..count {
        let (high, low) = (n / 250, n % 250);
        writeln!(
            commands,
            "address add 10.{}.{high}.{low}/32 dev lo",
            100 + group
        )
        .unwrap();
    }
    commands
}

/// Then it cannot read what has no path.
#[test]
fn rule_7_nothing_is_released_by_who_may_not_read_by_number() {
    let address = "10.0.4.168";
    let vpc = Vpc::new();
    let node = vpc.node();
    let stranger = stranger(&node, address);
    stranger.netns.ip(&["address", "flush", "dev", "net1"]);
    ended(&node, address);
    give(&stranger.netns, address);
    let output = sync_under(&node, address, "setpriv", &["--bounding-set", "-net_admin"]);
    let text = "failed to read the network namespace with the number ";
    assert!(output.to_string().contains(text), "{output}");
    assert_eq!(node.addresses(), [address]);
}

/// To enter a namespace takes a thread.
#[test]
fn namespaces_that_have_a_number_are_read_without_entering_them() {
    const PODS: usize = 40;
    let address = "10.0.4.169";
    let vpc = Vpc::new();
    let node = vpc.node();
    ended(&node, address);
    fs::create_dir_all(names(&node)).unwrap();
    let pods: Vec<Namespace> = (0..PODS).map(|_| Namespace::new()).collect();
    for (n, netns) in pods.iter().enumerate() {
        symlink(netns.path(), names(&node).join(format!("p{n}"))).unwrap();
        let link = format!("v{n}");
        let peer = [
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &netns.path(),
        ];
        node.node
            .netns
            .ip(&[&["link", "add", &link], &peer[..]].concat());
    }
    node.end_cooldown(address);
    let trace = Trace::of(&node.node, &node.gc_call(&[]));
    let entered = trace
        .calls()
        .iter()
        .filter(|call| call.starts_with("setns("))
        .count();
    // Those of other tests have no number here.
    assert!(entered < PODS, "{entered} times");
    assert_eq!(node.addresses(), [""; 0]);
}

/// A pod can make as many namespaces as it likes.
#[test]
fn what_nobody_asks_about_takes_no_memory() {
    const NAMESPACES: usize = 30;
    let address = "10.0.4.170";
    let vpc = Vpc::new();
    let node = vpc.node();
    fs::create_dir_all(names(&node)).unwrap();
    let peak = || {
        ended(&node, address);
        node.end_cooldown(address);
        let call = node.gc_call(&[]);
        let output = node
            .node
            .inside(|| call.run_under("python3", &["-c", PEAK]));
        let peak = output.stderr.lines().last().unwrap().parse().unwrap();
        assert_eq!(node.addresses(), [""; 0], "{output}");
        peak
    };
    let before: usize = peak();
    let pods: Vec<Pod> = (0..NAMESPACES)
        .map(|n| named_pod(&node, &format!("p{n}")))
        .collect();
    for (n, pod) in pods.iter().enumerate() {
        batch(pod, &addresses(n, 4000));
    }
    let after = peak();
    // An address with its path takes more than 60 bytes.
    let most = before + NAMESPACES * 4000 * 30 / 1024;
    assert!(after < most, "{before} KiB before, {after} KiB after");
}

/// Runs the program that the arguments name, and prints its greatest size in KiB.
const PEAK: &str = "
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(status)";
