//! A pod that may administer its network: whatever it does, the host gets its device
//! back as it was, and nobody else notices anything.

use std::fs::File;
use std::time::{Duration, Instant};

use fixtures::hostile::react_to_del;
use harness::{Call, FakeIpam, Namespace, wait_until};
use serde_json::{Value, json};

use super::{Fixture, conf, with};

/// What the host has besides the links that are compared: routes and rules.
fn routing(namespace: &Namespace) -> [Value; 3] {
    let routes = ["route", "show", "table", "all"];
    [
        namespace.ip_json(&routes),
        namespace.ip_json(&["rule", "show"]),
        namespace.ip_json(&["-6", "rule", "show"]),
    ]
}

/// A node with the device `hd0` in the hostile pod, and with `hd1` in another one.
struct Scene {
    fixture: Fixture,
    other: Namespace,
    before: super::State,
    others: (Vec<Value>, [Value; 3], [Value; 3]),
}

impl Scene {
    fn new() -> Self {
        let fixture = Fixture::new();
        fixture.host(&["link", "set", "hd0", "alias", "uplink", "up"]);
        fixture.host(&["link", "property", "add", "dev", "hd0", "altname", "own"]);
        fixture.add_device("hd1", "02:00:00:00:00:02");
        let other = Namespace::new();
        let conf = with(&conf(), &json!({"device": "hd1"}));
        let call = fixture.call("ADD", &conf);
        let call = call.attachment("c2", "net1", &other.path());
        fixture.node.run(&call).ok();
        let before = fixture.state();
        let others = Self::others(&fixture, &other);
        Self {
            fixture,
            other,
            before,
            others,
        }
    }

    fn others(fixture: &Fixture, other: &Namespace) -> (Vec<Value>, [Value; 3], [Value; 3]) {
        let host = routing(&fixture.node.netns);
        (other.description(), routing(other), host)
    }

    /// Lets the pod execute these commands, one a line.
    fn do_in_pod(&self, commands: &str) {
        let script = format!("set -e\n{commands}");
        self.fixture.pod.tool("bash", &["-c", &script]);
    }

    /// DEL, after which the host, the other pod, and what is recorded are as before.
    #[track_caller]
    fn is_undone_by_del(&self, what: &str) {
        let del = self.fixture.call("DEL", &conf());
        let begin = Instant::now();
        let output = self.fixture.node.run(&del);
        assert!(begin.elapsed() < Duration::from_secs(180), "{what}");
        output.ok();
        let (host, _, records, addresses) = self.fixture.state();
        let (host_before, _, records_before, addresses_before) = &self.before;
        assert_eq!(&host, host_before, "{what}\n{output}");
        assert_eq!(&records, records_before, "{what}");
        assert_eq!(&addresses, addresses_before, "{what}");
        let others = Self::others(&self.fixture, &self.other);
        assert_eq!(others, self.others, "{what}");
    }
}

