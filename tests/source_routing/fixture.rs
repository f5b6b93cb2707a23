//! A pod that is reached by a peer whose way back is not its default route, and what is
//! looked at in it.

use std::fs;

use harness::{Call, FakeIpam, Namespace, Node, Output};
use serde_json::{Value, json};

use crate::host_device::with;

/// The addresses of the pod's second interface.
pub(super) const OWN: [&str; 2] = ["10.9.0.5", "fd09::5"];

/// A pod with `eth0`, which has its default routes and leads to nobody who knows the
/// rest, and a router on the other end of the node's device. Behind the router is a
/// peer, in a network that the pod only knows by its default routes.
pub(crate) struct Fixture {
    plugin: &'static str,
    pub(crate) node: Node,
    pub(crate) pod: Namespace,
    pub(crate) router: Namespace,
    pub(crate) peer: Namespace,
    _uplink: Namespace,
    pub(crate) ipam: FakeIpam,
}

/// A namespace that routes, and whose addresses are usable at once.
fn namespace() -> Namespace {
    let namespace = Namespace::new();
    namespace.run(|| {
        for (name, value) in [
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv4/ip_forward", "1"),
        ] {
            fs::write(format!("/proc/sys/net/{name}"), value).expect("it is writable");
        }
    });
    namespace
}

/// Joins two namespaces by a veth whose ends have these names.
fn join(first: (&Namespace, &str), second: (&Namespace, &str)) {
    let ends = [
        "link", "add", first.1, "type", "veth", "peer", "name", second.1,
    ];
    first
        .0
        .ip(&[&ends[..], &["netns", &second.0.path()]].concat());
    for (namespace, name) in [first, second] {
        namespace.ip(&["link", "set", name, "up"]);
    }
}

fn give(namespace: &Namespace, link: &str, addresses: [&str; 2]) {
    let [ipv4, ipv6] = addresses;
    namespace.ip(&["address", "add", ipv4, "dev", link]);
    namespace.ip(&["address", "add", ipv6, "dev", link, "nodad"]);
}

fn default_routes(namespace: &Namespace, gateways: [&str; 2]) {
    for gateway in gateways {
        namespace.ip(&["route", "add", "default", "via", gateway]);
    }
}

impl Fixture {
    /// For `plugin`, whose device or master on the node is `hd0`.
    pub(crate) fn new(plugin: &'static str) -> Self {
        let fixture = Self {
            plugin,
            node: Node::new(),
            pod: Namespace::new(),
            router: namespace(),
            peer: namespace(),
            _uplink: Namespace::new(),
            ipam: FakeIpam::new(),
        };
        join((&fixture.node.netns, "hd0"), (&fixture.router, "r0"));
        join((&fixture.router, "r1"), (&fixture.peer, "p0"));
        join((&fixture.pod, "eth0"), (&fixture._uplink, "u0"));
        give(&fixture.router, "r0", ["10.9.0.1/24", "fd09::1/64"]);
        give(&fixture.router, "r1", ["198.51.100.1/24", "fd51::1/64"]);
        give(&fixture.peer, "p0", ["198.51.100.2/24", "fd51::2/64"]);
        default_routes(&fixture.peer, ["198.51.100.1", "fd51::1"]);
        give(&fixture._uplink, "u0", ["192.0.2.1/24", "fd02::1/64"]);
        give(&fixture.pod, "eth0", ["192.0.2.5/24", "fd02::5/64"]);
        default_routes(&fixture.pod, ["192.0.2.1", "fd02::1"]);
        fixture.answer(&json!([]));
        fixture
    }

    /// Lets the delegate answer with an address and a gateway of each family, and
    /// with these routes.
    pub(crate) fn answer(&self, routes: &Value) {
        self.ipam.answer(&json!({
            "ips": [
                {"address": "10.9.0.5/24", "gateway": "10.9.0.1"},
                {"address": "fd09::5/64", "gateway": "fd09::1"},
            ],
            "routes": routes,
        }));
    }

    /// A configuration with `keys`.
    pub(crate) fn conf(&self, keys: &Value) -> Value {
        let base = json!({
            "cniVersion": "1.1.0", "name": "lan", "type": self.plugin,
            "device": "hd0", "master": "hd0", "ipam": {"type": "fake-ipam"},
        });
        with(&base, keys)
    }

    /// A configuration with `sourceRouting`, which is `value`.
    pub(crate) fn routed(&self, value: &Value) -> Value {
        self.conf(&json!({"sourceRouting": value}))
    }

    pub(super) fn call(&self, command: &str, conf: &Value) -> Call {
        Call::ours(self.plugin, command)
            .attachment("c1", "net1", &self.pod.path())
            .env("CNI_PATH", &self.ipam.cni_path())
            .conf(conf)
    }

    pub(crate) fn run(&self, command: &str, conf: &Value) -> Output {
        self.node.run(&self.call(command, conf))
    }

    /// Runs ADD and kills it at its `nth` message to the kernel; false when it has
    /// ended before.
    pub(super) fn is_killed(&self, conf: &Value, nth: usize) -> bool {
        let call = self.call("ADD", conf);
        let status = self.node.inside(|| {
            let inject = format!("inject=sendto:signal=KILL:when={nth}");
            call.run_under("strace", &["-qq", "-o", "/dev/null", "-e", &inject])
                .status
        });
        status != Some(0)
    }

    #[track_caller]
    pub(crate) fn add(&self, conf: &Value) -> Value {
        self.run("ADD", conf).ok()
    }

    #[track_caller]
    pub(crate) fn del(&self, conf: &Value) {
        self.run("DEL", conf).ok();
    }

    pub(crate) fn check(&self, conf: &Value, result: &Value) -> Output {
        self.run("CHECK", &with(conf, &json!({"prevResult": result})))
    }

    /// Whether the peer gets an answer from the pod's second interface, by family.
    pub(crate) fn answers(&self, patience: &str) -> [bool; 2] {
        OWN.map(|address| {
            let ping = ["-c", "2", "-W", patience, address];
            self.peer.try_tool("ping", &ping).status.success()
        })
    }

    /// The rules of both families that are not the kernel's.
    pub(crate) fn rules(&self) -> Vec<String> {
        let mut rules = Vec::new();
        for family in ["-4", "-6"] {
            let all = self.pod.ip(&[family, "rule"]);
            let is_own = |line: &&str| !line.contains("from all lookup");
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            rules.extend(all.lines().filter(is_own).map(words));
        }
        rules
    }

    /// The routes of a table, both families, as `ip` prints them.
    pub(crate) fn table(&self, table: &str) -> Vec<String> {
        let mut routes = Vec::new();
        for family in ["-4", "-6"] {
            let shown = self
                .pod
                .try_tool("ip", &[family, "route", "show", "table", table]);
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            routes.extend(shown.lines().map(words));
        }
        routes
    }

    /// All that an attachment changes in the pod, and the state of the node.
    pub(super) fn state(&self) -> [Vec<String>; 5] {
        let tables = ["100", "main"].map(|table| self.table(table));
        let [own, main] = tables;
        [
            self.rules(),
            own,
            main,
            self.node.files(),
            self.ipam.reserved(),
        ]
    }
}
