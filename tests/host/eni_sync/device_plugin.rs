//! The kubelet's device plugins: what the kubelet of a node is offered, and what becomes of it
//! when the kubelet, the agent, an ENI or EC2 goes and comes.

mod devices;
mod subnet;
mod updates;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use fixtures::handover::agent_socket;
use fixtures::kubelet::{DIRECTORY, Kubelet, directory};
use fixtures::scrape::{ADDRESS, get, get_as};
use harness::Pod;
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use serde_json::{Value, json};

use super::doctor::examine;

const ADDRESSES: &str = "eni-cni.io/user-plane";

/// How many addresses pods can have on an ENI of a c5.large.
const ROOM: usize = 9;

/// A configuration that offers the addresses of the ENI for pods.
fn configuration(vpc: &Vpc) -> Value {
    let resource = json!({
        "name": ADDRESSES, "eni": { "subnet": vpc.pods.to_string() }, "kind": "addresses",
    });
    json!({ "metrics": ADDRESS, "devicePluginPath": DIRECTORY, "resources": [resource] })
}

/// The value of a metric of the resources whose line begins so.
fn metric(node: &VpcNode, begins: &str) -> f64 {
    let (_, text) = get(node, "/metrics");
    let begins = format!("eni_sync_resource_{begins}");
    let line = text.lines().find(|line| line.starts_with(&begins));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {begins}: {text}"))
}

fn set_link(node: &VpcNode, state: &str) {
    node.node.netns.ip(&["link", "set", "ens6", state]);
}

#[test]
fn the_kubelet_is_offered_as_many_addresses_as_the_eni_has_room_for() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut kubelet = Kubelet::start(&node);
    let _agent = Agent::start(&node, &configuration(&vpc));
    let registered = kubelet.await_event("register");
    let endpoint = "eni-sync-eni-cni.io_user-plane.sock";
    let expected = json!({
        "event": "register", "version": "v1beta1", "endpoint": endpoint, "resource": ADDRESSES,
        "preferred": true, "listening": false,
    });
    assert_eq!(registered, expected);
    let options = kubelet.await_event("options");
    let found = (
        &options["preStart"],
        &options["preferred"],
        &options["mode"],
    );
    assert_eq!(found, (&json!(false), &json!(true), &json!(0o600)));
    let list = kubelet.await_list(ADDRESSES, ROOM, 0);
    for (number, device) in list["devices"].as_array().unwrap().iter().enumerate() {
        let id = format!("slot-{number}");
        assert_eq!(
            *device,
            json!({ "id": id, "health": "Healthy", "numa": [] })
        );
    }

    // A pod's network is the plugins' work: there is nothing for its containers.
    let containers = json!({ "containers": [["slot-0", "slot-1"], ["slot-8"]] });
    let nothing = json!({ "envs": {}, "devices": [], "mounts": 0, "annotations": {}, "cdi": 0 });
    let answer = kubelet.call("allocate", ADDRESSES, &containers);
    assert_eq!(answer["answer"], json!([nothing, nothing]));
    let unknown = kubelet.call(
        "allocate",
        ADDRESSES,
        &json!({ "containers": [["slot-9"]] }),
    );
    assert_eq!(unknown["code"], "NOT_FOUND");
    assert_eq!(
        unknown["details"],
        format!("{ADDRESSES} has no device \"slot-9\"")
    );
    let asked =
        json!({ "available": ["slot-8", "slot-3", "slot-1"], "must": ["slot-3"], "size": 2 });
    let preferred = kubelet.call("prefer", ADDRESSES, &asked);
    assert_eq!(preferred["answer"], json!([["slot-3", "slot-1"]]));
    let started = kubelet.call("start", ADDRESSES, &json!({ "ids": ["slot-0"] }));
    assert_eq!(started["answer"], Value::Null);
}

