//! What cannot be attached is named, with what is in the way, and leaves nothing behind.

use harness::{AwsNode, Output};
use serde_json::{Value, json};

use super::{ATTACH, CREATE, Site, attach, records};

/// An attempt that must fail and say all of this.
#[track_caller]
fn refused(node: &AwsNode, configuration: &Value, said: &[&str]) -> Output {
    let output = attach(node, configuration, &[]);
    assert_eq!(output.status, Some(1), "{output}");
    for said in said {
        assert!(
            output.stderr.contains(said),
            "{said:?} is not said\n{output}"
        );
    }
    output
}

#[test]
fn a_subnet_of_another_zone_is_named_with_the_zone_of_the_node() {
    let site = Site::new();
    let node = site.node();
    let far = site.lab.create_subnet(&site.vpc, "10.0.6.0/24", None);
    site.lab.set_zone(&far, "us-west-2c");
    let mut wanted = site.wanted("user", 1);
    wanted["subnets"] = json!({"ids": [far.as_str()]});
    let said = [
        "enis \"user\": no subnet that was chosen is in us-west-2a",
        far.as_str(),
    ];
    refused(&node, &site.configuration(&[wanted.clone()]), &said);
    wanted["subnets"] = json!({"tags": {"role": "nobody"}});
    let said = ["the tags role=nobody in vpc-"];
    refused(&node, &site.configuration(&[wanted]), &said);
    assert_eq!((site.changes(), records(&node)), (0, 0));
}

#[test]
fn a_security_group_that_is_not_there_is_named_and_others_are_attached() {
    let site = Site::new();
    let node = site.node();
    let mut wanted = site.wanted("lost", 1);
    wanted["securityGroups"] = json!({"tags": {"role": "nobody"}});
    let others = site.wanted("user", 1);
    let configuration = site.configuration(&[wanted.clone(), others.clone()]);
    refused(
        &node,
        &configuration,
        &["enis \"lost\": there is no security group"],
    );
    site.assert_exactly(&node, &[("user", 1)], "by tags");
    wanted["securityGroups"] = json!({"ids": ["sg-0ab0000000000ffff"]});
    let configuration = site.configuration(&[wanted, others]);
    refused(
        &node,
        &configuration,
        &["create an ENI for \"lost\"", "sg-0ab0000000000ffff"],
    );
    site.assert_exactly(&node, &[("user", 1)], "by ids");
    // That of the one that is attached.
    assert_eq!(records(&node), 1);
}

#[test]
fn without_a_slot_nothing_is_created_and_those_who_have_the_slots_are_named() {
    let site = Site::new();
    let node = site.node_of_type("c5.large");
    let configuration = site.configuration(&[site.wanted("user", 3)]);
    let said = [
        "enis \"user\": there is no room for one more ENI",
        "has all of its 3 ENIs",
        "(the primary ENI)",
        "(of \"user\")",
    ];
    refused(&node, &configuration, &said);
    site.assert_exactly(&node, &[("user", 2)], "two");
    assert_eq!(site.lab.calls()[CREATE], 2);
    let wanted = json!({"name": "x", "networkCard": 1,
        "subnets": {"ids": [site.pods.as_str()]}, "securityGroups": {"ids": [site.group.as_str()]}});
    refused(
        &node,
        &site.configuration(&[wanted]),
        &["c5.large has no network card 1"],
    );
}

#[test]
fn a_call_that_is_not_permitted_is_named_with_the_statement_of_the_policy() {
    for (action, statement) in [
        (CREATE, "CreateTaggedEnis"),
        (ATTACH, "AttachTaggedEnis"),
        ("ModifyNetworkInterfaceAttribute", "DeleteWithInstance"),
        ("DescribeSecurityGroups", "LookAtSecurityGroups"),
    ] {
        let site = Site::new();
        let node = site.node();
        let configuration = site.configuration(&[site.wanted("user", 1)]);
        site.lab.rules(|rules| {
            rules.denied_actions.insert(action.to_owned());
        });
        let said = [
            format!("the node's role does not permit ec2:{action}"),
            format!("the statement {statement} of iam-policy-attach.json permits it"),
        ];
        refused(&node, &configuration, &said.each_ref().map(String::as_str));
        site.lab.rules(|rules| rules.denied_actions.clear());
        super::attached(&node, &configuration);
        site.assert_exactly(&node, &[("user", 1)], action);
    }
}

#[test]
fn a_file_that_is_not_a_record_is_named_and_nothing_is_created() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    let directory = node.node.state().join("eni-cni/enis");
    std::fs::create_dir_all(&directory).unwrap();
    for (text, said) in [
        ("{", "x.json\" is not the record of an ENI"),
        (
            r#"{"formatVersion":3}"#,
            "x.json\" is the record of an ENI of a newer version",
        ),
    ] {
        std::fs::write(directory.join("x.json"), text).unwrap();
        refused(&node, &configuration, &[said]);
        let found = std::fs::read_to_string(directory.join("x.json")).unwrap();
        assert_eq!(found, text);
    }
    assert_eq!(site.changes(), 0);
}

#[test]
fn a_configuration_without_enis_is_refused() {
    let site = Site::new();
    let node = site.node();
    refused(&node, &json!({}), &["names no ENIs"]);
    refused(
        &node,
        &json!({"enis": []}),
        &["its key enis is missing or empty"],
    );
}
