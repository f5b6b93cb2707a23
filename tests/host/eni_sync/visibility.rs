//! What cannot be seen of the namespaces of pods: nothing is released that may be there,
//! everybody is told, and the pods that can be seen are served.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use fixtures::scrape::{ADDRESS as METRICS, Scrape, get};
use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually, ip};
use harness::{Output, Pod, Resident};
use serde_json::json;

/// No interface of another test has it.
const ADDRESS: &str = "10.0.4.182";
/// How many addresses of a namespace are read.
const MOST: usize = 4096;

/// A pod with a name in `/run/netns`, as runtimes give it.
pub(super) fn named_pod(node: &VpcNode, id: &str) -> Pod {
    let pod = Pod::new(id);
    fs::create_dir_all(names(node)).unwrap();
    symlink(pod.netns.path(), names(node).join(id)).unwrap();
    pod
}

pub(super) fn names(node: &VpcNode) -> PathBuf {
    node.run_directory().join("netns")
}

/// As the name is for who does not see the mount: an empty file.
pub(super) fn hide(node: &VpcNode, id: &str) {
    let name = names(node).join(id);
    fs::remove_file(&name).ok();
    fs::write(&name, "").unwrap();
}

/// As the ledger is on a kernel that gives a namespace no number.
pub(super) fn forget_number(node: &VpcNode, address: &str) {
    node.edit_ledger(address, |entry| {
        let netns = entry["owner"]["netnsId"].as_object_mut().unwrap();
        netns.remove("nsid").unwrap();
    });
}

/// Executes a command about a pod by its name.
#[track_caller]
pub(super) fn run(node: &VpcNode, command: &str, pod: &Pod, address: &str) {
    let call = node.pod_call(command, pod, &[address]);
    let netns = format!("/run/netns/{}", pod.id);
    node.run(&call.env("CNI_NETNS", &netns)).ok();
}

/// A GC when the cool-down of an address is over, and what it has said.
#[track_caller]
pub(super) fn gc_due(node: &VpcNode, address: &str) -> String {
    node.end_cooldown(address);
    let output = node.run(&node.gc_call(&[]));
    assert_eq!(output.status, Some(0), "{output}");
    output.stderr
}

#[track_caller]
pub(super) fn release(node: &VpcNode, address: &str, status: i32) -> Output {
    let output = node.command(&["release", "--address", address, "--force"]);
    assert_eq!(output.status, Some(status), "{output}");
    output
}

/// The DEL has come, and the address is still on the interface of the pod, as far as anybody knows
/// on a kernel before 5.0, which does not read a namespace by its number.
#[test]
fn an_address_stays_when_the_namespace_of_its_last_owner_is_not_visible() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = named_pod(&node, "c1");
    run(&node, "ADD", &pod, ADDRESS);
    run(&node, "DEL", &pod, ADDRESS);
    forget_number(&node, ADDRESS);
    hide(&node, "c1");
    let said = gc_due(&node, ADDRESS);
    assert!(said.contains("10.0.4.182 stays"), "{said}");
    assert!(
        said.contains("\"/run/netns/c1\" is not visible to this process"),
        "{said}"
    );
    fs::remove_dir_all(names(&node)).unwrap();
    gc_due(&node, ADDRESS);
    assert_eq!(node.addresses(), [ADDRESS]);
    fs::create_dir(names(&node)).unwrap();
    gc_due(&node, ADDRESS);
    assert_eq!(node.addresses(), [""; 0], "its name has gone");
}

#[test]
fn force_releases_nothing_that_may_be_in_a_namespace_that_is_not_visible() {
    let vpc = Vpc::new();
    let node = vpc.node();
    // No interface of another test has it.
    let address = "10.0.4.188";
    node.lab.assign(&node.eni, &[address.parse().unwrap()]);
    fs::create_dir(names(&node)).unwrap();
    hide(&node, "c1");
    let output = release(&node, address, 1);
    for said in [
        "kept: it may be in use",
        "\"/run/netns/c1\" is not visible",
        "findmnt",
    ] {
        assert!(output.stdout.contains(said), "{output}");
    }
    assert_eq!(node.addresses(), [address]);
    fs::remove_file(names(&node).join("c1")).unwrap();
    let force = ["release", "--address", address, "--force"];
    // Another test's process may be in a namespace that cannot be read at the moment.
    let is_released = || node.command(&force).status == Some(0);
    assert!(eventually(is_released), "{:?}", node.ledger());
    assert_eq!(node.addresses(), [""; 0]);
}

