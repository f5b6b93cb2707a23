//! Addresses that the node gives to nobody: those of whereabouts' pods, which EC2 need not know.
//! Whatever chooses an address leaves them alone.

use std::collections::BTreeSet;
use std::fs;

use fixtures::handover::serving;
use harness::vpc::{Agent, Vpc, VpcNode, assert_refused, eventually};
use serde_json::{Value, json};

use super::ipam::{add, addresses, call, del, intents, ipv4, sharing};
use super::pool::ranges_file;
use super::prefixes;
use super::whereabouts;

/// The configuration of an agent with a pool of these addresses, as far as none is excluded.
fn pool(first: &str, last: &str, exclude: &Value) -> Value {
    let ranges = json!([{ "start": first, "end": last }]);
    json!({ "exclude": exclude, "pools": [{
        "name": "lan", "master": "ens6", "ranges": ranges, "rangesFile": "/run/ranges.json",
        "cooldownSeconds": 0,
    }]})
}

/// The first and the last address of each range that host-local may hand out.
fn listed(node: &VpcNode) -> Vec<(String, String)> {
    let text = fs::read(node.run_directory().join("ranges.json")).unwrap_or_default();
    let file: Value = serde_json::from_slice(&text).unwrap_or_default();
    let sets = file["ranges"].as_array().into_iter().flatten();
    let ranges = sets.flat_map(|set| set.as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    ranges
        .map(|range| (text(&range["rangeStart"]), text(&range["rangeEnd"])))
        .collect()
}

/// The addresses of the ENI, in order.
fn sorted(node: &VpcNode) -> Vec<String> {
    let mut addresses = node.addresses();
    addresses.sort();
    addresses
}

fn pair(first: &str, last: &str) -> Vec<(String, String)> {
    vec![(first.to_owned(), last.to_owned())]
}

#[test]
fn a_pool_has_no_address_that_whereabouts_has_reserved_until_its_pod_has_gone() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let reserved = whereabouts::listed(&whereabouts::dump());
    assert_eq!(reserved, json!(["10.0.4.20", "10.0.4.21", "10.0.4.100"]));
    let agent = Agent::start(&node, &pool("10.0.4.20", "10.0.4.23", &reserved));
    let of_free = pair("10.0.4.22", "10.0.4.23");
    assert!(eventually(|| listed(&node) == of_free), "{}", agent.log());
    // One more look of the pool changes nothing.
    assert_eq!(agent.stop(), Some(0));
    let agent = Agent::start(&node, &pool("10.0.4.20", "10.0.4.23", &reserved));
    assert!(eventually(|| serving(&node) == Some(agent.id())));
    assert_eq!(sorted(&node), ["10.0.4.22", "10.0.4.23"]);
    assert_eq!(agent.stop(), Some(0));
    let later = whereabouts::dump_without_pod("smf-0");
    let later = whereabouts::listed(&later);
    let _agent = Agent::start(&node, &pool("10.0.4.20", "10.0.4.23", &later));
    let all = [pair("10.0.4.20", "10.0.4.20"), of_free].concat();
    assert!(eventually(|| listed(&node) == all), "{:?}", node.ledger());
    assert_eq!(sorted(&node), ["10.0.4.20", "10.0.4.22", "10.0.4.23"]);
}

#[test]
fn a_pool_gives_up_what_is_excluded_later() {
    let vpc = Vpc::new();
    let node = vpc.node();
    // While nothing of the store is visible, what it may have reserved stays.
    fs::create_dir(node.node.state().join("networks")).unwrap();
    let agent = Agent::start(&node, &pool("10.0.4.20", "10.0.4.23", &json!([])));
    let all = pair("10.0.4.20", "10.0.4.23");
    assert!(eventually(|| listed(&node) == all), "{}", agent.log());
    assert_eq!(agent.stop(), Some(0));
    let _agent = Agent::start(
        &node,
        &pool("10.0.4.20", "10.0.4.23", &json!(["10.0.4.20/31"])),
    );
    let is_left = || sorted(&node) == ["10.0.4.22", "10.0.4.23"];
    assert!(eventually(is_left), "{:?}", node.ledger());
    assert_eq!(listed(&node), pair("10.0.4.22", "10.0.4.23"));
}

#[test]
fn a_pod_gets_no_excluded_address_of_a_prefix() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &prefixes::one());
    assert!(eventually(|| prefixes::known(&node)
        .iter()
        .any(|(_, state)| state == "pooled")));
    assert_eq!(agent.stop(), Some(0));
    let prefix = prefixes::prefixes(&node).remove(0);
    let first = prefix.split('/').next().unwrap().to_owned();
    let pod = sharing(&node, "c1");
    assert_eq!(add(&node, &pod), first);
    del(&node, &pod);
    node.end_cooldown(&first);
    let mut configuration = prefixes::one();
    configuration["exclude"] = json!([format!("{first}/30")]);
    let agent = Agent::start(&node, &configuration);
    assert!(eventually(|| serving(&node) == Some(agent.id())));
    let number = |address: &str| address.rsplit('.').next().unwrap().parse::<u8>().unwrap();
    let given = add(&node, &sharing(&node, "c2"));
    assert_eq!(number(&given), number(&first) + 4);
    // Without the agent, the ledger has them.
    assert_eq!(agent.stop(), Some(0));
    let given = add(&node, &sharing(&node, "c3"));
    assert_eq!(number(&given), number(&first) + 5);
}

