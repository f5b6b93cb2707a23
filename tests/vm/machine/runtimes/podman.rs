//! podman with its CNI backend: networks that a user wrote and networks that podman
//! wrote, and every way in which a container ends.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use harness::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{
    ARCHIVE, IMAGE, Machine, NETWORKS, RUNTIMES, UPLINK, client, ipvlan, range, succeed, try_run,
};

/// The uplink is all that is emulated; what a container may do matters to no plugin.
const CONTAINERS_CONF: &str = r#"
[containers]
cgroups = "disabled"
log_driver = "none"
seccomp_profile = "unconfined"
[network]
network_backend = "cni"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
"#;

/// podman's folder, with the image.
static PODMAN: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(RUNTIMES).join("podman");
    fs::create_dir_all(&folder).expect("/run can be written");
    let storage = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = \"{0}/storage\"\nrunroot = \"{0}/run\"\n",
        folder.display()
    );
    fs::write(folder.join("containers.conf"), CONTAINERS_CONF).expect("/run can be written");
    fs::write(folder.join("storage.conf"), storage).expect("/run can be written");
    let archive = ARCHIVE.display().to_string();
    succeed(command(&folder).args(["load", "--quiet", "--input", &archive]));
    folder
});

fn command(folder: &std::path::Path) -> Command {
    let mut command = client("podman");
    command
        .env("CONTAINERS_CONF", folder.join("containers.conf"))
        .env("CONTAINERS_STORAGE_CONF", folder.join("storage.conf"));
    command
}

/// Runs `podman` with the words of this line, which must succeed.
#[track_caller]
fn podman(line: &str) -> String {
    succeed(command(&PODMAN).args(line.split(' ')))
}

/// Runs `podman` with the words of this line; the error is all that it printed.
fn try_podman(line: &str) -> Result<String, String> {
    try_run(command(&PODMAN).args(line.split(' ')))
}

/// A running container. The answer to `podman run`, and to everything else, is found
/// by its name.
struct Container {
    name: &'static str,
}

impl Container {
    /// Starts a container with these options of `podman run`.
    #[track_caller]
    fn run(name: &'static str, options: &str) -> Self {
        let container = Self { name };
        let [pid, conmon] = ["pid", "conmon"].map(|kind| container.pid_file(kind));
        let pid_files = format!(
            "--pidfile {} --conmon-pidfile {}",
            pid.display(),
            conmon.display()
        );
        podman(&format!(
            "run --detach --replace --name {name} {pid_files} {options} {IMAGE}"
        ));
        container
    }

    fn pid_file(&self, kind: &str) -> PathBuf {
        PODMAN.join(format!("{}.{kind}", self.name))
    }

    fn pid(&self, kind: &str) -> i32 {
        let path = self.pid_file(kind);
        let text = fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{path:?}: {cause}"));
        text.trim().parse().expect("a pid is a number")
    }

    fn netns(&self) -> Namespace {
        Namespace::at(format!("/proc/{}/ns/net", self.pid("pid")))
    }

    fn addresses(&self, ifname: &str) -> Vec<String> {
        self.netns().addresses(ifname)
    }

    /// Sends one ping from inside the container, which must be answered.
    #[track_caller]
    fn ping(&self, address: &str) {
        podman(&format!(
            "exec {} /bin/busybox ping -c 1 -W 30 {address}",
            self.name
        ));
    }

    /// Kills the container and podman's monitor of it, so that nobody notices its end.
    fn crash(&self) {
        for kind in ["conmon", "pid"] {
            kill(Pid::from_raw(self.pid(kind)), Signal::SIGKILL).expect("the process runs");
        }
    }
}

/// One address of each family for each of two containers.
fn two_pods() -> Value {
    let ipv6 = json!([
        {"subnet": "fd00:8::/64", "rangeStart": "fd00:8::a", "rangeEnd": "fd00:8::b"}
    ]);
    ipvlan("pods", &json!([range(10, 11), ipv6]))
}

#[test]
fn containers_reach_each_other_and_forced_removal_leaves_nothing() {
    let machine = Machine::with(&[two_pods()]);
    let a = Container::run("a", "--network pods");
    let b = Container::run("b", "--network pods");
    assert_eq!(a.addresses("eth0"), ["10.8.0.10/24", "fd00:8::a/64"]);
    assert_eq!(b.addresses("eth0"), ["10.8.0.11/24", "fd00:8::b/64"]);
    a.ping("10.8.0.11");
    b.netns()
        .tool("ping", &["-c", "1", "-W", "30", "fd00:8::a"]);
    podman("rm --force --time 0 a b");
    machine.is_clean();
}

#[test]
fn a_network_that_podman_wrote_is_one_of_ours() {
    let machine = Machine::with(&[]);
    // podman's ipvlan networks are built on the interface with the default route.
    machine
        .host
        .ip(&["address", "add", "10.9.0.1/24", "dev", UPLINK]);
    machine.host.ip(&["route", "add", "default", "dev", UPLINK]);
    podman("network create --driver ipvlan --subnet 10.9.0.0/24 made");
    let list = podman("network ls --format {{.Name}}/{{.Driver}}");
    assert!(list.lines().any(|line| line == "made/ipvlan"), "{list}");
    let a = Container::run("a", "--network made");
    assert_eq!(a.addresses("eth0"), ["10.9.0.2/24"]);
    let link = a.netns().link("eth0").expect("the interface is there");
    assert_eq!(link["linkinfo"]["info_kind"], "ipvlan", "{link}");
    let routes = a.netns().ip(&["route", "show", "default"]);
    assert!(
        routes.starts_with("default via 10.9.0.1 dev eth0"),
        "{routes}"
    );
    podman("network rm --force --time 0 made");
    machine.is_clean();
    assert!(!PathBuf::from(NETWORKS).join("made.conflist").exists());
}

