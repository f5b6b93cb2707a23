//! Debian's dhcp daemon as the delegate, and a DHCP server on the link. The tests of every
//! plugin that makes an interface call these.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::{Call, Listener, Namespace, Node, Output, go_plugin, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host_device::with;

/// The port of a server, and where a packet has its port, its type of message, and the
/// address that a client gives back. Source: RFC 768, RFC 2131 and RFC 2132.
const SERVER: u16 = 67;
const PORT: usize = 22;
const CLIENT_ADDRESS: usize = 28 + 12;
const OPTIONS: usize = 28 + 240;
const MESSAGE_TYPE: u8 = 53;
const DISCOVER: u8 = 1;
const RELEASE: u8 = 7;

/// A pod, and a server on the link of the node's `hd0`.
struct Fixture {
    plugin: &'static str,
    node: Node,
    pod: Namespace,
    heard: Listener,
    directory: TempDir,
    _processes: [Killed; 2],
    _server: Namespace,
}

/// A process that ends with this value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts a program inside `namespace`, which writes what it says into `log`.
fn start(namespace: &Namespace, log: &Path, program: &Path, arguments: &[&str]) -> Killed {
    let log = File::create(log).expect("the directory is writable");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(log);
    let child = namespace.run(|| command.spawn());
    Killed(child.unwrap_or_else(|cause| panic!("cannot execute {program:?}: {cause}")))
}

impl Fixture {
    fn new(plugin: &'static str, router: &str) -> Self {
        let (node, server) = (Node::new(), Namespace::new());
        let ends = ["hd0", "type", "veth", "peer", "name", "r0"];
        let path = server.path();
        node.netns
            .ip(&[&["link", "add"], &ends[..], &["netns", &path]].concat());
        node.netns.ip(&["link", "set", "hd0", "up"]);
        server.ip(&["link", "set", "r0", "up"]);
        server.ip(&["address", "add", "10.9.0.1/24", "dev", "r0"]);
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let file = |name: &str| directory.path().join(name);
        let text = |name: &str| file(name).display().to_string();
        fs::write(file("leases"), "").expect("it is writable");
        let conf = format!(
            "start 10.9.0.50\nend 10.9.0.60\nmax_leases 11\ninterface r0\n\
             lease_file {}\npidfile {}\noption subnet 255.255.255.0\noption lease 600\n\
             option router {router}\n",
            text("leases"),
            text("pid")
        );
        fs::write(file("conf"), conf).expect("it is writable");
        let heard = Listener::udp(&server);
        let busybox = Path::new("busybox");
        let udhcpd = ["udhcpd", "-f", "-a", "1", &text("conf")];
        let socket = text("socket");
        let daemon = ["daemon", "-socketpath", &socket];
        let processes = [
            start(&server, &file("server.log"), busybox, &udhcpd),
            start(
                &node.netns,
                &file("daemon.log"),
                &go_plugin("dhcp"),
                &daemon,
            ),
        ];
        wait_until("the daemon and the server are there", || {
            file("socket").exists() && file("pid").exists()
        });
        Self {
            plugin,
            node,
            pod: Namespace::new(),
            heard,
            directory,
            _processes: processes,
            _server: server,
        }
    }

    fn run(&self, command: &str, keys: &Value) -> Output {
        let socket = self.directory.path().join("socket");
        let conf = json!({
            "cniVersion": "1.0.0", "name": "lan", "type": self.plugin,
            "device": "hd0", "master": "hd0",
            "ipam": {"type": "dhcp", "daemonSocketPath": socket},
        });
        let call = Call::ours(self.plugin, command).attachment("c1", "net1", &self.pod.path());
        self.node.run(&call.conf(&with(&conf, keys)))
    }

    /// Waits until the server has heard a message of this type; it was about `address`, if
    /// there is one.
    fn hears(&self, what: &str, kind: u8, address: Option<Ipv4Addr>) {
        self.heard.wait_for(what, |packet| {
            let is_to_server = packet.get(PORT..PORT + 2) == Some(&SERVER.to_be_bytes());
            let of = packet.get(CLIENT_ADDRESS..CLIENT_ADDRESS + 4);
            let is_of = address.is_none_or(|address| of == Some(&address.octets()));
            is_to_server && message_type(packet) == Some(kind) && is_of
        });
    }
}

fn message_type(packet: &[u8]) -> Option<u8> {
    let mut options = packet.get(OPTIONS..)?;
    loop {
        match options {
            [MESSAGE_TYPE, 1, kind, ..] => return Some(*kind),
            [0, rest @ ..] => options = rest,
            [_, length, rest @ ..] => options = rest.get(usize::from(*length)..)?,
            _ => return None,
        }
    }
}

/// The server hears of the lease from its first message to its last one.
pub(crate) fn a_lease_is_taken_and_given_back(plugin: &'static str) {
    let fixture = Fixture::new(plugin, "10.9.0.1");
    let result = fixture.run("ADD", &json!({})).ok();
    fixture.hears("the server is asked", DISCOVER, None);
    let address = result["ips"][0]["address"].as_str().expect("it has one");
    assert_eq!(fixture.pod.addresses("net1"), [address]);
    let (address, _) = address.split_once('/').expect("it has a prefix");
    fixture.run("DEL", &json!({})).ok();
    fixture.hears("the lease is given back", RELEASE, address.parse().ok());
    assert_eq!(fixture.pod.links(), ["lo"]);
}

/// The server's router is the broadcast address, so the kernel refuses the route.
pub(crate) fn a_failed_add_gives_its_lease_back(plugin: &'static str) {
    let fixture = Fixture::new(plugin, "10.9.0.255");
    let error = fixture.run("ADD", &json!({})).error_code(999);
    assert!(error.msg.starts_with("failed to add route"), "{error:?}");
    fixture.hears("the lease is given back", RELEASE, None);
    assert_eq!(fixture.pod.links(), ["lo"]);
}