#[test]
fn addresses_of_pods_count_and_those_of_others_do_not() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let kubelet = Kubelet::start(&node);
    let _agent = Agent::start(&node, &configuration(&vpc));
    kubelet.await_list(ADDRESSES, ROOM, 0);
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    // What somebody else has on the ENI, no pod can get. It is found by the next comparison.
    let shown = node.run_directory().join("eni-cni/resources.json");
    let mut more: Value = serde_json::from_slice(&fs::read(&shown).unwrap()).unwrap();
    let one = json!({ "id": "slot-9", "eni": node.eni.as_str() });
    more[0]["devices"].as_array_mut().unwrap().push(one);
    fs::write(&shown, more.to_string()).unwrap();
    let status = node.command(&["status"]).stdout;
    let too_much = format!("; 10 of {}, which has room for 9\n", node.eni);
    assert!(status.contains(&too_much), "{status}");
    assert_eq!(metric(&node, "room{resource"), 9.0);
    more[0]["devices"].as_array_mut().unwrap().pop();
    fs::write(&shown, more.to_string()).unwrap();
    let taken = ["10.0.4.90", "10.0.4.91"].map(|address| address.parse().unwrap());
    node.lab.assign(&node.eni, &taken);
    node.command(&["sync", "--once"]);
    kubelet.await_list(ADDRESSES, ROOM - 2, 0);
}

#[test]
fn addresses_are_unhealthy_while_the_eni_is_of_no_use() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let mut kubelet = Kubelet::start(&node);
    let mut configuration = configuration(&vpc);
    configuration["links"] = json!(false);
    let agent = Agent::start(&node, &configuration);
    kubelet.await_list(ADDRESSES, ROOM, 0);
    set_link(&node, "down");
    kubelet.await_list(ADDRESSES, 0, ROOM);
    let said = format!("resource {ADDRESSES}: ens6 of {} is down", node.eni);
    assert!(
        eventually(|| agent.log().contains(&said)),
        "{}",
        agent.log()
    );
    let refused = kubelet.call(
        "allocate",
        ADDRESSES,
        &json!({ "containers": [["slot-0"]] }),
    );
    assert_eq!(refused["code"], "FAILED_PRECONDITION");
    set_link(&node, "up");
    kubelet.await_list(ADDRESSES, ROOM, 0);
    node.lab
        .untag_eni(&node.eni, "node.k8s.amazonaws.com/no_manage");
    node.command(&["sync", "--once"]);
    kubelet.await_list(ADDRESSES, 0, ROOM);
    assert_eq!(agent.log().matches(&said).count(), 1);
}

#[test]
fn a_kubelet_that_starts_anew_is_told_again() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let kubelet = Kubelet::start(&node);
    let agent = Agent::start(&node, &configuration(&vpc));
    kubelet.await_list(ADDRESSES, ROOM, 0);
    for _ in 0..2 {
        drop(kubelet_after(&node, Kubelet::start));
    }
    let kubelet = kubelet_after(&node, Kubelet::start);
    // Somebody removes the socket of the resource, and nothing else.
    let socket = directory(&node).join("eni-sync-eni-cni.io_user-plane.sock");
    fs::remove_file(&socket).unwrap();
    kubelet.await_event("register");
    kubelet.await_list(ADDRESSES, ROOM, 0);
    assert!(socket.exists());
    drop(agent);
    // An agent that was killed has left its socket.
    kubelet.await_event("end");
    let _agent = Agent::start(&node, &configuration(&vpc));
    kubelet.await_list(ADDRESSES, ROOM, 0);
}

fn kubelet_after(node: &VpcNode, start: impl Fn(&VpcNode) -> Kubelet) -> Kubelet {
    let kubelet = start(node);
    kubelet.await_event("register");
    kubelet.await_list(ADDRESSES, ROOM, 0);
    kubelet
}

#[test]
fn an_agent_that_can_watch_nothing_offers_what_there_is() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let kubelet = Kubelet::start(&node);
    let fault = ("inotify_init1", "error=EMFILE");
    let mut configuration = configuration(&vpc);
    // It would be up again before the next look.
    configuration["links"] = json!(false);
    let agent = Agent::spawn_with_fault(&node, &configuration, fault);
    kubelet.await_event("register");
    kubelet.await_list(ADDRESSES, ROOM, 0);
    set_link(&node, "down");
    kubelet.await_list(ADDRESSES, 0, ROOM);
    let said = "the resources of this node: failed to watch";
    assert_eq!(agent.log().matches(said).count(), 1, "{}", agent.log());
}

