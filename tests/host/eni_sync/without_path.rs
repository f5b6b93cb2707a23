//! Addresses of pods that live although no path leads to their namespace any more, or that have
//! moved their interface into another namespace: DEL succeeds, the address stays on the ENI and is
//! for nobody else until the pod has ended. An address that is on an interface is seen by every
//! test, so each has its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually};
use harness::{Namespace, Pod, Resident};
use serde_json::json;

use super::ipam::{add, del, sharing};
use super::prefixes::{kept, node_of_its_own, one};
use super::visibility::forget_number;

/// Keeps a namespace by a mount that only the mount namespace of one thread has.
const MOUNTING: &str = "
def work():
    libc.unshare(0x20000)  # CLONE_NEWNS
    libc.mount(b'none', b'/', None, 0x44000, None)  # MS_REC | MS_PRIVATE
    assert libc.mount(path.encode(), b'/etc/passwd', None, 0x1000, None) == 0  # MS_BIND
    stay()
in_thread(work)";

/// A pod with the address on an interface, attached by this path of its namespace.
fn attach(node: &VpcNode, pod: &Pod, address: &str, netns: &str) {
    let pair = ["link", "add", "net1", "type", "veth", "peer", "name", "far"];
    pod.netns.ip(&pair);
    let cidr = format!("{address}/24");
    pod.netns.ip(&["address", "add", &cidr, "dev", "net1"]);
    let add = node.pod_call("ADD", pod, &[address]);
    node.run(&add.env("CNI_NETNS", netns)).ok();
}

fn detach(node: &VpcNode, pod: &Pod, netns: &str) {
    let del = node.pod_call("DEL", pod, &[]).env("CNI_NETNS", netns);
    node.run(&del).ok();
}

/// A GC after the cool-down; returns what it has said.
#[track_caller]
fn gc(node: &VpcNode, address: &str) -> String {
    node.end_cooldown(address);
    let output = node.run(&node.gc_call(&[]));
    output.ok();
    output.stderr
}

/// The address leaves as soon as the kernel has removed the namespace.
#[track_caller]
fn assert_released_in_the_end(node: &VpcNode, address: &str) {
    let released = eventually(|| {
        gc(node, address);
        node.addresses().is_empty()
    });
    assert!(released, "{:?}", node.ledger());
}

/// A pod that a runtime has named in /run/netns, and the file there.
fn attached_by_name(node: &VpcNode, address: &str) -> (Pod, PathBuf) {
    let names = node.run_directory().join("netns");
    fs::create_dir(&names).unwrap();
    let (pod, name) = (Pod::new("c1"), names.join("c1"));
    symlink(pod.netns.path(), &name).unwrap();
    attach(node, &pod, address, "/run/netns/c1");
    (pod, name)
}

/// The runtime has removed the name, or has given it to the next pod, before DEL comes, and only
/// `holder` keeps the namespace.
fn assert_kept_by(address: &str, holder: impl Fn(&Pod) -> Resident) {
    for is_reused in [false, true] {
        let vpc = Vpc::new();
        let node = vpc.node();
        let (pod, name) = attached_by_name(&node, address);
        let holder = holder(&pod);
        fs::remove_file(&name).unwrap();
        let next = Pod::new("c2");
        if is_reused {
            symlink(next.netns.path(), &name).unwrap();
        }
        detach(&node, &pod, "/run/netns/c1");
        let _ended = pod.netns.end();
        let said = gc(&node, address);
        assert_eq!(node.addresses(), [address], "{is_reused}: {said}");
        assert!(said.contains(&format!("{address} stays: it ")), "{said}");
        drop(holder);
        assert_released_in_the_end(&node, address);
    }
}

#[test]
fn rule_7_an_address_stays_while_a_process_is_in_a_namespace_without_a_path() {
    assert_kept_by("10.0.4.171", |pod| Resident::inside(&pod.netns.path()));
}

#[test]
fn rule_7_an_address_stays_while_a_thread_is_in_a_namespace_without_a_path() {
    let enter = "
def work():
    assert libc.setns(os.open(path, os.O_RDONLY), 0x40000000) == 0  # CLONE_NEWNET
    stay()
in_thread(work)";
    assert_kept_by("10.0.4.172", |pod| {
        Resident::holding(&pod.netns.path(), enter)
    });
}

#[test]
fn rule_7_an_address_stays_while_a_descriptor_keeps_a_namespace_without_a_path() {
    let open = "held = os.open(path, os.O_RDONLY)\nstay()";
    assert_kept_by("10.0.4.173", |pod| {
        Resident::holding(&pod.netns.path(), open)
    });
}

