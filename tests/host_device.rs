//! host-device on a node and in pods that are namespaces, with a veth as the device
//! and a delegate that is a script. What needs a real PCI device is in `vm_pci`.

mod add;
mod bad_input;
mod check_status_gc;
mod del;
mod device_info;
mod failed_add;
mod keep_addresses;
mod killed;
mod selectors;
mod turns;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::{Call, Namespace, Node};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A delegate for address management: it answers ADD with the file `result`, keeps
/// one file an attachment in `store`, fails where a file `fail.COMMAND` says so, and
/// writes down every call. `host-links` is what a call has seen on the host.
const IPAM: &str = r#"#!/bin/sh
dir=$(dirname "$0")
cat >"$dir/stdin.$CNI_COMMAND"
[ ! -e "$dir/hook" ] || . "$dir/hook"
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME ${CNI_NETNS:-none}" >>"$dir/calls"
ls /sys/class/net >"$dir/host-links.$CNI_COMMAND"
case $CNI_COMMAND in
ADD) echo x >"$dir/store/$CNI_CONTAINERID.$CNI_IFNAME" ;;
DEL) [ -e "$dir/fail.DEL" ] || rm -f "$dir/store/$CNI_CONTAINERID.$CNI_IFNAME" ;;
esac
if [ -e "$dir/fail.$CNI_COMMAND" ]; then
    cat "$dir/fail.$CNI_COMMAND"
    exit 1
fi
[ "$CNI_COMMAND" != ADD ] || cat "$dir/result"
"#;

/// A script that stands for an address management plugin, and its notes.
pub(crate) struct FakeIpam {
    directory: TempDir,
}