#[test]
fn an_agent_keeps_as_many_addresses_free_as_before_where_some_of_a_prefix_are_excluded() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut configuration = prefixes::one();
    let agent = Agent::start(&node, &configuration);
    let pooled = |count| {
        let known = prefixes::known(&node);
        known.len() == count && known.iter().all(|(_, state)| state == "pooled")
    };
    assert!(eventually(|| pooled(1)), "{:?}", prefixes::known(&node));
    assert_eq!(agent.stop(), Some(0));
    let prefix = prefixes::prefixes(&node).remove(0);
    let first = prefix.split('/').next().unwrap();
    configuration["exclude"] = json!([format!("{first}/29")]);
    let _agent = Agent::start(&node, &configuration);
    assert!(eventually(|| pooled(2)), "{:?}", prefixes::known(&node));
}

/// The simulated EC2 chooses the first addresses that are free.
fn first_choice() -> (Vpc, VpcNode, String) {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "before");
    let ipam = json!({ "families": ["ipv4"], "cooldownSeconds": 0 });
    let result = node.run(&call(&node, "ADD", &pod, &ipam)).ok();
    let address = addresses(&result).remove(0);
    del(&node, &pod);
    node.command(&["sync", "--once"]);
    assert!(node.addresses().is_empty(), "{:?}", node.ledger());
    (vpc, node, address)
}

#[test]
fn a_pod_gets_no_excluded_address_that_ec2_chooses() {
    let (_vpc, node, address) = first_choice();
    let agent = Agent::start(&node, &json!({ "exclude": [address] }));
    let given = add(&node, &sharing(&node, "c1"));
    assert_ne!(given, address);
    // It stays on the ENI for a while: EC2 would choose it again.
    assert_eq!(node.ledger()[&address], "releasing");
    let second = add(&node, &sharing(&node, "c2"));
    assert_eq!(agent.stop(), Some(0));
    let third = add(&node, &sharing(&node, "c3"));
    let all = BTreeSet::from([&address, &given, &second, &third]);
    assert_eq!((all.len(), node.addresses().len()), (4, 4));
    // What EC2 was told to choose is not on the ENI for ever.
    node.end_cooldown(&address);
    node.command(&["sync", "--once"]);
    assert!(!node.addresses().contains(&address), "{:?}", node.ledger());
    assert_eq!(intents(&node), [""; 0]);
}

#[test]
fn an_add_says_that_ec2_has_chosen_only_excluded_addresses() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({ "exclude": ["10.0.4.0/24"] }));
    let pod = sharing(&node, "c1");
    let output = node.run(&call(&node, "ADD", &pod, &ipv4()));
    let error = output.error_code(11);
    let says = "that EC2 chose for";
    assert!(
        error.msg.contains(says) && error.msg.ends_with("is excluded"),
        "{output}"
    );
    assert!(error.details.contains("CIDR reservation"), "{output}");
    del(&node, &pod);
}

#[test]
fn an_excluded_address_that_is_asked_for_by_name_is_refused() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({ "exclude": ["10.0.4.64/28"] }));
    let pod = sharing(&node, "c1");
    let call = call(&node, "ADD", &pod, &json!({ "addresses": ["10.0.4.70"] }));
    let says = "requested ip 10.0.4.70 is excluded";
    assert_refused(
        &node,
        &call,
        7,
        &[says, "exclude in the configuration of the agent"],
    );
}

#[test]
fn an_agent_that_cannot_write_the_list_down_does_not_start() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let path = node.ledger_path().with_file_name("exclude.json");
    fs::create_dir_all(&path).unwrap();
    let configuration = json!({ "exclude": ["10.0.4.64/28"] });
    let file = node.run_directory().join("a.json");
    fs::write(file, configuration.to_string()).unwrap();
    let output = node.command(&["agent", "--config", "/run/a.json"]);
    assert_eq!(output.status, Some(1), "{output}");
    assert!(output.stderr.contains("ledger/exclude.json"), "{output}");
}

/// host-local would hand out what the list of a newer version names.
#[test]
fn no_prefix_is_listed_for_host_local_while_the_list_cannot_be_read() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let list = node.node.state().join("eni-cni/ledger/exclude.json");
    let configuration = json!({ "exclude": ["10.0.4.16/29"], "pools": [{
        "name": "many", "master": "ens6", "rangesFile": "/run/ranges.json",
        "prefixes": { "ipv4": { "low": 1, "high": 1 } },
    }]});
    let agent = Agent::start(&node, &configuration);
    assert!(eventually(|| prefixes::known(&node).len() == 1));
    agent.stop();
    fs::write(&list, r#"{"formatVersion":3}"#).unwrap();
    fs::remove_file(ranges_file(&node)).ok();
    let mut more = configuration.clone();
    more["pools"][0]["prefixes"]["ipv4"] = json!({ "low": 2, "high": 2 });
    let agent = Agent::start(&node, &more);
    // Nor is EC2 asked for more: it is not known how many addresses there are.
    assert!(eventually(|| agent.log().contains("exclude.json")));
    assert!(listed(&node).is_empty(), "{:?}", listed(&node));
    assert_eq!(prefixes::known(&node).len(), 1);
    agent.stop();
    fs::remove_file(list).unwrap();
    let _agent = Agent::start(&node, &configuration);
    assert!(eventually(|| !listed(&node).is_empty()));
}
