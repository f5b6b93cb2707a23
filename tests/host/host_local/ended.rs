//! What is reclaimed of containers that have ended without a DEL, whatever plugin has
//! executed host-local for them, and what is said where no address is left.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Namespace, Output, Resident};
use serde_json::json;

use super::{Network, address};

/// A namespace that a path leads to, as runtimes keep those of pods.
struct Sandbox {
    path: PathBuf,
    namespace: Namespace,
}

impl Sandbox {
    fn new(directory: &Path, name: &str) -> Self {
        let path = directory.join(name);
        let namespace = Namespace::new();
        symlink(namespace.path(), &path).unwrap();
        Self { path, namespace }
    }

    /// Nothing holds the namespace from then on.
    fn end(self) {
        fs::remove_file(&self.path).unwrap();
        drop(self.namespace);
    }
}

/// The kernel may give the number of a namespace that has ended to that of another test, from which
/// it cannot be told apart by who only sees that a process has it, as long as that one lives.
fn until_told_apart(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "the container has not ended");
        thread::sleep(Duration::from_millis(10));
    }
}

fn added_in_the_end(network: &Network, id: &str) -> Output {
    let mut added = network.add(id);
    until_told_apart(|| {
        let is_added = added.status == Some(0);
        if !is_added {
            added = network.add(id);
        }
        is_added
    });
    added
}

fn add(network: &Network, id: &str, sandbox: &Sandbox) -> Output {
    let call = network.call("ADD", id);
    call.attachment(id, "net1", sandbox.path.to_str().unwrap())
        .run()
}

#[test]
fn an_add_reclaims_what_containers_have_left_that_ended() {
    let network = Network::of("10.0.0.0/24");
    let directory = tempfile::tempdir().unwrap();
    let sandbox = |name: &str| Sandbox::new(directory.path(), name);
    let [gone, living] = ["gone", "living"].map(sandbox);
    assert_eq!(address(&add(&network, "c1", &gone)), "10.0.0.2/24");
    assert_eq!(address(&add(&network, "c2", &living)), "10.0.0.3/24");
    gone.end();
    assert_eq!(address(&network.add("c3")), "10.0.0.4/24");
    until_told_apart(|| {
        let is_free = !network.reserved().contains(&"10.0.0.2".to_owned());
        if !is_free {
            network.del("c3").ok();
            network.add("c3").ok();
        }
        is_free
    });
    let reserved = network.reserved();
    assert!(
        reserved.len() == 2 && reserved[0] == "10.0.0.3",
        "{reserved:?}"
    );
}

#[test]
fn an_exhausted_range_gives_the_address_of_a_container_that_ended() {
    let network = Network::of("10.0.0.0/26");
    let directory = tempfile::tempdir().unwrap();
    let mut sandboxes: Vec<Sandbox> = (0..61)
        .map(|n| Sandbox::new(directory.path(), &n.to_string()))
        .collect();
    for (n, sandbox) in sandboxes.iter().enumerate() {
        add(&network, &format!("c{n}"), sandbox).ok();
    }
    network.status().error_code(50);
    sandboxes.remove(30).end();
    until_told_apart(|| network.status().status == Some(0));
    assert_eq!(address(&network.add("new")), "10.0.0.32/26");
    network.add("another").error_code(999);
}

#[test]
fn a_requested_address_is_taken_from_a_container_that_ended() {
    let network = Network::of("10.0.0.0/24");
    let directory = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(directory.path(), "one");
    let asking = json!({"ips": ["10.0.0.77"]});
    let network = network.with("runtimeConfig", asking);
    assert_eq!(address(&add(&network, "c1", &sandbox)), "10.0.0.77/24");
    let error = network.add("c2").error_code(999);
    assert!(
        error.details.contains("10.0.0.77 by container c1 as net1"),
        "{error:?}"
    );
    sandbox.end();
    assert_eq!(address(&added_in_the_end(&network, "c2")), "10.0.0.77/24");
}

/// The directory of the namespaces is not visible, or the file there is the place of a mount
/// that is not.
#[test]
fn a_namespace_that_cannot_be_seen_keeps_its_address() {
    let network = Network::of("10.0.0.0/30");
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("netns");
    fs::create_dir(&inner).unwrap();
    let sandbox = Sandbox::new(&inner, "one");
    assert_eq!(address(&add(&network, "c1", &sandbox)), "10.0.0.2/30");
    fs::remove_file(&sandbox.path).unwrap();
    File::create(&sandbox.path).unwrap();
    network.add("c2").error_code(999);
    fs::remove_dir_all(&inner).unwrap();
    network.add("c2").error_code(999);
    symlink("/nonexistent", &inner).unwrap();
    network.add("c2").error_code(999);
    assert_eq!(network.reserved(), ["10.0.0.2"]);
}

