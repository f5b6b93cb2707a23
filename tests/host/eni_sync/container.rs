//! The agent in a container as `deploy/daemonset.yaml` describes it: an empty root that
//! cannot be written, and the capabilities that are named there.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use fixtures::scrape::{Scrape, get};
use harness::vpc::{DEADLINE, Vpc, VpcNode, eventually, prev_result};
use harness::{Call, Pod, Resident, our_plugin, repository};
use nix::mount::{MsFlags, mount};
use nix::unistd::chroot;
use serde_json::{Value, json};

use super::hygiene::attach_device_at;

const NOTHING: Option<&str> = None;

fn deploy(name: &str) -> String {
    fs::read_to_string(repository().join("deploy").join(name)).unwrap()
}

/// The agent's container in the manifest.
fn manifest() -> Value {
    let text = deploy("daemonset.yaml");
    let daemon_set: Value = serde_yaml_ng::from_str(&text).unwrap();
    daemon_set["spec"]["template"]["spec"]["containers"][0].clone()
}

fn capabilities() -> Vec<Capability> {
    added(&manifest())
}

/// The container of the Job that uninstalls.
fn uninstalling() -> Value {
    let text = deploy("uninstall.yaml");
    let job: Value = serde_yaml_ng::from_str(&text).unwrap();
    job["spec"]["template"]["spec"]["containers"][0].clone()
}

fn added(container: &Value) -> Vec<Capability> {
    let added = &container["securityContext"]["capabilities"]["add"];
    let names = added.as_array().unwrap().iter();
    names
        .map(|name| format!("CAP_{}", name.as_str().unwrap()).parse().unwrap())
        .collect()
}

fn bind(source: &Path, target: &Path, flags: MsFlags) {
    mount(
        Some(source),
        target,
        NOTHING,
        MsFlags::MS_BIND | flags,
        NOTHING,
    )
    .unwrap_or_else(|errno| panic!("{source:?} on {target:?}: {errno}"));
}

/// Gives the thread the container's view: the root, and what is mounted there.
fn enter(root: &Path, configuration: &Value) {
    for directory in [
        "plugins",
        "opt/cni/bin",
        "etc/eni-sync",
        "run/eni-cni",
        "run/netns",
        "var/run/netns",
        "var/lib/cni",
        "proc",
        "dev",
    ] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let program = root.join("plugins/eni-sync");
    File::create(&program).unwrap();
    let path = root.join("etc/eni-sync/agent.json");
    fs::write(path, configuration.to_string()).unwrap();
    let certificates = "etc/ssl/certs/ca-certificates.crt";
    fs::create_dir_all(root.join(certificates).parent().unwrap()).unwrap();
    fs::copy(Path::new("/").join(certificates), root.join(certificates)).unwrap();
    bind(root, root, MsFlags::empty());
    // A copy could not be executed while another test forks with it open for writing.
    bind(&our_plugin("eni-sync"), &program, MsFlags::empty());
    fs::create_dir_all("/run/eni-cni").unwrap();
    let rec = MsFlags::MS_REC;
    for path in [
        "/run/eni-cni",
        "/run/netns",
        "/var/lib/cni",
        "/proc",
        "/dev",
    ] {
        bind(Path::new(path), &root.join(&path[1..]), rec);
    }
    bind(Path::new("/run/netns"), &root.join("var/run/netns"), rec);
    let plugins = our_plugin("host-device");
    let plugins = plugins.parent().unwrap();
    bind(plugins, &root.join("opt/cni/bin"), MsFlags::empty());
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    bind(root, root, read_only);
    chroot(root).unwrap();
    std::env::set_current_dir("/").unwrap();
    assert!(File::create("/x").is_err(), "the root can be written");
}

/// The configuration that is shipped.
fn shipped() -> Value {
    serde_json::from_str(&deploy("agent.json")).unwrap()
}

/// Starts the agent in its container.
fn start(node: &VpcNode, root: &Path, kept: &[Capability], configuration: &Value) -> Child {
    let arguments: Vec<String> = serde_json::from_value(manifest()["args"].clone()).unwrap();
    spawn(node, root, (kept, configuration), &arguments)
}

