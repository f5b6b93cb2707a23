//! `sourceRouting` and `enableDad` with host-device and a veth as the device. The same
//! with ipvlan is in `vm_source_routing`, which shares the fixture.

use std::fs;

use harness::{Call, Namespace, Node, Output};
use serde_json::{Value, json};

use crate::host_device::{FakeIpam, with};

/// The addresses of the pod's second interface.
pub(crate) const OWN: [&str; 2] = ["10.9.0.5", "fd09::5"];

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

    fn call(&self, command: &str, conf: &Value) -> Call {
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
    fn is_killed(&self, conf: &Value, nth: usize) -> bool {
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
    fn state(&self) -> [Vec<String>; 5] {
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

/// The rules that lead to `table` by default.
fn rules(table: u32) -> Vec<String> {
    OWN.map(|own| format!("32765: from {own} lookup {table}"))
        .to_vec()
}

#[track_caller]
fn has(routes: &[String], expected: &str) {
    let found = routes.iter().any(|route| route.starts_with(expected));
    assert!(found, "{expected:?} is missing: {routes:#?}");
}

/// Issue 3: with the option the answer leaves through the second interface.
pub(crate) fn only_with_the_option_does_the_peer_get_an_answer(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let without = fixture.conf(&json!({}));
    fixture.add(&without);
    assert_eq!(fixture.rules(), [""; 0]);
    assert_eq!(fixture.answers("1"), [false, false]);
    fixture.del(&without);

    let conf = fixture.routed(&json!(true));
    let result = fixture.add(&conf);
    assert_eq!(fixture.answers("30"), [true, true]);
    for (own, peer) in OWN.into_iter().zip(["198.51.100.2", "fd51::2"]) {
        let way = fixture.pod.ip(&["route", "get", peer, "from", own]);
        assert!(way.contains("dev net1"), "{way}");
        let way = fixture.pod.ip(&["route", "get", peer]);
        assert!(way.contains("dev eth0"), "{way}");
    }
    fixture.check(&conf, &result).ok();
    fixture.del(&conf);
}

/// ADD, CHECK and DEL with the table, the rules and the routes that they are about.
pub(crate) fn the_table_has_what_leads_through_the_interface(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let before = fixture.state();
    fixture.answer(&json!([
        {"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd09::1"},
        {"dst": "10.8.0.0/16", "mtu": 1300}, {"dst": "10.7.0.0/16", "table": 77},
    ]));
    let conf = fixture.routed(&json!(true));
    let result = fixture.add(&conf);
    assert_eq!(fixture.rules(), rules(100));
    let own = fixture.table("100");
    has(&own, "default via 10.9.0.1 dev net1");
    has(&own, "default via fd09::1 dev net1");
    has(&own, "10.9.0.0/24 dev net1 scope link");
    has(&own, "fd09::/64 dev net1");
    has(&own, "10.8.0.0/16 via 10.9.0.1 dev net1 mtu 1300");
    assert_eq!(own.len(), 5, "{own:#?}");
    has(&fixture.table("77"), "10.7.0.0/16 via 10.9.0.1 dev net1");
    let main = fixture.table("main");
    has(&main, "10.8.0.0/16 via 10.9.0.1 dev net1 mtu 1300");
    let defaults: Vec<_> = main.iter().filter(|r| r.starts_with("default")).collect();
    assert_eq!(defaults.len(), 2, "{main:#?}");
    assert!(defaults.iter().all(|route| route.contains("dev eth0")));

    let tables: Vec<&Value> = (0..4).map(|i| &result["routes"][i]["table"]).collect();
    assert_eq!(json!(tables), json!([100, 100, null, 77]));
    fixture.check(&conf, &result).ok();
    fixture.del(&with(&conf, &json!({"prevResult": result})));
    fixture.del(&conf);
    assert_eq!(fixture.state(), before);
}

/// What somebody removes is missed by CHECK.
pub(crate) fn check_misses_a_rule_and_a_route(plugin: &'static str) {
    let damages: [(&[&str], &str); 4] = [
        (
            &["rule", "del", "from", "10.9.0.5"],
            "Expected rule 'from 10.9.0.5 lookup 100' not found",
        ),
        (
            &["-6", "rule", "del", "from", "fd09::5"],
            "Expected rule 'from fd09::5 lookup 100' not found",
        ),
        (
            &["route", "del", "default", "table", "100"],
            "Expected Route 0.0.0.0/0",
        ),
        (
            &["-6", "route", "del", "fd09::/64", "table", "100"],
            "Expected Route fd09::/64",
        ),
    ];
    for (damage, said) in damages {
        let fixture = Fixture::new(plugin);
        let conf = fixture.routed(&json!({"table": 100}));
        let result = fixture.add(&conf);
        fixture.check(&conf, &result).ok();
        fixture.pod.ip(damage);
        let error = fixture.check(&conf, &result).error_code(999);
        assert!(error.msg.starts_with(said), "{error:?}");
        fixture.del(&conf);
        assert_eq!(fixture.rules(), [""; 0]);
    }
}

/// Rules of others stay, whatever they have in common with those of the attachment.
pub(crate) fn del_removes_its_rules_alone(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let conf = fixture.routed(&json!({"table": 5000, "priority": 900}));
    fixture.add(&conf);
    let own = OWN.map(|own| format!("900: from {own} lookup 5000"));
    assert_eq!(fixture.rules(), own);
    let others: [&[&str]; 3] = [
        &["from", "10.9.0.5", "lookup", "77", "priority", "901"],
        &["from", "10.9.0.6", "lookup", "5000", "priority", "902"],
        &["to", "10.9.0.5", "lookup", "5000", "priority", "903"],
    ];
    for other in others {
        fixture.pod.ip(&[&["rule", "add"], other].concat());
    }
    // The link may be gone with its pod's namespace still there.
    if plugin == "ipvlan" {
        fixture.pod.ip(&["link", "del", "net1"]);
    }
    fixture.del(&json!({"cniVersion": "1.1.0", "name": "lan", "type": plugin}));
    let left = fixture.rules();
    assert_eq!(left.len(), 3, "{left:#?}");
    assert!(left.iter().all(|rule| !own.contains(rule)), "{left:#?}");
    fixture.del(&conf);
    assert_eq!(fixture.rules(), left);
    assert_eq!(fixture.ipam.reserved(), [""; 0]);
}

/// A rule that the kernel refuses, when others are there already.
pub(crate) fn a_failed_add_leaves_no_rule(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let before = fixture.state();
    // While the delegate runs, somebody else takes a place of the table that is free.
    fixture.ipam.hook(
        "[ $CNI_COMMAND != ADD ] || nsenter --net=$CNI_NETNS \
         /sbin/ip -6 rule add from fd09::5 lookup 100 priority 900",
    );
    let error = fixture
        .run("ADD", &fixture.routed(&json!({"priority": 900})))
        .error_code(999);
    assert_eq!(error.msg, "failed to add rule 'from fd09::5 lookup 100'");
    assert_eq!(fixture.state(), before);
    assert!(!fixture.pod.links().contains(&"net1".to_owned()));
}

/// Duplicate address detection that ends well, and what CHECK says of it.
pub(crate) fn add_waits_until_no_address_is_tentative(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let conf = fixture.conf(&json!({"enableDad": true}));
    let result = fixture.add(&conf);
    let shown = fixture.pod.ip(&["-6", "address", "show", "dev", "net1"]);
    assert!(shown.contains("fd09::5/64 scope global"), "{shown}");
    for wrong in ["tentative", "dadfailed", "nodad"] {
        assert!(!shown.contains(wrong), "{shown}");
    }
    fixture.check(&conf, &result).ok();
    fixture.pod.run(|| {
        let transmits = "/proc/sys/net/ipv6/conf/net1/dad_transmits";
        fs::write(transmits, "1000").expect("it is writable");
    });
    for change in ["del", "add"] {
        fixture
            .pod
            .ip(&["address", change, "fd09::5/64", "dev", "net1"]);
    }
    let error = fixture.check(&conf, &result).error_code(999);
    assert_eq!(error.msg, "address fd09::5/64 of \"net1\" is tentative");
}

/// Another node on the link has the address.
pub(crate) fn a_duplicate_address_fails_the_add(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    let before = fixture.state();
    let duplicate = ["address", "add", "fd09::5/64", "dev", "r0", "nodad"];
    fixture.router.ip(&duplicate);
    let conf = fixture.conf(&json!({"enableDad": true, "sourceRouting": true}));
    let error = fixture.run("ADD", &conf).error_code(999);
    assert_eq!(
        error.msg,
        "address fd09::5/64 of \"net1\" is in use by another node"
    );
    assert_eq!(fixture.state(), before);
    assert!(!fixture.pod.links().contains(&"net1".to_owned()));
}

/// Two routes to one destination are two ways, as with the Go plugins.
pub(crate) fn routes_by_two_gateways_are_both_added_and_checked(plugin: &'static str) {
    let fixture = Fixture::new(plugin);
    fixture.answer(&json!([
        {"dst": "10.8.0.0/16", "gw": "10.9.0.1"}, {"dst": "10.8.0.0/16", "gw": "10.9.0.2"},
        {"dst": "fd08::/64", "gw": "fd09::1"}, {"dst": "fd08::/64", "gw": "fd09::2"},
        {"dst": "10.6.0.0/16", "scope": 253}, {"dst": "fd06::/64", "scope": 253},
    ]));
    let conf = fixture.conf(&json!({}));
    let result = fixture.add(&conf);
    let main = fixture.table("main");
    let to = |dst: &str| main.iter().filter(|r| r.starts_with(dst)).count();
    assert_eq!(to("10.8.0.0/16 via 10.9.0."), 2, "{main:#?}");
    has(&main, "nexthop via fd09::1 dev net1");
    has(&main, "nexthop via fd09::2 dev net1");
    has(&main, "10.6.0.0/16 dev net1 scope link");
    fixture.check(&conf, &result).ok();
    for (dst, gateway) in [("10.8.0.0/16", "10.9.0.2"), ("fd08::/64", "fd09::2")] {
        fixture.pod.ip(&["route", "del", dst, "via", gateway]);
        let error = fixture.check(&conf, &result).error_code(999);
        let said = format!("Expected Route {dst} via Some({gateway})");
        assert!(error.msg.starts_with(&said), "{error:?}");
        let family = if dst.contains(':') { "-6" } else { "-4" };
        let append = [family, "route", "append", dst, "via", gateway];
        fixture.pod.ip(&append);
        fixture.check(&conf, &result).ok();
    }
    fixture
        .pod
        .ip(&["route", "del", "10.6.0.0/16", "dev", "net1"]);
    let other_scope = ["route", "add", "10.6.0.0/16", "dev", "net1"];
    fixture
        .pod
        .ip(&[&other_scope[..], &["scope", "global"]].concat());
    let error = fixture.check(&conf, &result).error_code(999);
    assert!(error.msg.starts_with("Expected Route 10.6.0.0/16"));
}

const PLUGIN: &str = "host-device";

#[test]
fn the_answer_to_a_peer_behind_a_router_leaves_through_the_second_interface() {
    only_with_the_option_does_the_peer_get_an_answer(PLUGIN);
}

#[test]
fn the_own_table_is_filled_reported_checked_and_removed() {
    the_table_has_what_leads_through_the_interface(PLUGIN);
}

#[test]
fn check_finds_a_rule_or_a_route_that_is_missing() {
    check_misses_a_rule_and_a_route(PLUGIN);
}

#[test]
fn del_leaves_the_rules_of_others() {
    del_removes_its_rules_alone(PLUGIN);
}

#[test]
fn a_rule_that_the_kernel_refuses_undoes_the_add() {
    a_failed_add_leaves_no_rule(PLUGIN);
}

#[test]
fn with_detection_no_address_is_tentative_when_add_returns() {
    add_waits_until_no_address_is_tentative(PLUGIN);
}

#[test]
fn a_duplicate_address_is_named_and_the_add_undone() {
    a_duplicate_address_fails_the_add(PLUGIN);
}

#[test]
fn two_gateways_of_one_destination_are_two_ways() {
    routes_by_two_gateways_are_both_added_and_checked(PLUGIN);
}

/// A table is in use when it has a route of any kind or is looked into, in any family.
#[test]
fn the_table_is_the_first_that_nothing_uses() {
    let fixture = Fixture::new(PLUGIN);
    let uses: [&[&str]; 4] = [
        &["route", "add", "blackhole", "10.0.0.0/8", "table", "100"],
        &[
            "-6",
            "route",
            "add",
            "fd77::/64",
            "dev",
            "eth0",
            "table",
            "101",
        ],
        &["rule", "add", "fwmark", "7", "lookup", "102"],
        &["-6", "rule", "add", "iif", "eth0", "lookup", "103"],
    ];
    for used in uses {
        fixture.pod.ip(used);
    }
    let conf = fixture.routed(&json!(true));
    let result = fixture.add(&conf);
    let own = fixture.rules().into_iter().filter(|r| r.contains("104"));
    assert_eq!(own.count(), 2, "{:#?}", fixture.rules());
    fixture.check(&conf, &result).ok();
}

#[test]
fn a_table_that_is_in_use_is_named_before_the_device_moves() {
    let fixture = Fixture::new(PLUGIN);
    let used = ["-6", "rule", "add", "fwmark", "7", "lookup", "4294967295"];
    fixture.pod.ip(&used);
    let before = fixture.state();
    let conf = fixture.routed(&json!({"table": 4_294_967_295_u32}));
    let error = fixture.run("ADD", &conf).error_code(999);
    let said = "sourceRouting: table 4294967295 is in use in netns";
    assert!(error.msg.starts_with(said), "{error:?}");
    assert_eq!(fixture.state(), before);

    let conf = fixture.routed(&json!({"table": 4_294_967_294_u32}));
    let result = fixture.add(&conf);
    has(&fixture.table("4294967294"), "default via 10.9.0.1");
    fixture.check(&conf, &result).ok();
    fixture.del(&conf);
    assert_eq!(fixture.state(), before);
}

#[test]
fn a_wrong_value_is_named_before_anything_is_touched() {
    for plugin in [PLUGIN, "ipvlan"] {
        let fixture = Fixture::new(plugin);
        let before = fixture.state();
        for (keys, said) in [
            (json!({"sourceRouting": 1}), "invalid sourceRouting 1"),
            (
                json!({"sourceRouting": {"table": 254}}),
                "invalid sourceRouting.table 254",
            ),
            (
                json!({"sourceRouting": {"priority": 32766}}),
                "invalid sourceRouting.priority 32766",
            ),
            (json!({"enableDad": "yes"}), "invalid enableDad \"yes\""),
        ] {
            let output = fixture.run("ADD", &fixture.conf(&keys));
            let error = output.error_code(7);
            assert_eq!(error.msg, said);
            assert!(!error.details.is_empty());
            assert_eq!(fixture.state(), before);
        }
    }
}

#[test]
fn check_finds_the_table_of_an_attachment_without_a_record() {
    let fixture = Fixture::new(PLUGIN);
    let conf = fixture.routed(&json!(true));
    let result = fixture.add(&conf);
    for record in fixture.node.files() {
        fs::remove_file(fixture.node.state().join(record)).expect("it is ours");
    }
    fixture.check(&conf, &result).ok();
    fixture.pod.ip(&["rule", "del", "from", "10.9.0.5"]);
    let error = fixture.check(&conf, &result).error_code(999);
    assert_eq!(error.msg, "Expected rule 'from 10.9.0.5' not found");
}

#[test]
fn del_removes_what_an_add_that_was_killed_anywhere_has_left() {
    let fixture = Fixture::new(PLUGIN);
    let before = fixture.state();
    let conf = fixture.routed(&json!(true));
    let mut most = 0;
    for nth in 1.. {
        assert!(nth < 100, "ADD has no end");
        let was_killed = fixture.is_killed(&conf, nth);
        most = most.max(fixture.rules().len());
        fixture.del(&conf);
        assert_eq!(fixture.state(), before, "message {nth}");
        if !was_killed {
            break;
        }
    }
    assert_eq!(most, 2);
}

/// Nobody can detect anything on a link without a carrier, so ADD has to give up.
#[test]
fn detection_that_does_not_end_fails_the_add_in_time() {
    let fixture = Fixture::new(PLUGIN);
    fixture.router.ip(&["link", "set", "r0", "down"]);
    let before = fixture.state();
    let output = fixture.run("ADD", &fixture.conf(&json!({"enableDad": true})));
    let error = output.error_code(999);
    let said = "address fd09::5/64 of \"net1\" is still tentative: duplicate address \
                detection has not ended within 5 s";
    assert_eq!(error.msg, said);
    assert_eq!(fixture.state(), before);
}

/// Two attachments of one pod: each has a table, and the DEL of one is not the other's.
#[test]
fn two_attachments_of_a_pod_have_a_table_each() {
    let fixture = Fixture::new(PLUGIN);
    let link = [
        "link", "add", "hd1", "up", "type", "veth", "peer", "name", "x",
    ];
    fixture.node.netns.ip(&link);
    let first = fixture.routed(&json!(true));
    fixture.add(&first);
    let second = with(&first, &json!({"device": "hd1", "name": "lan2"}));
    fixture.ipam.answer(&json!({
        "ips": [{"address": "10.10.0.5/24"}], "routes": [{"dst": "10.11.0.0/16"}],
    }));
    let call = |command: &str| {
        let call = Call::ours(PLUGIN, command)
            .attachment("c1", "net2", &fixture.pod.path())
            .env("CNI_PATH", &fixture.ipam.cni_path())
            .conf(&second);
        fixture.node.run(&call).ok()
    };
    call("ADD");
    assert_eq!(fixture.rules().len(), 3);
    // There is no gateway, so there is no default route.
    assert_eq!(
        fixture.table("101"),
        [
            "10.10.0.0/24 dev net2 scope link linkdown",
            "10.11.0.0/16 dev net2 linkdown"
        ]
    );
    call("DEL");
    assert_eq!(fixture.rules(), rules(100));
    fixture.del(&first);
    assert_eq!(fixture.rules(), [""; 0]);
}