/// Nobody knows whose the address is, and where a pod is nobody sees.
#[test]
fn force_releases_nothing_when_the_directory_of_namespaces_is_not_there() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.assign(&node.eni, &[ADDRESS.parse().unwrap()]);
    let pod = named_pod(&node, "c1");
    run(&node, "ADD", &pod, "10.0.4.71");
    fs::remove_dir_all(names(&node)).unwrap();
    let output = release(&node, ADDRESS, 1);
    assert!(output.stdout.contains("kept: it may be in use"), "{output}");
    assert_eq!(node.addresses(), ["10.0.4.71", ADDRESS]);
}

#[test]
fn an_address_on_an_interface_of_the_node_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    // No interface of another test has it.
    let address = "10.0.4.181";
    let pod = Pod::new("c1");
    node.add(&pod, &[address]).ok();
    node.del(&pod);
    let place_of = ["address", "add", "10.0.4.181/32", "dev", "ens6"];
    node.node.netns.ip(&place_of);
    let place = "it is on interface \"ens6\" of the node itself";
    let said = gc_due(&node, address);
    assert!(said.contains(place), "{said}");
    let output = release(&node, address, 1);
    assert!(output.stdout.contains(place), "{output}");
    assert_eq!(node.addresses(), [address]);
    let output = node.command(&["doctor"]);
    assert!(
        output.stdout.contains("ip address del 10.0.4.181 dev ens6"),
        "{output}"
    );
    node.node.netns.ip(&["address", "flush", "dev", "ens6"]);
    release(&node, address, 0);
}

/// A pod whose interface has this many addresses of nobody.
fn greedy_pod(node: &VpcNode, id: &str, count: usize) -> Pod {
    let pod = named_pod(node, id);
    let address = |n: usize| format!("address add 10.77.{}.{}/32 dev lo\n", n / 250, n % 250);
    batch(&pod, &(0..count).map(address).collect::<String>());
    pod
}

/// Executes lines such as `address add 10.0.0.1/32 dev lo` in a pod. No process is in its namespace
/// meanwhile: the agents of other tests see all processes, and cannot read what changes all the time.
pub(super) fn batch(pod: &Pod, commands: &str) {
    let mut python = Command::new("python3");
    python.args(["-c", BATCH, &pod.netns.path()]);
    let mut python = python.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(commands.as_bytes()).unwrap();
    drop(stdin);
    assert!(python.wait().unwrap().success());
}

/// Adds and removes addresses of the loopback interface in the namespace at a path, over a socket of
/// it. Source: rtnetlink(7).
const BATCH: &str = "
import ctypes, os, socket, struct, sys
libc = ctypes.CDLL(None)
own, other = (os.open(path, os.O_RDONLY) for path in ['/proc/self/ns/net', sys.argv[1]])
assert libc.setns(other, 0) == 0
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
assert libc.setns(own, 0) == 0
NEW, DELETE, REQUEST, ACK, CREATE, LO = 20, 21, 1, 4, 0x400, 1
for line in sys.stdin:
    _, what, cidr, _, link = line.split()
    assert link == 'lo'
    address, length = cidr.split('/')
    attributes = b''.join(
        struct.pack('=HH4s', 8, name, socket.inet_aton(address)) for name in (1, 2))
    body = struct.pack('=BBBBI', socket.AF_INET, int(length), 0, 0, LO) + attributes
    kind, flags = {'add': (NEW, CREATE), 'del': (DELETE, 0)}[what]
    head = struct.pack('=IHHII', 16 + len(body), kind, REQUEST | ACK | flags, 0, 0)
    kernel.send(head + body)
    error = struct.unpack('=i', kernel.recv(4096)[16:20])[0]
    assert error in (0, -17, -99), error  # EEXIST, EADDRNOTAVAIL, as ip -force goes on
