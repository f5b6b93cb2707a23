//! What must never happen, 5, 9, 10 and 11: an ADD that succeeds while the address is
//! not registered, one bad address that fails others, a storm of calls, and a secret
//! where it does not belong.

use std::thread;
use std::time::{Duration, Instant};

use harness::eni_lab::{Event, Fault, OK};
use harness::vpc::{Vpc, VpcNode};
use harness::{Output, Pod};
use serde_json::json;

const ASSIGN: &str = "AssignPrivateIpAddresses";
const ADDRESS: &str = "10.0.4.70";

/// A node that knows its ENIs already, so that the next ADD is one call.
fn ready(vpc: &Vpc) -> VpcNode {
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
    node.lab.reset_calls();
    node
}

fn refusal(code: &str) -> Fault {
    Fault::Error {
        status: 400,
        code: code.to_owned(),
        message: "because".to_owned(),
    }
}

#[test]
fn rule_5_an_add_that_is_refused_fails() {
    for (code, expected) in [
        ("UnauthorizedOperation", 100),
        ("InvalidParameterValue", 7),
        ("InvalidNetworkInterfaceID.NotFound", 11),
        ("AuthFailure", 11),
        ("SomethingNew", 7),
    ] {
        let vpc = Vpc::new();
        let node = ready(&vpc);
        node.lab.fail_next(ASSIGN, 99, refusal(code));
        let output = node.add(&Pod::new("c1"), &[ADDRESS]);
        let error = output.error_code(expected);
        assert!(error.msg.contains(ADDRESS), "{error:?}");
        assert!(error.msg.contains(node.eni.as_str()), "{error:?}");
        assert!(error.details.contains(code), "{error:?}");
        assert_eq!(vpc.owner(ADDRESS), None);
        assert_eq!(
            node.ledger()[ADDRESS],
            "withdrawn",
            "a DEL has nothing left to do"
        );
    }
}

#[test]
fn rule_5_an_add_whose_answer_is_lost_succeeds_only_if_it_was_done() {
    let add = |fault: &Fault| {
        let vpc = Vpc::new();
        let node = ready(&vpc);
        node.lab.fail_next(ASSIGN, 1, fault.clone());
        node.add(&Pod::new("c1"), &[ADDRESS]).ok();
        assert_eq!(vpc.owner(ADDRESS), Some(node.eni.clone()), "{fault:?}");
    };
    thread::scope(|scope| {
        for fault in [
            Fault::DropBeforeCommit,
            Fault::DropAfterCommit,
            Fault::Hang,
            Fault::HangAfterCommit,
            Fault::Garbage,
            Fault::Delay(Duration::from_millis(300)),
        ] {
            scope.spawn(move || add(&fault));
        }
    });
}

#[test]
fn rule_5_an_add_without_aws_fails_and_says_so() {
    let vpc = Vpc::new();
    let node = ready(&vpc);
    let pod = Pod::new("c1");
    let call = node.pod_call("ADD", &pod, &[ADDRESS]);
    let call = call.env("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1");
    let error = node.run(&call).error_code(11);
    assert!(error.msg.contains("AWS did not answer"), "{error:?}");
    assert!(error.details.contains("onnection refused"), "{error:?}");
}

#[test]
fn rule_5_metadata_that_show_what_is_no_longer_true_do_not_let_an_add_succeed() {
    let vpc = Vpc::new().without_invariants();
    let (node, other) = (vpc.node(), vpc.node());
    let floats = json!({ "takeover": "always" });
    let add = |node: &VpcNode, id: &str| {
        let pod = Pod::new(id);
        node.run(&node.conf_call("ADD", &pod, &[ADDRESS], &floats))
            .ok();
        pod
    };
    let pod = add(&node, "c1");
    let had = Instant::now();
    node.del(&pod);
    add(&other, "c2");
    node.lab.rules(|rules| rules.imds_lag = had.elapsed());
    add(&node, "c3");
    assert_eq!(vpc.owner(ADDRESS), Some(node.eni.clone()));
}