/// Starts the program in a container that has these capabilities and this configuration.
fn spawn(
    node: &VpcNode,
    root: &Path,
    (kept, configuration): (&[Capability], &Value),
    arguments: &[String],
) -> Child {
    let aws = node.call("");
    let mut call = Call::new("/plugins/eni-sync", "").without("CNI_COMMAND");
    for name in ["AWS_ENDPOINT_URL_EC2", "AWS_EC2_METADATA_SERVICE_ENDPOINT"] {
        call = call.env(name, &aws.variable(name));
    }
    let log = File::create(node.run_directory().join("log")).unwrap();
    node.node.inside(|| {
        enter(root, configuration);
        for capability in caps::all() {
            if !kept.contains(&capability) {
                // The kernel may know fewer than the crate.
                caps::drop(None, CapSet::Bounding, capability).ok();
            }
        }
        let mut process = call.process();
        process.args(arguments).stdin(Stdio::null()).stderr(log);
        process.spawn().unwrap()
    })
}

/// A node, and a pod whose namespace is where runtimes have it.
fn node_with_pod(vpc: &Vpc) -> (VpcNode, Pod) {
    let mut node = vpc.node();
    let pod = Pod::new("c1");
    let directory = node.run_directory().join("netns");
    fs::create_dir(&directory).unwrap();
    File::create(directory.join("c1")).unwrap();
    node.node.bind(pod.netns.path(), "/run/netns/c1");
    (node, pod)
}

/// The pod gets an address and ends.
fn add_and_end(node: &VpcNode, pod: &Pod) {
    let mut conf = json!({
        "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync", "cooldownSeconds": 0,
    });
    conf["prevResult"] = prev_result(pod, &[(&node.mac, &["10.0.4.70"])]);
    conf["prevResult"]["interfaces"][0]["sandbox"] = json!("/run/netns/c1");
    for command in ["ADD", "DEL"] {
        let call = node.call(command).conf(&conf);
        node.run(&call.attachment("c1", "net1", "/run/netns/c1"))
            .ok();
        assert!(command == "DEL" || node.addresses() == ["10.0.4.70"]);
    }
}

fn await_ready(node: &VpcNode) {
    let is_ready = eventually(|| get(node, "/readyz").0 == 200);
    let log = fs::read_to_string(node.run_directory().join("log")).unwrap();
    assert!(is_ready, "{log}");
}

/// Ends the agent with the test.
struct Ended(Child);

