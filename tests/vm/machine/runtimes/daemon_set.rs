//! The pod of `deploy/daemonset.yaml` on a node of a simulated VPC: containerd unpacks the image
//! that `deploy/image` has made of what `deploy/dist` has published, and starts what a kubelet
//! makes of the manifest.

mod update;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use std::sync::LazyLock;

use caps::Capability;
use fixtures::deploy;
use fixtures::handover::{needs_agent, serving};
use fixtures::scrape::{get, get_at};
use harness::vpc::{Vpc, VpcNode, prev_result};
use harness::{Call, Pod, attachment_files, our_plugin, pci};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::containerd::Containerd;
use super::kubelet::{self, Terminated, await_patiently, target};
use super::{PLUGINS, tool};

/// As kustomize and the chart name it, in a registry that is this machine.
const IMAGE: &str = "localhost/eni-sync:0.1.0";
/// The user who owns the directory of plugins where an archive was unpacked as it is.
const OTHER: u32 = 1001;

/// A node with containerd and the image. One for all tests, because to load an image takes long;
/// each test has a directory of plugins of its own.
struct Machine {
    containerd: Containerd,
    node: VpcNode,
    spec: PodSpec,
}

static MACHINE: LazyLock<Machine> = LazyLock::new(|| {
    pci::require_machine();
    fs::create_dir_all(PLUGINS).unwrap();
    let node = Vpc::new().node_of_type("c5.4xlarge");
    let containerd = Containerd::of_node(&node);
    let archive = node.run_directory().join("eni-sync.tar");
    let archive_name = archive.display().to_string();
    tool("tar", &["-C", &layout(), "-cf", &archive_name, "."]);
    containerd.import(&archive, &["--base-name", "localhost/eni-sync"]);
    Machine {
        containerd,
        node,
        spec: deploy::pod(),
    }
});

/// What a node has in `/opt/cni/bin` while a test lasts: a directory that is another user's, as
/// where an archive of plugins was unpacked.
struct Plugins(TempDir);

impl Plugins {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        chown(directory.path(), Some(OTHER), Some(OTHER)).unwrap();
        let path = directory.path().display().to_string();
        mount(&["--bind", &path, PLUGINS]);
        Self(directory)
    }
}

impl Drop for Plugins {
    fn drop(&mut self) {
        unmount(PLUGINS);
    }
}

/// A pod whose namespace has its name on the node, as a runtime gives it.
struct Named(Pod);

impl Named {
    fn new(id: &str) -> Self {
        let pod = Named(Pod::new(id));
        File::create(pod.file()).unwrap();
        mount(&["--bind", &pod.0.netns.path(), &pod.path()]);
        pod
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0.id)
    }

    fn file(&self) -> PathBuf {
        MACHINE.node.run_directory().join("netns").join(&self.0.id)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        unmount(&self.path());
        fs::remove_file(self.file()).unwrap();
    }
}

/// Changes what is mounted on the node.
fn mount(arguments: &[&str]) {
    MACHINE.containerd.on_node("mount", arguments);
}

fn unmount(path: &str) {
    MACHINE.containerd.on_node("umount", &["--lazy", path]);
}