/// One network of the node lets the address float, and the other one does not.
#[test]
fn rule_5_metadata_prove_nothing_about_an_address_that_any_network_lets_float() {
    let vpc = Vpc::new().without_invariants();
    let (node, other) = (vpc.node(), vpc.node());
    let floats = json!({ "takeover": "always" });
    let pod = Pod::new("c1");
    node.run(&node.conf_call("ADD", &pod, &[ADDRESS], &floats))
        .ok();
    let had = Instant::now();
    node.del(&pod);
    let pod = Pod::new("c2");
    other
        .run(&other.conf_call("ADD", &pod, &[ADDRESS], &floats))
        .ok();
    node.lab.rules(|rules| rules.imds_lag = had.elapsed());
    let error = node.add(&Pod::new("c3"), &[ADDRESS]).error_code(11);
    assert!(error.msg.contains(ADDRESS), "{error:?}");
    assert_eq!(vpc.owner(ADDRESS), Some(other.eni.clone()));
}

/// A pool's addresses are used without a look, and another node has taken one of them.
#[test]
fn rule_5_an_address_of_a_pool_is_asked_for_by_a_network_that_lets_it_float() {
    let vpc = Vpc::new().without_invariants();
    let (node, other) = (vpc.node(), vpc.node());
    let floats = json!({ "takeover": "always" });
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.del(&pod);
    node.edit_ledger(ADDRESS, |entry| entry["state"] = json!("pooled"));
    let (second, third) = (Pod::new("c2"), Pod::new("c3"));
    let call = other.conf_call("ADD", &second, &[ADDRESS], &floats);
    other.run(&call).ok();
    assert_eq!(vpc.owner(ADDRESS), Some(other.eni.clone()));
    let call = node.conf_call("ADD", &third, &[ADDRESS], &floats);
    node.run(&call).ok();
    assert_eq!(vpc.owner(ADDRESS), Some(node.eni.clone()));
}

#[test]
fn rule_5_an_address_that_aws_may_have_removed_already_is_asked_for_again() {
    let vpc = Vpc::new();
    let node = ready(&vpc);
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.del(&pod);
    node.edit_ledger(ADDRESS, |entry| entry["asked"] = json!(true));
    node.lab.reset_calls();
    node.add(&Pod::new("c2"), &[ADDRESS]).ok();
    assert_eq!(node.lab.calls()[ASSIGN], 1);
}

#[test]
fn where_it_is_not_strict_an_add_goes_on_and_the_address_is_tried_again() {
    let vpc = Vpc::new();
    let node = ready(&vpc);
    let keys = json!({ "strict": false });
    node.lab
        .fail_next(ASSIGN, 1, refusal("UnauthorizedOperation"));
    let pod = Pod::new("c1");
    let output = node.run(&node.conf_call("ADD", &pod, &[ADDRESS], &keys));
    output.ok();
    assert!(
        output.stderr.contains("ec2:AssignPrivateIpAddresses"),
        "{output}"
    );
    assert_eq!(vpc.owner(ADDRESS), None);
    // Not at once: an address that is refused makes AWS refuse the whole batch.
    node.add(&Pod::new("c2"), &["10.0.4.71"]).ok();
    assert_eq!(vpc.owner(ADDRESS), None);
    node.edit_ledger(ADDRESS, |entry| entry["since"] = json!(0));
    node.add(&Pod::new("c3"), &["10.0.4.72"]).ok();
    assert_eq!(vpc.owner(ADDRESS), Some(node.eni.clone()));
    assert_eq!(node.ledger()[ADDRESS], "held");
}

/// The addresses whose ADD has failed.
fn failed<'a>(addresses: &[&'a str], outputs: &[Output]) -> Vec<&'a str> {
    let all = addresses.iter().zip(outputs);
    all.filter(|(_, output)| output.status != Some(0))
        .map(|(address, _)| *address)
        .collect()
}

const BATCH: [&str; 8] = [
    "10.0.4.80",
    "10.0.4.81",
    "10.0.4.82",
    "10.0.4.83",
    "10.0.4.84",
    "10.0.4.85",
    "10.0.4.86",
    "10.0.4.87",
];

#[test]
fn rule_9_an_address_of_another_node_fails_alone() {
    let vpc = Vpc::new();
    let node = ready(&vpc);
    let other = vpc.node();
    other.add(&Pod::new("theirs"), &[BATCH[3], BATCH[6]]).ok();
    let outputs = node.add_behind_one(&BATCH, || {});
    assert_eq!(failed(&BATCH, &outputs), [BATCH[3], BATCH[6]]);
    let error = outputs[3].error_code(11);
    assert!(error.msg.contains(BATCH[3]), "{error:?}");
    assert_eq!(node.addresses().len(), 7);
    assert_eq!(other.addresses(), [BATCH[3], BATCH[6]]);
}