impl Ended {
    /// The status with which it ends by itself; nothing when it does not.
    fn await_end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn the_agent_needs_no_more_than_its_container_has() {
    let vpc = Vpc::new();
    let (node, pod) = node_with_pod(&vpc);
    let root = tempfile::tempdir().unwrap();
    let _agent = Ended(start(&node, root.path(), &capabilities(), &shipped()));
    assert!(eventually(|| node
        .run_directory()
        .join("eni-cni/agent.sock")
        .exists()));
    await_ready(&node);
    add_and_end(&node, &pod);
    assert!(
        eventually(|| node.addresses().is_empty()),
        "{:?}",
        node.ledger()
    );
    let scrape = Scrape::of(&node);
    assert_eq!(scrape.value("plugin_requests_total{code=\"0\"}"), 1.0);
}

#[test]
fn an_agent_that_cannot_look_into_pods_removes_nothing() {
    let vpc = Vpc::new();
    let (node, pod) = node_with_pod(&vpc);
    let root = tempfile::tempdir().unwrap();
    let _agent = Ended(start(&node, root.path(), &[], &shipped()));
    assert!(eventually(|| node
        .run_directory()
        .join("eni-cni/agent.sock")
        .exists()));
    await_ready(&node);
    add_and_end(&node, &pod);
    let log = || fs::read_to_string(node.run_directory().join("log")).unwrap();
    assert!(
        eventually(|| log().contains("Operation not permitted")),
        "{}",
        log()
    );
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}

#[test]
fn the_agent_ends_attachments_of_pods_that_are_gone_from_its_container() {
    let vpc = Vpc::new();
    let (mut node, pod) = node_with_pod(&vpc);
    attach_device_at(&node, "c1", "/run/netns/c1");
    let reservation = node.node.state().join("networks/dpdk/10.9.0.2");
    assert!(reservation.exists());
    node.node.unbind("/run/netns/c1");
    fs::remove_file(node.run_directory().join("netns/c1")).unwrap();
    drop(pod);
    let mut configuration = shipped();
    configuration["graceSeconds"] = json!(0);
    let root = tempfile::tempdir().unwrap();
    let _agent = Ended(start(&node, root.path(), &capabilities(), &configuration));
    let is_free = eventually(|| !reservation.exists());
    let log = fs::read_to_string(node.run_directory().join("log")).unwrap();
    assert!(is_free, "{log}");
}

/// What a newer iproute2 does to running containers with its first `ip netns add`: the
/// namespaces that are mounted from then on are empty files for them.
#[test]
fn an_agent_that_new_namespaces_do_not_reach_ends_and_the_next_one_sees_them() {
    let vpc = Vpc::new();
    let (mut node, _first) = node_with_pod(&vpc);
    let mut configuration = shipped();
    configuration["reconcileSeconds"] = json!(1);
    configuration["graceSeconds"] = json!(0);
    let [root, next_root] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut agent = Ended(start(&node, root.path(), &capabilities(), &configuration));
    let socket = node.run_directory().join("eni-cni/agent.sock");
    assert!(eventually(|| socket.exists()));
    await_ready(&node);
    let pod = Pod::new("c2");
    File::create(node.run_directory().join("netns/c2")).unwrap();
    node.node.bind(pod.netns.path(), "/run/netns/c2");
    let call = node.pod_call("ADD", &pod, &["10.0.4.70"]);
    node.run(&call.env("CNI_NETNS", "/run/netns/c2")).ok();
    let log = || fs::read_to_string(node.run_directory().join("log")).unwrap();
    let status = agent.await_end();
    assert_eq!(status, Some(1), "{}", log());
    assert!(log().contains("does not see the namespaces of new pods"));
    let _next = Ended(start(
        &node,
        next_root.path(),
        &capabilities(),
        &configuration,
    ));
    let looks = node.lab.calls()["DescribeNetworkInterfaces"];
    let action = "DescribeNetworkInterfaces";
    assert!(node.lab.wait_for_call(action, looks + 6, DEADLINE));
    assert_eq!(get(&node, "/readyz").1, "ok");
    assert_eq!(Scrape::of(&node).value("hidden_namespaces"), 0.0);
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    assert_eq!(node.ledger()["10.0.4.70"], "held");
}

/// What is mounted in the container cannot be removed there, and its root cannot be written.
#[test]
fn uninstall_ends_well_in_its_container() {
    let vpc = Vpc::new();
    let (node, _pod) = node_with_pod(&vpc);
    // As the kernel keeps it for a connection: no path leads there, and no process.
    let ended = Pod::new("c2");
    node.node.netns.ip(&[
        "link", "add", "own", "type", "veth", "peer", "name", "moved",
    ]);
    node.node
        .netns
        .ip(&["link", "set", "moved", "netns", &ended.netns.path()]);
    let _socket = Resident::holding(&ended.netns.path(), "inside = socket_inside()\nstay()");
    let _ended = ended.netns.end();
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    let run = node.run_directory().join("eni-cni");
    assert!(run.join("enis.json").exists());
    // The programs that the test has mounted are not those of a node.
    let arguments = ["uninstall", "--target=/nowhere"].map(str::to_owned);
    let capabilities = added(&uninstalling());
    let root = tempfile::tempdir().unwrap();
    let how = (&capabilities[..], &shipped());
    let mut uninstall = Ended(spawn(&node, root.path(), how, &arguments));
    let status = uninstall.await_end();
    let log = fs::read_to_string(node.run_directory().join("log")).unwrap();
    assert_eq!(status, Some(0), "{log}");
    assert!(node.addresses().is_empty());
    assert!(!node.node.state().join("eni-cni").exists());
    assert_eq!(fs::read_dir(run).unwrap().count(), 0);
}
