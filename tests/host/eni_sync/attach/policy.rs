//! Each request is held against the statements of the published policies.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use harness::{Host, repository};
use serde_json::{Value, json};

use super::{CHANGES, Site, attached, detach_call};

const NO_MANAGE: &str = "node.k8s.amazonaws.com/no_manage";

fn policy(name: &str) -> Vec<Value> {
    let path = repository().join("eni-sync").join(name);
    let text = fs::read_to_string(path).unwrap();
    let policy: Value = serde_json::from_str(&text).unwrap();
    policy["Statement"].as_array().unwrap().clone()
}

fn actions(statements: &[Value]) -> BTreeSet<String> {
    let actions = statements
        .iter()
        .flat_map(|s| s["Action"].as_array().unwrap());
    actions
        .map(|action| action.as_str().unwrap().to_owned())
        .collect()
}

/// What a request is about: a kind of resource, and the keys of its context.
type Context = (&'static str, BTreeMap<String, String>);

fn is_satisfied(condition: &Value, context: &BTreeMap<String, String>) -> bool {
    let operators = condition.as_object().into_iter().flatten();
    operators.into_iter().all(|(operator, keys)| {
        keys.as_object().unwrap().iter().all(|(key, value)| {
            let found = context.get(key).map(String::as_str);
            match operator.as_str() {
                "StringEquals" | "ArnEquals" => found == value.as_str(),
                "Null" => found.is_none() == (value == "true"),
                other => panic!("{other} is not known"),
            }
        })
    })
}

fn is_of(resource: &Value, kind: &str) -> bool {
    let pattern = |text: &str| text == "*" || text.ends_with(&format!(":{kind}/*"));
    match resource {
        Value::Array(list) => list.iter().any(|text| pattern(text.as_str().unwrap())),
        text => pattern(text.as_str().unwrap()),
    }
}

/// Whether the statements permit the action on each of its resources.
fn permits(statements: &[Value], action: &str, contexts: &[Context]) -> bool {
    contexts.iter().all(|(kind, context)| {
        statements.iter().any(|statement| {
            let actions = statement["Action"].as_array().unwrap();
            actions.iter().any(|a| a == action)
                && is_of(&statement["Resource"], kind)
                && is_satisfied(&statement["Condition"], context)
        })
    })
}

fn context(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    owned.collect()
}

/// The resources of each action, with these tags on the ENI. Source: Service Authorization
/// Reference, "Actions, resources, and condition keys for Amazon EC2".
fn contexts(action: &str, tags: &[(&str, &str)]) -> Vec<Context> {
    const VPC: (&str, &str) = ("ec2:Vpc", "arn:PARTITION:ec2:REGION:ACCOUNT:vpc/VPC");
    let tagged = |prefix: &str| {
        let keys: Vec<(String, &str)> = tags
            .iter()
            .map(|(k, v)| (format!("{prefix}/{k}"), *v))
            .collect();
        let keys = keys.iter().map(|(k, v)| (k.as_str(), *v));
        context(&keys.collect::<Vec<_>>())
    };
    let eni = {
        let mut keys = tagged("aws:ResourceTag");
        keys.extend(context(&[VPC]));
        ("network-interface", keys)
    };
    let cluster = [("aws:ResourceTag/kubernetes.io/cluster/CLUSTER", "owned")];
    let instance = ("instance", context(&cluster));
    match action {
        "ec2:CreateNetworkInterface" => vec![
            ("network-interface", tagged("aws:RequestTag")),
            ("subnet", context(&[VPC])),
            ("security-group", context(&[VPC])),
        ],
        "ec2:CreateTags" => {
            let created = [("ec2:CreateAction", "CreateNetworkInterface")];
            vec![("network-interface", context(&created))]
        }
        "ec2:AttachNetworkInterface" | "ec2:DetachNetworkInterface" => vec![eni, instance],
        "ec2:ModifyNetworkInterfaceAttribute" | "ec2:DeleteNetworkInterface" => vec![eni],
        _ => vec![("*", context(&[("aws:RequestedRegion", "REGION")]))],
    }
}

#[test]
fn all_that_attach_and_detach_do_needs_both_policies_and_nothing_more() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 2)]);
    attached(&node, &configuration);
    let tags = site.enis().remove(0).tags;
    let tags: Vec<(&str, &str)> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let leaked = node.eni_sync().arguments(&["detach", "--leaked"]);
    for call in [detach_call(&node, &json!({}), &[]), leaked] {
        let output = node.node.run(&call);
        assert_eq!(output.status, Some(0), "{output}");
    }
    let (base, own) = (policy("iam-policy.json"), policy("iam-policy-attach.json"));
    let all = [base.clone(), own.clone()].concat();
    let mut called: BTreeSet<String> = site
        .lab
        .calls()
        .into_keys()
        .map(|action| format!("ec2:{action}"))
        .collect();
    // EC2 checks it for the tags of what is created.
    called.insert("ec2:CreateTags".to_owned());
    for action in &called {
        let contexts = contexts(action, &tags);
        assert!(permits(&all, action, &contexts), "{action} {contexts:?}");
    }
    let needed: BTreeSet<String> = actions(&own).difference(&called).cloned().collect();
    assert_eq!(needed, BTreeSet::new(), "nothing needs these");
    // Without the policy of its own, none of its calls is permitted.
    for action in actions(&own) {
        assert!(
            !permits(&base, &action, &contexts(&action, &tags)),
            "{action}"
        );
    }
}

#[test]
fn enis_of_others_are_out_of_reach() {
    let own = policy("iam-policy-attach.json");
    let ours = [(NO_MANAGE, "true"), ("eni-cni/instance", "i-1")];
    for action in CHANGES.map(|action| format!("ec2:{action}")) {
        assert!(
            permits(&own, &action, &contexts(&action, &ours)),
            "{action}"
        );
        for tags in [&ours[..1], &ours[1..], &[]] {
            assert!(
                !permits(&own, &action, &contexts(&action, tags)),
                "{action} {tags:?}"
            );
        }
    }
}

/// What a refusal names is there.
#[test]
fn the_statements_that_refusals_name_permit_what_was_refused() {
    let own = policy("iam-policy-attach.json");
    for (action, sid) in [
        ("DescribeSecurityGroups", "LookAtSecurityGroups"),
        ("CreateNetworkInterface", "CreateTaggedEnis"),
        ("AttachNetworkInterface", "AttachTaggedEnis"),
        ("ModifyNetworkInterfaceAttribute", "DeleteWithInstance"),
        ("DetachNetworkInterface", "DetachTaggedEnis"),
        ("DeleteNetworkInterface", "DeleteTaggedEnis"),
    ] {
        let statement = own.iter().find(|statement| statement["Sid"] == sid);
        let statement = statement.unwrap_or_else(|| panic!("there is no {sid}"));
        let action = json!([format!("ec2:{action}")]);
        assert_eq!(statement["Action"], action, "{sid}");
    }
}
