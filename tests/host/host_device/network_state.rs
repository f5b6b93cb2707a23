//! What a device has of the node's network, with every attribute that `ip` shows: back after
//! an ADD that fails whatever is configured, and after DEL where it goes with the device.

use std::collections::BTreeMap;
use std::fs;

use harness::{Namespace, wait_until};
use serde_json::{Value, json};

use super::{Fixture, plain, with};

/// Addresses and routes as DHCP clients, network managers and administrators make them.
const STATE: &str = "
    address add 10.0.0.5/32 dev hd0 label hd0:dhcp
    address add 10.1.0.5/24 dev hd0 noprefixroute valid_lft 55000 preferred_lft 45000
    address add 10.2.0.1 peer 10.2.0.2/32 dev hd0
    address add 169.254.7.7/16 dev hd0 scope link
    address add fd55::5/64 dev hd0 nodad
    address add fd56::5/64 dev hd0 nodad noprefixroute
    address add fe80::77/64 dev hd0 scope link nodad
    route add default via 10.0.0.1 dev hd0 onlink proto dhcp src 10.0.0.5 metric 100 mtu 1300 quickack 1
    route add 10.1.0.0/24 dev hd0 proto kernel scope link src 10.1.0.5 metric 100
    route add 10.3.0.0/16 dev hd0 scope link src 10.0.0.5 proto static table 77
    route add 10.4.0.0/16 nexthop via 10.0.0.1 dev hd0 onlink weight 3 nexthop via 10.2.0.2 dev hd0
    route add 10.6.0.0/16 via 10.2.0.2 tos 0x10 realm 7
    route add local 10.7.0.0/24 dev hd0 table local proto static
    route add ::/0 via fe80::1 dev hd0 proto ra metric 200 expires 50000 hoplimit 64 pref high
    route add fd57::/64 via fd55::1 src fd55::5 metric 7
    route add fd58::/64 nexthop via fd55::1 dev hd0 nexthop via fd55::2 dev hd0
    route add fd59::/64 via fd55::9 dev hd0 onlink table 77
    neighbour add 10.1.0.1 lladdr 02:00:00:00:09:09 dev hd0 nud permanent
    neighbour add fd55::1 lladdr 02:00:00:00:09:0a dev hd0 nud permanent
";

/// A node whose device has all of that, and whose delegate knows no address.
fn configured() -> Fixture {
    let fixture = Fixture::new();
    let up = "link set hd0 up\n link set hd0-peer up\n";
    fixture.node.netns.tool(
        "bash",
        &[
            "-c",
            &format!("sed 's/^ *//' <<<'{up}{STATE}' | ip -batch -"),
        ],
    );
    wait_for_local_routes(&fixture.node.netns);
    fixture
}

fn wait_for_local_routes(node: &Namespace) {
    wait_until("the kernel has added its own routes of IPv6", || {
        let local = node.ip(&["-6", "route", "show", "table", "local", "dev", "hd0"]);
        let has = |address: &&str| local.contains(&format!("local {address} "));
        ["fd55::5", "fd56::5", "fe80::77"].iter().all(has)
    });
}

/// What `ip` shows of it, but for what changes by itself.
fn state(namespace: &Namespace, link: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let shown = namespace
        .link(link)
        .unwrap_or_else(|| panic!("there is no {link}"));
    for info in shown["addr_info"].as_array().into_iter().flatten() {
        let local = info["local"].as_str().unwrap_or_default();
        // That of the MAC, which the kernel makes and looks for.
        if local.starts_with("fe80:") && local != "fe80::77" {
            continue;
        }
        let mut info = info.clone();
        for key in ["valid_life_time", "preferred_life_time"] {
            info[key] = json!(info[key].as_u64().unwrap_or_default() / 10_000);
        }
        lines.push(info.to_string());
    }
    for family in ["-4", "-6"] {
        let routes = namespace.ip(&[family, "-d", "route", "show", "table", "all", "dev", link]);
        let several = namespace.ip(&[family, "-d", "-o", "route", "show", "table", "all"]);
        let several = several.lines().filter(|line| line.contains("nexthop"));
        let by_mac = |line: &&str| line.contains("fe80::") && !line.contains("fe80::77");
        let own = routes.lines().chain(several);
        let own = own.filter(|line| !by_mac(line) || line.contains("default"));
        let own = own.map(|line| {
            let words = line.split_whitespace();
            let words = words.filter(|word| !word.ends_with("sec") && *word != "linkdown");
            format!("{family} {}", words.collect::<Vec<_>>().join(" "))
        });
        lines.extend(own);
    }
    let neighbours = namespace.ip(&["neighbour", "show", "dev", link, "nud", "permanent"]);
    lines.extend(neighbours.lines().map(|line| line.trim().to_owned()));
    lines.sort();
    lines
}

