//! DEL where the path of the pod's namespace is gone, or leads to another one, and a process
//! or a socket still keeps the namespace alive, with the device in it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use harness::{Namespace, Output, Resident};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Fixture, conf, with};

const MAC: &str = "02:00:00:00:00:07";
/// A socket of the namespace in a process that is elsewhere. The kernel itself has such a socket
/// for a TCP connection whose peer does not answer.
const SOCKET: &str = "inside = socket_inside()\nstay()";

/// A node, and a process in the namespace of a pod, whose path can be removed.
struct Scene {
    fixture: Fixture,
    process: Resident,
    directory: TempDir,
}

impl Scene {
    /// The node has a device `dev0` of this kind.
    fn new(kind: &str) -> Self {
        let fixture = Fixture::new();
        match kind {
            "tap" => fixture.host(&["tuntap", "add", "dev0", "mode", "tap"]),
            "veth" => fixture.host(&["link", "add", "dev0", "type", "veth"]),
            kind => fixture.host(&["link", "add", "dev0", "link", "hd0-peer", "type", kind]),
        };
        fixture.host(&["link", "set", "dev0", "address", MAC]);
        Self {
            fixture,
            process: Resident::alone(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("c1")
    }

    /// The pod's namespace, by its process.
    fn pod(&self) -> Namespace {
        Namespace::at(self.process.netns())
    }

    fn run(&self, command: &str, netns: &str) -> Output {
        let conf = with(&conf(), &json!({"device": "dev0"}));
        let call = self.fixture.call(command, &conf).env("CNI_NETNS", netns);
        self.fixture.node.run(&call)
    }

    /// ADD, after which only the process keeps the namespace. During the ADD a descriptor stands
    /// for the mount of a runtime: both keep the inode.
    #[track_caller]
    fn attach(&self) {
        let namespace = File::open(self.process.netns()).unwrap();
        let descriptor = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        symlink(descriptor, self.path()).unwrap();
        self.run("ADD", self.path().to_str().unwrap()).ok();
        fs::remove_file(self.path()).unwrap();
    }

    /// ADD, after which only a socket keeps the namespace, which has ended when that is dropped.
    #[track_caller]
    fn leave_to_a_socket(&mut self, before: impl FnOnce(&Namespace)) -> Resident {
        self.attach();
        before(&self.pod());
        let socket = Resident::holding(&self.process.netns(), SOCKET);
        self.process = Resident::alone();
        socket
    }

    /// Changes the record of the only attachment, which is written to a file of this name.
    fn record_as(&self, name: &str, changes: &Value) {
        let file = self.fixture.node.state().join(&self.fixture.records()[0]);
        let record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let changed = with(&record, changes);
        fs::write(file.with_file_name(name), changed.to_string()).unwrap();
    }
}

#[test]
fn a_device_comes_back_from_a_namespace_that_only_a_process_keeps() {
    for kind in ["tap", "macvlan", "veth"] {
        for leads_to in ["nothing", "another namespace", "an empty path"] {
            let what = format!("{kind}, {leads_to}");
            let scene = Scene::new(kind);
            let before = scene.fixture.state();
            scene.attach();
            let (path, other) = (scene.path(), Namespace::new());
            if leads_to == "another namespace" {
                symlink(other.path(), &path).unwrap();
            }
            let netns = match leads_to {
                "an empty path" => "",
                _ => path.to_str().unwrap(),
            };
            assert_eq!(scene.pod().links(), ["lo", "net1"], "{what}");
            scene.run("DEL", netns).ok();
            assert_eq!(scene.fixture.state(), before, "{what}");
            assert_eq!(scene.pod().links(), ["lo"], "{what}");
            assert_eq!(other.links(), ["lo"], "{what}");
        }
    }
}

#[test]
fn gc_gives_back_a_device_of_a_namespace_that_only_a_process_keeps() {
    let scene = Scene::new("tap");
    let before = scene.fixture.state();
    scene.attach();
    let conf = with(&conf(), &json!({"cni.dev/valid-attachments": []}));
    let call = scene.fixture.call("GC", &conf);
    scene.fixture.node.run(&call).ok();
    assert_eq!(scene.fixture.state(), before);
}

/// As many descriptors as its process has, but others.
#[test]
fn a_device_comes_back_from_a_namespace_that_only_a_thread_keeps() {
    let own = "
def work():
    libc.unshare(0x400)  # CLONE_FILES
    inside = os.open(path, os.O_RDONLY)
    opened.set()
    opened_other.wait()
    stay()
opened, opened_other = threading.Event(), threading.Event()
in_thread(work)
opened.wait()
other = os.open('/dev/null', os.O_RDONLY)
opened_other.set()
";
    let mut scene = Scene::new("macvlan");
    let before = scene.fixture.state();
    scene.attach();
    let _thread = Resident::holding(&scene.process.netns(), own);
    scene.process = Resident::alone();
    scene.run("DEL", "").ok();
    assert_eq!(scene.fixture.state(), before);
}

/// Nothing leads into the namespace, so the device cannot be taken out. The record of a device that
/// ends there would be lost with a success, and with it the only trace of what has happened.
#[test]
fn del_does_not_succeed_while_only_a_socket_keeps_a_device() {
    for (kind, command) in [("tap", "DEL"), ("macvlan", "DEL"), ("tap", "GC")] {
        let what = format!("{kind}, {command}");
        let mut scene = Scene::new(kind);
        let socket = scene.leave_to_a_socket(|_| {});
        let records = scene.fixture.records();
        let end = || match command {
            "GC" => {
                let conf = with(&conf(), &json!({"cni.dev/valid-attachments": []}));
                scene.fixture.node.run(&scene.fixture.call("GC", &conf))
            }
            _ => scene.run("DEL", ""),
        };
        let error = end().error_code(11);
        assert_eq!(
            error.msg, "cannot give host device \"dev0\" back yet",
            "{what}"
        );
        assert!(error.details.contains("a socket may keep it"), "{error:?}");
        assert_eq!(scene.fixture.records(), records, "{what}");
        assert_eq!(scene.fixture.ipam.reserved().len(), 1, "{what}");
        drop(socket);
        end().ok();
        assert!(scene.fixture.records().is_empty(), "{what}");
        assert!(scene.fixture.ipam.reserved().is_empty(), "{what}");
    }
}

/// The kernel may have no descriptor for the socket at that moment by which it is asked.
#[test]
fn a_namespace_that_cannot_be_asked_for_is_not_taken_for_one_that_has_ended() {
    let mut scene = Scene::new("tap");
    let _socket = scene.leave_to_a_socket(|_| {});
    let records = scene.fixture.records();
    let conf = with(&conf(), &json!({"device": "dev0"}));
    let call = scene.fixture.call("DEL", &conf).env("CNI_NETNS", "");
    for nth in 1..=8 {
        let fault = format!("inject=socket:error=EMFILE:when={nth}+");
        let options = ["-f", "-qq", "-o", "/dev/null", "-e", &fault];
        let output = scene
            .fixture
            .node
            .inside(|| call.run_under("strace", &options));
        assert_eq!(scene.fixture.records(), records, "{nth}: {output}");
        assert_eq!(scene.fixture.ipam.reserved().len(), 1, "{nth}: {output}");
    }
}

/// Where this cannot be seen, a device of another pod must not keep a DEL from succeeding.
#[test]
fn what_may_be_in_the_namespace_of_another_pod_is_not_waited_for_unless_it_is_alike() {
    let blind = ["--pid", "--fork", "--mount-proc"];
    let conf = with(&conf(), &json!({"device": "dev0"}));
    for (mac, is_alike) in [("02:00:00:00:00:08", false), (MAC, true)] {
        let scene = Scene::new("tap");
        scene.attach();
        // The record of an attachment whose namespace has ended, and whose number this one has.
        let file = scene.fixture.records()[0].clone();
        let record = scene.fixture.node.state().join(&file);
        let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        let of_other = json!({"index": 7777, "sysfsNumber": 1, "mac": mac});
        let device = with(&record["device"], &of_other);
        let name = file.rsplit('/').next().unwrap().replace("c1", "c0");
        scene.record_as(&name, &json!({"containerId": "c0", "device": device}));
        let call = scene
            .fixture
            .call("DEL", &conf)
            .attachment("c0", "net1", "");
        let inside = || call.run_under("unshare", &blind);
        let output = scene.fixture.node.inside(inside);
        match is_alike {
            true => drop(output.error_code(11)),
            false => drop(output.ok()),
        }
        assert_eq!(scene.fixture.records().len(), 1 + usize::from(is_alike));
        assert_eq!(scene.pod().links(), ["lo", "net1"]);
    }
}

/// The other end of a veth tells that it is there.
#[test]
fn what_is_not_in_a_namespace_that_a_socket_keeps_is_not_waited_for() {
    let delete = |pod: &Namespace| {
        pod.ip(&["link", "del", "net1"]);
        pod.ip(&["link", "add", "net1", "type", "veth"]);
    };
    for kind in ["tap", "macvlan", "veth"] {
        let mut scene = Scene::new(kind);
        let _socket = scene.leave_to_a_socket(delete);
        scene.run("DEL", "").ok();
        assert!(scene.fixture.records().is_empty(), "{kind}");
    }
}

/// The kernel gives the number of a namespace that has ended to the next one. What is in that
/// one can look like the device, but is not it.
#[test]
fn a_namespace_that_has_the_number_of_an_ended_one_is_not_changed() {
    for kind in ["tap", "veth"] {
        let scene = Scene::new(kind);
        scene.attach();
        let other = Resident::alone();
        let others = Namespace::at(other.netns());
        match kind {
            "tap" => others.ip(&["tuntap", "add", "net1", "mode", "tap"]),
            _ => others.ip(&["link", "add", "net1", "type", "veth"]),
        };
        others.ip(&["link", "set", "net1", "address", MAC, "up"]);
        others.ip(&["address", "add", "10.3.0.1/24", "dev", "net1"]);
        let before = others.description();
        let inode = fs::metadata(other.netns()).unwrap().ino();
        let file = scene.fixture.records()[0].clone();
        let name = file.rsplit('/').next().unwrap();
        let device = fs::metadata(other.netns()).unwrap().dev();
        let id = json!({"device": device, "inode": inode});
        scene.record_as(name, &json!({ "netnsId": id }));
        scene.pod().ip(&["link", "del", "net1"]);
        drop(others);
        scene.run("DEL", "").ok();
        let others = Namespace::at(other.netns());
        assert_eq!(others.description(), before, "{kind}");
        assert!(scene.fixture.records().is_empty(), "{kind}");
    }
}

/// A DEL that was killed can leave the record of an attachment whose device another pod has now.
#[test]
fn a_device_that_another_pod_has_now_is_not_taken_from_it() {
    let scene = Scene::new("tap");
    let conf = with(&conf(), &json!({"device": "dev0"}));
    scene.fixture.add(&conf);
    let file = scene.fixture.records()[0].clone();
    let name = file.rsplit('/').next().unwrap().replace("c1", "c0");
    let netns = scene.path().to_str().unwrap().to_owned();
    scene.record_as(&name, &json!({"containerId": "c0", "netns": netns}));
    let call = scene.fixture.call("DEL", &conf);
    let call = call.attachment("c0", "net1", &netns);
    scene.fixture.node.run(&call).ok();
    assert_eq!(scene.fixture.pod.links(), ["lo", "net1"]);
    assert_eq!(scene.fixture.records(), [file]);
}
