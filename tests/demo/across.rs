//! Pods of several nodes in a VPC that carries packets: an address that the VPC does not know
//! reaches nobody, and one that it knows is reached wherever its pod is.

use std::fs;
use std::time::Duration;

use harness::eni_lab::{DataPlane, EniId, Lab, Names, SubnetId, VpcId};
use harness::{Agent, AwsNode, Host, Network, Node, Pod, wait_until};
use serde_json::{Value, json};

use crate::report::{check, heading, quote, says};
use crate::steps::pings;

/// Room for three ENIs with ten addresses each.
const INSTANCE_TYPE: &str = "c5.large";
/// The ENI for pods on every node.
const LINK: &str = "eth1";
/// Two availability zones, with a subnet for nodes and one for pods in each.
const ZONES: [(&str, &str, &str); 2] = [
    ("us-west-2a", "10.0.1.0/24", "10.0.4.0/24"),
    ("us-west-2b", "10.0.2.0/24", "10.0.6.0/24"),
];
/// The tag of subnets and security groups of pods, and its value.
const TAG: &str = "eni-cni/network";
const NAME: &str = "user-plane";
/// An address that one pod has, wherever it runs.
const SERVICE: &str = "10.0.4.200";
/// How long the instance that dies keeps its ENI: longer than the demo takes.
const SHUTDOWN: Duration = Duration::from_secs(3600);
/// Which ENIs every node gets: the same file in all zones.
const CONFIGURATION: &str = r#"{
  "networks": "auto",
  "enis": [{
    "name": "user-plane",
    "subnets": { "tags": { "eni-cni/network": "user-plane" } },
    "securityGroups": { "tags": { "eni-cni/network": "user-plane" } }
  }]
}"#;

/// Three nodes, the first two in one availability zone.
struct Cluster {
    lab: Lab,
    vpc: VpcId,
    plane: DataPlane,
    nodes: [AwsNode; 3],
}

impl Cluster {
    /// The nodes have their primary ENIs only.
    fn new() -> Self {
        let lab = Lab::new();
        // The rights are those of the published policy: tagged ENIs only.
        lab.rules(|rules| rules.tag_condition = true);
        let vpc = lab.create_vpc("10.0.0.0/16");
        lab.create_security_group(&vpc, TAG, NAME);
        let plane = DataPlane::new(&lab, &vpc);
        let [first, second] = ZONES.map(|(zone, nodes, pods)| {
            let subnet = |range| {
                let subnet = lab.create_subnet(&vpc, range, None);
                lab.set_zone(&subnet, zone);
                subnet
            };
            lab.tag_subnet(&subnet(pods), TAG, NAME);
            subnet(nodes)
        });
        let node = |subnet: &SubnetId| {
            let at = AwsNode::new(Node::new(), &lab, INSTANCE_TYPE, subnet);
            plane.connect(&at.instance, &at.node.netns, Names::Eth);
            at
        };
        let nodes = [node(&first), node(&first), node(&second)];
        Self {
            lab,
            vpc,
            plane,
            nodes,
        }
    }

    fn owner(&self, address: &str) -> Option<EniId> {
        let address = address.parse().expect("it is an address");
        self.lab.owner(&self.vpc, address)
    }
}

pub fn run() {
    let mut cluster = Cluster::new();
    attach_enis(&mut cluster);
    with_go_plugins(&cluster);
    let agents = as_published(&cluster);
    without_addresses(&cluster);
    follow(&cluster, agents);
}

fn attach_enis(cluster: &mut Cluster) {
    heading("Three new nodes, which have their primary ENI only");
    says(
        "`eni-sync attach` runs before the kubelet. It creates, tags, attaches and sets up what this\n\
         file names, in the subnet of the node's own availability zone:",
    );
    println!("{CONFIGURATION}\n");
    for (number, at) in cluster.nodes.iter_mut().enumerate() {
        fs::write(at.run_directory().join("agent.json"), CONFIGURATION).expect("/run is writable");
        let arguments = ["attach", "--config", "/run/agent.json"];
        show(at, number + 1, &arguments);
        at.find_master(LINK);
        // As DHCP on the node: mode l3 of ipvlan needs the ENI's own address there.
        cluster.plane.lease(at.eni(LINK));
    }
}

