//! Who has the slots of the instance, and that `status` and `doctor` say the same of it.

use std::collections::BTreeMap;

use harness::eni_lab::EniId;
use harness::{AwsNode, Host};
use serde_json::{Value, json};

use super::{CREATE, Site, attach, attached, call};

/// A node whose four slots four parties have, with the inventory of it: the ENI of the VPC CNI,
/// and that of a tool.
fn shared(site: &Site) -> (AwsNode, EniId, EniId) {
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    let theirs = site.lab.create_eni(&site.nodes);
    site.lab.attach_eni(&theirs, &node.instance, 2);
    let tool = site.lab.multus_eni(&node.instance, &site.pods);
    site.lab
        .set_requester(&tool, "AROA1:attach-2nd-eni-lambda", false);
    site.lab.tag_eni(&tool, "team", "core");
    let configuration = site.configuration(&[site.wanted("user", 2)]);
    let output = attach(&node, &configuration, &[]);
    assert_eq!(output.status, Some(1), "{output}");
    (node, theirs, tool)
}

fn eni_sync(node: &AwsNode, arguments: &[&str]) -> String {
    let configured = [arguments, &["--agent-config", "/run/eni-sync.json"]].concat();
    node.node
        .run(&node.eni_sync().arguments(&configured))
        .stdout
}

fn json_of(node: &AwsNode, arguments: &[&str]) -> Value {
    serde_json::from_str(&eni_sync(node, arguments)).unwrap()
}

#[test]
fn a_configuration_of_the_agent_that_is_not_there_is_named() {
    let site = Site::new();
    let node = site.node();
    let arguments = ["status", "--agent-config", "/run/misspelt.json"];
    let output = node.node.run(&node.eni_sync().arguments(&arguments));
    assert!(output.stderr.contains("/run/misspelt.json"), "{output}");
}

#[test]
fn status_tells_who_has_each_slot() {
    let site = Site::new();
    let (node, theirs, tool) = shared(&site);
    for live in [&["status", "--json"][..], &["status", "--json", "--live"]] {
        let status = json_of(&node, live);
        let enis = status["enis"].as_array().unwrap();
        let holders: BTreeMap<&str, &str> = enis
            .iter()
            .map(|eni| (eni["id"].as_str().unwrap(), eni["holder"].as_str().unwrap()))
            .collect();
        assert_eq!(holders[theirs.as_str()], "vpc-cni", "{status:#}");
        assert_eq!(holders[tool.as_str()], "other-for-pods", "{status:#}");
        let mut all: Vec<&str> = holders.into_values().collect();
        all.sort_unstable();
        assert_eq!(all, ["network", "other-for-pods", "primary", "vpc-cni"]);
        let of_tool = enis.iter().find(|eni| eni["id"] == tool.as_str()).unwrap();
        let origin = ["description", "requesterId", "requesterManaged"].map(|key| &of_tool[key]);
        let requester = json!("AROA1:attach-2nd-eni-lambda");
        assert_eq!(origin, [&json!("multus"), &requester, &json!(false)]);
        assert_eq!(of_tool["tags"]["team"], "core");
        assert_eq!(
            status["wanted"],
            json!([{"name": "user", "count": 2, "attached": 1}])
        );
        let slots = &status["slots"][0];
        let numbers = ["networkCard", "limit", "used"].map(|key| &slots[key]);
        assert_eq!(numbers, [&json!(0), &json!(4), &json!(4)], "{slots}");
    }
    let text = eni_sync(&node, &["status"]);
    for said in [
        "ENIs user: 1 of 2 attached\n",
        "network card 0: 4 of 4 ENIs: ",
        &format!(
            "{tool} (for pods, attached by somebody else: description \"multus\", created by \
             AROA1:attach-2nd-eni-lambda, tags team=core)"
        ),
    ] {
        assert!(text.contains(said), "{said}\n{text}");
    }
}

#[test]
fn the_doctor_says_the_same_of_the_slots_and_what_to_do_about_an_extra_eni() {
    let site = Site::new();
    let (node, ..) = shared(&site);
    let configuration = site.configuration(&[site.wanted("other", 1)]);
    node.node.run(&call(&node, &configuration, &["--dry-run"]));
    let text = eni_sync(&node, &["status"]);
    let line = text.lines().find(|l| l.starts_with("network card 0: "));
    let report = json_of(&node, &["doctor", "--json"]);
    let found = |check: &str| {
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("{report:#}")).clone()
    };
    let says = found("interface-slots")["says"].clone();
    assert_eq!(
        line,
        Some(&*format!("network card 0: {}", says.as_str().unwrap()))
    );
    assert!(
        line.unwrap()
            .contains("(of \"user\", more than the configuration names)")
    );
    assert_eq!(found("enis-wanted")["says"], "0 of 1 are attached");
    let unwanted = found("enis-unwanted");
    assert_eq!(unwanted["level"], "info");
    assert!(
        unwanted["advice"]
            .as_str()
            .unwrap()
            .contains("eni-sync detach")
    );
}

#[test]
fn an_attach_knows_the_slots_also_when_ec2_does_not_say_the_limit_any_more() {
    let site = Site::new();
    let (node, _, tool) = shared(&site);
    site.lab.rules(|rules| {
        rules.denied_actions.insert("DescribeInstanceTypes".into());
    });
    site.lab.reset_calls();
    let output = attach(&node, &site.configuration(&[site.wanted("user", 2)]), &[]);
    assert_eq!(output.status, Some(1), "{output}");
    for said in ["has all of its 4 ENIs: ", tool.as_str()] {
        assert!(output.stderr.contains(said), "{said}\n{output}");
    }
    assert!(!site.lab.calls().contains_key(CREATE));
}
