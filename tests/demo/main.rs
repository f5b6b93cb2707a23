//! The main job, as a user sees it: pods on published networks, their interfaces and
//! pings between them, the store, and that nothing is left afterwards. Whatever
//! differs from what a network must give ends the demo with a status that is not 0.
//!
//! `demo ipvlan` works in namespaces of its own. `demo host-device` moves the PCI
//! device 0000:00:06.0 of the machine, so it belongs into the VM.

use std::process::ExitCode;

use harness::{Network, Node, Pod};
use serde_json::Value;

/// Where the PCI device of the published host-device network is.
const NIC: &str = "/sys/bus/pci/devices/0000:00:06.0/net";

fn main() -> ExitCode {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    for part in &parts {
        match part.as_str() {
            "ipvlan" => ipvlan(),
            "host-device" => host_device(),
            other => {
                eprintln!("usage: demo [ipvlan] [host-device]; there is no part {other:?}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("\nEverything is as the networks say.");
    ExitCode::SUCCESS
}

fn ipvlan() {
    let node = Node::new();
    for (master, mtu) in [("eth1", "9001"), ("eth2", "9001"), ("ens6", "9001")] {
        node.netns.ip(&["link", "add", master, "type", "dummy"]);
        node.netns.ip(&["link", "set", master, "mtu", mtu, "up"]);
    }
    two_pods_in_l3(&node);
    l2_with_a_small_range(&node);
    other_providers(&node);
}

fn two_pods_in_l3(node: &Node) {
    heading("Two pods on ipvlan-conf-1, one of them also on ipvlan-conf-2");
    let conf_1 = Network::published("ipvlan-conf-1.yaml");
    let conf_2 = Network::published("ipvlan-conf-2.yaml");
    let first = Pod::new("pod-1");
    let second = Pod::new("pod-2");
    attach(node, &first, &conf_1, "net1", ("l3", "10.0.4.70/24"));
    attach(node, &first, &conf_2, "net2", ("l3", "10.0.6.70/24"));
    attach(node, &second, &conf_1, "net1", ("l3", "10.0.4.71/24"));
    ping(&first, "10.0.4.71", "net1");
    ping(&second, "10.0.4.70", "net1");
    show_store(node);
    detach(node, &first, &conf_2, "net2");
    detach(node, &first, &conf_1, "net1");
    detach(node, &second, &conf_1, "net1");
    nothing_is_left(node);
}

fn l2_with_a_small_range(node: &Node) {
    heading("An l2 network with a route and a range of two addresses: the third pod is told");
    let l2 = Network::published("ipvlan-conf-l2-routes.yaml");
    let (first, second, third) = (Pod::new("pod-1"), Pod::new("pod-2"), Pod::new("pod-3"));
    attach(node, &first, &l2, "net1", ("l2", "10.0.100.71/24"));
    attach(node, &second, &l2, "net1", ("l2", "10.0.100.72/24"));
    let route = first.netns.ip(&["route", "show", "10.1.2.0/24"]);
    check(
        route.contains("via 10.0.100.1 dev net1"),
        &format!("pod-1 has the route: {}", route.trim()),
    );
    ping(&first, "10.0.100.72", "net1");
    match l2.try_attach(node, &third, "net1") {
        Err(output) => {
            let error = output.error();
            let expected = "no IP addresses available in range set: 10.0.100.71-10.0.100.72";
            check(
                error.msg.contains(expected),
                &format!("pod-3 gets an error: {}", error.msg),
            );
            check(third.netns.links() == ["lo"], "pod-3 has no interface");
        }
        Ok(result) => check(false, &format!("pod-3 must get an error, not {result}")),
    }
    detach(node, &first, &l2, "net1");
    detach(node, &second, &l2, "net1");
    nothing_is_left(node);
}

fn other_providers(node: &Node) {
    heading("An l2 network on ens6, and an l3 network whose range the VPC knows already");
    let ens6 = Network::published("ipvlan-conf-ens6.yaml");
    let first = Pod::new("pod-1");
    let ncp = Network::published("ipvlan-conf-ncp.yaml");
    attach(node, &first, &ens6, "net1", ("l2", "100.64.30.10/19"));
    let shown = first.netns.ip(&["address", "show", "dev", "net1"]);
    check(
        shown.contains("brd 100.64.31.255"),
        "the broadcast address is that of the /19",
    );
    attach(node, &first, &ncp, "net2", ("l3", "192.168.1.13/24"));
    detach(node, &first, &ncp, "net2");
    detach(node, &first, &ens6, "net1");
    nothing_is_left(node);
}

fn host_device() {
    heading("A whole network card, by its PCI address, in a pod and back");
    let node = Node::of_machine();
    let network = Network::published("hostcni-conf.yaml");
    let pod = Pod::new("pod-1");
    let before = nic_of_machine().unwrap_or_else(|| panic!("no network device is at {NIC}"));
    println!("$ ls {NIC}\n{before}");
    let result = network.attach(&node, &pod, "net1");
    println!(
        "{}",
        pod.netns
            .ip(&["-details", "address", "show", "dev", "net1"])
    );
    check(
        result["interfaces"][0]["name"] == "net1",
        "the result names the interface net1",
    );
    check(
        pod.netns.links() == ["lo", "net1"],
        "pod-1 has the card as net1",
    );
    check(nic_of_machine().is_none(), "the node has it no more");
    network.detach(&node, &pod, "net1", &result);
    check(
        nic_of_machine().as_ref() == Some(&before),
        &format!("the node has it back as {before}"),
    );
    check(pod.netns.links() == ["lo"], "pod-1 has no interface left");
    check(node.files().is_empty(), "no record is left");
}

/// The name of the machine's network device at the published PCI address.
fn nic_of_machine() -> Option<String> {
    let entry = std::fs::read_dir(NIC).ok()?.next()?.ok()?;
    Some(entry.file_name().to_string_lossy().into_owned())
}

fn attach(node: &Node, pod: &Pod, network: &Network, ifname: &str, (mode, expected): (&str, &str)) {
    let result = network.attach(node, pod, ifname);
    println!("{} $ ip -d address show dev {ifname}", pod.id);
    let shown = pod
        .netns
        .ip(&["-details", "address", "show", "dev", ifname]);
    println!("{shown}");
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

fn detach(node: &Node, pod: &Pod, network: &Network, ifname: &str) {
    network.detach(node, pod, ifname, &Value::Null);
    check(
        pod.netns.link(ifname).is_none(),
        &format!("{} has no {ifname} any more", pod.id),
    );
}

fn ping(pod: &Pod, address: &str, ifname: &str) {
    println!("{} $ ping -c 1 -I {ifname} {address}", pod.id);
    let pinged = pod
        .netns
        .try_tool("ping", &["-c", "1", "-W", "30", "-I", ifname, address]);
    println!("{}", String::from_utf8_lossy(&pinged.stdout).trim());
    check(
        pinged.status.success(),
        &format!("{} reaches {address} over {ifname}", pod.id),
    );
}

/// The addresses in a result of version 0.3.0 or later.
fn addresses_of(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str().map(str::to_owned))
        .collect()
}

fn show_store(node: &Node) {
    println!("The files below /var/lib/cni:");
    for file in node.files() {
        let content = std::fs::read_to_string(node.state().join(&file)).unwrap_or_default();
        println!(
            "  {file}: {:?}",
            content.chars().take(60).collect::<String>()
        );
    }
}

/// Only the marks of the round robin and the locks may stay.
fn nothing_is_left(node: &Node) {
    let is_mark = |file: &String| file.contains("last_reserved_ip.") || file.ends_with("/lock");
    let left: Vec<String> = node
        .files()
        .into_iter()
        .filter(|file| !is_mark(file))
        .collect();
    assert!(left.is_empty(), "NOT SO: nothing is left, but {left:?}");
    println!("  ok: no reservation and no record is left");
    let links = node.netns.links();
    check(
        links == ["ens6", "eth1", "eth2", "lo"],
        "the node has its own links and no other",
    );
}

fn heading(text: &str) {
    println!("\n== {text}\n");
}

#[track_caller]
fn check(holds: bool, what: &str) {
    assert!(holds, "NOT SO: {what}");
    println!("  ok: {what}");
}
