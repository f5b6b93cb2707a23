//! The agent's metrics and health: that they are what the documentation says, and that
//! they tell what happened.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::thread;

use fixtures::scrape::{ADDRESS, Scrape, get, get_at};
use harness::eni_lab::{Fault, Hold};
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use harness::{Pod, repository};
use serde_json::{Value, json};

use super::ipam;

const ASSIGN: &str = "AssignPrivateIpAddresses";

fn configuration() -> Value {
    let resource = json!({
        "name": "eni-cni.io/user-plane", "eni": { "subnet": "10.0.4.0/24" }, "kind": "addresses",
    });
    json!({ "metrics": ADDRESS, "resources": [resource] })
}

/// An agent that has compared the ledger once.
fn ready(node: &VpcNode) -> Agent {
    let agent = Agent::start(node, &configuration());
    assert!(eventually(|| get(node, "/readyz").0 == 200));
    agent
}

/// Name, type and labels of every metric in the documentation.
fn documentation() -> BTreeSet<(String, String, Vec<String>)> {
    let path = repository().join("deploy/metrics.md");
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `eni_sync_"));
    let metrics = rows.filter_map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells
            .get(3)?
            .split(',')
            .map(|name| name.trim().replace('`', ""));
        let mut labels: Vec<String> = labels.filter(|name| !name.is_empty()).collect();
        labels.sort();
        Some((cells[1].replace('`', ""), cells[2].to_owned(), labels))
    });
    // The table of alerts has expressions in its first column.
    metrics.filter(|(name, ..)| !name.contains(' ')).collect()
}

#[test]
fn the_metrics_are_those_of_the_documentation() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut configuration = configuration();
    configuration["pools"] = pool();
    let _agent = Agent::start(&node, &configuration);
    assert!(eventually(|| get(&node, "/readyz").0 == 200));
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    assert_eq!(Scrape::of(&node).documented(), documentation());
}

fn pool() -> Value {
    json!([{
        "name": "user-plane", "master": "ens6", "rangesFile": "/run/ranges.json", "low": 2, "high": 2,
        "ranges": [{ "start": "10.0.4.100", "end": "10.0.4.109" }],
    }])
}

#[test]
fn the_free_addresses_of_a_pool_are_counted_also_when_there_are_none() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.rules(|rules| {
        _ = rules
            .denied_actions
            .insert("AssignPrivateIpAddresses".into())
    });
    let mut configuration = configuration();
    configuration["pools"] = pool();
    let _agent = Agent::start(&node, &configuration);
    assert!(eventually(|| get(&node, "/readyz").0 == 200));
    let free = "pool_free_addresses{pool=\"user-plane\",family=\"ipv4\"}";
    assert_eq!(Scrape::of(&node).value(free), 0.0);
    node.lab.rules(|rules| rules.denied_actions.clear());
    assert!(eventually(|| Scrape::of(&node).value(free) == 2.0));
}

/// A network whose addresses EC2 chooses: what such pods wait for is in no entry yet.
#[test]
fn a_pod_that_waits_for_an_address_of_ec2s_choice_is_in_the_queue() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = ready(&node);
    let pod = ipam::sharing(&node, "c1");
    let waiting = format!("queue_depth{{eni=\"{}\"}}", node.eni);
    node.lab.hold(ASSIGN, Hold::BeforeCommit);
    thread::scope(|scope| {
        scope.spawn(|| ipam::add(&node, &pod));
        assert!(eventually(|| Scrape::of(&node).value(&waiting) == 1.0));
        node.lab.release_held();
    });
    assert_eq!(Scrape::of(&node).value(&waiting), 0.0);
}

