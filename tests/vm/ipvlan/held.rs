//! DEL and GC where the path of the pod's namespace is gone, or leads to another one, and a process
//! or a socket still keeps the namespace alive, with the interface in it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use harness::{Call, Namespace, Node, Output, Pod, Resident};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{add, conf, node, reservations, with};

/// One address for one pod.
fn narrow() -> Value {
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/30"});
    with(conf(), json!({"ipam": ipam, "sourceRouting": true}))
}

/// A node, and a pod whose namespace only a process keeps.
struct Scene {
    node: Node,
    process: Resident,
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            node: node(),
            process: Resident::alone(),
            directory: tempfile::tempdir().unwrap(),
        };
        // During the ADD a descriptor stands for the mount of a runtime: both keep the inode.
        let namespace = File::open(scene.process.netns()).unwrap();
        let descriptor = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        symlink(descriptor, scene.path()).unwrap();
        scene.run("ADD", scene.path().to_str().unwrap()).ok();
        fs::remove_file(scene.path()).unwrap();
        scene
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("c1")
    }

    fn pod(&self) -> Namespace {
        Namespace::at(self.process.netns())
    }

    fn run(&self, command: &str, netns: &str) -> Output {
        let call = Call::ours("ipvlan", command).conf(&narrow());
        self.node.run(&call.attachment("c1", "net1", netns))
    }

    /// Nothing of the attachment is left, and the next pod gets its address from the kernel.
    #[track_caller]
    fn assert_ended(&self, what: &str) {
        assert_eq!(self.pod().links(), ["lo"], "{what}");
        let rules = self.pod().ip(&["rule"]);
        assert!(!rules.contains("10.0.4.2"), "{what}: {rules}");
        assert_eq!(reservations(&self.node), [""; 0], "{what}");
        let next = Pod::new("c2");
        add(&self.node, &narrow(), &next);
        assert_eq!(next.netns.addresses("net1"), ["10.0.4.2/30"], "{what}");
    }
}

#[test]
fn an_interface_is_removed_from_a_namespace_that_only_a_process_keeps() {
    for leads_to in ["nothing", "another namespace", "an empty path"] {
        let scene = Scene::new();
        let (path, other) = (scene.path(), Namespace::new());
        if leads_to == "another namespace" {
            symlink(other.path(), &path).unwrap();
        }
        let netns = match leads_to {
            "an empty path" => "",
            _ => path.to_str().unwrap(),
        };
        assert_eq!(scene.pod().links(), ["lo", "net1"], "{leads_to}");
        scene.run("DEL", netns).ok();
        scene.assert_ended(leads_to);
        assert_eq!(other.links(), ["lo"], "{leads_to}");
    }
}

#[test]
fn gc_removes_an_interface_from_a_namespace_that_only_a_process_keeps() {
    let scene = Scene::new();
    let conf = with(narrow(), json!({"cni.dev/valid-attachments": []}));
    let call = Call::ours("ipvlan", "GC").conf(&conf);
    scene.node.run(&call).ok();
    scene.assert_ended("GC");
}

/// No process can enter the namespace: only its number leads there.
#[test]
fn an_interface_is_removed_from_a_namespace_that_only_a_socket_keeps() {
    for command in ["DEL", "GC"] {
        let mut scene = Scene::new();
        let program = "inside = socket_inside()\nstay()";
        let _socket = Resident::holding(&scene.process.netns(), program);
        scene.process = Resident::alone();
        match command {
            "GC" => {
                let conf = with(narrow(), json!({"cni.dev/valid-attachments": []}));
                scene.node.run(&Call::ours("ipvlan", "GC").conf(&conf)).ok();
            }
            _ => {
                scene.run("DEL", "").ok();
            }
        }
        assert_eq!(reservations(&scene.node), [""; 0], "{command}");
        let next = Pod::new("c2");
        add(&scene.node, &narrow(), &next);
        assert_eq!(next.netns.addresses("net1"), ["10.0.4.2/30"], "{command}");
    }
}

/// The namespace can end, and its number be that of the next pod's, while DEL looks for what has it.
#[test]
fn an_interface_with_other_addresses_is_left_alone_where_only_a_number_leads() {
    let mut scene = Scene::new();
    let program = "inside = socket_inside()\nstay()";
    let _socket = Resident::holding(&scene.process.netns(), program);
    scene.process = Resident::alone();
    // The record of an earlier pod, in whose place there is now the other one.
    let file = scene.node.state().join("eni-cni/ipvlan/net/c1:net1.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    record["containerId"] = "c0".into();
    record["sourceRouting"]["sources"] = json!(["10.0.4.9"]);
    let earlier = file.with_file_name("c0:net1.json");
    fs::write(&earlier, record.to_string()).unwrap();
    let call = Call::ours("ipvlan", "DEL").conf(&narrow());
    scene.node.run(&call.attachment("c0", "net1", "")).ok();
    assert!(!earlier.exists());
    let ipam = json!({
        "type": "host-local", "subnet": "10.0.4.0/30", "gateway": "10.0.4.2",
        "rangeStart": "10.0.4.1",
    });
    let next = Pod::new("c2");
    add(
        &scene.node,
        &with(conf(), json!({"name": "other", "ipam": ipam})),
        &next,
    );
    next.netns.await_ping("10.0.4.2", None);
}

/// The kernel gives the number of a namespace that has ended to the next one, in which another pod
/// can have an interface of that name on that master.
#[test]
fn an_interface_in_a_namespace_that_may_be_another_one_is_left_alone() {
    let scene = Scene::new();
    let file = scene.node.state().join("eni-cni/ipvlan/net/c1:net1.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let found = fs::metadata(scene.process.netns()).unwrap();
    // Without a cookie, and with the time of another inode, the number is all that is known.
    record["netnsId"] = json!({"device": found.dev(), "inode": found.ino()});
    fs::write(&file, record.to_string()).unwrap();
    scene.run("DEL", "").ok();
    assert_eq!(scene.pod().links(), ["lo", "net1"]);
    assert_eq!(reservations(&scene.node), [""; 0]);
}