#[test]
fn a_kubelet_that_takes_a_resource_and_does_not_listen_is_asked_again() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let kubelet = Kubelet::deaf(&node);
    let _agent = Agent::start(&node, &configuration(&vpc));
    kubelet.await_event("register");
    kubelet.await_event("register");
    kubelet.await_list(ADDRESSES, ROOM, 0);
}

#[test]
fn a_kubelet_that_is_missing_or_refuses_keeps_the_agent_from_nothing() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &configuration(&vpc));
    let said = format!("resource {ADDRESSES}: there is no directory {DIRECTORY:?}");
    assert!(
        eventually(|| agent.log().contains(&said)),
        "{}",
        agent.log()
    );
    let kubelet = Kubelet::refusing(&node, "no resources today");
    kubelet.await_event("register");
    let refused = "the kubelet does not take it: no resources today; trying again";
    assert!(
        eventually(|| agent.log().contains(refused)),
        "{}",
        agent.log()
    );
    // It is tried again, and said once.
    kubelet.await_event("register");
    let resources = || {
        let report = node.command(&["status", "--json"]).stdout;
        serde_json::from_str::<Value>(&report).unwrap()["resources"].clone()
    };
    let expected = json!([{
        "name": ADDRESSES, "registered": false, "healthy": 9, "unhealthy": 0, "problems": [refused],
        "enis": [{ "eni": node.eni.as_str(), "devices": 9, "room": 9 }],
    }]);
    assert!(eventually(|| resources() == expected), "{}", resources());
    examine(&node, &[]).has("resource", "warning", refused);
    let (status, ready) = get(&node, "/readyz");
    assert_eq!(status, 200);
    assert!(
        ready.contains(&format!("resource {ADDRESSES}: {refused}")),
        "{ready}"
    );
    assert_eq!(metric(&node, "registered{resource"), 0.0);
    assert!(
        metric(
            &node,
            "registrations_total{resource=\"eni-cni.io/user-plane\",outcome=\"failure\""
        ) >= 2.0
    );
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    for said in [&said[..], refused] {
        assert_eq!(agent.log().matches(said).count(), 1, "{}", agent.log());
    }
    drop(kubelet);
    let _kubelet = kubelet_after(&node, Kubelet::start);
    assert!(eventually(|| metric(&node, "registered{resource") > 0.0));
    assert_eq!(
        metric(
            &node,
            "devices{resource=\"eni-cni.io/user-plane\",health=\"healthy\""
        ),
        9.0
    );
    let (_, ready) = get(&node, "/readyz");
    assert!(!ready.contains(ADDRESSES), "{ready}");
    let shown = node.command(&["status"]).stdout;
    let line = format!("resource {ADDRESSES}: 9 healthy, 0 unhealthy, registered with the kubelet");
    assert!(shown.contains(&format!("{line}\n")), "{shown}");
    examine(&node, &[]).is_well("resource");
}

#[test]
fn a_selector_that_matches_no_eni_gives_a_resource_without_devices_and_is_said_once() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let kubelet = Kubelet::start(&node);
    let mut configuration = configuration(&vpc);
    configuration["reconcileSeconds"] = json!(1);
    let selected = json!({ "tag": { "eni-cni/network": "user-plane" } });
    configuration["resources"][0]["eni"] = selected;
    let second = json!({
        "name": "eni-cni.io/all", "eni": { "subnet": "10.0.4.0/24" }, "kind": "addresses",
    });
    configuration["resources"]
        .as_array_mut()
        .unwrap()
        .push(second);
    let agent = Agent::start(&node, &configuration);
    kubelet.await_list("eni-cni.io/all", ROOM, 0);
    let said = format!("resource {ADDRESSES}: no ENI for pods of this node is selected");
    assert!(
        eventually(|| agent.log().contains(&said)),
        "{}",
        agent.log()
    );
    // The first resource that selects an ENI has it.
    node.lab.tag_eni(&node.eni, "eni-cni/network", "user-plane");
    kubelet.await_list(ADDRESSES, ROOM, 0);
    kubelet.await_list("eni-cni.io/all", 0, 0);
    let owned = format!("{} belongs to the resource {ADDRESSES}", node.eni);
    assert!(
        eventually(|| agent.log().contains(&owned)),
        "{}",
        agent.log()
    );
    assert_eq!(agent.log().matches(&said).count(), 1, "{}", agent.log());
}

