//! The steps of the demo: attaching a pod, looking at what it got, pinging, detaching.

use harness::{Network, Node, Pod, is_removed};
use serde_json::Value;

use crate::report::{check, quote};

/// What an interface must be like: the mode of ipvlan, and its address.
pub type Expected<'a> = (&'a str, &'a str);

#[track_caller]
pub fn attach(node: &Node, pod: &Pod, network: &Network, ifname: &str, expected: Expected<'_>) {
    let (mode, expected) = expected;
    let result = network.attach(node, pod, ifname);
    println!("{} $ ip -brief address show dev {ifname}", pod.id);
    quote(&pod.netns.ip(&["-brief", "address", "show", "dev", ifname]));
    let shown = pod
        .netns
        .ip(&["-details", "address", "show", "dev", ifname]);
    let address = pod.netns.addresses(ifname);
    check(
        address == [expected],
        &format!("{} {ifname} has {}", pod.id, expected),
    );
    check(
        addresses_of(&result) == [expected],
        "the result says the same",
    );
    check(
        shown.contains(&format!("ipvlan  mode {mode} bridge")),
        &format!("it is an ipvlan interface in mode {mode}"),
    );
    let (noarp, arp) = (mode == "l3", if mode == "l3" { "no ARP" } else { "ARP" });
    check(shown.contains("NOARP") == noarp, &format!("it does {arp}"));
    let master = network.plugins[0]["master"].as_str().unwrap_or_default();
    let mac = |link: Option<Value>| link.map(|link| link["address"].clone());
    let same = mac(pod.netns.link(ifname)) == mac(node.netns.link(master));
    check(same, &format!("its MAC is that of {master}"));
}

#[track_caller]
pub fn detach(node: &Node, pod: &Pod, network: &Network, ifname: &str) {
    network.detach(node, pod, ifname, &Value::Null);
    check(
        pod.netns.link(ifname).is_none(),
        &format!("{} has no {ifname} any more", pod.id),
    );
}

/// Pings once, and says what `ping` says in the end.
pub fn pings(pod: &Pod, address: &str, arguments: &[&str]) -> bool {
    let arguments = [&["-c", "1"], arguments, &[address]].concat();
    println!("{} $ ping {}", pod.id, arguments.join(" "));
    let pinged = pod.netns.try_tool("ping", &arguments);
    let said = String::from_utf8_lossy(&pinged.stdout).into_owned();
    let summary = said.lines().find(|line| line.contains("transmitted"));
    quote(summary.unwrap_or(&said));
    pinged.status.success()
}

#[track_caller]
pub fn ping(pod: &Pod, address: &str, ifname: &str) {
    let answers = pings(pod, address, &["-W", "30", "-I", ifname]);
    let what = format!("{} reaches {address} over {ifname}", pod.id);
    check(answers, &what);
}

/// The addresses in a result of version 0.3.0 or later.
fn addresses_of(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str().map(str::to_owned))
        .collect()
}

pub fn show_store(node: &Node) {
    println!("The files below /var/lib/cni, of which host-local's are named as Go's are:");
    for file in node.files() {
        println!("  {file}");
    }
}

/// Only the marks of the round robin, the locks, and for a minute what the ledger remembers
/// of addresses that EC2 has removed may stay.
#[track_caller]
pub fn nothing_is_left(node: &Node, links: &[&str]) {
    let is_forgotten =
        |file: &String| file.contains("/ledger/") && is_removed(&node.state().join(file));
    let is_mark = |file: &String| file.contains("last_reserved_ip.") || file.ends_with("/lock");
    let left: Vec<String> = node
        .files()
        .into_iter()
        .filter(|file| !is_mark(file) && !is_forgotten(file))
        .collect();
    assert!(left.is_empty(), "NOT SO: nothing is left, but {left:?}");
    println!("  ok: no reservation and no record is left");
    check(
        node.netns.links() == links,
        "the node has its own links and no other",
    );
}