fn with_go_plugins(cluster: &Cluster) {
    heading("What is missing: pods on two nodes do not reach each other");
    says(
        "ipvlan gives a pod the MAC address of the ENI, and host-local an address from a range.\n\
         The VPC has never heard of that address, so it delivers nothing to it. Here is a network\n\
         as AWS has published it (ipvlan-conf-1), on two nodes, with the plugins that everybody has:",
    );
    let network = published().of_go();
    on_two_nodes(cluster, &network, |pod, peer| {
        check(!ping(pod, peer), "pod-1 does not reach pod-2");
        check(
            cluster.owner(peer).is_none(),
            &format!("no ENI in the VPC has {peer}"),
        );
    });
}

/// The same network, for which nothing but the agent is new.
fn as_published(cluster: &Cluster) -> Vec<Agent> {
    heading("The same network, with our plugins and an agent on each node");
    says(
        "The network is not changed by a letter. The agent has the same file as `attach`: with\n\
         \"networks\": \"auto\" it finds the pods that are behind an ENI for pods by itself.",
    );
    let configuration: Value = serde_json::from_str(CONFIGURATION).expect("it is JSON");
    let start = |at: &AwsNode| Agent::start(at, &configuration);
    let agents: Vec<Agent> = cluster.nodes.iter().map(start).collect();
    on_two_nodes(cluster, &published(), |pod, peer| {
        wait_until(&format!("an ENI has {peer}"), || {
            cluster.owner(peer).is_some()
        });
        pod.netns.await_ping(peer, None);
        check(ping(pod, peer), "pod-1 reaches pod-2");
    });
    agents
}

/// Attaches a pod on each of two nodes, and shows what the first one makes of the other's
/// address.
fn on_two_nodes(cluster: &Cluster, network: &Network, show: impl FnOnce(&Pod, &str)) {
    let [first, second, _] = &cluster.nodes;
    let pods = ["pod-1", "pod-2"].map(Pod::new);
    // Both nodes give away the first address of the range.
    take_first(second, network);
    let results = [
        network.attach(&first.node, &pods[0], "net1"),
        network.attach(&second.node, &pods[1], "net1"),
    ];
    let [own, peer] = results.each_ref().map(address_of);
    println!("pod-1 on node-1 has {own}, pod-2 on node-2 has {peer}");
    show(&pods[0], &peer);
    network.detach(&first.node, &pods[0], "net1", &results[0]);
    network.detach(&second.node, &pods[1], "net1", &results[1]);
}

fn without_addresses(cluster: &Cluster) {
    heading("One network for every node: there is no address in it");
    let network = Network::from_conf(&json!({
        "cniVersion": "1.0.0", "name": "user-plane",
        "type": "ipvlan", "master": LINK, "mode": "l2",
        "ipam": { "type": "eni-sync", "routes": [{ "dst": "10.0.0.0/16" }] },
    }));
    says(
        "No range, no mask, no gateway; the route is that of the whole VPC. EC2 chooses the addresses,\n\
         so two nodes can never have the same one, and the network is right in every subnet. node-1\n\
         and node-2 are in one availability zone, node-3 is in another one:",
    );
    println!("{}\n", network.plugins[0]);
    let pods = ["pod-1", "pod-2", "pod-3"].map(Pod::new);
    let attach = |(at, pod): (&AwsNode, &Pod)| network.attach(&at.node, pod, "net1");
    let results: Vec<Value> = cluster.nodes.iter().zip(&pods).map(attach).collect();
    let addresses: Vec<String> = results.iter().map(address_of).collect();
    println!("pod     node    address        the ENI that the VPC delivers it to");
    for (number, address) in addresses.iter().enumerate() {
        let (owner, number) = (cluster.owner(address), number + 1);
        let eni = cluster.nodes[number - 1].eni(LINK);
        println!("pod-{number}   node-{number}  {address:14} {eni}");
        assert!(owner.as_ref() == Some(eni), "NOT SO: {owner:?} has it");
    }
    for (pod, peer) in [(0, 1), (1, 2), (2, 0)] {
        pods[pod].netns.await_ping(&addresses[peer], None);
        let said = format!("pod-{} reaches pod-{}", pod + 1, peer + 1);
        check(ping(&pods[pod], &addresses[peer]), &said);
    }
    says("\nWhat somebody sees who is called at three in the morning, on node-1:");
    show(&cluster.nodes[0], 1, &["status"]);
    show(&cluster.nodes[0], 1, &["doctor"]);
    for ((at, pod), result) in cluster.nodes.iter().zip(&pods).zip(&results) {
        network.detach(&at.node, pod, "net1", result);
    }
}