#[test]
fn a_registration_is_measured() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = ready(&node);
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70", "10.0.4.71"]).ok();
    let scrape = Scrape::of(&node);
    let eni = &node.eni;
    for (series, value) in [
        (
            format!("requests_total{{action=\"{ASSIGN}\",code=\"OK\"}}"),
            1.0,
        ),
        (
            format!("request_duration_seconds_count{{action=\"{ASSIGN}\"}}"),
            1.0,
        ),
        (format!("batch_size_sum{{action=\"{ASSIGN}\"}}"), 2.0),
        ("time_to_routable_seconds_count".to_owned(), 1.0),
        ("plugin_requests_total{code=\"0\"}".to_owned(), 1.0),
        (
            format!("addresses{{eni=\"{eni}\",family=\"ipv4\",state=\"held\"}}"),
            2.0,
        ),
        (format!("queue_depth{{eni=\"{eni}\"}}"), 0.0),
        (format!("slots_used{{eni=\"{eni}\",family=\"ipv4\"}}"), 3.0),
        (
            format!("slots_limit{{eni=\"{eni}\",family=\"ipv4\"}}"),
            10.0,
        ),
        ("reconciles_total{outcome=\"success\"}".to_owned(), 1.0),
        ("budget_calls_per_second".to_owned(), 0.75),
    ] {
        assert_eq!(scrape.value(&series), value, "{series}\n{scrape:#?}");
    }
    node.del(&pod);
    let releasing = format!("addresses{{eni=\"{eni}\",family=\"ipv4\",state=\"releasing\"}}");
    assert_eq!(Scrape::of(&node).value(&releasing), 2.0);
}

#[test]
fn a_refusal_of_a_plugin_is_counted_by_its_code() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = ready(&node);
    node.add(&Pod::new("c1"), &["10.0.5.70"]).error_code(7);
    let scrape = Scrape::of(&node);
    assert_eq!(scrape.value("plugin_requests_total{code=\"7\"}"), 1.0);
    assert_eq!(scrape.value("time_to_routable_seconds_count"), 0.0);
}

#[test]
fn a_throttle_is_counted_and_slows_the_node_down() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = ready(&node);
    node.lab.fail_next(ASSIGN, 2, Fault::Throttle);
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    let scrape = Scrape::of(&node);
    assert_eq!(
        scrape.value(&format!("throttles_total{{action=\"{ASSIGN}\"}}")),
        2.0
    );
    let refused = format!("requests_total{{action=\"{ASSIGN}\",code=\"RequestLimitExceeded\"}}");
    assert_eq!(scrape.value(&refused), 2.0);
    let budget = scrape.value("budget_calls_per_second");
    assert!((0.2..0.75).contains(&budget), "{budget}");
    assert_eq!(node.lab.calls()[ASSIGN], 3);
}

#[test]
fn pods_that_come_at_the_same_time_are_one_batch() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = ready(&node);
    node.lab.hold(ASSIGN, Hold::BeforeCommit);
    let pods: Vec<Pod> = (0..4).map(|n| Pod::new(&format!("c{n}"))).collect();
    let waiting = format!("queue_depth{{eni=\"{}\"}}", node.eni);
    thread::scope(|scope| {
        for (number, pod) in pods.iter().enumerate() {
            let address = format!("10.0.4.7{number}");
            let node = &node;
            scope.spawn(move || node.add(pod, &[&address]).ok());
        }
        assert!(eventually(|| Scrape::of(&node).value(&waiting) == 4.0));
        node.lab.release_held();
    });
    let scrape = Scrape::of(&node);
    assert_eq!(scrape.value(&waiting), 0.0);
    assert_eq!(
        scrape.value(&format!("batch_size_sum{{action=\"{ASSIGN}\"}}")),
        4.0
    );
    let calls = scrape.value(&format!("batch_size_count{{action=\"{ASSIGN}\"}}"));
    assert!(calls <= 2.0, "{calls} calls");
}

#[test]
fn what_differs_from_ec2_is_counted() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.lab
        .unassign(&node.eni, &["10.0.4.70".parse().unwrap()]);
    node.lab.assign(&node.eni, &["10.0.4.99".parse().unwrap()]);
    node.let_time_pass(60);
    let _agent = ready(&node);
    let scrape = Scrape::of(&node);
    assert_eq!(scrape.value("drift_total{kind=\"lost\"}"), 1.0);
    assert_eq!(scrape.value("drift_total{kind=\"adopted\"}"), 1.0);
    assert_eq!(scrape.value("drift_total{kind=\"gone\"}"), 0.0);
}