impl Machine {
    fn pod(&self, uid: &str, configuration: &Value) -> kubelet::Pod<'_> {
        let data = [("agent.json", configuration.to_string())];
        let data = data.each_ref().map(|(name, text)| (*name, text.as_str()));
        let run = self.node.run_directory();
        kubelet::Pod::new(&self.containerd, uid, self.spec.clone(), run, &data)
    }

    fn installer(&self) -> &Container {
        &self.spec.init_containers.as_ref().unwrap()[0]
    }

    fn agent(&self) -> &Container {
        &self.spec.containers[0]
    }

    /// Runs the init container to its end.
    fn install(&self, pod: &kubelet::Pod<'_>) -> Terminated {
        let id = pod.start(self.installer(), 0, IMAGE, &[]);
        pod.wait(self.installer(), 0, &id)
    }

    /// Starts the agent, which finds AWS as this node does, and waits until its probes succeed.
    fn start_agent(&self, pod: &kubelet::Pod<'_>, attempt: u32) -> String {
        let id = self.begin_agent(pod, attempt);
        self.await_probes(pod, attempt);
        id
    }

    fn begin_agent(&self, pod: &kubelet::Pod<'_>, attempt: u32) -> String {
        pod.start(self.agent(), attempt, IMAGE, &self.node.environment())
    }

    fn await_probes(&self, pod: &kubelet::Pod<'_>, attempt: u32) {
        let agent = self.agent();
        for probe in [
            &agent.startup_probe,
            &agent.liveness_probe,
            &agent.readiness_probe,
        ] {
            let (address, path) = target(probe.as_ref());
            let answers = || get_at(&self.node, &address, &path).is_ok_and(|it| it.0 == 200);
            assert!(await_patiently(answers), "{}", pod.log(agent, attempt));
        }
    }

    /// Whether plugins reach the agent in this container.
    fn serves(&self, container: &str) -> bool {
        let process = self.containerd.process_of(container);
        serving(&self.node) == process.map(i32::cast_unsigned)
    }

    /// Executes the installed plugin for a pod, as a runtime of this node does. Without an agent it
    /// would fail.
    fn plugin(&self, command: &str, pod: &Named, address: &str) {
        let mut conf = json!({
            "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync", "cooldownSeconds": 0,
        });
        let netns = pod.path();
        conf["prevResult"] = prev_result(&pod.0, &[(&self.node.mac, &[address])]);
        conf["prevResult"]["interfaces"][0]["sandbox"] = json!(netns);
        let call = self.node.call(command).of_program("/opt/cni/bin/eni-sync");
        let call = call.conf(&conf).attachment(&pod.0.id, "net1", &netns);
        self.on_node(&needs_agent(call));
    }

    /// The same of the plugin before it, which makes the interface.
    fn network_plugin(&self, command: &str, pod: &Named, address: &str) {
        let conf = json!({
            "cniVersion": "1.1.0", "name": "mgmt", "type": "ipvlan", "master": "ens6", "ipam": {
                "type": "host-local", "subnet": "10.0.4.0/24", "rangeStart": address, "rangeEnd": address,
            },
        });
        let call = self.node.call(command).of_program("/opt/cni/bin/ipvlan");
        let call = call.conf(&conf).attachment(&pod.0.id, "net1", &pod.path());
        self.on_node(&call.env("CNI_PATH", PLUGINS));
    }

    /// Runs a plugin in the runtime's view of the node; it succeeds.
    fn on_node(&self, call: &Call) {
        let enter = self.containerd.enter();
        let enter: Vec<&str> = enter.iter().map(String::as_str).collect();
        call.run_under("nsenter", &enter).ok();
    }

    /// A file of a container's process in /proc.
    fn proc(&self, id: &str, name: &str) -> String {
        let process = self.containerd.process_of(id).expect("it runs");
        fs::read_to_string(format!("/proc/{process}/{name}")).unwrap()
    }
}

/// The image of the programs that are tested.
fn layout() -> String {
    let layout = our_plugin("eni-sync").with_file_name("image");
    let is_there = layout.join("oci-layout").is_file();
    assert!(is_there, "{layout:?} is missing: `make test-vm` makes it");
    layout.display().to_string()
}

/// What is shipped.
fn configuration() -> Value {
    serde_json::from_str(&deploy::text("deploy/agent.json")).unwrap()
}

/// The value of a line of /proc/PID/status.
fn value<'a>(status: &'a str, key: &str) -> &'a str {
    let mut lines = status.lines();
    let found = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
    found.unwrap_or_else(|| panic!("no {key}"))
}

/// The capabilities that a container asks for, as the kernel writes them.
fn capabilities(container: &Container) -> String {
    let context = container.security_context.as_ref().unwrap();
    let added = context.capabilities.as_ref().unwrap().add.as_ref().unwrap();
    let bits = added.iter().map(|name| {
        let capability: Capability = format!("CAP_{name}").parse().unwrap();
        capability.bitmask()
    });
    format!("{:016x}", bits.sum::<u64>())
}

/// Makes sure that a container's process has what the manifest gives it, and no more.
fn has_what_the_manifest_says(machine: &Machine, id: &str) {
    let status = machine.proc(id, "status");
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(value(&status, set), capabilities(machine.agent()), "{set}");
    }
    let filtered = "2";
    assert_eq!(value(&status, "Seccomp"), filtered);
    let mounts = machine.proc(id, "mountinfo");
    let mounted = |path: &str| -> Vec<&str> {
        let mut lines = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        lines
            .rfind(|words| words[4] == path)
            .unwrap_or_else(|| panic!("{path}: {mounts}"))
    };
    for (path, option) in [
        ("/", "ro"),
        ("/etc/eni-sync", "ro"),
        ("/run/netns", "ro"),
        ("/var/run/netns", "ro"),
        ("/opt/cni/bin", "rw"),
        ("/run/eni-cni", "rw"),
        ("/var/lib/cni", "rw"),
    ] {
        assert_eq!(mounted(path)[5].split(',').next(), Some(option), "{path}");
    }
    for path in ["/run/netns", "/var/run/netns"] {
        assert!(mounted(path)[6].starts_with("master:"), "{mounts}");
    }
    let cgroup = machine.proc(id, "cgroup");
    let cgroup = cgroup.trim().strip_prefix("0::/").unwrap();
    let limit = PathBuf::from("/sys/fs/cgroup")
        .join(cgroup)
        .join("memory.max");
    assert_eq!(
        fs::read_to_string(limit).unwrap().trim(),
        (256 << 20).to_string()
    );
}