#[test]
fn podman_shows_the_networks_that_a_user_wrote() {
    let _machine = Machine::with(&[two_pods()]);
    let shown: Value = serde_json::from_str(&podman("network inspect pods")).expect("it is JSON");
    assert_eq!(shown[0]["driver"], "ipvlan");
    assert_eq!(shown[0]["network_interface"], UPLINK);
    assert_eq!(shown[0]["subnets"][0]["lease_range"]["end_ip"], "10.8.0.11");
}

#[test]
fn a_restarted_container_has_one_address_and_a_killed_one_none() {
    let machine = Machine::with(&[ipvlan("pods", &json!([range(10, 11)]))]);
    let a = Container::run("a", "--network pods");
    assert_eq!(a.addresses("eth0"), ["10.8.0.10/24"]);
    podman("restart --time 0 a");
    assert_eq!(a.addresses("eth0"), ["10.8.0.11/24"]);
    assert_eq!(machine.reserved("pods"), ["10.8.0.11"]);
    podman("kill a");
    podman("rm a");
    machine.is_clean();
}

#[test]
fn a_container_that_cannot_start_gives_its_address_back() {
    let machine = Machine::with(&[ipvlan("pods", &json!([range(10, 10)]))]);
    for _ in 0..2 {
        let line = format!("run --rm --network pods {IMAGE} /missing");
        let error = try_podman(&line).expect_err("the program is missing");
        assert!(error.contains("/missing"), "{error}");
        machine.is_clean();
    }
}

#[test]
fn a_static_address_is_given_once() {
    let machine = Machine::with(&[ipvlan("pods", &json!([range(10, 20)]))]);
    let a = Container::run("a", "--network pods --ip 10.8.0.15");
    assert_eq!(a.addresses("eth0"), ["10.8.0.15/24"]);
    let again = format!("run --rm --network pods --ip 10.8.0.15 {IMAGE}");
    let error = try_podman(&again).expect_err("the address is taken");
    assert!(
        error.contains("requested IP address 10.8.0.15 is not available"),
        "{error}"
    );
    assert_eq!(a.addresses("eth0"), ["10.8.0.15/24"]);
    assert_eq!(machine.reserved("pods"), ["10.8.0.15"]);
    podman("rm --force --time 0 a");
    machine.is_clean();
}

#[test]
fn a_device_and_a_network_come_and_go_together() {
    let device = json!({"cniVersion": "1.0.0", "name": "device", "plugins": [
        {"type": "host-device", "device": "ens6"},
    ]});
    let mut machine = Machine::with(&[two_pods(), device]);
    machine
        .host
        .ip(&["link", "add", "ens6", "mtu", "1400", "type", "dummy"]);
    machine.links = machine.host.links();
    let a = Container::run("a", "--network pods,device");
    assert_eq!(a.netns().links(), ["eth0", "eth1", "lo"]);
    assert!(machine.host.link("ens6").is_none());
    podman("rm --force --time 0 a");
    machine.is_clean();
    let device = machine.host.link("ens6").expect("the device is back");
    assert_eq!(device["mtu"], 1400);
    machine.host.ip(&["link", "delete", "ens6"]);
}

#[test]
fn plugins_of_others_work_behind_ours() {
    let mut network = ipvlan("pods", &json!([range(10, 11)]));
    let tuning = json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.accept_local": "1"}});
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    network["plugins"]
        .as_array_mut()
        .expect("it is a list")
        .extend([tuning, portmap]);
    let machine = Machine::with(&[network]);
    let mapped = || {
        machine
            .host
            .tool("iptables-save", &["-t", "nat"])
            .contains("10.8.0.10:80")
    };

    let a = Container::run("a", "--network pods --publish 8080:80");
    assert!(mapped());
    let name = "net.ipv4.conf.eth0.accept_local";
    assert_eq!(a.netns().tool("sysctl", &["-n", name]).trim(), "1");
    podman("rm --force --time 0 a");
    assert!(!mapped());
    machine.is_clean();
}

#[test]
fn after_an_unnoticed_crash_the_container_can_be_removed() {
    let machine = Machine::with(&[two_pods()]);
    let a = Container::run("a", "--network pods");
    a.crash();
    podman("rm --force --time 0 a");
    machine.is_clean();
}

#[test]
fn after_an_unnoticed_crash_the_container_can_be_started_again() {
    let machine = Machine::with(&[ipvlan("pods", &json!([range(10, 11)]))]);
    let a = Container::run("a", "--network pods");
    a.crash();
    podman("start a");
    assert_eq!(machine.reserved("pods").len(), 1);
    podman("rm --force --time 0 a");
    machine.is_clean();
}
