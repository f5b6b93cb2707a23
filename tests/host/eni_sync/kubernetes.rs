//! What the agent asks of Kubernetes: Events for pods that run without an address in the VPC, and
//! the end of the taint that keeps pods away until the node is ready.

mod cluster;

use fixtures::scrape::{ADDRESS, get};
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use harness::{Network, Pod};
use serde_json::{Value, json};

use self::cluster::{Cluster, NODE};
use super::auto::{self, PUBLISHED};

/// An address outside of the subnet of the node's ENI.
const ELSEWHERE: &str = "10.9.9.9";
const TAINT: &str = "eni-cni.io/not-ready";

fn configuration(kubernetes: &Value) -> Value {
    json!({ "metrics": ADDRESS, "kubernetes": kubernetes })
}

/// Attaches a pod of this name that starts without its address.
fn attach(node: &VpcNode, name: &str) -> Pod {
    let pod = Pod::new(name);
    let keys = json!({ "strict": false });
    let call = node.conf_call("ADD", &pod, &[ELSEWHERE], &keys);
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}");
    node.run(&call.env("CNI_ARGS", &args)).ok();
    pod
}

fn taint(key: &str, effect: &str) -> Value {
    json!({ "key": key, "effect": effect })
}

#[test]
fn a_pod_without_an_address_in_the_vpc_gets_one_event_that_says_why() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let cluster = Cluster::start(&node);
    cluster.has_pod("web-0", NODE);
    cluster.has_pod("moved", "another-node");
    cluster.state().outage = 1;
    let agent = Agent::start(&cluster, &configuration(&json!({ "events": true })));
    let pods = ["web-0", "moved", "gone"].map(|name| attach(&node, name));
    assert!(
        eventually(|| cluster.state().requests.len() == 5),
        "{:?}\n{}",
        cluster.state().requests,
        agent.raw_log()
    );
    node.command(&["sync", "--once"]);
    drop((pods, agent));
    // The next agent finds the same attachment, and the same Event.
    let agent = Agent::start(&cluster, &configuration(&json!({ "events": true })));
    let again = attach(&node, "web-0");
    assert!(
        eventually(|| cluster.state().requests.len() == 7),
        "{:?}\n{}",
        cluster.state().requests,
        agent.raw_log()
    );
    drop(again);
    let state = cluster.state();
    let [event] = state.events.as_slice() else {
        panic!("{:?}", state.events);
    };
    let about = json!({
        "apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "web-0",
        "uid": "uid-of-web-0",
    });
    assert_eq!(event["involvedObject"], about);
    assert_eq!(
        (&event["type"], &event["reason"], &event["source"]["host"]),
        (&json!("Warning"), &json!("AddressNotInVPC"), &json!(NODE))
    );
    let message = event["message"].as_str().unwrap();
    let begins = "pod default/web-0, container web-0, interface net1, network mgmt runs without \
                  10.9.9.9 in the VPC: ";
    assert!(message.starts_with(begins), "{message}");
}

#[test]
fn the_taint_goes_when_the_node_is_ready_and_the_others_stay() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let cluster = Cluster::start(&node);
    let others = [
        taint("node.kubernetes.io/unreachable", "NoExecute"),
        taint("mine", "NoSchedule"),
    ];
    let late = taint("late", "NoSchedule");
    let ours = taint(TAINT, "NoSchedule");
    cluster.has_node(&json!([others[0], ours, others[1]]));
    cluster.state().outage = 1;
    // Another controller changes the taints between the agent's look and its change.
    cluster.state().meddled = Some(json!([others[0], ours, others[1], late]));
    let agent = Agent::start(&cluster, &configuration(&json!({ "startupTaint": true })));
    let left = json!([others[0], others[1], late]);
    assert!(
        eventually(|| cluster.taints() == left),
        "{}\n{}",
        cluster.taints(),
        agent.raw_log()
    );
    assert!(get(&node, "/readyz").0 == 200);
    let said = || agent.log().contains("is removed: pods may come");
    assert!(eventually(said), "{}", agent.raw_log());
    // Whoever manages the nodes sets it again.
    cluster.has_node(&json!([ours, others[1]]));
    assert!(eventually(|| cluster.taints() == json!([others[1]])));
}

#[test]
fn the_taint_stays_while_an_eni_of_the_configuration_is_missing() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let cluster = Cluster::start(&node);
    let taints = json!([taint(TAINT, "NoSchedule")]);
    cluster.has_node(&taints);
    let mut configuration = configuration(&json!({ "startupTaint": true }));
    // There is no such subnet.
    configuration["enis"] = json!([{ "name": "data", "subnets": { "tags": { "Name": "none" } }, "securityGroups": { "tags": { "Name": "none" } } }]);
    let agent = Agent::start(&cluster, &configuration);
    let why = "stays until the node is ready: ENIs of its configuration are not attached yet";
    assert!(
        eventually(|| agent.log().contains(why)),
        "{}",
        agent.raw_log()
    );
    assert_eq!(cluster.taints(), taints);
    assert_eq!(cluster.state().requests, Vec::<String>::new());
}

