//! What the agent and the commands log: whose an address was, and who removed it.

use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use harness::{Output, Pod};
use serde_json::{Value, json};

const ADDRESS: &str = "10.0.4.71";

/// The events of the log that name an address, as `grep` finds them.
fn grep(agent: &Agent, address: &str) -> Vec<Value> {
    let log = agent.raw_log();
    let lines = log.lines().filter(|line| line.contains(address));
    lines
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect()
}

fn event<'a>(events: &'a [Value], message: &str) -> Option<&'a Value> {
    events.iter().find(|event| event["message"] == message)
}

/// Waits until the log has an event with this message about an address.
#[track_caller]
fn await_event(agent: &Agent, address: &str, message: &str) -> Value {
    let find = || event(&grep(agent, address), message).cloned();
    assert!(eventually(|| find().is_some()), "{}", agent.raw_log());
    find().unwrap()
}

/// An ADD of a pod of the name `user/smf-0`.
fn add(node: &VpcNode, pod: &Pod, keys: &Value) -> Output {
    let call = node.conf_call("ADD", pod, &[ADDRESS], keys);
    let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=user;K8S_POD_NAME=smf-0";
    node.run(&call.env("CNI_ARGS", arguments))
}

#[test]
fn the_log_tells_who_had_an_address_and_who_has_removed_it() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    let pod = Pod::new("c1");
    add(&node, &pod, &json!({ "cooldownSeconds": 1 })).ok();
    node.del(&pod);
    let released = await_event(&agent, ADDRESS, "released");
    let events = grep(&agent, ADDRESS);
    let assigned = event(&events, "assigned").unwrap();
    for (event, reason) in [
        (assigned, "for its attachment"),
        (&released, "its cool-down is over"),
    ] {
        assert_eq!(event["level"], "info");
        assert_eq!(event["eni"], node.eni.as_str());
        assert_eq!(event["address"], ADDRESS);
        assert_eq!(event["pod"], "user/smf-0");
        assert_eq!(event["network"], "mgmt");
        assert_eq!(event["container"], "c1");
        assert_eq!(event["interface"], "net1");
        assert_eq!(event["reason"], reason);
        let time = event["time"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    }
    for action in ["AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"] {
        let asked = events.iter().find(|event| event["action"] == action);
        let id = asked.and_then(|event| event["request_id"].as_str());
        assert_eq!(id.map(str::len), Some(36), "{events:#?}");
    }
    let start = &agent.events()[0];
    assert_eq!(start["message"], "the agent starts");
    assert!(start["version"].is_string());
    // What is not configured is logged with its default.
    assert_eq!(start["reconcile_seconds"], 420);
    assert_eq!(start["metrics"], "not served");
    assert_eq!(
        (&start["networks"], &start["links"]),
        (&json!(""), &json!(true))
    );
    let eni = agent.events().into_iter().find(|event| {
        event["message"] == "an ENI of this node" && event["eni"] == node.eni.as_str()
    });
    let eni = eni.expect("the ENI is named");
    assert_eq!(eni["instance"], node.instance.as_str());
    assert_eq!(
        (&eni["interface"], &eni["is_for_pods"]),
        (&json!("ens6"), &json!(true))
    );
}

#[test]
fn a_repair_an_adoption_and_a_refusal_are_told() {
    let vpc = Vpc::new();
    let (node, other) = (vpc.node(), vpc.node());
    let pod = Pod::new("c1");
    add(&node, &pod, &json!({})).ok();
    node.lab.unassign(&node.eni, &[ADDRESS.parse().unwrap()]);
    node.lab.assign(&node.eni, &["10.0.4.99".parse().unwrap()]);
    other.add(&Pod::new("c0"), &["10.0.4.80"]).ok();
    node.let_time_pass(60);
    let agent = Agent::start(&node, &json!({}));
    let lost = await_event(&agent, ADDRESS, "lost");
    assert_eq!(
        (&lost["level"], &lost["pod"]),
        (&json!("warn"), &json!("user/smf-0"))
    );
    await_event(&agent, ADDRESS, "assigned");
    let adopted = await_event(&agent, "10.0.4.99", "adopted");
    assert_eq!(adopted["reason"], "on the ENI, and unknown to the ledger");
    node.add(&Pod::new("c2"), &["10.0.4.80"]).error_code(11);
    let refused = await_event(&agent, "10.0.4.80", "refused");
    assert_eq!(
        (&refused["code"], &refused["container"]),
        (&json!(11), &json!("c2"))
    );
    let reason = refused["reason"].as_str().unwrap();
    assert!(reason.contains(other.eni.as_str()), "{reason}");
}

#[test]
fn what_a_pod_is_called_makes_no_line_of_the_log() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    let forged = "x\n{\"level\":\"info\",\"message\":\"released\"}\u{202e}";
    let pod = Pod::new("c1");
    let call = node.pod_call("ADD", &pod, &[ADDRESS]);
    let arguments = format!("K8S_POD_NAMESPACE=user;K8S_POD_NAME={forged}");
    node.run(&call.env("CNI_ARGS", &arguments)).ok();
    let assigned = await_event(&agent, ADDRESS, "assigned");
    assert_eq!(assigned["pod"], format!("user/{forged}"));
    assert_eq!(event(&agent.events(), "released"), None);
    assert!(!agent.raw_log().contains('\u{202e}'));
}

#[test]
fn a_command_logs_what_it_is_asked_to_and_a_plugin_nothing() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let adopted = format!("INFO  adopted eni={} address=10.0.4.9", node.eni);
    for (number, (level, variable, is_told)) in [
        (None, None, false),
        (Some("info"), None, true),
        (None, Some("warn,eni_sync=info"), true),
        (Some("error"), Some("trace"), false),
    ]
    .into_iter()
    .enumerate()
    {
        let address = format!("10.0.4.9{number}").parse().unwrap();
        node.lab.assign(&node.eni, &[address]);
        let mut arguments = vec!["sync", "--once", "--log-format", "text"];
        arguments.extend(level.into_iter().flat_map(|level| ["--log-level", level]));
        let call = node.call("").env("RUST_LOG", variable.unwrap_or_default());
        let output = node.command_with(&call, &arguments);
        assert_eq!(output.status, Some(0), "{output}");
        assert_eq!(output.stderr.contains(&adopted), is_told, "{output}");
    }
    let pod = Pod::new("c1");
    let call = node.pod_call("ADD", &pod, &[ADDRESS]);
    let output = node.run(&call.env("RUST_LOG", "trace"));
    assert_eq!(
        (output.status, output.stderr.as_str()),
        (Some(0), ""),
        "{output}"
    );
}

/// Its lines are the SDK's, which repeats whole requests with what signs them.
#[test]
fn the_sdk_is_never_logged() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let call = node
        .call("")
        .env("RUST_LOG", "trace,aws_sigv4=trace,hyper=trace");
    let output = node.command_with(&call, &["sync", "--once"]);
    assert_eq!(output.status, Some(0), "{output}");
    let asked = harness::log::events(&output.stderr);
    assert!(event(&asked, "EC2 was asked").is_some(), "{output}");
    assert!(!output.stderr.contains("Authorization"), "{output}");
}