/// What a pod can do with `ip` and the like, and what to call it.
const DEEDS: [(&str, &str); 14] = [
    (
        "the MAC of another device of the host",
        "ip link set net1 address 02:00:00:00:00:02",
    ),
    (
        "flags, queue and group",
        "ip link set net1 promisc on allmulticast on arp off multicast off txqueuelen 7 group 99",
    ),
    (
        "a name that is no text",
        "ip link set net1 down; ip link set net1 name $'\\xff\\xfe'",
    ),
    (
        "an alias that is no text",
        "ip link set net1 alias $'\\xff\\xfe'",
    ),
    (
        "an alternative name that is no text",
        "ip link property add dev net1 altname $'\\xff\\xfe'; ip link property del dev net1 altname own",
    ),
    (
        "another interface whose name is no text",
        "ip link add $'\\xff' type veth peer name $'\\xfe'",
    ),
    (
        "as many alternative names as the kernel takes",
        "name=$(printf 'x%.0s' {1..123})
         for n in {1000..1600}; do echo link property add dev net1 altname $name$n; done |
             ip -batch - 2>&1 | grep -q 'too long'",
    ),
    (
        "a bridge's port",
        "ip link add br0 type bridge; ip link set net1 master br0 up",
    ),
    (
        "another interface under its name",
        "ip link set net1 down; ip link set net1 name gone
         ip link add net1 address 02:00:00:00:00:01 type bridge; ip link set net1 alias hd0",
    ),
    (
        "many rules and routes",
        "for n in {1..500}; do echo rule add from 10.0.0.1 table $((n + 1000)); done | ip -batch -
         ip address add 10.3.0.1/24 dev net1
         for n in {1..500}; do
             echo route add 10.4.$((n / 250)).$((n % 250)) via 10.3.0.2 dev net1 table $n
         done | ip -batch -",
    ),
    (
        "many addresses",
        "for n in {0..1999}; do
             echo address add 10.$((n / 2500 + 20)).$((n / 250 % 10)).$((n % 250 + 1))/32 dev net1
         done | ip -batch -",
    ),
    (
        "no IPv6, and forwarding",
        "mount -t proc proc /proc
         echo 1 >/proc/sys/net/ipv6/conf/net1/disable_ipv6
         echo 1 >/proc/sys/net/ipv4/conf/all/forwarding",
    ),
    (
        "a mount over what tells of devices",
        "mount -t tmpfs none /sys; mount -t tmpfs none /proc",
    ),
    (
        "traffic control, other addresses, a short MTU, and down",
        "tc qdisc add dev net1 root pfifo limit 1; tc qdisc add dev net1 clsact
         ip address flush dev net1; ip address add 192.0.2.1/24 dev net1
         ip link set net1 mtu 68 down",
    ),
];

