//! containerd: `ctr`, whose DEL has no namespace, and the CRI, by which Kubernetes makes
//! pods.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use harness::{Namespace, wait_until};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::cri::Cri;
use super::{ARCHIVE, IMAGE, Machine, RUNTIMES, client, ipvlan, namespaces, range, succeed};
use crate::vm_machine::{NIC, NIC_MAC, NIC_NAME, netdev};

/// What Debian's containerd does with what kernels and machines may lack.
const UNUSED: &str = r#"["io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.tracing"]"#;

/// containerd's folder. What it has once loaded, the next containerd has as well.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(RUNTIMES).join("containerd");
    fs::create_dir_all(&folder).expect("/run can be written");
    let configuration = format!(
        "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = {UNUSED}\n\
         [grpc]\naddress = \"{0}/socket\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\n",
        folder.display()
    );
    fs::write(folder.join("config.toml"), configuration).expect("/run can be written");
    folder
});

/// The image of pods is loaded once.
static LOADED: LazyLock<()> = LazyLock::new(|| {
    let archive = ARCHIVE.display().to_string();
    succeed(ctr().args(["images", "import", &archive]));
});

/// containerd while it runs.
struct Containerd {
    process: Child,
    cri: Cri,
}

impl Containerd {
    fn start() -> Self {
        let log = File::create(FOLDER.join("log")).expect("/run can be written");
        let process = Command::new("containerd")
            .arg("--config")
            .arg(FOLDER.join("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|cause| panic!("containerd: {cause}; run `tests/prepare`"));
        let cri = Cri::at(FOLDER.join("socket"));
        wait_until("containerd answers", || cri.is_ready());
        LazyLock::force(&LOADED);
        Self { process, cri }
    }

    /// Makes a pod, and says in which namespace it is.
    #[track_caller]
    fn run_pod(&self, name: &str) -> Sandbox {
        let before = namespaces();
        let id = self.cri.run_pod_sandbox(name);
        let id = id.unwrap_or_else(|error| panic!("{error}\n{}", log()));
        let mut new = namespaces();
        new.retain(|name| !before.contains(name));
        assert_eq!(new.len(), 1, "a pod has one namespace");
        let path = Path::new("/run/netns").join(&new[0]);
        Sandbox { id, path }
    }

    /// Stops and removes a pod, as the kubelet does it.
    #[track_caller]
    fn end_pod(&self, sandbox: &Sandbox) {
        let stopped = self.cri.stop_pod_sandbox(&sandbox.id);
        let ended = stopped.and_then(|()| self.cri.remove_pod_sandbox(&sandbox.id));
        ended.unwrap_or_else(|error| panic!("{error}\n{}", log()));
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // It may have been killed already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A pod that containerd has made.
struct Sandbox {
    id: String,
    path: PathBuf,
}

impl Sandbox {
    fn netns(&self) -> Namespace {
        Namespace::at(&self.path)
    }

    /// Ends the pod's process and its namespace behind containerd's back.
    fn destroy(self) -> String {
        let pid = self.pid().expect("containerd knows the pod's process");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the pod runs");
        umount2(&self.path, MntFlags::MNT_DETACH).expect("the namespace is mounted");
        fs::remove_file(&self.path).expect("the namespace has a file");
        // While containerd is being told, it refuses to stop the pod.
        wait_until("the pod's end is known", || self.pid().is_none());
        self.id
    }

    /// The pod's process, as long as containerd has one.
    fn pid(&self) -> Option<i32> {
        let list = succeed(ctr().args(["tasks", "list"]));
        let line = list.lines().find(|line| line.starts_with(&self.id))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

/// `ctr`, in the namespace that the CRI has its images in.
fn ctr() -> Command {
    let mut command = client("ctr");
    command.arg("--address").arg(FOLDER.join("socket"));
    command.args(["--namespace", "k8s.io"]);
    command
}

fn log() -> String {
    fs::read_to_string(FOLDER.join("log")).unwrap_or_default()
}

/// A network that gives every pod the NIC, and the only address.
fn nic() -> Value {
    json!({"cniVersion": "1.0.0", "name": "nic", "plugins": [{
        "type": "host-device", "pciBusID": NIC,
        "ipam": {"type": "host-local", "ranges": [range(10, 10)]},
    }]})
}

/// Waits until the kernel has put the NIC of a pod that has ended on the host.
fn wait_for_nic() {
    wait_until("the NIC is back on the host", || netdev(NIC).is_some());
}

#[test]
fn pods_of_the_cri_reach_each_other_and_leave_nothing() {
    let machine = Machine::with(&[ipvlan("pods", &json!([range(10, 11)]))]);
    let containerd = Containerd::start();
    let [a, b] = ["one", "other"].map(|name| containerd.run_pod(name));
    assert_eq!(a.netns().addresses("eth0"), ["10.8.0.10/24"]);
    assert_eq!(containerd.cri.address(&a.id), "10.8.0.10");
    assert_eq!(containerd.cri.address(&b.id), "10.8.0.11");
    a.netns()
        .tool("ping", &["-c", "1", "-W", "30", "10.8.0.11"]);
    // The kubelet may stop a pod more than once.
    containerd
        .cri
        .stop_pod_sandbox(&a.id)
        .expect("the pod can be stopped");
    for pod in [&a, &b] {
        containerd.end_pod(pod);
    }
    machine.is_clean();
}

#[test]
fn a_pod_of_the_cri_without_an_address_says_so_and_leaves_nothing() {
    let machine = Machine::with(&[ipvlan("pods", &json!([range(10, 10)]))]);
    let containerd = Containerd::start();
    let only = containerd.run_pod("only");
    let error = containerd
        .cri
        .run_pod_sandbox("none")
        .expect_err("there is one address");
    assert!(
        error.contains("no IP addresses available in range set: 10.8.0.10-10.8.0.10"),
        "{error}"
    );
    assert_eq!(machine.reserved("pods"), ["10.8.0.10"]);
    containerd.end_pod(&only);
    machine.is_clean();
}

#[test]
fn a_pod_of_the_cri_that_was_destroyed_gives_everything_back() {
    let machine = Machine::with(&[nic()]);
    let mut containerd = Containerd::start();
    let pod = containerd.run_pod("destroyed");
    assert_eq!(containerd.cri.address(&pod.id), "10.8.0.10");
    assert!(machine.host.link(NIC_NAME).is_none());
    containerd.process.kill().expect("containerd runs");
    drop(containerd);

    containerd = Containerd::start();
    let id = pod.destroy();
    wait_for_nic();
    assert_ne!(
        netdev(NIC).as_deref(),
        Some(NIC_NAME),
        "the kernel knows no name"
    );
    containerd
        .cri
        .stop_pod_sandbox(&id)
        .expect("the pod can be stopped");
    containerd
        .cri
        .remove_pod_sandbox(&id)
        .expect("the pod can be removed");
    machine.is_clean();
}

#[test]
fn a_container_of_ctr_has_the_nic_while_it_runs() {
    let machine = Machine::with(&[nic()]);
    let _containerd = Containerd::start();
    let options = [
        "run",
        "--rm",
        "--cni",
        IMAGE,
        "a",
        "/bin/busybox",
        "ip",
        "address",
    ];
    let inside = succeed(ctr().args(options));
    assert!(
        inside.contains("eth0") && inside.contains(NIC_MAC),
        "{inside}"
    );
    assert!(inside.contains("10.8.0.10/24"), "{inside}");
    wait_for_nic();
    machine.is_clean();
}