/// A descriptor stands for the mount: both keep the inode, which the kernel makes anew for a
/// namespace that only a process has kept.
#[test]
fn a_namespace_that_only_a_process_has_kept_is_not_taken_for_another_one() {
    let network = Network::of("10.0.0.0/30");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c1");
    let process = Resident::alone();
    let mount = Namespace::at(process.netns());
    symlink(mount.path(), &path).unwrap();
    let call = network.call("ADD", "c1");
    let call = call.attachment("c1", "net1", path.to_str().unwrap());
    assert_eq!(address(&call.run()), "10.0.0.2/30");
    drop(mount);
    fs::remove_file(&path).unwrap();
    network.add("c2").error_code(999);
    let mount = Namespace::at(process.netns());
    network.add("c2").error_code(999);
    symlink(mount.path(), &path).unwrap();
    network.add("c2").error_code(999);
    drop((process, mount));
    fs::remove_file(&path).unwrap();
    assert_eq!(address(&added_in_the_end(&network, "c2")), "10.0.0.2/30");
}

/// A process in a namespace of this number, which the kernel gives again some time after the end of
/// the namespace that had it.
fn resident_with_number(wanted: u64) -> Option<Resident> {
    // The kernel gives the lowest number that is free.
    let mut others = Vec::new();
    for _ in 0..200 {
        let resident = Resident::alone();
        match number(&resident).cmp(&wanted) {
            Ordering::Equal => return Some(resident),
            Ordering::Less => others.push(resident),
            Ordering::Greater => {}
        }
    }
    None
}

fn number(resident: &Resident) -> u64 {
    fs::metadata(resident.netns()).unwrap().ino()
}

/// Nothing but processes has kept both, so there is no inode that tells them apart.
#[test]
fn a_namespace_whose_number_another_one_has_now_has_ended() {
    let network = Network::of("10.0.0.0/30");
    // Other tests may take the number first.
    for _ in 0..50 {
        let first = Resident::alone();
        let call = network.call("ADD", "c1");
        call.attachment("c1", "net1", &first.netns()).run().ok();
        let wanted = number(&first);
        drop(first);
        if let Some(_other) = resident_with_number(wanted) {
            assert_eq!(address(&network.add("c2")), "10.0.0.2/30");
            return;
        }
        network.del("c1").ok();
    }
    panic!("the number was not given again");
}

