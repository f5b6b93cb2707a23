//! An agent that has a role by EKS Pod Identity, on a node whose own role is not there: plugins
//! depend on the agent, and wait for the next one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use harness::Pod;
use harness::eni_lab::Certificate;
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use serde_json::{Value, json};

use super::equipped::Equipped;
use super::service_account::{Account, Way};
use super::status_check::status_call;

const ADDRESS: &str = "10.0.4.70";
/// The key that the simulated VPC accepts from anybody.
const KEY: &str = "AKIDLAB";

/// A node without a role, and how its agent gets one.
fn account(node: &VpcNode) -> Account<'_> {
    Account::new(node, Way::PodIdentity)
}

fn environment(node: &VpcNode) -> Value {
    let path = node.run_directory().join("eni-cni/environment.json");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    serde_json::from_slice(&fs::read(&path).unwrap()).unwrap()
}

#[test]
fn a_plugin_without_a_role_depends_on_the_agent_and_waits_for_the_next_one() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let account = account(&node);
    let agent = Agent::start(&account.host, &json!({}));
    node.run(&status_call(&node)).ok();
    node.add(&Pod::new("c0"), &["10.0.4.69"]).ok();
    let left = environment(&node);
    assert_eq!(left["hasOwnRole"], true);
    assert!(!left.to_string().contains("credentials"), "{left}");
    agent.kill();
    let error = node.run(&status_call(&node)).error_code(50);
    let said = "the agent of eni-sync does not answer, and its role is needed";
    assert_eq!(error.msg, said);
    thread::scope(|scope| {
        let add = scope.spawn(|| node.add(&Pod::new("c1"), &[ADDRESS]));
        // It has asked for credentials in vain by then.
        let tokens = || node.lab.imds_calls().values().sum::<u64>();
        let before = tokens();
        assert!(eventually(|| tokens() > before));
        assert!(!add.is_finished());
        let agent = Agent::start(&account.host, &json!({}));
        add.join().unwrap().ok();
        drop(agent);
    });
    assert_eq!(node.addresses(), ["10.0.4.69", ADDRESS]);
}

#[test]
fn a_plugin_without_the_permission_waits_for_the_agent_that_has_it() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let account = account(&node);
    Agent::start(&account.host, &json!({})).kill();
    // The role of the node may do nothing.
    let pod = Pod::new("c1");
    let call = node.pod_call("ADD", &pod, &[ADDRESS]);
    let call = call
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", "x");
    let action = "AssignPrivateIpAddresses";
    node.lab
        .rules(|rules| _ = rules.denied_actions.insert(action.into()));
    thread::scope(|scope| {
        let add = scope.spawn(|| node.run(&call));
        assert!(eventually(|| node.lab.calls().contains_key(action)));
        node.lab.rules(|rules| rules.denied_actions.clear());
        let agent = Agent::start(&account.host, &json!({}));
        add.join().unwrap().ok();
        drop(agent);
    });
    assert_eq!(node.addresses(), [ADDRESS]);
}

#[test]
fn gc_leaves_what_is_due_to_the_agent_whose_role_is_needed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let account = account(&node);
    let agent = Agent::start(&account.host, &json!({}));
    let pod = Pod::new("c1");
    // The agent would release it without GC before the test ends.
    let keys = json!({ "cooldownSeconds": 3600 });
    node.run(&node.conf_call("ADD", &pod, &[ADDRESS], &keys))
        .ok();
    node.gc(&[]);
    node.end_cooldown(ADDRESS);
    node.gc(&[]);
    let is_released = || node.addresses().is_empty();
    assert!(eventually(is_released), "{}", agent.log());
}

/// A node whose agent has these variables and a list of hosts that need no proxy.
fn with_list<'a>(
    node: &'a VpcNode,
    list: &str,
    variables: &[(&'static str, &str)],
) -> Equipped<'a> {
    let mut all = vec![("NO_PROXY", list.to_owned())];
    all.extend(
        variables
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned())),
    );
    Equipped {
        node,
        variables: all,
    }
}

/// Whether plugins have got the list of this agent.
fn has_left(node: &VpcNode, list: &str) -> bool {
    eventually(|| environment(node)["variables"]["NO_PROXY"] == list)
}

#[test]
fn plugins_get_the_way_of_the_agent_that_serves() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let first = Agent::start(&with_list(&node, "first", &[]), &json!({}));
    let nowhere = [
        ("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:9"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9"),
    ];
    // It cannot take over, because it cannot do the work.
    let second = Agent::start(&with_list(&node, "second", &nowhere), &json!({}));
    assert!(has_left(&node, "first"));
    // Whatever has changed them, the files are those of the agent that serves.
    let path = node.run_directory().join("eni-cni/environment.json");
    fs::write(&path, r#"{"variables":{"NO_PROXY":"third"}}"#).unwrap();
    assert!(has_left(&node, "first"));
    first.kill();
    assert!(has_left(&node, "second"), "{}", second.log());
}

#[test]
fn a_file_of_authorities_that_cannot_be_used_keeps_nothing_else_from_plugins() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let bundle = [("AWS_CA_BUNDLE", "/run/bundle.pem")];
    let agent = Agent::start(&with_list(&node, "first", &bundle), &json!({}));
    assert!(has_left(&node, "first"));
    let said =
        "plugins do not get this agent's settings for AWS: failed to read \"/run/bundle.pem\"";
    assert!(eventually(|| agent.log().contains(said)), "{}", agent.log());
    // Nobody is trusted in place of those that the agent was told of.
    let error = node.add(&Pod::new("c1"), &[ADDRESS]).error_code(5);
    assert!(error.msg.contains("AWS_CA_BUNDLE"), "{error:?}");
    agent.kill();
    let error = node.add(&Pod::new("c2"), &[ADDRESS]).error_code(5);
    assert!(error.msg.contains("authorities.pem"), "{error:?}");
    // The file is there now, and is left as it changes.
    let authorities = || fs::read(node.run_directory().join("eni-cni/authorities.pem"));
    let agent = Agent::start(&with_list(&node, "first", &bundle), &json!({}));
    for host in ["a.example", "b.example"] {
        let authority = Certificate::new(host).authority;
        fs::write(node.run_directory().join("bundle.pem"), &authority).unwrap();
        let is_left = || authorities().is_ok_and(|left| left == authority);
        assert!(eventually(is_left), "{host}: {}", agent.log());
    }
}

#[test]
fn a_password_of_a_proxy_is_not_left_to_anybody() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let with_user = "http://somebody:secret@proxy.example:3128".to_owned();
    let equipped = Equipped {
        node: &node,
        variables: vec![("HTTPS_PROXY", with_user), ("NO_PROXY", "*".to_owned())],
    };
    let agent = Agent::start(&equipped, &json!({}));
    let variables = environment(&node)["variables"].clone();
    let names: Vec<&String> = variables.as_object().unwrap().keys().collect();
    // The way to the simulated VPC, and what has no password.
    assert!(names.contains(&&"NO_PROXY".to_owned()), "{names:?}");
    assert!(!variables.to_string().contains("secret"), "{variables}");
    let is_said = || agent.log().contains("plugins do not get HTTPS_PROXY");
    assert!(eventually(is_said), "{}", agent.log());
}
