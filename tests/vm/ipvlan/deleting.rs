//! DEL in every state that a runtime, a pod or a crash can leave.

use std::fs;

use harness::{Call, Pod};
use serde_json::json;

use super::{add, call, conf, del, node, reservations, with};

#[test]
fn del_is_success_before_any_add_and_as_often_as_it_comes() {
    let (node, pod) = (node(), Pod::new("c1"));
    del(&node, &conf(), &pod);
    add(&node, &conf(), &pod);
    for _ in 0..3 {
        del(&node, &conf(), &pod);
        assert_eq!(
            (pod.netns.links(), reservations(&node)),
            (vec!["lo".to_owned()], vec![])
        );
    }
}

#[test]
fn del_releases_the_address_whatever_has_become_of_the_namespace() {
    let node = node();
    let directory = tempfile::tempdir().unwrap();
    let bogus = directory.path().join("bogus");
    fs::write(&bogus, "x").unwrap();
    for netns in [
        "",
        "/no/such/netns",
        bogus.to_str().unwrap(),
        "/proc/self/ns/uts",
    ] {
        let pod = Pod::new("c1");
        add(&node, &conf(), &pod);
        let call = call("DEL", &conf(), &pod).env("CNI_NETNS", netns);
        drop(pod);
        node.run(&call).ok();
        assert_eq!(reservations(&node), [""; 0], "{netns:?}");
    }
    assert_eq!(fs::read_to_string(&bogus).unwrap(), "x");
}

#[test]
fn del_without_a_namespace_still_removes_the_interface_from_one_that_exists() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    node.run(&call("DEL", &conf(), &pod).without("CNI_NETNS"))
        .ok();
    assert_eq!(
        (pod.netns.links(), reservations(&node)),
        (vec!["lo".to_owned()], vec![])
    );
}

#[test]
fn del_leaves_an_interface_in_another_namespace_at_the_same_path_alone() {
    let node = node();
    let (first, second) = (Pod::new("c1"), Pod::new("c2"));
    add(&node, &conf(), &first);
    add(&node, &conf(), &second);
    let call = call("DEL", &conf(), &first).env("CNI_NETNS", &second.netns.path());
    node.run(&call).ok();
    assert_eq!(second.netns.addresses("net1"), ["10.0.4.3/24"]);
    assert_eq!(first.netns.links(), ["lo"]);
}

#[test]
fn del_works_from_a_stripped_configuration() {
    let node = node();
    let directory = tempfile::tempdir().unwrap();
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/24", "dataDir": directory.path()});
    let conf = with(conf(), json!({"ipam": ipam}));
    for stripped in [
        json!({"cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "ipam": {"type": "host-local"}}),
        json!({"cniVersion": "", "name": "net", "type": "ipvlan", "ipam": {}}),
        json!({"cniVersion": "1.1.0", "name": "net", "type": "ipvlan"}),
    ] {
        let pod = Pod::new("c1");
        let result = add(&node, &conf, &pod);
        let mut stripped = stripped;
        if stripped["cniVersion"] == "1.1.0" {
            stripped["prevResult"] = result;
        }
        del(&node, &stripped, &pod);
        assert_eq!(pod.netns.links(), ["lo"]);
        assert_eq!(reservations(&node), [""; 0]);
        let address = directory.path().join("net").join("10.0.4.2");
        assert!(
            !address.exists()
                && fs::read_dir(directory.path().join("net"))
                    .unwrap()
                    .all(|f| {
                        !f.unwrap()
                            .file_name()
                            .to_string_lossy()
                            .starts_with("10.0.4.")
                    })
        );
    }
}

#[test]
fn del_succeeds_whatever_has_become_of_the_configuration() {
    let node = node();
    for changes in [
        json!({"ipam": []}),
        json!({"ipam": {"type": 7}}),
        json!({"ipam": {"type": "another"}}),
        json!({"mode": "l4", "mtu": -1, "master": 7}),
        json!({"prevResult": 7}),
        json!({"dns": "x"}),
    ] {
        let pod = Pod::new("c1");
        add(&node, &conf(), &pod);
        del(&node, &with(conf(), changes), &pod);
        assert_eq!(pod.netns.links(), ["lo"]);
        assert_eq!(reservations(&node), [""; 0]);
    }
}

#[test]
fn del_succeeds_when_the_master_is_gone() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    node.netns.ip(&["link", "del", "eth1"]);
    del(&node, &conf(), &pod);
    assert_eq!(reservations(&node), [""; 0]);
}

#[test]
fn del_leaves_the_other_interfaces_of_the_pod_and_other_pods_alone() {
    let node = node();
    let (first, second) = (Pod::new("c1"), Pod::new("c2"));
    add(&node, &conf(), &first);
    node.run(
        &Call::ours("ipvlan", "ADD")
            .conf(&conf())
            .pod(&first, "net2"),
    )
    .ok();
    add(&node, &conf(), &second);
    del(&node, &conf(), &first);
    assert_eq!(first.netns.links(), ["lo", "net2"]);
    assert_eq!(second.netns.links(), ["lo", "net1"]);
    assert_eq!(reservations(&node).len(), 4);
}

#[test]
fn an_add_that_was_killed_is_cleaned_up_by_the_next_one() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    pod.netns.ip(&["link", "del", "net1"]);
    add(&node, &conf(), &pod);
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.3/24"]);
    assert_eq!(reservations(&node).len(), 2);
}

#[test]
fn an_interface_that_the_go_plugin_made_is_removed_when_its_result_shows_it() {
    let (node, pod) = (node(), Pod::new("c1"));
    let conf = with(conf(), json!({"cniVersion": "1.0.0"}));
    let result = node
        .run(&Call::go("ipvlan", "ADD").conf(&conf).pod(&pod, "net1"))
        .ok();
    del(&node, &with(conf, json!({"prevResult": result})), &pod);
    assert_eq!(
        (pod.netns.links(), reservations(&node)),
        (vec!["lo".to_owned()], vec![])
    );
}

#[test]
fn a_record_that_is_damaged_does_not_break_del() {
    let (node, pod) = (node(), Pod::new("c1"));
    for damage in ["", "{", "[]", "null", "\u{0}\u{ff}"] {
        let result = add(&node, &conf(), &pod);
        fs::write(node.state().join("eni-cni/ipvlan/net/c1:net1.json"), damage).unwrap();
        del(&node, &with(conf(), json!({"prevResult": result})), &pod);
        assert_eq!(
            (pod.netns.links(), reservations(&node)),
            (vec!["lo".to_owned()], vec![]),
            "{damage:?}"
        );
    }
}
