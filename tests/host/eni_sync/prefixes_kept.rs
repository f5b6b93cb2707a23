//! What agents keep of prefixes when something else goes wrong: an interface that has gone, an
//! ENI that has left, files that cannot be read, calls that are not answered.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use fixtures::scrape::{ADDRESS, Scrape};
use harness::eni_lab::{EniId, Fault};
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use serde_json::{Value, json};

use super::ipam::{ASSIGN, add, addresses, call, calls, intents, ipv4, sharing};
use super::prefixes::{
    UNASSIGN, assert_in_prefix, keeping, kept, known, node_of_its_own, one, prefixes,
};

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// The name of the file in which the ledger has a prefix.
fn file_of(prefix: &str) -> String {
    format!(".prefix-{}", prefix.replace('/', "-"))
}

/// The clock that the ledger's times of a prefix are of.
fn clock(node: &VpcNode, prefix: &str) -> Value {
    let text = fs::read(node.ledger_path().join(file_of(prefix))).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["clock"].clone()
}

#[test]
fn prefixes_stay_while_the_master_cannot_be_found() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let configuration = keeping(&json!({ "ipv4": { "low": 2, "high": 2 }, "master": "ens6" }));
    let agent = kept(&node, &configuration, 2);
    let before = known(&node);
    node.node
        .netns
        .ip(&["link", "set", "ens6", "down", "name", "away"]);
    let _address = add(&node, &sharing(&node, "c1"));
    let is_tried_again = || agent.log().contains("trying again in");
    assert!(eventually(is_tried_again), "{}", agent.log());
    assert_eq!(known(&node), before);
    drop(agent);
    // An agent that has never found it knows no better.
    let agent = Agent::start(&node, &configuration);
    let is_tried_again = || agent.log().contains("trying again in");
    assert!(eventually(is_tried_again), "{}", agent.log());
    assert_eq!(known(&node), before);
    assert_eq!(prefixes(&node).len(), 2);
}

#[test]
fn an_address_that_a_pool_has_claimed_and_a_prefix_has_belongs_to_the_pool() {
    let vpc = Vpc::new();
    let node = vpc.node();
    assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    let address = "10.0.4.100";
    node.lab.assign_prefix(&node.eni, "10.0.4.96/28");
    // What a pool has claimed before it was known that the ENI has got the prefix.
    let entry = json!({
        "address": address, "state": "claiming", "takeover": "never", "bestEffort": false,
        "since": now(), "owner": {
            "network": "mgmt", "containerId": "", "ifname": "", "pool": "mgmt",
            "cooldownSeconds": 0,
        },
    });
    fs::write(node.ledger_path().join(address), entry.to_string()).unwrap();
    assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    assert_eq!(node.ledger()[address], "pooled");
    assert!(node.addresses().is_empty(), "{:?}", node.addresses());
}

#[test]
fn an_eni_that_has_gone_with_a_prefix_on_its_way_out_keeps_no_agent_busy() {
    let vpc = Vpc::new();
    let node = vpc.node();
    drop(kept(&node, &one(), 1));
    let prefix = prefixes(&node).remove(0);
    node.edit_ledger(&file_of(&prefix), |found| {
        let entry = &mut found["entry"];
        entry["state"] = json!("releasing");
        entry["after"] = json!(1);
        entry["asked"] = json!(false);
        // No description of ten minutes later showed it.
        entry["since"] = json!(now() - 600);
        entry["confirmed"] = json!(now() - 600);
        entry["missing"] = json!(now() - 300);
    });
    let clock = clock(&node, &prefix);
    let since = now() - 600;
    let asked = json!({ "before": [], "count": 1, "since": since, "clock": clock });
    let unheard = json!({ "before": [], "since": since, "clock": clock });
    fs::write(node.ledger_path().join(".asked-ipv4"), asked.to_string()).unwrap();
    fs::write(node.ledger_path().join(".unheard"), unheard.to_string()).unwrap();
    node.lab.detach_eni(&node.eni);
    node.lab.delete_eni(&node.eni);
    let _agent = Agent::start(&node, &json!({}));
    let is_forgotten = || intents(&node).is_empty();
    assert!(eventually(is_forgotten), "{:?}", intents(&node));
}