impl FakeIpam {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let ipam = Self { directory };
        fs::create_dir(ipam.path("store")).expect("it is writable");
        ipam.write("fake-ipam", IPAM);
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(ipam.path("fake-ipam"), executable).expect("it is ours");
        ipam.answer(&json!({"ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]}));
        ipam
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("the directory is writable");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// What ADD answers.
    pub(crate) fn answer(&self, result: &Value) {
        self.write("result", &result.to_string());
    }

    /// Lets the script execute these commands first.
    pub(crate) fn hook(&self, commands: &str) {
        self.write("hook", commands);
    }

    /// Lets `command` print `document` and fail.
    pub(crate) fn fail(&self, command: &str, document: &str) {
        self.write(&format!("fail.{command}"), document);
    }

    fn recover(&self, command: &str) {
        fs::remove_file(self.path(&format!("fail.{command}"))).expect("it was failing");
    }

    /// The calls so far, as `COMMAND CONTAINERID IFNAME`.
    fn calls(&self) -> Vec<String> {
        let words = |line: &str| line.rsplit_once(' ').map(|(call, _)| call.to_owned());
        self.read("calls").lines().filter_map(words).collect()
    }

    /// The attachments that have an address, as `CONTAINERID.IFNAME`.
    pub(crate) fn reserved(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("store")).expect("it exists");
        let name = |e: fs::DirEntry| e.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.flatten().map(name).collect();
        names.sort();
        names
    }

    /// What to set `CNI_PATH` to.
    pub(crate) fn cni_path(&self) -> String {
        self.directory.path().display().to_string()
    }
}

/// A node with the device `hd0`, a pod, and a delegate.
struct Fixture {
    node: Node,
    pod: Namespace,
    ipam: FakeIpam,
}

/// Everything that an attachment can change, to be compared.
type State = (Vec<Value>, Vec<Value>, Vec<String>, Vec<String>);

impl Fixture {
    /// The device is down, has the MTU 1400 and the MAC 02:00:00:00:00:01.
    fn new() -> Self {
        let fixture = Self {
            node: Node::new(),
            pod: Namespace::new(),
            ipam: FakeIpam::new(),
        };
        fixture.add_device("hd0", "02:00:00:00:00:01");
        fixture
    }

    fn add_device(&self, name: &str, mac: &str) {
        let peer = format!("{name}-peer");
        let veth = [
            "link", "add", name, "mtu", "1400", "address", mac, "type", "veth",
        ];
        self.host(&[&veth[..], &["peer", "name", &peer]].concat());
    }

    /// Runs `ip` on the node.
    #[track_caller]
    fn host(&self, arguments: &[&str]) -> String {
        self.node.netns.ip(arguments)
    }

    /// A call about (`c1`, `net1`) in the pod.
    fn call(&self, command: &str, conf: &Value) -> Call {
        Call::ours("host-device", command)
            .attachment("c1", "net1", &self.pod.path())
            .env("CNI_PATH", &self.ipam.cni_path())
            .conf(conf)
    }

    /// ADD, which must succeed.
    #[track_caller]
    fn add(&self, conf: &Value) -> Value {
        self.node.run(&self.call("ADD", conf)).ok()
    }

    /// DEL, which must succeed.
    #[track_caller]
    fn del(&self, conf: &Value) {
        self.node.run(&self.call("DEL", conf)).ok();
    }

    /// The configuration with the result of its ADD.
    #[track_caller]
    fn attached(&self, conf: &Value) -> Value {
        with(conf, &json!({"prevResult": self.add(conf)}))
    }

    /// Ends the pod, and waits until the kernel has destroyed the veth in it.
    fn end_pod(&mut self) {
        self.pod = Namespace::new();
        wait_until("the pod has ended", || {
            !self.node.netns.links().contains(&"hd0-peer".to_owned())
        });
    }

    /// The files of the records.
    fn records(&self) -> Vec<String> {
        self.node.files()
    }

    fn state(&self) -> State {
        let (host, pod) = (links(&self.node.netns), links(&self.pod));
        (host, pod, self.node.files(), self.ipam.reserved())
    }
}

/// Waits for what the kernel does in the background.
#[track_caller]
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "it did not happen that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What `ip` says of every link, but for what changes by itself.
fn links(namespace: &Namespace) -> Vec<Value> {
    let keys = [
        "ifindex", "ifname", "mtu", "address", "altnames", "ifalias", "linkinfo",
    ];
    let all = namespace.ip_json(&["address", "show"]);
    let link = |link: &Value| {
        let mut kept = json!({"up": is_up(link)});
        for key in keys {
            kept[key] = link[key].clone();
        }
        // The kernel lists them in the order in which they were added.
        if let Some(altnames) = kept["altnames"].as_array_mut() {
            altnames.sort_by_key(Value::to_string);
        }
        let name = link["ifname"].as_str().expect("a link has a name");
        kept["addresses"] = json!(namespace.addresses(name));
        kept
    };
    let links = all.as_array().expect("ip prints a list").iter();
    let mut links: Vec<Value> = links.map(link).collect();
    links.sort_by_key(|link| link["ifindex"].as_u64());
    links
}

pub(crate) fn is_up(link: &Value) -> bool {
    link["flags"]
        .as_array()
        .is_some_and(|flags| flags.contains(&json!("UP")))
}

/// A configuration without a delegate.
fn plain(keys: &Value) -> Value {
    let base = json!({"cniVersion": "1.1.0", "name": "lan", "type": "host-device"});
    with(&base, keys)
}

/// A configuration of the device `hd0` with the script as its delegate.
fn conf() -> Value {
    plain(&json!({"device": "hd0", "ipam": {"type": "fake-ipam"}}))
}

/// `conf` with `keys` in place of its own.
pub(crate) fn with(conf: &Value, keys: &Value) -> Value {
    let mut conf = conf.clone();
    for (key, value) in keys.as_object().expect("keys are an object") {
        conf[key] = value.clone();
    }
    conf
}

/// A directory that stands for `/sys/bus` or a part of `/sys/devices`.
struct FakeSys {
    directory: TempDir,
}

impl FakeSys {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A device at `path` whose interface is `netdev`, in the directory `net`.
    fn netdev(&self, path: &str, net: &str, netdev: &str) {
        let path = self.path().join(path).join(net).join(netdev);
        fs::create_dir_all(path).expect("the directory is writable");
    }

    /// Lets the device at `path` be bound to `driver`.
    fn bind(&self, path: &str, driver: &str) {
        let device = self.path().join(path);
        let driver = self.path().join("pci/drivers").join(driver);
        fs::create_dir_all(&device).expect("the directory is writable");
        fs::create_dir_all(&driver).expect("the directory is writable");
        // Where the tree is bound, the link still leads to the driver.
        let name = driver.file_name().expect("a driver has a name");
        let target = Path::new("../../drivers").join(name);
        std::os::unix::fs::symlink(target, device.join("driver")).expect("it has none yet");
    }

    fn unbind(&self, path: &str) {
        fs::remove_file(self.path().join(path).join("driver")).expect("it has a driver");
    }
}