#[test]
fn rule_7_an_address_stays_while_a_socket_keeps_a_namespace_without_a_path() {
    assert_kept_by("10.0.4.181", |pod| {
        Resident::holding(&pod.netns.path(), "inside = socket_inside()\nstay()")
    });
}

/// It has no directory of its namespace then, but its threads have.
#[test]
fn rule_7_an_address_stays_in_a_namespace_of_a_process_whose_first_thread_has_ended() {
    let vpc = Vpc::new();
    let program = "
fd = os.open(path, os.O_RDONLY)
assert libc.setns(fd, 0) == 0
os.close(fd)
stay_without_leader()";
    assert_kept_in_nested(&vpc, "10.0.4.182", |netns| {
        Resident::holding(netns, program)
    });
}

#[test]
fn rule_7_an_address_stays_while_a_mount_elsewhere_keeps_a_namespace_without_a_path() {
    assert_kept_by("10.0.4.174", |pod| {
        Resident::holding(&pod.netns.path(), MOUNTING)
    });
}

/// As nerdctl names namespaces.
#[test]
fn rule_7_an_address_stays_when_the_process_of_its_path_has_ended_and_another_one_lives() {
    let address = "10.0.4.175";
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let first = Resident::inside(&pod.netns.path());
    let netns = first.netns();
    attach(&node, &pod, address, &netns);
    let second = Resident::inside(&pod.netns.path());
    drop(first);
    detach(&node, &pod, &netns);
    let _ended = pod.netns.end();
    let said = gc(&node, address);
    assert_eq!(node.addresses(), [address], "{said}");
    drop(second);
    assert_released_in_the_end(&node, address);
}

#[test]
fn rule_7_an_address_stays_when_a_pod_has_moved_its_interface_into_a_namespace_of_its_own() {
    let vpc = Vpc::new();
    assert_kept_in_nested(&vpc, "10.0.4.176", Resident::inside);
}

/// A pod has moved its interface into a namespace that it has made, which only this resident
/// keeps.
fn assert_kept_in_nested(vpc: &Vpc, address: &str, resident: impl Fn(&str) -> Resident) {
    let node = vpc.node();
    let (pod, nested) = (Pod::new("c1"), Pod::new("nested"));
    attach(&node, &pod, address, &pod.netns.path());
    let target = nested.netns.path();
    let inside = resident(&target);
    let moved = format!(
        "ip link set net1 netns {target} && nsenter --net={target} \
         ip address add {address}/24 dev net1"
    );
    pod.netns.tool("sh", &["-c", &moved]);
    detach(&node, &pod, &pod.netns.path());
    let _ended = nested.netns.end();
    let said = gc(&node, address);
    assert_eq!(node.addresses(), [address], "{said}");
    drop(inside);
    assert_released_in_the_end(&node, address);
}

/// With eni-sync as the IPAM plugin: the first address that EC2 chooses in a subnet is the same in
/// every test, so each of these has a subnet of its own.
fn assert_next_pod_has_another(node: &VpcNode) {
    let pod = sharing(node, "c1");
    let address = add(node, &pod);
    let cidr = format!("{address}/24");
    pod.netns.ip(&["address", "add", &cidr, "dev", "net1"]);
    let process = Resident::inside(&pod.netns.path());
    del(node, &pod);
    let _ended = pod.netns.end();
    node.end_cooldown(&address);
    assert_ne!(add(node, &sharing(node, "c2")), address);
    drop(process);
    let is_free = eventually(|| {
        if node.ledger().contains_key(&address) {
            node.end_cooldown(&address);
        }
        let next = sharing(node, "c3");
        let found = add(node, &next);
        del(node, &next);
        found == address
    });
    assert!(is_free, "{:?}", node.ledger());
}

#[test]
fn rule_7_no_other_pod_gets_what_ec2_chose_for_a_pod_that_lives_without_a_path() {
    let vpc = Vpc::new();
    assert_next_pod_has_another(&node_of_its_own(&vpc, "10.0.171.0/24"));
}