/// How a process that is not in the namespace holds it without a path of the node.
const HOLDERS: [(&str, &str); 7] = [
    (
        "processes of which each starts the next one and ends",
        "
import select
libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
if os.fork() == 0:
    fd = os.open(path, os.O_RDONLY)
    assert libc.setns(fd, 0) == 0
    os.close(fd)
    print(flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        if os.fork() != 0:
            os._exit(0)
    os._exit(0)
while True:
    os.wait()",
    ),
    (
        "a socket of a process that has left it",
        "inside = socket_inside()\nstay()",
    ),
    (
        "a descriptor of a thread that has as many as its process",
        "
place = os.open('/dev/null', os.O_RDONLY)
def work():
    libc.unshare(0x400)  # CLONE_FILES
    fd = os.open(path, os.O_RDONLY)
    os.dup2(fd, place)
    os.close(fd)
    stay()
in_thread(work)",
    ),
    ("a descriptor", "fd = os.open(path, os.O_RDONLY)\nstay()"),
    (
        "a descriptor of a thread",
        "
def work():
    libc.unshare(0x400)  # CLONE_FILES
    fd = os.open(path, os.O_RDONLY)
    stay()
in_thread(work)",
    ),
    (
        "a descriptor of a process whose first thread has ended",
        "fd = os.open(path, os.O_RDONLY)\nstay_without_leader()",
    ),
    (
        "a mount in the mount namespace of a thread",
        "
def work():
    libc.unshare(0x20000)  # CLONE_NEWNS
    libc.mount(b'none', b'/', None, 0x44000, None)  # MS_REC | MS_PRIVATE
    assert libc.mount(path.encode(), b'/etc/passwd', None, 0x1000, None) == 0  # MS_BIND
    stay()
in_thread(work)",
    ),
];

#[test]
fn a_namespace_that_anything_holds_keeps_its_address() {
    for (what, program) in HOLDERS {
        let network = Network::of("10.0.0.0/30");
        let directory = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::new(directory.path(), "one");
        assert_eq!(address(&add(&network, "c1", &sandbox)), "10.0.0.2/30");
        let holder = Resident::holding(&sandbox.namespace.path(), program);
        sandbox.end();
        let error = network.add("c2").error_code(999);
        assert_eq!(network.reserved(), ["10.0.0.2"], "{what}: {error:?}");
        drop(holder);
        assert_eq!(address(&added_in_the_end(&network, "c2")), "10.0.0.2/30");
    }
}

/// The kernel goes on with it when the process has ended, until it gives the peer up.
#[test]
fn a_connection_whose_peer_does_not_answer_keeps_the_address_of_its_namespace() {
    let network = Network::of("10.0.0.0/30");
    let directory = tempfile::tempdir().unwrap();
    let (sandbox, peer) = (Sandbox::new(directory.path(), "one"), Namespace::new());
    let pod = &sandbox.namespace;
    pod.ip(&["link", "add", "near", "type", "veth", "peer", "name", "far"]);
    pod.ip(&["link", "set", "far", "netns", &peer.path()]);
    for (netns, link, cidr) in [
        (pod, "near", "10.77.0.1/24"),
        (&peer, "far", "10.77.0.2/24"),
    ] {
        netns.ip(&["address", "add", cidr, "dev", link]);
        netns.ip(&["link", "set", link, "up"]);
    }
    assert_eq!(address(&add(&network, "c1", &sandbox)), "10.0.0.2/30");
    let listener = peer.run(|| TcpListener::bind("10.77.0.2:0").unwrap());
    let at = listener.local_addr().unwrap();
    let mut connection = pod.run(|| TcpStream::connect(at).unwrap());
    peer.ip(&["link", "set", "far", "down"]);
    connection.write_all(b"unanswered").unwrap();
    drop(connection);
    sandbox.end();
    let error = network.add("c2").error_code(999);
    assert_eq!(network.reserved(), ["10.0.0.2"], "{error:?}");
}

/// A process in the namespace at a path that lives on in another one: it opens its namespace, for
/// which the kernel makes a new inode if nothing but the process has kept it, starts the other one
/// some clock ticks later, and ends.
const SUCCESSION: &str = "
import os, sys, time
print(flush=True)
sys.stdin.readline()
fd = os.open('/proc/self/ns/net', os.O_RDONLY)
until = time.monotonic() + 0.1
while time.monotonic() < until:
    os.sched_yield()
if os.fork() == 0:
    print(flush=True)
    sys.stdin.read()";

/// The successor of a process in a namespace. It ends when this value is dropped.
struct Successor(Child);

impl Successor {
    /// In the namespace at `path`, which is removed before the succession.
    fn after(path: &Path) -> Self {
        let netns = format!("--net={}", path.display());
        let mut command = Command::new("nsenter");
        command.args([&netns, "python3", "-c", SUCCESSION]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Self(command.spawn().unwrap());
        process.has_written();
        process
    }

    fn has_written(&mut self) {
        let stdout = self.0.stdout.as_mut().unwrap();
        stdout.read_exact(&mut [0]).unwrap();
    }

    fn succeed(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.has_written();
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // It waits for the end of its input.
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
        self.0
            .stdout
            .take()
            .unwrap()
            .read_to_end(&mut Vec::new())
            .unwrap();
    }
}

#[test]
fn a_namespace_whose_older_processes_have_ended_keeps_its_address() {
    let network = Network::of("10.0.0.0/30");
    let directory = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(directory.path(), "one");
    assert_eq!(address(&add(&network, "c1", &sandbox)), "10.0.0.2/30");
    let mut process = Successor::after(&sandbox.path);
    let path = sandbox.path.clone();
    sandbox.end();
    process.succeed();
    network.add("c2").error_code(999);
    drop(process);
    assert_eq!(address(&added_in_the_end(&network, "c2")), "10.0.0.2/30");
    assert!(!path.exists());
}

/// A descriptor of a FUSE file system that refuses root says nothing about namespaces, and must not
/// hide what other processes hold. Its server answers nothing.
#[test]
fn a_file_system_that_refuses_root_hides_no_namespace() {
    let network = Network::of("10.0.0.0/30");
    let directory = tempfile::tempdir().unwrap();
    let program = "
libc.unshare(0x20000)  # CLONE_NEWNS
libc.mount(b'none', b'/', None, 0x44000, None)  # MS_REC | MS_PRIVATE
server = os.open('/dev/fuse', os.O_RDWR)
options = f'fd={server},rootmode=40000,user_id=1,group_id=1'.encode()
assert libc.mount(b'fuse', path.encode(), b'fuse', 0, options) == 0
fd = os.open(path, os.O_PATH)
try:
    os.stat(f'/proc/self/fd/{fd}')
    sys.exit('root is not refused')
except PermissionError:
    stay()";
    let _of_fuse = Resident::holding(directory.path().to_str().unwrap(), program);
    let places = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(places.path(), "one");
    assert_eq!(address(&add(&network, "c1", &sandbox)), "10.0.0.2/30");
    let process = Resident::inside(&sandbox.namespace.path());
    sandbox.end();
    network.add("c2").error_code(999);
    drop(process);
    assert_eq!(address(&added_in_the_end(&network, "c2")), "10.0.0.2/30");
}

#[test]
fn an_exhausted_range_names_the_containers_that_have_it() {
    let network = Network::of("10.0.0.0/29");
    for id in ["a", "b", "c", "d", "e"] {
        network.add(id).ok();
    }
    let holders = "10.0.0.2 by container a as net1, 10.0.0.3 by container b as net1, \
                   10.0.0.4 by container c as net1 and 2 more";
    for error in [
        network.add("f").error_code(999),
        network.status().error_code(50),
    ] {
        assert!(error.details.contains(holders), "{error:?}");
        assert!(
            error
                .details
                .contains(network.path("").to_str().unwrap().trim_end_matches('/'))
        );
    }
}