#[test]
fn rule_9_a_batch_that_is_refused_for_no_visible_reason_is_divided() {
    let vpc = Vpc::new();
    let node = ready(&vpc);
    let outputs = node.add_behind_one(&BATCH, || {
        for nth in [1, 3] {
            node.lab
                .fail_nth(ASSIGN, nth, refusal("InvalidParameterValue"));
        }
    });
    assert_eq!(failed(&BATCH, &outputs), [""; 0]);
    assert_eq!(node.addresses().len(), 9);
    let outputs = node.add_behind_one(&["10.0.4.90"], || {});
    assert_eq!(
        failed(&["10.0.4.90"], &outputs),
        ["10.0.4.90"],
        "the ENI is full"
    );
}

#[test]
fn rule_9_a_family_that_is_refused_does_not_fail_the_other() {
    let vpc = Vpc::new();
    let node = ready(&vpc);
    node.lab.rules(|rules| {
        rules
            .denied_actions
            .insert("AssignIpv6Addresses".to_owned());
    });
    let addresses = [BATCH[0], BATCH[1], "2001:db8:4::80", BATCH[2]];
    let outputs = node.add_behind_one(&addresses, || {});
    assert_eq!(failed(&addresses, &outputs), ["2001:db8:4::80"]);
    let error = outputs[2].error_code(100);
    assert!(error.msg.contains("ec2:AssignIpv6Addresses"), "{error:?}");
}

#[test]
fn rule_10_pods_that_wait_share_the_attempts_while_aws_throttles() {
    let vpc = Vpc::new();
    let node = ready(&vpc);
    let outputs = node.add_behind_one(&BATCH, || node.lab.fail_next(ASSIGN, 999, Fault::Throttle));
    assert_eq!(failed(&BATCH, &outputs), BATCH[1..]);
    for output in &outputs[1..] {
        let error = output.error_code(11);
        assert!(
            error.msg.contains("AWS throttles AssignPrivateIpAddresses"),
            "{error:?}"
        );
    }
    let calls = node.lab.calls();
    assert!(
        calls[ASSIGN] <= 7,
        "one, and six attempts of the others: {calls:?}"
    );
    assert!(
        !calls.contains_key("DescribeNetworkInterfaces"),
        "{calls:?}"
    );
}

#[test]
fn rule_10_a_batch_in_which_all_is_refused_has_an_end() {
    let vpc = Vpc::new();
    let node = ready(&vpc);
    let outputs = node.add_behind_one(&BATCH, || {
        node.lab.fail_next(ASSIGN, 999, refusal("SomethingNew"))
    });
    assert_eq!(failed(&BATCH, &outputs), BATCH[1..]);
    let calls: u64 = node.lab.calls().values().sum();
    // Halves are asked for, and each address once more with a look at who has it.
    let most = 2 + 13 * 3 + 7 * 2;
    assert!(calls <= most, "{:?}", node.lab.calls());
}

#[test]
fn rule_11_the_secrets_that_no_test_may_find_are_those_in_use() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c1"), &[ADDRESS]).ok();
    let role = "/latest/meta-data/iam/security-credentials/eni-lab-node";
    assert!(
        node.lab.imds_calls().contains_key(role),
        "{:?}",
        node.lab.imds_calls()
    );
    let by_this_node = |event: &Event| {
        matches!(event, Event::Called { action, node: Some(by), outcome, .. }
            if action == ASSIGN && *by == node.instance && outcome == OK)
    };
    assert!(node.lab.events().iter().any(by_this_node));
}

#[test]
fn rule_11_errors_about_credentials_do_not_repeat_them() {
    let vpc = Vpc::new();
    let node = ready(&vpc);
    node.lab.fail_next(ASSIGN, 99, Fault::ExpiredCredentials);
    let error = node.add(&Pod::new("c1"), &[ADDRESS]).error_code(11);
    assert!(error.msg.contains("credentials"), "{error:?}");
    node.lab.no_role();
    let error = node.add(&Pod::new("c2"), &["10.0.4.71"]).error_code(11);
    assert!(error.msg.contains("credentials"), "{error:?}");
    node.run(
        &node
            .call("STATUS")
            .conf(&json!({ "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync" })),
    )
    .error_code(50);
}