#[test]
fn rule_7_no_other_pod_gets_an_address_of_a_prefix_of_a_pod_that_lives_without_a_path() {
    let vpc = Vpc::new();
    let node = node_of_its_own(&vpc, "10.0.172.0/24");
    drop(kept(&node, &one(), 1));
    let pods: Vec<Pod> = (0..16).map(|n| sharing(&node, &format!("c{n}"))).collect();
    let given: Vec<String> = pods.iter().map(|pod| add(&node, pod)).collect();
    let pod = &pods[3];
    let cidr = format!("{}/24", given[3]);
    pod.netns.ip(&["address", "add", &cidr, "dev", "net1"]);
    let process = Resident::inside(&pod.netns.path());
    del(&node, pod);
    for pod in pods {
        let _ = pod.netns.end();
    }
    node.end_cooldown(&given[3]);
    let next = add(&node, &sharing(&node, "next"));
    assert!(!given.contains(&next), "{next}");
    drop(process);
}

/// Releases what is due, as the agent in its container does: it does not see the processes of the
/// node. Returns what it has said.
fn release_blindly(node: &VpcNode, address: &str) -> String {
    node.end_cooldown(address);
    let call = node.call("").without("CNI_COMMAND");
    let mut sync = call.process_under("unshare", &["--pid", "--fork", "--mount-proc"]);
    sync.args(["sync", "--once"]);
    let output = node.node.inside(|| call.run_as(sync));
    assert_eq!(output.status, Some(0), "{output}");
    output.to_string()
}

/// A node, and what keeps the namespace of a pod whose DEL came when the path was gone.
fn node_with_lingering(vpc: &Vpc, address: &str) -> (VpcNode, Resident) {
    let node = vpc.node();
    let (pod, name) = attached_by_name(&node, address);
    let process = Resident::inside(&pod.netns.path());
    fs::remove_file(name).unwrap();
    detach(&node, &pod, "/run/netns/c1");
    let _ended = pod.netns.end();
    (node, process)
}

fn delete_interface(process: &Resident) {
    Namespace::at(process.netns()).ip(&["link", "delete", "net1"]);
}

#[test]
fn rule_7_the_kernel_tells_an_agent_that_sees_no_processes_whether_a_namespace_has_ended() {
    let address = "10.0.4.183";
    let vpc = Vpc::new();
    let (node, process) = node_with_lingering(&vpc, address);
    let said = release_blindly(&node, address);
    assert_eq!(node.addresses(), [address], "{said}");
    drop(process);
    let released = eventually(|| {
        release_blindly(&node, address);
        node.addresses().is_empty()
    });
    assert!(released, "{:?}", node.ledger());
}

/// As on a kernel before 5.0, which does not tell.
#[test]
fn rule_7_an_agent_that_sees_no_processes_keeps_what_the_del_has_seen() {
    let address = "10.0.4.178";
    let vpc = Vpc::new();
    let (node, process) = node_with_lingering(&vpc, address);
    delete_interface(&process);
    forget_number(&node, address);
    let said = release_blindly(&node, address);
    assert_eq!(node.addresses(), [address], "{said}");
    assert!(said.contains("cannot see whether it has ended"), "{said}");
    drop(process);
    // The next call of the runtime sees the end.
    let other = Pod::new("c2");
    let released = eventually(|| {
        node.del(&other);
        release_blindly(&node, address);
        node.addresses().is_empty()
    });
    assert!(released, "{:?}", node.ledger());
}

#[test]
fn what_a_del_has_seen_before_a_reboot_keeps_nothing() {
    let address = "10.0.4.179";
    let vpc = Vpc::new();
    let (node, process) = node_with_lingering(&vpc, address);
    delete_interface(&process);
    node.edit_ledger(address, |entry| entry["owner"]["bootId"] = json!("earlier"));
    let said = release_blindly(&node, address);
    assert_eq!(node.addresses(), [""; 0], "{said}");
}

/// The DEL has succeeded, and nobody has to come back: the agent looks again.
#[test]
fn the_agent_releases_what_such_a_pod_had_when_it_has_ended() {
    let address = "10.0.4.180";
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    attach(&node, &pod, address, &pod.netns.path());
    let process = Resident::inside(&pod.netns.path());
    let netns = pod.netns.path();
    let pod = Pod {
        id: pod.id,
        netns: {
            let _ended = pod.netns.end();
            Pod::new("other").netns
        },
    };
    let agent = Agent::start(&node, &json!({ "reconcileSeconds": 1 }));
    detach(&node, &pod, &netns);
    node.end_cooldown(address);
    let text = format!("{address} stays: it is on an interface of a pod");
    assert!(
        eventually(|| agent.log().contains(&text)),
        "{}",
        agent.log()
    );
    assert_eq!(node.addresses(), [address]);
    drop(process);
    node.end_cooldown(address);
    assert!(
        node.lab
            .wait_until(DEADLINE, |_| node.addresses().is_empty())
    );
}