fn conf(keys: &Value) -> Value {
    plain(&with(&json!({"device": "hd0", "allowInUse": true}), keys))
}

#[test]
fn an_add_that_fails_leaves_everything_of_the_network_as_it_was() {
    for keys in [json!({}), json!({"keepAddresses": true})] {
        let fixture = configured();
        let before = (state(&fixture.node.netns, "hd0"), fixture.state());
        assert!(before.0.len() > 25, "{:#?}", before.0);
        fixture
            .ipam
            .fail("ADD", r#"{"code": 11, "msg": "no addresses"}"#);
        let conf = with(&conf(&keys), &json!({"ipam": {"type": "fake-ipam"}}));
        fixture.node.run(&fixture.call("ADD", &conf)).error_code(11);
        wait_for_local_routes(&fixture.node.netns);
        assert_eq!(state(&fixture.node.netns, "hd0"), before.0);
        assert_eq!(fixture.state(), before.1);
    }
}

#[test]
fn an_add_that_fails_leaves_the_address_of_a_device_that_is_not_in_use() {
    let fixture = Fixture::new();
    fixture.host(&["link", "set", "hd0", "up"]);
    fixture.host(&["address", "add", "10.1.0.5/24", "dev", "hd0"]);
    fixture.host(&["route", "add", "10.4.0.0/16", "via", "10.1.0.1"]);
    let before = (state(&fixture.node.netns, "hd0"), fixture.state());
    fixture
        .ipam
        .fail("ADD", r#"{"code": 11, "msg": "no addresses"}"#);
    let conf = plain(&json!({"device": "hd0", "ipam": {"type": "fake-ipam"}}));
    fixture.node.run(&fixture.call("ADD", &conf)).error_code(11);
    assert_eq!((state(&fixture.node.netns, "hd0"), fixture.state()), before);
    // One that succeeds leaves it without, as the Go plugin does.
    fixture.ipam.recover("ADD");
    fixture.add(&conf);
    fixture.del(&conf);
    assert!(fixture.node.netns.addresses("hd0").is_empty());
}

#[test]
fn what_goes_with_the_device_comes_back_with_every_attribute() {
    let fixture = configured();
    let before = (state(&fixture.node.netns, "hd0"), fixture.state());
    let conf = conf(&json!({"keepAddresses": true}));
    let result = fixture.add(&conf);
    let here = state(&fixture.pod, "net1").join("\n");
    for expected in [
        "default via 10.0.0.1 table main proto dhcp scope global src 10.0.0.5 metric 100 onlink mtu 1300",
        "\"label\":\"net1:dhcp\"",
        "\"address\":\"10.2.0.2\"",
        "10.3.0.0/16 table 77 proto static scope link src 10.0.0.5",
        "fd57::/64 via fd55::1 table main proto boot scope global src fd55::5 metric 7",
        "10.1.0.1 lladdr 02:00:00:00:09:09 PERMANENT",
    ] {
        assert!(here.contains(expected), "{expected} is missing:\n{here}");
    }
    let attached = with(&conf, &json!({"prevResult": result}));
    fixture.node.run(&fixture.call("CHECK", &attached)).ok();
    fixture.del(&conf);
    wait_for_local_routes(&fixture.node.netns);
    assert_eq!(state(&fixture.node.netns, "hd0"), before.0);
    assert_eq!(fixture.state(), before.1);
}

#[test]
fn a_route_of_several_ways_of_which_one_is_the_device_comes_back() {
    let fixture = Fixture::new();
    fixture.add_device("hd1", "02:00:00:00:00:02");
    for (n, link) in ["hd0", "hd1"].into_iter().enumerate() {
        fixture.host(&["link", "set", &format!("{link}-peer"), "up"]);
        fixture.host(&["link", "set", link, "up"]);
        fixture.host(&["address", "add", &format!("10.{n}.0.5/24"), "dev", link]);
        let v6 = format!("fd5{n}::5/64");
        fixture.host(&["address", "add", &v6, "dev", link, "nodad"]);
    }
    for (family, dst, [one, other]) in [
        ("-4", "10.9.0.0/16", ["10.0.0.1", "10.1.0.1"]),
        ("-6", "fd59::/64", ["fd50::1", "fd51::1"]),
    ] {
        let ways = ["nexthop", "via", one, "nexthop", "via", other];
        fixture.host(&[&[family, "route", "add", dst], &ways[..]].concat());
    }
    let shown = |family| {
        let text = fixture.host(&[family, "-o", "route", "show"]);
        let several = text.lines().filter(|line| line.contains("nexthop"));
        let mut words: Vec<String> = several
            .flat_map(str::split_whitespace)
            .map(Into::into)
            .collect();
        words.retain(|word| word != "linkdown");
        words.sort();
        words
    };
    let before = [shown("-4"), shown("-6")];
    assert!(before.iter().all(|ways| !ways.is_empty()));
    let conf = conf(&json!({"keepAddresses": true}));
    fixture.add(&conf);
    fixture.del(&conf);
    assert_eq!([shown("-4"), shown("-6")], before);
}

#[test]
fn an_address_that_is_a_subnet_of_its_own_has_its_gateway_on_the_link() {
    let fixture = Fixture::new();
    fixture.host(&["link", "set", "hd0-peer", "up"]);
    fixture.ipam.answer(&json!({
        "ips": [
            {"address": "10.0.4.7/32", "gateway": "169.254.1.1"},
            {"address": "fd55::7/128", "gateway": "fd55::1"},
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.8.0.0/16", "gw": "10.0.4.1"}],
    }));
    let conf = plain(&json!({"device": "hd0", "ipam": {"type": "fake-ipam"}}));
    let result = fixture.add(&conf);
    let routes = fixture.pod.ip(&["route", "show"]) + &fixture.pod.ip(&["-6", "route", "show"]);
    for expected in [
        "default via 169.254.1.1 dev net1 onlink",
        "10.8.0.0/16 via 10.0.4.1 dev net1 onlink",
        "default via fd55::1 dev net1 metric 1024 onlink",
    ] {
        assert!(routes.contains(expected), "{expected} is missing: {routes}");
    }
    let attached = with(&conf, &json!({"prevResult": result}));
    fixture.node.run(&fixture.call("CHECK", &attached)).ok();
    fixture.del(&conf);
}

/// What a device has below `/proc/sys/net`. Each of them may be 1, and 0 where that is usual.
const PARAMETERS: [&str; 16] = [
    "ipv4/accept_redirects",
    "ipv4/accept_source_route",
    "ipv4/arp_announce",
    "ipv4/arp_ignore",
    "ipv4/log_martians",
    "ipv4/proxy_arp",
    "ipv4/rp_filter",
    "ipv4/send_redirects",
    "ipv6/accept_dad",
    "ipv6/accept_ra",
    "ipv6/accept_ra_defrtr",
    "ipv6/accept_redirects",
    "ipv6/autoconf",
    "ipv6/dad_transmits",
    "ipv6/hop_limit",
    "ipv6/use_tempaddr",
];

fn directory(family: &str, link: &str) -> String {
    format!("/proc/sys/net/{family}/conf/{link}")
}

/// Every parameter of a link.
fn parameters(namespace: &Namespace, link: &str) -> BTreeMap<String, String> {
    let of_family = |family: &str| {
        let entries = fs::read_dir(directory(family, link)).expect("the link is there");
        let paths = entries.flatten().map(|entry| entry.path());
        // A secret cannot be read before it is set.
        let read = paths.filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)));
        let named = read.map(|(path, value)| (path.display().to_string(), value));
        named.collect::<Vec<_>>()
    };
    namespace.run(|| {
        let all = ["ipv4", "ipv6"].map(of_family);
        all.into_iter().flatten().collect()
    })
}

/// The neighbours of the node could do what its administrator had forbidden.
#[test]
fn a_device_gets_back_the_parameters_that_it_had_on_the_node() {
    let fixture = Fixture::new();
    let host = &fixture.node.netns;
    let untouched = parameters(host, "hd0");
    host.run(|| {
        for parameter in PARAMETERS {
            let (family, name) = parameter.split_once('/').expect("it has a family");
            let path = format!("{}/{name}", directory(family, "hd0"));
            let is_one = untouched[&path].trim() == "1";
            let other = if is_one { "0" } else { "1" };
            fs::write(path, other).expect("it is writable");
        }
    });
    fixture.host(&["link", "set", "hd0", "up"]);
    let before = parameters(host, "hd0");
    let changed = before
        .iter()
        .filter(|(path, value)| untouched.get(*path) != Some(value));
    assert_eq!(changed.count(), PARAMETERS.len());
    let conf = plain(&json!({"device": "hd0"}));
    fixture.add(&conf);
    fixture.pod.run(|| {
        let path = format!("{}/accept_ra", directory("ipv6", "net1"));
        fs::write(path, "2").expect("it is writable");
    });
    fixture.del(&conf);
    assert_eq!(parameters(host, "hd0"), before);
}
