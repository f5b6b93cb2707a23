//! An ENI is not taken away while any source shows that a pod uses it: nothing undoes its deletion.

use std::time::Duration;

use harness::eni_lab::Shown;
use harness::vpc::{eventually, ip};
use harness::{AwsNode, Output, Pod, Resident};
use serde_json::json;

use super::{Site, attached, detach_call};

/// The only ENI for pods, on a node.
fn only_eni(site: &Site, node: &AwsNode) -> Shown {
    attached(node, &site.configuration(&[site.wanted("user", 1)]));
    site.enis().remove(0)
}

fn detach(node: &AwsNode) -> Output {
    node.node.run(&detach_call(node, &json!({}), &[]))
}

#[track_caller]
fn assert_kept(site: &Site, output: &Output, said: &str) {
    assert_eq!(output.status, Some(1), "{output}");
    assert!(output.stdout.contains(said), "{said}\n{output}");
    assert_eq!(site.enis().len(), 1, "{output}");
}

/// Another program has assigned it a moment ago.
#[test]
fn an_eni_stays_while_a_pod_has_an_address_that_no_description_shows_yet() {
    let site = Site::new();
    let node = site.node();
    let eni = only_eni(&site, &node);
    let lag = Duration::from_secs(600);
    site.lab.age(lag);
    site.lab.rules(|rules| rules.describe_lag = lag);
    site.lab.assign(&eni.id, &[ip("10.0.4.213")]);
    site.lab.assign_prefix(&eni.id, "10.0.4.224/28");
    let pods = ["10.0.4.213", "10.0.4.230"].map(|address| {
        let pod = Pod::new(&format!("c{address}"));
        pod.netns.ip(&["address", "add", address, "dev", "lo"]);
        let process = Resident::inside(&pod.netns.path());
        (pod, process)
    });
    let output = detach(&node);
    assert_kept(&site, &output, "10.0.4.213: it is on an interface of a pod");
    let said = "10.0.4.224/28: 10.0.4.230: it is on an interface of a pod";
    assert_kept(&site, &output, said);
    drop(pods);
    // Processes of other tests may be in namespaces that change.
    assert!(eventually(|| detach(&node).status == Some(0)));
    assert_eq!(site.enis(), []);
}

/// Nothing else tells of a pod whose plugin has no record, and whose address nobody shows.
#[test]
fn an_eni_stays_while_a_pod_has_an_interface_on_that_of_it() {
    let site = Site::new();
    let node = site.node();
    only_eni(&site, &node);
    let pod = Pod::new("c1");
    let path = pod.netns.path();
    let made = ["link", "add", "link", "ens6", "name", "net1"];
    let kind = ["type", "macvlan", "mode", "bridge"];
    let (host, in_pod) = (
        &node.node.netns,
        [&made[..], &["netns", &path], &kind].concat(),
    );
    let delete = || pod.netns.ip(&["link", "del", "net1"]);
    // In a namespace to which nothing leads.
    host.ip(&in_pod);
    let hidden = "an interface in a namespace that cannot be seen is on it";
    assert_kept(&site, &detach(&node), hidden);
    delete();
    // In one of a process.
    let process = Resident::inside(&path);
    host.ip(&in_pod);
    assert_kept(&site, &detach(&node), "interface \"net1\" in \"/proc/");
    delete();
    drop(process);
    // In one that has a number on the node.
    host.ip(&[&made[..], &kind].concat());
    host.ip(&["link", "set", "net1", "netns", &path]);
    assert_kept(
        &site,
        &detach(&node),
        "interface \"net1\" in network namespace ",
    );
    delete();
    let output = detach(&node);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!(site.enis(), []);
}

#[test]
fn an_eni_stays_while_the_node_has_an_interface_on_that_of_it() {
    let site = Site::new();
    let node = site.node();
    let host = &node.node.netns;
    // It has a lower index than the interface of the ENI.
    host.ip(&["link", "add", "early", "type", "bridge"]);
    only_eni(&site, &node);
    for (make, upper) in [
        ("link add link ens6 name upper type macvlan", "upper"),
        ("link add upper type bridge", "upper"),
        ("link set early up", "early"),
    ] {
        host.ip(&make.split(' ').collect::<Vec<_>>());
        if !make.ends_with("macvlan") {
            host.ip(&["link", "set", "ens6", "master", upper]);
        }
        let said = format!("interface {upper:?} of the node is on it");
        assert_kept(&site, &detach(&node), &said);
        host.ip(&["link", "del", upper]);
    }
    let output = detach(&node);
    assert_eq!(output.status, Some(0), "{output}");
}