#[test]
fn a_takeover_is_counted() {
    let vpc = Vpc::new();
    let dead = vpc.node();
    dead.lab.delete_on_termination(&dead.eni, false);
    dead.add(&Pod::new("c0"), &["10.0.4.70"]).ok();
    dead.lab.terminate_instance(&dead.instance);
    let node = vpc.node();
    let _agent = ready(&node);
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    assert_eq!(Scrape::of(&node).value("takeovers_total"), 1.0);
}

#[test]
fn the_agent_is_ready_when_it_has_compared_the_ledger() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab
        .hold("DescribeNetworkInterfaces", Hold::BeforeCommit);
    let _agent = Agent::start(&node, &configuration());
    assert!(eventually(|| node.lab.held() > 0));
    let (status, why) = get(&node, "/readyz");
    assert_eq!(
        (status, why.as_str()),
        (503, "the ledger has not been compared with EC2 yet")
    );
    assert_eq!(get(&node, "/healthz"), (200, "ok".to_owned()));
    node.lab.release_held();
    assert!(eventually(|| get(&node, "/readyz").0 == 200));
    assert_eq!(get(&node, "/else").0, 404);
}

#[test]
fn an_agent_that_ec2_does_not_answer_any_more_is_not_ready() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let keys = json!({ "metrics": ADDRESS, "reconcileSeconds": 1 });
    let _agent = Agent::start(&node, &keys);
    assert!(eventually(|| get(&node, "/readyz").0 == 200));
    node.lab.rules(|rules| {
        _ = rules
            .denied_actions
            .insert("DescribeNetworkInterfaces".into())
    });
    assert!(eventually(|| get(&node, "/readyz").0 == 503));
    assert!(
        get(&node, "/readyz")
            .1
            .starts_with("the last comparison with EC2 is ")
    );
    assert_eq!(get(&node, "/healthz").0, 200);
    assert!(Scrape::of(&node).value("reconciles_total{outcome=\"failure\"}") >= 1.0);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _taken = node.node.netns.run(|| TcpListener::bind(ADDRESS).unwrap());
    let (status, errors) = Agent::spawn(&node, &configuration()).wait();
    assert_eq!(status, Some(1));
    let expected = "failed to serve metrics at 127.0.0.1:9809: Address already in use";
    assert!(errors.contains(expected), "{errors}");
}

/// The neighbour has the address of the node's interface and not that of its loopback.
#[test]
fn others_get_metrics_where_the_configuration_says_so_and_never_health() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.node
        .netns
        .ip(&["addr", "add", "10.0.4.10/24", "dev", "ens6"]);
    let _agent = Agent::start(&node, &json!({ "metrics": "0.0.0.0:9809" }));
    let at = |address: &str, path: &str| get_at(&node, address, path).unwrap().0;
    assert!(eventually(|| at("127.0.0.1:9809", "/readyz") == 200));
    assert_eq!(at("10.0.4.10:9809", "/metrics"), 200);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(at("10.0.4.10:9809", path), 403, "{path}");
    }
}

#[test]
fn addresses_of_both_families_can_be_served() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({ "metrics": "[::]:9809" }));
    let at = |address: &str| get_at(&node, address, "/readyz").map(|(status, _)| status);
    assert!(eventually(|| matches!(at("127.0.0.1:9809"), Ok(200))));
    assert_eq!(at("[::1]:9809").unwrap(), 200);
}

#[test]
fn a_pod_that_cannot_be_registered_is_counted_and_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let network =
        json!({ "name": "mgmt", "master": "nowhere", "dataDir": "/var/lib/cni/networks" });
    let _agent = Agent::start(&node, &json!({ "metrics": ADDRESS, "networks": [network] }));
    let directory = node.node.state().join("networks/mgmt");
    fs::create_dir_all(&directory).unwrap();
    assert!(eventually(|| get(&node, "/readyz").0 == 200));
    assert_eq!(Scrape::of(&node).value("unregistered"), 0.0);
    fs::write(directory.join("10.0.4.70"), "c1\r\nnet1").unwrap();
    assert!(eventually(|| Scrape::of(&node).value("unregistered") == 1.0));
    let (status, text) = get(&node, "/readyz");
    assert_eq!(status, 200);
    assert!(
        text.contains("network mgmt: there is no interface \"nowhere\""),
        "{text}"
    );
}
