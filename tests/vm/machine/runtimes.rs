//! Real container runtimes, as Debian has them, attach containers with our plugins:
//! podman, and containerd by itself and as Kubernetes' CRI, by which it runs our own pod too. The machine itself is the
//! node, with plugins and networks where every runtime looks for them, so this needs
//! the test VM, and the tests run one after the other.

mod containerd;
mod cri;
mod daemon_set;
mod kubelet;
mod podman;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use harness::{Namespace, attachment_files, go_plugin, our_plugin};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::machine::{self, Alone, alone};

/// Where every runtime looks for plugins.
const PLUGINS: &str = "/opt/cni/bin";
/// Where every runtime looks for networks.
const NETWORKS: &str = "/etc/cni/net.d";
/// What the plugins keep.
const STATE: &str = "/var/lib/cni";
/// What the runtimes keep is in memory and stays, because to load an image takes long.
const RUNTIMES: &str = "/run/runtimes";
/// The only image: it has nothing but busybox and runs until it is stopped.
const IMAGE: &str = "localhost/busybox:latest";
/// This machine's, as images name it.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};
/// The interface of the node that the networks are built on.
const UPLINK: &str = "ens5";

/// The node. When it is dropped, it is what it was.
struct Machine {
    host: Namespace,
    links: Vec<String>,
    namespaces: Vec<String>,
    _alone: Alone,
}

impl Machine {
    /// A node with an uplink and these networks, of which containerd takes the first.
    fn with(networks: &[Value]) -> Self {
        LazyLock::force(&PREPARED);
        let alone = alone();
        let host = Namespace::of_thread();
        host.ip(&["link", "add", UPLINK, "up", "type", "dummy"]);
        let links = host.links();
        for network in networks {
            let name = network["name"].as_str().expect("a network has a name");
            let path = Path::new(NETWORKS).join(format!("{name}.conflist"));
            fs::write(path, network.to_string()).expect("the VM's files can be written");
        }
        Self {
            host,
            links,
            namespaces: namespaces(),
            _alone: alone,
        }
    }

    /// The files below `/var/lib/cni/networks/NETWORK` that are reservations.
    fn reserved(&self, network: &str) -> Vec<String> {
        attachment_files(&Path::new(STATE).join("networks").join(network))
    }

    /// Makes sure that no container has left anything: an interface, a reservation, a
    /// record or a namespace.
    #[track_caller]
    fn is_clean(&self) {
        assert_eq!(self.host.links(), self.links);
        let files = attachment_files(Path::new(STATE));
        assert!(files.is_empty(), "{files:?}");
        assert_eq!(namespaces(), self.namespaces);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.host.try_tool("ip", &["link", "delete", UPLINK]);
        for directory in [NETWORKS, STATE] {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                let removed = if path.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                removed.expect("the VM's files can be removed");
            }
        }
    }
}

/// What all tests share: plugins where runtimes look for them.
static PREPARED: LazyLock<()> = LazyLock::new(|| {
    assert_eq!(
        machine::netdev(machine::NIC).as_deref(),
        Some(machine::NIC_NAME),
        "this is not the test VM: run `make test`, or `tests/vm/run`"
    );
    fs::create_dir_all(RUNTIMES).expect("/run can be written");
    for directory in [PLUGINS, NETWORKS] {
        fs::create_dir_all(directory).expect("the VM's files can be written");
        let tmpfs = Some("tmpfs");
        mount(tmpfs, directory, tmpfs, MsFlags::empty(), None::<&str>)
            .unwrap_or_else(|errno| panic!("cannot cover {directory}: {errno}"));
    }
    let ours = ["ipvlan", "host-device", "host-local"].map(our_plugin);
    let others = ["loopback", "portmap", "tuning"].map(go_plugin);
    for plugin in ours.iter().chain(&others) {
        let name = plugin.file_name().expect("a plugin has a name");
        std::os::unix::fs::symlink(plugin, Path::new(PLUGINS).join(name))
            .expect("the plugins can be put in place");
    }
});

/// The image as an archive that both runtimes load: Docker's format, with one layer.
static ARCHIVE: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = Path::new(RUNTIMES).join("image");
    let layer = directory.join("layer");
    fs::create_dir_all(layer.join("bin")).expect("/run can be written");
    let busybox = tool("sh", &["-c", "command -v busybox"]);
    fs::copy(busybox.trim(), layer.join("bin/busybox")).expect("busybox can be copied");

    let path = |name: &str| directory.join(name).display().to_string();
    tool(
        "tar",
        &["-C", &path("layer"), "-cf", &path("layer.tar"), "."],
    );
    let digest = tool("sha256sum", &[&path("layer.tar")]);
    let digest = digest.split(' ').next().unwrap_or_default();
    let config = json!({
        "architecture": ARCHITECTURE, "os": "linux",
        "config": {"Cmd": ["/bin/busybox", "sleep", "86400"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([
        {"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}
    ]);
    for (name, content) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(directory.join(name), content.to_string()).expect("/run can be written");
    }
    let files = ["manifest.json", "config.json", "layer.tar"];
    let archive = path("busybox.tar");
    tool(
        "tar",
        &[&["-C", &path(""), "-cf", &archive][..], &files].concat(),
    );
    PathBuf::from(archive)
});

/// Runs a program, which must succeed, and returns what it printed.
#[track_caller]
fn tool(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    succeed(&mut command)
}

/// A runtime's command. One that hangs fails its test, not everything.
fn client(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "300", program]);
    command
}

/// Runs a command, which must succeed, and returns what it printed.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    try_run(command).unwrap_or_else(|errors| panic!("{command:?} failed\n{errors}"))
}

/// Runs a command; the error is all that it printed.
fn try_run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .unwrap_or_else(|cause| panic!("{command:?}: {cause}; run `tests/prepare`"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}\n{text}{errors}", output.status))
}

/// The names of the network namespaces that have one, sorted.
fn namespaces() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// A network of one ipvlan plugin on the uplink, with these sets of ranges.
fn ipvlan(name: &str, ranges: &Value) -> Value {
    json!({"cniVersion": "1.0.0", "name": name, "plugins": [{
        "type": "ipvlan", "master": UPLINK, "capabilities": {"ips": true},
        "ipam": {"type": "host-local", "ranges": ranges},
    }]})
}

/// A set of one range of addresses of 10.8.0.0/24, the first and the last of which end
/// in these numbers.
fn range(first: u8, last: u8) -> Value {
    json!([{
        "subnet": "10.8.0.0/24",
        "rangeStart": format!("10.8.0.{first}"), "rangeEnd": format!("10.8.0.{last}"),
    }])
}