#[test]
fn an_agent_whose_socket_gets_another_mode_goes_on() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let kubelet = Kubelet::start(&node);
    let mut configuration = configuration(&vpc);
    configuration["links"] = json!(false);
    let _agent = Agent::start(&node, &configuration);
    kubelet.await_list(ADDRESSES, ROOM, 0);
    fs::set_permissions(agent_socket(&node), Permissions::from_mode(0o660)).unwrap();
    set_link(&node, "down");
    kubelet.await_list(ADDRESSES, 0, ROOM);
}

#[test]
fn doctor_compares_what_the_kubelet_is_offered_with_what_ec2_says() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let kubelet = Kubelet::start(&node);
    let agent = Agent::start(&node, &configuration(&vpc));
    kubelet.await_list(ADDRESSES, ROOM, 0);
    let is_registered = || metric(&node, "registered{resource") > 0.0;
    assert!(eventually(is_registered), "{}", agent.log());
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    examine(&node, &[]).is_well("resource");
    let taken = ["10.0.4.90", "10.0.4.91"].map(|address| address.parse().unwrap());
    node.lab.assign(&node.eni, &taken);
    let differs = format!(
        "is offered 9 addresses of {}, which has room for 7",
        node.eni
    );
    examine(&node, &[]).has("resource", "warning", &differs);
    node.del(&pod);
    node.lab.detach_eni(&node.eni);
    let gone = format!(
        "9 devices of {}, which is not attached to this node",
        node.eni
    );
    examine(&node, &[]).has("resource", "warning", &gone);
}

#[test]
fn what_cannot_be_written_is_said_and_written_later() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let path = node.run_directory().join("eni-cni/resources.json");
    fs::create_dir_all(&path).unwrap();
    let kubelet = Kubelet::start(&node);
    let agent = Agent::start(&node, &configuration(&vpc));
    kubelet.await_list(ADDRESSES, ROOM, 0);
    let said = "failed to write /run/eni-cni/resources.json";
    assert!(eventually(|| get(&node, "/readyz").1.contains(said)));
    assert!(eventually(|| metric(&node, "registered{resource") > 0.0));
    // Each try changes the directory.
    let quiet = || {
        let directory = fs::metadata(path.parent().unwrap()).unwrap();
        directory.modified().unwrap().elapsed().unwrap_or_default()
    };
    assert!(eventually(|| quiet() > Duration::from_secs(3)));
    fs::remove_dir(&path).unwrap();
    let is_known = || {
        let shown = node.command(&["status"]).stdout;
        shown.contains("9 healthy, 0 unhealthy, registered with the kubelet\n")
    };
    assert!(eventually(is_known), "{}", agent.log());
    assert!(eventually(|| get(&node, "/readyz").1 == "ok"));
    assert_eq!(agent.log().matches(said).count(), 1, "{}", agent.log());
}

#[test]
fn a_node_that_cannot_be_looked_at_is_said_once_and_named_by_readiness_and_the_page() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let kubelet = Kubelet::start(&node);
    let agent = Agent::start(&node, &configuration(&vpc));
    kubelet.await_list(ADDRESSES, ROOM, 0);
    // The first comparison with EC2, which writes the file, is over then.
    assert!(eventually(|| get(&node, "/readyz").1 == "ok"));
    let path = node.run_directory().join("eni-cni/enis.json");
    let before = fs::read(&path).unwrap();
    fs::write(&path, "{").unwrap();
    let said = "the resources of this node: /run/eni-cni/enis.json is not an inventory";
    let is_named = || get(&node, "/readyz").1.contains(said);
    assert!(eventually(is_named), "{}", agent.log());
    let (_, _, page) = get_as(&node, "/", ADDRESS);
    assert!(page.contains(said), "{page}");
    fs::write(&path, before).unwrap();
    assert!(eventually(|| !is_named()), "{}", agent.log());
    assert_eq!(agent.log().matches(said).count(), 1, "{}", agent.log());
}