";

#[test]
fn a_pod_with_too_many_addresses_keeps_only_its_own() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let greedy = greedy_pod(&node, "greedy", MOST + 1);
    let gone = named_pod(&node, "gone");
    for (pod, address) in [(&greedy, ADDRESS), (&gone, "10.0.4.71")] {
        run(&node, "ADD", pod, address);
        run(&node, "DEL", pod, address);
    }
    fs::remove_file(names(&node).join("gone")).unwrap();
    node.end_cooldown("10.0.4.71");
    let said = gc_due(&node, ADDRESS);
    assert_eq!(node.addresses(), [ADDRESS]);
    assert!(
        said.contains("the addresses in \"/run/netns/greedy\" cannot be read")
            && said.contains("more than 4096"),
        "{said}"
    );
    // It is known by the namespace, whatever path has led there.
    fs::rename(names(&node).join("greedy"), names(&node).join("renamed")).unwrap();
    gc_due(&node, ADDRESS);
    assert_eq!(node.addresses(), [ADDRESS]);
    let output = node.command(&["doctor"]);
    assert!(output.stdout.contains("cannot be read"), "{output}");
}

#[test]
fn a_pod_that_changes_its_addresses_all_the_time_keeps_no_address_of_others() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let busy = greedy_pod(&node, "busy", MOST - 100);
    let gone = named_pod(&node, "gone");
    run(&node, "ADD", &gone, ADDRESS);
    run(&node, "DEL", &gone, ADDRESS);
    fs::remove_file(names(&node).join("gone")).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let again = "address del 10.77.0.1/32 dev lo\naddress add 10.77.0.1/32 dev lo\n";
            while !is_over.load(Ordering::Relaxed) {
                batch(&busy, &again.repeat(1000));
            }
        });
        let released = eventually(|| {
            gc_due(&node, ADDRESS);
            node.addresses().is_empty()
        });
        is_over.store(true, Ordering::Relaxed);
        assert!(released);
    });
}

#[test]
fn an_address_stays_when_a_namespace_cannot_be_opened() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = named_pod(&node, "c1");
    pod.netns
        .ip(&["address", "add", "10.0.4.182/32", "dev", "lo"]);
    run(&node, "ADD", &pod, ADDRESS);
    run(&node, "DEL", &pod, ADDRESS);
    for error in ["EMFILE", "ENFILE", "EACCES", "EIO", "ENOMEM"] {
        node.end_cooldown(ADDRESS);
        let inject = format!("openat:error={error}");
        let output = release_with_fault(&node, ("/run/netns/c1", &inject));
        assert!(
            output
                .stderr
                .contains("failed to open netns \"/run/netns/c1\""),
            "{error}: {output}"
        );
        assert_eq!(node.addresses(), [ADDRESS], "{error}: {output}");
    }
}

/// A release of the address during which system calls about a path fail.
fn release_with_fault(node: &VpcNode, (path, inject): (&str, &str)) -> Output {
    let call = node.call("").without("CNI_COMMAND");
    let process = call.process();
    let mut traced = Command::new("strace");
    traced
        .args(["-f", "-o", "/dev/null", "-P", path])
        .arg(format!("--inject={inject}"))
        .arg(process.get_program())
        .args(["release", "--address", ADDRESS, "--force"])
        .env_clear();
    let variables = process.get_envs();
    traced.envs(variables.filter_map(|(name, value)| Some((name, value?))));
    node.node.inside(|| call.run_as(traced))
}

