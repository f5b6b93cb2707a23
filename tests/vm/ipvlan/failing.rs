//! An ADD that fails in the middle, and what it leaves alone.

use std::fs;

use harness::Pod;
use harness::fault::{Counted, Fault, NO_MEMORY, Strike};
use serde_json::json;

use super::{add, call, conf, del, in_path, node, refused, reservations, with, with_script};

/// D7: the Go plugin's DEL deletes whatever has the interface's name.
#[test]
fn an_interface_that_is_not_ours_survives_a_failed_add_and_its_del() {
    let (node, pod) = (node(), Pod::new("c1"));
    pod.netns.ip(&["link", "add", "net1", "type", "dummy"]);
    refused(
        &node,
        &conf(),
        &pod,
        999,
        "interface \"net1\" already exists",
    );
    del(&node, &conf(), &pod);
    assert_eq!(pod.netns.links(), ["lo", "net1"]);
}

/// D7, where the other interface is an ipvlan interface too.
#[test]
fn another_networks_interface_survives_a_failed_add_and_its_del() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    let other = with(conf(), json!({"name": "other"}));
    refused(
        &node,
        &other,
        &pod,
        999,
        "interface \"net1\" already exists",
    );
    del(&node, &other, &pod);
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.2/24"]);
}

#[test]
fn a_second_add_of_the_same_attachment_leaves_the_first_as_it_is() {
    let (node, pod) = (node(), Pod::new("c1"));
    add(&node, &conf(), &pod);
    refused(
        &node,
        &conf(),
        &pod,
        999,
        "interface \"net1\" already exists",
    );
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.2/24"]);
    del(&node, &conf(), &pod);
    assert_eq!(
        (pod.netns.links(), reservations(&node)),
        (vec!["lo".to_owned()], vec![])
    );
}

#[test]
fn a_second_add_from_another_namespace_leaves_the_first_as_it_is() {
    let (node, pod, other) = (node(), Pod::new("c1"), Pod::new("c1"));
    add(&node, &conf(), &pod);
    let thing = "interface \"net1\" already exists";
    refused(&node, &conf(), &other, 999, thing);
    assert_eq!(pod.netns.addresses("net1"), ["10.0.4.2/24"]);
    del(&node, &conf(), &pod);
    assert_eq!(pod.netns.links(), ["lo"]);
    add(&node, &conf(), &other);
}

/// D1, D3: when the interface cannot be configured, the Go plugin leaks the address
/// and leaves the link.
#[test]
fn an_add_that_fails_after_ipam_gives_the_address_back_and_removes_the_link() {
    let (node, pod) = (node(), Pod::new("c1"));
    // The kernel refuses a gateway that is a broadcast address.
    let routes = json!([{"dst": "10.9.0.0/16", "gw": "10.0.4.255"}]);
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/24", "routes": routes});
    refused(
        &node,
        &with(conf(), json!({"ipam": ipam})),
        &pod,
        999,
        "failed to add route '10.9.0.0/16 via 10.0.4.255",
    );
}

/// D3: when IPAM fails, the Go plugin leaves the link.
#[test]
fn an_add_whose_ipam_fails_leaves_no_link() {
    // An address whose container has ended counts as free.
    let (node, other, pod) = (node(), Pod::new("c0"), Pod::new("c1"));
    let ipam = json!({"type": "host-local", "subnet": "10.0.4.0/24", "rangeStart": "10.0.4.9", "rangeEnd": "10.0.4.9"});
    let conf = with(conf(), json!({"ipam": ipam}));
    add(&node, &conf, &other);
    refused(
        &node,
        &conf,
        &pod,
        999,
        "no IP addresses available in range set: 10.0.4.9-10.0.4.9",
    );
}

/// D27: the specification wants the delegate's DEL after its failed ADD.
#[test]
fn the_delegates_del_runs_when_its_add_fails() {
    let (node, pod) = (node(), Pod::new("c1"));
    let log = tempfile::NamedTempFile::new().unwrap();
    let log_path = log.path().display().to_string();
    let (plugins, conf) = with_script(&format!(
        r#"echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >> {log_path}
           [ "$CNI_COMMAND" = DEL ] || {{ echo '{{"code": 42, "msg": "no luck", "details": "today"}}'; exit 1; }}"#
    ));
    let error = node
        .run(&in_path(call("ADD", &conf, &pod), &plugins))
        .error_code(42);
    assert_eq!(
        (error.msg.as_str(), error.details.as_str()),
        ("no luck", "today")
    );
    assert_eq!(
        fs::read_to_string(log.path()).unwrap(),
        "ADD c1 net1\nDEL c1 net1\n"
    );
    assert_eq!(
        (pod.netns.links(), reservations(&node)),
        (vec!["lo".to_owned()], vec![])
    );
}

/// Where the name is taken on the node, the interface begins under another one.
#[test]
fn an_interface_that_could_not_get_its_name_does_not_stay_under_another() {
    let (node, pod) = (node(), Pod::new("c1"));
    node.netns.ip(&["link", "add", "net1", "type", "dummy"]);
    let struck = (1..).map(|nth| {
        let how = Strike {
            fault: Fault::Error(NO_MEMORY),
            counted: Counted::All,
            nth,
        };
        node.strike(&call("ADD", &conf(), &pod), how)
    });
    let struck = struck.take_while(|struck| struck.hit.is_some());
    let failed = struck.map(|struck| {
        let output = struck.output;
        // It was about the interfaces of others, and is only reported.
        let has_failed = output.status != Some(0);
        if !has_failed {
            del(&node, &conf(), &pod);
        }
        assert_eq!(pod.netns.links(), ["lo"], "{output}");
        assert_eq!(reservations(&node), [""; 0], "{output}");
        has_failed
    });
    let count = failed.filter(|has_failed| *has_failed).count();
    assert!(count > 0, "there was no such system call");
    del(&node, &conf(), &pod);
    assert_eq!(pod.netns.links(), ["lo"]);
}