#[test]
fn a_file_of_a_prefix_that_cannot_be_read_is_named_and_stays_as_it_is() {
    for (text, said) in [
        ("{", "is not a file of the ledger"),
        (r#"{"formatVersion": 3}"#, "is of format 3"),
    ] {
        let vpc = Vpc::new();
        let node = vpc.node();
        drop(kept(&node, &one(), 1));
        let path = node.ledger_path().join(file_of(&prefixes(&node)[0]));
        fs::write(&path, text).unwrap();
        let output = node.command(&["sync", "--once"]);
        assert_eq!(output.status, Some(1), "{}", output.stderr);
        let name = path.file_name().unwrap().to_str().unwrap();
        for said in [name, said] {
            assert!(output.stderr.contains(said), "{said}: {}", output.stderr);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        // Nobody gets an address of it, and nobody takes it off the ENI.
        let address = add(&node, &sharing(&node, "c1"));
        assert_eq!(node.addresses(), [address]);
        assert_eq!(prefixes(&node).len(), 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn while_it_cannot_be_read_what_ec2_was_asked_for_pods_get_single_addresses() {
    let vpc = Vpc::new();
    let node = vpc.node();
    assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    let path = node.ledger_path().join(".asked-ipv4");
    let text = r#"{"formatVersion": 3}"#;
    fs::write(&path, text).unwrap();
    let agent = Agent::start(&node, &one());
    let says = |said: &str| agent.log().matches(said).count();
    let single = "; pods get single addresses";
    assert!(eventually(|| says(single) == 1), "{}", agent.log());
    let given = ["c1", "c2"].map(|id| add(&node, &sharing(&node, id)));
    assert_eq!(node.addresses().len(), given.len());
    assert!(prefixes(&node).is_empty() && known(&node).is_empty());
    assert_eq!(says(single), 1, "{}", agent.log());
    // Once as why there are no prefixes, and once as what is looked for each time.
    let newer = "is a file of a newer ledger";
    assert!(eventually(|| says(newer) == 2), "{}", agent.log());
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_damaged_file_of_what_ec2_was_asked_for_is_removed_when_the_eni_has_been_looked_at() {
    let vpc = Vpc::new();
    let node = vpc.node();
    assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    let path = node.ledger_path().join(".asked-ipv4");
    fs::write(&path, "{").unwrap();
    let output = node.command(&["sync", "--once"]);
    assert_eq!(output.status, Some(0), "{output}");
    let said = ".asked-ipv4\" is not a file of the ledger; it is removed";
    assert!(output.stderr.contains(said), "{output}");
    assert!(!path.exists());
    let _agent = kept(&node, &one(), 1);
}

#[test]
fn prefixes_that_leave_at_once_cost_one_call_and_one_that_has_gone_keeps_no_other() {
    let vpc = Vpc::new().without_invariants();
    let node = node_of_its_own(&vpc, "10.0.74.0/24");
    let three = keeping(&json!({ "ipv4": { "low": 3, "high": 3 } }));
    for (is_one_gone, most) in [(false, 1), (true, 3)] {
        drop(kept(&node, &three, 3));
        if is_one_gone {
            node.lab.unassign_prefix(&node.eni, &prefixes(&node)[1]);
        }
        node.lab.reset_calls();
        let _agent = Agent::start(&node, &json!({}));
        assert!(eventually(|| known(&node).is_empty()), "{:?}", known(&node));
        assert!(prefixes(&node).is_empty(), "{:?}", prefixes(&node));
        let made = calls(&node, UNASSIGN);
        assert!(made <= most, "{made} calls");
    }
}

#[test]
fn an_add_with_an_address_of_a_prefix_locks_the_ledger_once() {
    let vpc = Vpc::new();
    let node = vpc.node();
    drop(kept(&node, &one(), 1));
    let pod = sharing(&node, "c1");
    let add = call(&node, "ADD", &pod, &ipv4());
    let traced = ["-f", "-qq", "-e", "trace=openat"];
    let output = node.node.inside(|| add.run_under("strace", &traced));
    assert_in_prefix(&node, &addresses(&output.clone().ok())[0]);
    let lock = format!("{}/.lock", node.eni);
    let locked = output.stderr.lines().filter(|line| line.contains(&lock));
    assert_eq!(locked.count(), 1, "{}", output.stderr);
}

#[test]
fn prefixes_that_ec2_denies_are_asked_for_again_after_a_while_and_it_is_said_once() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let denied = Fault::Error {
        status: 403,
        code: "UnauthorizedOperation".to_owned(),
        message: "You are not authorized to perform this operation.".to_owned(),
    };
    node.lab.fail_next(ASSIGN, 1, denied);
    let mut configuration = one();
    configuration["metrics"] = json!(ADDRESS);
    let agent = Agent::start(&node, &configuration);
    let says = || agent.log().matches("; pods get single addresses").count();
    assert!(eventually(|| says() == 1), "{}", agent.log());
    let given = ["c1", "c2"].map(|id| add(&node, &sharing(&node, id)));
    assert_eq!(node.addresses().len(), given.len());
    assert!(prefixes(&node).is_empty(), "{:?}", prefixes(&node));
    assert_eq!(says(), 1, "{}", agent.log());
    let scrape = Scrape::of(&node);
    assert_eq!(scrape.value("refused_prefixes"), 1.0, "{scrape:#?}");
    // Where EC2 gives no prefixes, each of the seven slots that are left is for one pod.
    let left = format!("pods_left{{eni=\"{}\",family=\"ipv4\"}}", node.eni);
    assert_eq!(scrape.value(&left), 7.0, "{scrape:#?}");
}

#[test]
fn what_a_killed_agent_had_written_down_of_all_prefixes_is_not_waited_for() {
    let vpc = Vpc::new();
    let node = vpc.node();
    drop(kept(&node, &one(), 1));
    let clock = clock(&node, &prefixes(&node)[0]);
    let asked = json!({ "before": [], "count": 1, "since": now(), "clock": clock });
    fs::write(node.ledger_path().join(".asked-ipv4"), asked.to_string()).unwrap();
    assert_eq!(node.command(&["sync", "--once"]).status, Some(0));
    assert!(!intents(&node).contains(&".asked-ipv4".to_owned()));
    assert_eq!(known(&node).len(), 1);
}

/// Another ENI for pods of a node.
fn another(vpc: &Vpc, node: &VpcNode, network: &str) -> EniId {
    let eni = node.lab.multus_eni(&node.instance, &vpc.pods);
    node.lab.tag_eni(&eni, "eni-cni/network", network);
    eni
}

/// ENIs that are wanted, and how many prefixes are kept on them.
fn named(vpc: &Vpc, name: &str, prefixes: &Value) -> Value {
    json!({
        "name": name, "subnets": { "ids": [vpc.pods.as_str()] },
        "securityGroups": { "ids": ["sg-0ab00000000000001"] }, "prefixes": prefixes,
    })
}

#[test]
fn the_settings_of_one_eni_replace_those_of_all() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("m5.xlarge");
    let [user, whole] = ["user", "whole"].map(|name| another(&vpc, &node, name));
    let marks = |number: u64| json!({ "ipv4": { "low": number, "high": number } });
    let mut configuration = keeping(&marks(2));
    let of_user = json!({ "ipv4": { "low": 1, "high": 1 }, "cooldownSeconds": 0 });
    configuration["enis"] = json!([
        named(&vpc, "user", &of_user),
        named(&vpc, "whole", &json!({}))
    ]);
    let of = |eni: &EniId| node.lab.prefixes(eni).len();
    let agent = Agent::start(&node, &configuration);
    let are_kept = |expected: [usize; 3]| {
        let are = || [of(&node.eni), of(&user), of(&whole)] == expected;
        assert!(eventually(are), "{expected:?}: {}", agent.log());
    };
    are_kept([2, 1, 0]);
    assert!(
        agent
            .raw_log()
            .contains("user: 1 to 1 free of IPv4, 0 of IPv6; whole: none"),
        "{}",
        agent.raw_log()
    );
    drop(agent);
    // Nothing is said of them by name any more.
    configuration["enis"] = json!([]);
    let _agent = Agent::start(&node, &configuration);
    let are = || [of(&node.eni), of(&user), of(&whole)] == [2, 2, 2];
    assert!(eventually(are), "{} {}", of(&user), of(&whole));
}

#[test]
fn prefixes_by_name_are_kept_while_the_master_for_all_others_cannot_be_found() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("m5.xlarge");
    let user = another(&vpc, &node, "user");
    let of = |eni: &EniId| node.lab.prefixes(eni).len();
    drop(kept(&node, &one(), 1));
    let mut configuration = keeping(&json!({
        "ipv4": { "low": 3, "high": 3 }, "masterSelector": { "tag": { "role": "data" } },
    }));
    let of_user = json!({ "ipv4": { "low": 2, "high": 2 }, "cooldownSeconds": 0 });
    configuration["enis"] = json!([named(&vpc, "user", &of_user)]);
    let agent = Agent::start(&node, &configuration);
    assert!(eventually(|| of(&user) == 2), "{}", agent.log());
    let said = || {
        agent
            .log()
            .contains("no interface matches masterSelector tag role=data")
    };
    assert!(eventually(said), "{}", agent.log());
    assert_eq!(of(&node.eni), 1);
    node.lab.tag_eni(&node.eni, "role", "data");
    node.command(&["sync", "--once"]);
    assert!(eventually(|| of(&node.eni) == 3), "{}", agent.log());
}
