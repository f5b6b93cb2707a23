//! Names and answers that are longer than a file of the ledger may be: nothing is written that
//! nobody could read, because what it says would never end.

use harness::eni_lab::Fault;
use harness::vpc::{Vpc, VpcNode, assert_refused};
use harness::{Call, Pod};
use serde_json::json;

use super::ipam::{ASSIGN, add, call, call_with, intents, ipv4, sharing};

/// More than a file of the ledger has.
const LENGTH: usize = 70_000;

/// Calls whose attachment has a long name, each with what it is asked for.
fn calls_with_long_names(node: &VpcNode, pod: &Pod) -> [Call; 4] {
    let name = "n".repeat(LENGTH);
    let named = json!({ "families": ["ipv4"], "addresses": ["10.0.4.70"] });
    let long_pod = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=x;K8S_POD_NAME={name}");
    let keys = json!({ "name": name });
    [
        call_with(node, "ADD", pod, &ipv4(), &keys),
        call_with(node, "ADD", pod, &named, &keys),
        call(node, "ADD", pod, &ipv4()).env("CNI_ARGS", &long_pod),
        node.pod_call("ADD", pod, &["10.0.4.70"])
            .env("CNI_ARGS", &long_pod),
    ]
}

#[test]
fn an_attachment_that_the_ledger_cannot_hold_is_refused_before_ec2_is_asked() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = sharing(&node, "c1");
    for call in calls_with_long_names(&node, &pod) {
        let said = [
            "cannot write the attachment into the ledger",
            "shorter names",
        ];
        assert_refused(&node, &call, 7, &said);
        node.run(&call.env("CNI_COMMAND", "DEL")).ok();
        assert!(node.ledger().is_empty(), "{:?}", node.ledger());
        assert_eq!(intents(&node), [""; 0]);
    }
    add(&node, &pod);
}

#[test]
fn a_long_answer_of_ec2_blocks_no_address() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let refusal = Fault::Error {
        status: 403,
        code: "UnauthorizedOperation".to_owned(),
        message: "no ".repeat(LENGTH / 3),
    };
    for request in [
        node.pod_call("ADD", &Pod::new("c1"), &["10.0.4.70"]),
        call(&node, "ADD", &sharing(&node, "c2"), &ipv4()),
    ] {
        node.lab.fail_next(ASSIGN, 1, refusal.clone());
        let error = node.run(&request).error_code(100);
        assert!(error.details.contains("no no no"), "{}", error.details);
        node.run(&request.env("CNI_COMMAND", "DEL")).ok();
    }
    node.add(&Pod::new("c3"), &["10.0.4.70"]).ok();
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    node.command(&["sync", "--once"]);
    assert_eq!(node.ledger()["10.0.4.70"], "held");
}