#[test]
fn a_node_without_the_taint_is_not_changed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let cluster = Cluster::start(&node);
    cluster.has_node(&json!(null));
    let _agent = Agent::start(&cluster, &configuration(&json!({ "startupTaint": true })));
    let get = format!("GET /api/v1/nodes/{NODE}");
    assert!(eventually(|| cluster.state().requests.len() >= 2));
    let requests = cluster.state().requests.clone();
    assert!(
        requests.iter().all(|request| *request == get),
        "{requests:?}"
    );
}

/// Listed networks and those that find themselves name the pod by the records of the plugins.
#[test]
fn a_pod_of_a_watched_network_gets_its_event_once_whatever_fails_meanwhile() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let cluster = Cluster::start(&node);
    cluster.has_pod("web-0", NODE);
    let mut network = Network::published(PUBLISHED);
    network.plugins[0]["ipam"]["subnet"] = json!("10.9.9.0/24");
    network.plugins[0]["ipam"]["rangeStart"] = json!(ELSEWHERE);
    network.plugins[0]["ipam"]["rangeEnd"] = json!(ELSEWHERE);
    network.plugins[0]["ipam"]["gateway"] = json!("10.9.9.1");
    let pod = Pod::new("web-0");
    auto::attach(&node, &network, &pod, &node.mac);
    let broken = node.node.state().join("networks/broken");
    std::fs::create_dir_all(&broken).unwrap();
    std::fs::write(broken.join("10.0.4.99"), "c9\r\nnet1").unwrap();
    let listed =
        |name: &str| json!({ "name": name, "masterSelector": { "eni": node.eni.as_str() } });
    // A listed network that fails is looked at again soon, and all others with it. What is new of
    // it shows that another look has ended.
    let both = json!([listed("ipvlan-conf-1"), { "name": "broken", "master": "none0" }]);
    for (networks, looks) in [(json!("auto"), 0), (both, 3)] {
        cluster.state().events.clear();
        cluster.state().requests.clear();
        let mut configuration = configuration(&json!({ "events": true }));
        configuration["networks"] = networks.clone();
        let agent = Agent::start(&cluster, &configuration);
        let made = || cluster.state().events.len() == 1;
        assert!(eventually(made), "{networks}: {}", agent.raw_log());
        let failed = || agent.log().matches("network broken: ").count();
        for look in 1..=looks {
            assert!(eventually(|| failed() == look), "{}", agent.raw_log());
            let link: &[&str] = match look % 2 {
                1 => &["link", "add", "none0", "type", "bridge"],
                _ => &["link", "delete", "none0"],
            };
            node.node.netns.ip(link);
        }
        let requests = cluster.state().requests.clone();
        let posts = requests.iter().filter(|asked| asked.starts_with("POST "));
        assert_eq!(posts.count(), 1, "{networks}: {requests:?}");
        let said = "runs without 10.9.9.9 in the VPC";
        assert_eq!(agent.log().matches(said).count(), 1, "{}", agent.raw_log());
        std::fs::remove_file(node.run_directory().join("agent.log")).unwrap();
    }
}

#[test]
fn an_agent_that_may_not_ask_kubernetes_says_what_is_missing_and_works() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let kubernetes = configuration(&json!({ "events": true, "startupTaint": true }));
    let agent = Agent::start(&node, &kubernetes);
    let pod = attach(&node, "web-0");
    let said = |text: &str| eventually(|| agent.log().contains(text));
    let named = "NODE_NAME \"\" is not the name of a node: set it from spec.nodeName";
    assert!(
        said(&format!("no Event is made: {named}")),
        "{}",
        agent.raw_log()
    );
    assert!(said(&format!(
        "a taint {TAINT} of this node stays: {named}"
    )));
    node.add(&Pod::new("other"), &["10.0.4.70"]).ok();
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    drop((pod, agent));

    // A pod whose service account has another cluster's token.
    let cluster = Cluster::start(&node);
    let token = "secrets/kubernetes.io/serviceaccount/token";
    std::fs::write(node.run_directory().join(token), "another").unwrap();
    let agent = Agent::start(&cluster, &kubernetes);
    let path = format!("/api/v1/nodes/{NODE}");
    let denied = format!("Kubernetes does not permit GET {path}: Unauthorized");
    let said = || agent.log().contains(&denied);
    assert!(eventually(said), "{}", agent.raw_log());
    assert_eq!(get(&node, "/healthz").0, 200);
}