fn follow(cluster: &Cluster, mut agents: Vec<Agent>) {
    heading("A node dies, and the address of its pod follows to another one");
    says(&format!(
        "A service has one address, {SERVICE}, which its pod names. Its node shuts down for good, and\n\
         its ENI still has the address. When the pod starts on another node, two looks at EC2, five\n\
         seconds apart, show eni-sync that the owner is dead, and it moves the address. An ENI that\n\
         is attached to nothing may be in use again soon, so those looks would be a minute apart:"
    ));
    let network = |ipam: Value| {
        Network::from_conf(&json!({
            "cniVersion": "1.0.0", "name": "service",
            "type": "ipvlan", "master": LINK, "mode": "l2", "ipam": ipam,
        }))
    };
    let routes = json!([{ "dst": "10.0.0.0/16" }]);
    let service = network(json!({ "type": "eni-sync", "addresses": [SERVICE], "routes": routes }));
    let clients = network(json!({ "type": "eni-sync", "routes": routes }));
    println!("{}\n", service.plugins[0]);
    let [first, second, third] = &cluster.nodes;
    let [client, before, after] = ["client", "service", "service-again"].map(Pod::new);
    clients.attach(&third.node, &client, "net1");
    service.attach(&second.node, &before, "net1");
    client.netns.await_ping(SERVICE, None);
    check(
        ping(&client, SERVICE),
        "the client on node-3 reaches the service on node-2",
    );
    cluster.lab.rules(|rules| rules.shutting_down = SHUTDOWN);
    cluster.lab.terminate_instance(&second.instance);
    agents.remove(1).kill();
    drop(before);
    println!("\nnode-2 is terminated, and EC2 shows it as shutting down");
    check(!ping(&client, SERVICE), "nobody answers");
    service.attach(&first.node, &after, "net1");
    client.netns.await_ping(SERVICE, None);
    check(
        ping(&client, SERVICE),
        "the client reaches the service, which is on node-1 now",
    );
    let wrong = cluster.lab.invariant_violations();
    check(
        wrong.is_empty(),
        "eni-sync has touched no ENI but the pods' own, and no address of a node that lives",
    );
}

fn published() -> Network {
    Network::published("ipvlan-conf-1.yaml")
}

/// Lets a pod come and go, so that the next one gets the second address of the range.
fn take_first(at: &AwsNode, network: &Network) {
    let gone = Pod::new("gone");
    let result = network.attach(&at.node, &gone, "net1");
    network.detach(&at.node, &gone, "net1", &result);
}

/// The address of an attachment.
fn address_of(result: &Value) -> String {
    let ip = result.get("ip4").map(|ip| &ip["ip"]);
    let address = ip.unwrap_or(&result["ips"][0]["address"]).as_str();
    let address = address.and_then(|address| address.split_once('/'));
    address.expect("the pod has an address").0.to_owned()
}

fn ping(pod: &Pod, address: &str) -> bool {
    pings(pod, address, &["-W", "1"])
}

/// Shows what a command of an operator says, which must find nothing wrong.
fn show(at: &AwsNode, number: usize, arguments: &[&str]) {
    let command = format!("eni-sync {}", arguments.join(" "));
    println!("node-{number} $ {command}");
    let call = at.eni_sync();
    let mut process = call.process();
    process.args(arguments);
    let output = at.node.inside(|| call.run_as(process));
    quote(&output.stderr);
    quote(&output.stdout);
    check(
        output.status == Some(0),
        &format!("{command} ends with status 0"),
    );
}