#[test]
fn its_pod_installs_the_plugins_and_serves_them() {
    let machine = &*MACHINE;
    let plugins = Plugins::new();
    let pod = machine.pod("serves", &configuration());
    let installed = machine.install(&pod);
    assert_eq!(installed.exit_code, 0, "{installed:?}");
    for name in [
        "eni-cni",
        "eni-sync",
        "ipvlan",
        "eni-ipvlan",
        "host-device",
        "host-local",
    ] {
        let found = fs::metadata(plugins.0.path().join(name)).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o755), "{name}");
    }
    let agent = machine.start_agent(&pod, 0);
    has_what_the_manifest_says(machine, &agent);

    let attached = Named::new("c1");
    machine.plugin("ADD", &attached, "10.0.4.70");
    assert_eq!(machine.node.addresses(), ["10.0.4.70"]);
    machine.plugin("DEL", &attached, "10.0.4.70");
    // The agent has looked into the namespace, which came after it.
    let is_released = await_patiently(|| machine.node.addresses().is_empty());
    assert!(is_released, "{}", pod.log(machine.agent(), 0));
    pod.end(&[&agent]);
    assert!(machine.containerd.process_of(&agent).is_none());
}

#[test]
fn its_init_container_says_why_it_cannot_install_and_leaves_nothing() {
    let machine = &*MACHINE;
    let _plugins = Plugins::new();
    for (uid, says) in [
        (
            "read-only",
            ["Read-only file system", "belongs to 1001:1001", "remount"],
        ),
        (
            "full",
            ["No space left on device", "belongs to 0:0", "make room"],
        ),
    ] {
        match uid {
            "full" => mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs", PLUGINS]),
            _ => mount(&["-o", "remount,bind,ro", PLUGINS]),
        }
        let pod = machine.pod(uid, &configuration());
        let Terminated { exit_code, message } = machine.install(&pod);
        assert_eq!(exit_code, 1, "{message}");
        assert!(message.contains("/host/opt/cni/bin"), "{message}");
        assert!(says.iter().all(|text| message.contains(text)), "{message}");
        let names = machine.containerd.on_node("ls", &["-A", PLUGINS]);
        assert_eq!(names, "");
        pod.end(&[]);
    }
    unmount(PLUGINS);
}

/// Its runtime has not called DEL: the agent does that, with the plugins that it sees, in the
/// namespaces that came after its container.
#[test]
fn its_agent_ends_what_a_dead_pod_has_left() {
    let machine = &*MACHINE;
    let _plugins = Plugins::new();
    let mut configuration = configuration();
    configuration["reconcileSeconds"] = json!(2);
    configuration["graceSeconds"] = json!(0);
    let pod = machine.pod("hygiene", &configuration);
    assert_eq!(machine.install(&pod).exit_code, 0);
    let agent = machine.start_agent(&pod, 0);
    let attached = Named::new("c3");
    machine.network_plugin("ADD", &attached, "10.0.4.71");
    machine.plugin("ADD", &attached, "10.0.4.71");
    let state = machine.node.node.state();
    let left = || {
        let files = ["networks/mgmt", "eni-cni/ipvlan"].map(|it| attachment_files(&state.join(it)));
        (files.concat(), machine.node.addresses())
    };
    let (files, addresses) = left();
    assert_eq!(
        (files.len(), addresses),
        (2, vec!["10.0.4.71".to_owned()]),
        "{files:?}"
    );
    drop(attached);
    let is_clean = await_patiently(|| left() == (Vec::new(), Vec::new()));
    assert!(is_clean, "{:?}: {}", left(), pod.log(machine.agent(), 0));
    pod.end(&[&agent]);
}

/// Somebody changes what is mounted on the node, so that the container does not see what comes
/// after that.
#[test]
fn its_agent_ends_when_new_namespaces_do_not_reach_it_and_the_next_one_sees_them() {
    let machine = &*MACHINE;
    let _plugins = Plugins::new();
    let mut configuration = configuration();
    configuration["reconcileSeconds"] = json!(2);
    configuration["graceSeconds"] = json!(0);
    let pod = machine.pod("separated", &configuration);
    let agent = machine.start_agent(&pod, 0);
    mount(&["--bind", "/run/netns", "/run/netns"]);
    mount(&["--make-private", "/run/netns"]);
    let attached = Named::new("c2");
    let Terminated { exit_code, message } = pod.wait(machine.agent(), 0, &agent);
    assert_eq!(exit_code, 1, "{message}");
    let says = "does not see the namespaces of new pods";
    assert!(message.contains(says), "{message}");
    // containerd refuses a mount whose source is not shared.
    mount(&["--make-shared", "/run/netns"]);
    let next = machine.start_agent(&pod, 1);
    let (_, text) = get(&machine.node, "/metrics");
    assert!(text.contains("\neni_sync_hidden_namespaces 0"), "{text}");
    pod.end(&[&next]);
    drop(attached);
    unmount("/run/netns");
}
