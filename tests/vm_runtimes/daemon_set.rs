//! The pod of `deploy/daemonset.yaml` on a node of a simulated VPC: containerd unpacks the image
//! that `deploy/image` has made of what `deploy/dist` has published, and starts what a kubelet
//! makes of the manifest.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use caps::Capability;
use harness::{Pod, our_plugin, pci, wait_until};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::containerd::Containerd;
use super::kubelet::{self, Terminated, target};
use super::tool;
use crate::deploy;
use crate::eni_sync::fixture::{AwsNode, Vpc, eventually, prev_result};
use crate::eni_sync::scrape::get_at;

/// As kustomize and the chart name it, in a registry that is this machine.
const IMAGE: &str = "localhost/eni-sync:0.1.0";
/// The user who owns the directory of plugins where an archive was unpacked as it is.
const OTHER: u32 = 1001;

/// A node with containerd and the image, whose directory of plugins is somebody else's.
struct Machine {
    containerd: Containerd,
    node: AwsNode,
    plugins: TempDir,
    spec: PodSpec,
}

impl Machine {
    fn new(vpc: &Vpc) -> Self {
        pci::require_machine();
        let plugins = tempfile::tempdir().unwrap();
        chown(plugins.path(), Some(OTHER), Some(OTHER)).unwrap();
        fs::create_dir_all("/opt/cni/bin").unwrap();
        let mut node = vpc.node();
        node.node.bind(plugins.path(), "/opt/cni/bin");
        let containerd = Containerd::of_node(&node);
        let archive = node.run_directory().join("eni-sync.tar");
        let archive_name = archive.display().to_string();
        tool("tar", &["-C", &layout(), "-cf", &archive_name, "."]);
        containerd.import(&archive, &["--base-name", "localhost/eni-sync"]);
        Self {
            containerd,
            node,
            plugins,
            spec: deploy::pod(),
        }
    }

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
        let agent = self.agent();
        let id = pod.start(agent, attempt, IMAGE, &self.node.environment());
        for probe in [
            &agent.startup_probe,
            &agent.liveness_probe,
            &agent.readiness_probe,
        ] {
            let (address, path) = target(probe.as_ref());
            let answers = || get_at(&self.node, &address, &path).is_ok_and(|it| it.0 == 200);
            assert!(eventually(answers), "{}", pod.log(agent, attempt));
        }
        id
    }

    /// Gives a pod's namespace its name on the node, as a runtime does.
    fn name_namespace(&self, pod: &Pod) -> String {
        let name = format!("netns/{}", pod.id);
        File::create(self.node.run_directory().join(&name)).unwrap();
        let path = format!("/run/{name}");
        self.containerd
            .on_node("mount", &["--bind", &pod.netns.path(), &path]);
        path
    }

    /// Executes the installed plugin for a pod, as a runtime of this node does.
    fn plugin(&self, command: &str, pod: &Pod, netns: &str) {
        let mut conf = json!({
            "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync", "cooldownSeconds": 0,
        });
        conf["prevResult"] = prev_result(pod, &[(&self.node.mac, &["10.0.4.70"])]);
        conf["prevResult"]["interfaces"][0]["sandbox"] = json!(netns);
        let call = self.node.call(command).of_program("/opt/cni/bin/eni-sync");
        let call = call.conf(&conf).attachment(&pod.id, "net1", netns);
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

/// What is shipped, with an agent that looks around each second.
fn configuration() -> Value {
    let mut shipped: Value = serde_json::from_str(&deploy::text("deploy/agent.json")).unwrap();
    shipped["reconcileSeconds"] = json!(1);
    shipped["graceSeconds"] = json!(0);
    shipped
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
    let vpc = Vpc::new();
    let machine = Machine::new(&vpc);
    let pod = machine.pod("pod-1", &configuration());
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
        let found = fs::metadata(machine.plugins.path().join(name)).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o755), "{name}");
    }
    let agent = machine.start_agent(&pod, 0);
    has_what_the_manifest_says(&machine, &agent);

    let attached = Pod::new("c1");
    let netns = machine.name_namespace(&attached);
    machine.plugin("ADD", &attached, &netns);
    assert_eq!(machine.node.addresses(), ["10.0.4.70"]);
    machine.plugin("DEL", &attached, &netns);
    // The agent has looked into the namespace, which came after it.
    let is_released = eventually(|| machine.node.addresses().is_empty());
    assert!(is_released, "{}", pod.log(machine.agent(), 0));
    pod.end(&[&agent]);
    assert!(machine.containerd.process_of(&agent).is_none());
}