#[test]
fn whatever_a_pod_does_with_its_device_the_host_gets_it_back_as_it_was() {
    let scene = Scene::new();
    for (what, commands) in DEEDS {
        scene.fixture.add(&conf());
        let hidden = "exec unshare -m bash -c \"$DEED\"";
        let run = format!(
            "export DEED={}\n{hidden}",
            quoted(&format!("set -e\n{commands}"))
        );
        scene.do_in_pod(&run);
        scene.is_undone_by_del(what);
        for link in scene.fixture.pod.links() {
            if link != "lo" {
                scene.fixture.pod.try_tool("ip", &["link", "delete", &link]);
            }
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[test]
fn a_decoy_with_name_mac_alias_and_index_is_not_taken_for_the_device() {
    let scene = Scene::new();
    let peer = scene
        .fixture
        .node
        .netns
        .link("hd0-peer")
        .expect("it exists");
    scene.fixture.add(&conf());
    let device = scene.fixture.pod.link("net1").expect("it is in the pod");
    let (peer, index) = (&peer["ifindex"], &device["ifindex"]);
    scene.do_in_pod(&format!(
        "ip link set net1 down; ip link set net1 name mine address 02:00:00:00:00:07
         ip link add net1 address 02:00:00:00:00:01 type veth peer name other index {peer}
         ip link set net1 alias hd0 mtu 1400; test {index} -gt 0"
    ));
    scene.is_undone_by_del("a decoy");
    assert_eq!(scene.fixture.pod.links(), ["lo", "net1", "other"]);
}

/// The Go plugin leaves it to the pod, which then sends and receives through a device
/// that the host, or another pod, has.
#[test]
fn an_interface_that_the_pod_has_made_on_the_device_does_not_stay() {
    let scene = Scene::new();
    scene.fixture.add(&conf());
    scene.do_in_pod("ip link add above link net1 type macvlan mode bridge; ip link set above up");
    scene.is_undone_by_del("a macvlan");
    assert_eq!(scene.fixture.pod.links(), ["lo"]);
}

/// Where a device has no other end on the node, only the node can tell it from what looks
/// like it. What goes back to the pod finds the names taken that it had there and here.
#[test]
fn any_number_of_decoys_goes_back_and_the_device_returns() {
    let fixture = Fixture::new();
    for n in 0..60 {
        fixture.host(&["tuntap", "add", &format!("low{n}"), "mode", "tap"]);
    }
    let (mac, conf) = (
        "02:00:00:00:00:07",
        with(&conf(), &json!({"device": "tap0"})),
    );
    fixture.host(&["tuntap", "add", "tap0", "mode", "tap"]);
    fixture.host(&["link", "set", "tap0", "address", mac]);
    for n in 0..60 {
        fixture.host(&["link", "del", &format!("low{n}")]);
    }
    let before = fixture.node.netns.links();
    fixture.add(&conf);
    fixture.pod.tool(
        "bash",
        &[
            "-c",
            &format!(
                "ip link set net1 down; ip link set net1 name mine
                 for n in {{1..40}}; do
                     ip tuntap add decoy$n mode tap; ip link set decoy$n address {mac}
                 done
                 ip link set decoy1 name net1"
            ),
        ],
    );
    let call = fixture.call("DEL", &conf);
    for _ in 0..100 {
        let output = fixture.node.run(&call);
        if output.status == Some(0) {
            break;
        }
        output.error_code(11);
        let hosts = fixture.node.netns.links();
        assert!(!hosts.contains(&"tap0".to_owned()), "{hosts:?}");
        assert_eq!(hosts.len() + 1, before.len(), "{hosts:?}");
        assert_eq!(fixture.records().len(), 1);
    }
    assert_eq!(fixture.node.netns.links(), before);
    assert_eq!(fixture.pod.links().len(), 41);
    assert!(fixture.records().is_empty());
}

/// The kernel waits for all processors at each deletion. Meanwhile no other device of the
/// node can be moved.
#[test]
fn many_interfaces_on_a_device_are_deleted_at_once() {
    let scene = Scene::new();
    scene.fixture.add(&conf());
    let third = Namespace::new();
    let create = |names: std::ops::Range<u32>| {
        let line = |n| format!("link add m{n} link net1 type macvlan\n");
        let lines: String = names.map(line).collect();
        scene.do_in_pod(&format!("ip -batch - <<'END'\n{lines}END"));
    };
    create(0..40);
    let begin = Instant::now();
    scene.do_in_pod("for n in {0..39}; do echo link del m$n; done | ip -batch -");
    let forty = begin.elapsed();
    create(0..400);
    let move_on = format!("link set m$n netns {}", third.path());
    scene.do_in_pod(&format!(
        "for n in {{0..19}}; do echo {move_on}; done | ip -batch -"
    ));
    let begin = Instant::now();
    scene.is_undone_by_del("many macvlans");
    let all = begin.elapsed();
    assert_eq!(scene.fixture.pod.links(), ["lo"]);
    assert_eq!(third.links(), ["lo"]);
    assert!(
        all < forty * 5,
        "{all:?} for 400, {forty:?} for 40 one by one"
    );
}

#[test]
fn many_links_in_the_pod_do_not_keep_del_waiting() {
    let scene = Scene::new();
    scene.fixture.add(&conf());
    scene.do_in_pod(
        "for n in {1..100}; do echo link add v$n type veth peer name w$n; done | ip -batch -",
    );
    scene.is_undone_by_del("many links");
}

#[test]
fn a_lock_on_the_namespace_delays_no_command() {
    let scene = Scene::new();
    scene.fixture.add(&conf());
    let namespace = File::open(scene.fixture.pod.path()).expect("it lives");
    namespace.lock().expect("nobody has it");
    scene.is_undone_by_del("a lock");
}

#[test]
fn routes_and_rules_that_the_parser_does_not_know_do_not_keep_the_rules_of_a_pod() {
    let scene = Scene::new();
    let ipam = FakeIpam::new();
    ipam.answer(&json!({"ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]}));
    let conf = with(&conf(), &json!({"sourceRouting": true}));
    scene.fixture.add(&conf);
    scene.do_in_pod(
        "ip rule add iif $'\\xff' table 9; ip rule add oif $'\\xfe' table 9
         ip -6 route add 2001:db8::/64 encap seg6 mode encap segs 2001:db8:1::1 dev net1 || true",
    );
    let call: Call = scene.fixture.call("DEL", &conf);
    scene.fixture.node.run(&call).ok();
    let rules = scene.fixture.pod.ip(&["rule", "show"]);
    assert!(!rules.contains("10.9.0.5"), "{rules}");
}

/// The container moves its device on and gives its index to another interface, while DEL
/// removes what is stacked on the device.
#[test]
fn what_a_pod_puts_in_the_place_of_its_device_gets_nothing_of_it() {
    let scene = Scene::new();
    scene.fixture.add(&conf());
    let pod = &scene.fixture.pod;
    let third = Namespace::new();
    for n in 0..4 {
        let name = format!("above{n}");
        pod.ip(&["link", "add", &name, "link", "net1", "type", "macvlan"]);
    }
    let index = &pod.link("net1").expect("it is in the pod")["ifindex"];
    let (path, mac) = (third.path(), "02:00:00:00:00:01");
    let end = react_to_del(
        pod,
        &format!(
            "link set net1 netns {path}
             link add net1 index {index} address {mac} type veth peer name other
             link set net1 alias hd0\n"
        ),
    );
    let output = scene.fixture.node.run(&scene.fixture.call("DEL", &conf()));
    end();
    assert_eq!(
        third.links(),
        ["lo", "net1"],
        "the pod was too slow\n{output}"
    );
    let error = output.error_code(11);
    assert_eq!(error.msg, "cannot give host device \"hd0\" back yet");
    let hosts = ["hd0-peer", "hd1-peer", "lo"];
    assert_eq!(scene.fixture.node.netns.links(), hosts);
    assert_eq!(scene.fixture.records().len(), 2);
    assert_eq!(scene.fixture.ipam.reserved(), ["c1.net1", "c2.net1"]);

    let back = ["link", "set", "net1", "name", "mine", "netns", &pod.path()];
    third.ip(&back);
    scene.fixture.del(&conf());
    let hd0 = scene.fixture.node.netns.link("hd0").expect("it is back");
    let seen = ["address", "ifalias", "altnames"].map(|key| &hd0[key]);
    assert_eq!(seen, [&json!(mac), &json!("uplink"), &json!(["own"])]);
    assert_eq!(scene.fixture.ipam.reserved(), ["c2.net1"]);
    assert!(
        pod.links().contains(&"other".to_owned()),
        "{:?}",
        pod.links()
    );
}

#[test]
fn a_veth_that_the_pod_has_moved_on_keeps_its_address_until_it_is_back_or_gone() {
    for comes_back in [true, false] {
        let scene = Scene::new();
        scene.fixture.add(&conf());
        let third = Namespace::new();
        let pod = &scene.fixture.pod;
        pod.ip(&["link", "set", "net1", "netns", &third.path()]);
        let del = scene.fixture.call("DEL", &conf());
        let error = scene.fixture.node.run(&del).error_code(11);
        assert_eq!(error.msg, "cannot give host device \"hd0\" back yet");
        assert_eq!(scene.fixture.ipam.reserved(), ["c1.net1", "c2.net1"]);
        if comes_back {
            third.ip(&["link", "set", "net1", "netns", &pod.path()]);
            scene.is_undone_by_del("a device that was away");
            continue;
        }
        drop(third);
        wait_until("the veth is gone", || {
            let links = scene.fixture.node.netns.links();
            !links.contains(&"hd0-peer".to_owned())
        });
        scene.fixture.node.run(&del).ok();
        assert_eq!(scene.fixture.ipam.reserved(), ["c2.net1"]);
        assert_eq!(scene.fixture.records().len(), 1);
    }
}