/// The path of the namespace has gone, and whether a process keeps it cannot be found out.
#[test]
fn an_address_stays_when_the_processes_of_the_node_cannot_be_listed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = named_pod(&node, "c1");
    run(&node, "ADD", &pod, ADDRESS);
    fs::remove_file(names(&node).join("c1")).unwrap();
    for call in ["openat", "getdents64"] {
        let output = release_with_fault(&node, ("/proc", &format!("{call}:error=EMFILE")));
        let text = "it may be in use by container c1, interface net1, network mgmt: \
                    failed to look for the holders of a netns: Too many open files";
        assert!(output.stdout.contains(text), "{call}: {output}");
        assert_eq!(node.addresses(), [ADDRESS], "{call}: {output}");
    }
    drop(pod);
    release(&node, ADDRESS, 0);
}

/// Nobody knows whose the address is, and of one process it cannot be found out where it is.
#[test]
fn an_address_of_an_unknown_owner_stays_when_a_process_cannot_be_examined() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.assign(&node.eni, &[ip(ADDRESS)]);
    let process = Resident::alone();
    let netns = process.netns();
    let thread = netns.replace("/ns/", &format!("/task/{}/ns/", process.id()));
    let output = release_with_fault(&node, (&thread, "statx:error=EIO"));
    let text = "failed to look for the holders of a netns: Input/output error";
    assert!(output.stdout.contains(text), "{output}");
    assert_eq!(node.addresses(), [ADDRESS], "{output}");
}

/// An agent's configuration that has it look all the time.
fn impatient() -> serde_json::Value {
    json!({ "reconcileSeconds": 1, "graceSeconds": 0, "metrics": METRICS })
}

#[test]
fn what_is_not_visible_is_shown_by_everything_that_shows_anything() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = named_pod(&node, "c1");
    run(&node, "ADD", &pod, ADDRESS);
    hide(&node, "c1");
    let agent = Agent::start(&node, &impatient());
    let hidden = || {
        Scrape::of(&node)
            .samples
            .get("eni_sync_hidden_namespaces")
            .copied()
    };
    assert!(eventually(|| hidden() == Some(1.0)));
    let path = "\"/run/netns/c1\" is not visible";
    let (status, text) = get(&node, "/readyz");
    assert!(status == 200 && text.contains(path), "{text}");
    let output = node.command(&["status"]);
    assert!(
        output.stdout.contains("its attachment may live") && output.stdout.contains(path),
        "{output}"
    );
    let output = node.command(&["doctor"]);
    assert!(output.stdout.contains(path), "{output}");
    let looks = node.lab.calls()["DescribeNetworkInterfaces"];
    assert!(
        node.lab
            .wait_for_call("DescribeNetworkInterfaces", looks + 4, DEADLINE)
    );
    let log = agent.log();
    let lines = log.lines().filter(|line| line.contains(path)).count();
    assert_eq!(lines, 1, "it is said once\n{log}");
    assert_eq!(node.ledger()[ADDRESS], "held");
    fs::remove_file(names(&node).join("c1")).unwrap();
    assert!(eventually(|| hidden() == Some(0.0)));
}

#[test]
fn an_agent_that_sees_no_new_namespace_any_more_ends_to_be_restarted() {
    let vpc = Vpc::new();
    let node = vpc.node();
    fs::create_dir(names(&node)).unwrap();
    // What is there from the beginning stays so in a new container too.
    hide(&node, "left-over");
    let agent = Agent::start(&node, &impatient());
    assert!(
        node.lab
            .wait_for_call("DescribeNetworkInterfaces", 6, DEADLINE)
    );
    assert_eq!(get(&node, "/healthz").0, 200);
    hide(&node, "new");
    let (status, said) = agent.wait();
    assert_eq!(status, Some(1), "{said}");
    let text = "the agent does not see the namespaces of new pods, such as \"/run/netns/new\"";
    assert!(said.contains(text), "{said}");
    assert_eq!(said.matches("left-over").count(), 1, "{said}");
    let _agent = Agent::start(&node, &impatient());
    let looks = node.lab.calls()["DescribeNetworkInterfaces"];
    assert!(
        node.lab
            .wait_for_call("DescribeNetworkInterfaces", looks + 6, DEADLINE),
        "the next one goes on"
    );
}
