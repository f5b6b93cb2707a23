//! containerd: `ctr`, whose DEL has no namespace, and the CRI, by which Kubernetes makes
//! pods.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use harness::vpc::VpcNode;
use harness::{Namespace, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::cri::Cri;
use super::{ARCHIVE, IMAGE, Machine, RUNTIMES, client, ipvlan, namespaces, range, succeed};
use crate::machine::{NIC, NIC_MAC, NIC_NAME, netdev};

/// What Debian's containerd does with what kernels and machines may lack.
const UNUSED: &str = r#"["io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.tracing"]"#;

/// The machine's containerd has its folder here. What it has once loaded, the next one has as well.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(RUNTIMES).join("containerd");
    fs::create_dir_all(&folder).expect("/run can be written");
    configure(&folder, &folder.join("config.toml"));
    folder
});

/// The image of pods is loaded once.
static LOADED: LazyLock<()> = LazyLock::new(|| {
    let archive = ARCHIVE.display().to_string();
    succeed(ctr(&FOLDER).args(["images", "import", &archive]));
});

/// Writes the configuration of a containerd that has its folder here.
fn configure(folder: &Path, file: &Path) {
    let configuration = format!(
        "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = {UNUSED}\n\
         [grpc]\naddress = \"{0}/socket\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\n",
        folder.display()
    );
    fs::write(file, configuration).expect("/run can be written");
}

fn spawn(configuration: &Path, log: &Path) -> Child {
    let log = File::create(log).expect("/run can be written");
    Command::new("containerd")
        .arg("--config")
        .arg(configuration)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|cause| panic!("containerd: {cause}; run `tests/prepare tests`"))
}

/// containerd while it runs.
pub(super) struct Containerd {
    process: Child,
    pub(super) cri: Cri,
    /// Its folder, as the tests see it.
    folder: PathBuf,
    log: PathBuf,
}

impl Containerd {
    /// That of the machine.
    fn start() -> Self {
        let log = FOLDER.join("log");
        let process = spawn(&FOLDER.join("config.toml"), &log);
        let containerd = Self::when_it_answers(process, FOLDER.clone(), log);
        LazyLock::force(&LOADED);
        containerd
    }

    /// That of a node of a simulated VPC: its containers have the network, the state and the
    /// mounts of this node, which it shares with them as a machine does.
    pub(super) fn of_node(node: &VpcNode) -> Self {
        let run = node.run_directory();
        let seen = Path::new("/run/containerd");
        fs::create_dir(run.join("containerd")).expect("/run can be written");
        configure(seen, &run.join("containerd.toml"));
        let log = run.join("containerd.log");
        let process = node.node.inside(|| {
            let none = None::<&str>;
            let all_shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
            mount(none, "/", none, all_shared, none).expect("mounts can be shared");
            // A layer cannot be above the layers of the VM's root file system.
            for (kind, path) in [("tmpfs", "/run/containerd"), ("cgroup2", "/sys/fs/cgroup")] {
                mount(Some(kind), path, Some(kind), MsFlags::empty(), none)
                    .unwrap_or_else(|errno| panic!("cannot mount {path}: {errno}"));
            }
            spawn(Path::new("/run/containerd.toml"), &log)
        });
        let folder = format!("/proc/{}/root{}", process.id(), seen.display());
        let containerd = Self::when_it_answers(process, PathBuf::from(folder), log);
        containerd.import(&ARCHIVE, &[]);
        containerd
    }

    fn when_it_answers(process: Child, folder: PathBuf, log: PathBuf) -> Self {
        let cri = Cri::at(folder.join("socket"));
        wait_until("containerd answers", || cri.is_ready());
        Self {
            process,
            cri,
            folder,
            log,
        }
    }

    /// Loads an archive of images.
    #[track_caller]
    pub(super) fn import(&self, archive: &Path, options: &[&str]) {
        let mut command = self.ctr();
        command.args(["images", "import"]).args(options);
        succeed(command.arg(archive));
    }

    pub(super) fn ctr(&self) -> Command {
        ctr(&self.folder)
    }

    /// What it has said, for whom a container fails.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What a program is executed by in its view of the node.
    pub(super) fn enter(&self) -> Vec<String> {
        let id = self.process.id().to_string();
        ["--target", &id, "--mount", "--net", "--"]
            .map(str::to_owned)
            .into()
    }

    /// Runs a program there, which must succeed.
    #[track_caller]
    pub(super) fn on_node(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = client("nsenter");
        command.args(self.enter()).arg(program).args(arguments);
        succeed(&mut command)
    }

    /// The process of a container or sandbox, as long as it has one.
    pub(super) fn process_of(&self, id: &str) -> Option<i32> {
        process_of(&self.folder, id)
    }

    /// Makes a pod, and says in which namespace it is.
    #[track_caller]
    fn run_pod(&self, name: &str) -> Sandbox {
        let before = namespaces();
        let id = self.cri.run_pod_sandbox(name);
        let id = id.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
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
        ended.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
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
        process_of(&FOLDER, &self.id)
    }
}

fn process_of(folder: &Path, id: &str) -> Option<i32> {
    let list = succeed(ctr(folder).args(["tasks", "list"]));
    let line = list.lines().find(|line| line.starts_with(id))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// `ctr`, in the namespace that the CRI has its images in.
fn ctr(folder: &Path) -> Command {
    let mut command = client("ctr");
    command.arg("--address").arg(folder.join("socket"));
    command.args(["--namespace", "k8s.io"]);
    command
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
    let containerd = Containerd::start();
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
    let inside = succeed(containerd.ctr().args(options));
    assert!(
        inside.contains("eth0") && inside.contains(NIC_MAC),
        "{inside}"
    );
    assert!(inside.contains("10.8.0.10/24"), "{inside}");
    wait_for_nic();
    machine.is_clean();
}
