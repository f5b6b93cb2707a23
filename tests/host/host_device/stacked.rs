//! What a pod has made on its device and moved on does not use the device of the next pod, and
//! what it has let the kernel do with the packets of the device is over.

use harness::Namespace;
use serde_json::Value;

use super::{Fixture, conf};

#[test]
fn what_a_pod_has_made_on_its_device_is_removed_where_the_pod_has_moved_it() {
    let fixture = Fixture::new();
    let before = fixture.state();
    let others = [Namespace::new(), Namespace::new()];
    fixture.add(&conf());
    for (name, other) in ["above0", "above1"].into_iter().zip(&others) {
        let pod = &fixture.pod;
        pod.ip(&[
            "link", "add", "link", "net1", "name", name, "type", "macvlan",
        ]);
        pod.ip(&["link", "set", name, "netns", &other.path(), "name", "eth0"]);
        other.ip(&["link", "set", "eth0", "up"]);
    }
    others[0].ip(&[
        "link", "add", "own", "type", "veth", "peer", "name", "other",
    ]);
    fixture.del(&conf());
    assert_eq!(fixture.state(), before);
    assert_eq!(others[0].links(), ["lo", "other", "own"]);
    assert_eq!(others[1].links(), ["lo"]);
}

/// The other devices of the pod are not the attachment's.
#[test]
fn what_is_above_another_device_of_the_pod_stays() {
    let fixture = Fixture::new();
    let other = Namespace::new();
    fixture.add(&conf());
    let pod = &fixture.pod;
    pod.ip(&[
        "link", "add", "own", "type", "veth", "peer", "name", "other",
    ]);
    pod.ip(&[
        "link", "add", "link", "own", "name", "above", "type", "macvlan",
    ]);
    pod.ip(&["link", "set", "above", "netns", &other.path()]);
    fixture.del(&conf());
    assert_eq!(other.links(), ["above", "lo"]);
}

/// Attaches an XDP program that lets every packet pass, in a mode of `XDP_FLAGS_*_MODE`: `ip`
/// needs a compiler for that.
const ATTACH: &str = r"
import ctypes, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
code = struct.pack('=BBhiBBhi', 0xb7, 0, 0, 2, 0x95, 0, 0, 0)
code, license = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b'GPL')
load = struct.pack('=IIQQ', 6, 2, ctypes.addressof(code), ctypes.addressof(license))
load = ctypes.create_string_buffer(load, 128)
numbers = {'x86_64': 321, 'aarch64': 280}
program = libc.syscall(numbers[os.uname().machine], 5, load, 128)
assert program >= 0, os.strerror(ctypes.get_errno())
def attribute(kind, value):
    return struct.pack('=HH', 4 + len(value), kind) + value
flags = attribute(3, struct.pack('=I', int(sys.argv[2])))
xdp = attribute(43, attribute(1, struct.pack('=i', program)) + flags)
index = socket.if_nametoindex(sys.argv[1])
message = struct.pack('=BxHiII', 0, 0, index, 0, 0) + xdp
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
kernel.send(struct.pack('=IHHII', 16 + len(message), 19, 5, 1, 0) + message)
error = struct.unpack('=i', kernel.recv(4096)[16:20])[0]
assert error == 0, os.strerror(-error)
";
const GENERIC: &str = "2";
const DRIVER: &str = "4";

/// What the kernel does with the packets of `hd0`.
fn packets(fixture: &Fixture) -> Vec<Value> {
    let links = fixture
        .node
        .netns
        .ip_json(&["-details", "link", "show", "hd0"]);
    let keys = [
        "linkmode",
        "gso_max_size",
        "gso_max_segs",
        "gro_max_size",
        "xdp",
    ];
    keys.map(|key| links[0][key].clone()).to_vec()
}

#[test]
fn what_a_pod_lets_the_kernel_do_with_packets_does_not_come_back_with_its_device() {
    for mode in [GENERIC, DRIVER] {
        let fixture = Fixture::new();
        let before = (fixture.state(), packets(&fixture));
        fixture.add(&conf());
        let lengths = ["gso_max_size", "30000", "gso_max_segs", "100"];
        for change in [
            &lengths[..],
            &["gro_max_size", "20000"],
            &["mode", "dormant"],
        ] {
            let change = [&["link", "set", "net1"], change].concat();
            fixture.pod.ip(&change);
        }
        fixture.pod.tool("python3", &["-c", ATTACH, "net1", mode]);
        fixture.del(&conf());
        assert_eq!((fixture.state(), packets(&fixture)), before, "{mode}");
    }
}

#[test]
fn what_the_node_has_the_kernel_do_with_packets_comes_back() {
    let fixture = Fixture::new();
    fixture.host(&[
        "link",
        "set",
        "hd0",
        "gso_max_size",
        "30000",
        "mode",
        "dormant",
    ]);
    let host = &fixture.node.netns;
    host.tool("python3", &["-c", ATTACH, "hd0", GENERIC]);
    let before = packets(&fixture);
    assert_ne!(before[4], Value::Null);
    fixture.add(&conf());
    let changed = [
        "link",
        "set",
        "net1",
        "gso_max_size",
        "40000",
        "mode",
        "default",
    ];
    fixture.pod.ip(&changed);
    fixture.del(&conf());
    assert_eq!(packets(&fixture), before);
}
