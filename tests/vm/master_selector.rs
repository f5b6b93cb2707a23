//! `masterSelector`: one network for nodes whose ENIs have different interface names.

use std::fs;

use harness::{Call, Node, Output, Pod, repository};
use serde_json::{Value, json};
use tempfile::TempDir;

const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

/// A node with two ENIs that are up, and what eni-sync would say of them.
struct Fixture {
    node: Node,
    run: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let mut node = Node::new();
        for (name, mac) in ["ens6", "enp40s0"].iter().zip(MACS) {
            node.netns
                .ip(&["link", "add", name, "address", mac, "up", "type", "dummy"]);
        }
        let run = tempfile::tempdir().unwrap();
        node.bind(run.path(), "/run");
        Self { node, run }
    }

    /// The inventory, with interface names of yesterday: only MACs count.
    fn inventory(&self) -> Value {
        let eni = |n: usize| {
            json!({
                "id": format!("eni-0{n}"), "mac": MACS[n - 1], "interface": format!("eth{n}"), "deviceIndex": n,
                "attachmentId": format!("eni-attach-0{n}"), "attachTime": 1, "interfaceIndex": 0,
                "networkCardIndex": 0, "subnetId": format!("subnet-0{n}"), "subnetCidrs": [format!("10.0.{n}.0/24"), format!("2001:db8:{n}::/64")],
                "vpcId": "vpc-01", "noManage": true, "network": "", "tags": {}, "description": "", "requesterId": "", "requesterManaged": false, "securityGroups": [], "primaryAddresses": [format!("10.0.{n}.10")], "prefixes": [], "mayBeFormer": false,
                "ipv4Limit": 50, "ipv6Limit": 50
            })
        };
        json!({ "region": "us-west-2", "instanceId": "i-01", "instanceType": "c5.large", "interfaceLimits": [3], "enis": [eni(1), eni(2)] })
    }

    fn write_inventory(&self, text: &str) {
        let path = self.run.path().join("eni-cni");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("enis.json"), text).unwrap();
    }

    fn run(&self, command: &str, selector: &Value, pod: &Pod) -> Output {
        self.node.run(
            &Call::ours("ipvlan", command)
                .conf(&conf(selector))
                .pod(pod, "net1"),
        )
    }

    /// The master that the selector leads to.
    #[track_caller]
    fn master(&self, selector: &Value) -> String {
        let pod = Pod::new("c1");
        self.run("ADD", selector, &pod).ok();
        let index = pod.netns.link("net1").unwrap()["link_index"].clone();
        self.run("DEL", selector, &pod).ok();
        let links = self.node.netns.ip_json(&["link", "show"]);
        let master = links
            .as_array()
            .unwrap()
            .iter()
            .find(|link| link["ifindex"] == index);
        master.unwrap()["ifname"].as_str().unwrap().to_owned()
    }

    /// An ADD that must fail with this code and say all of `said`.
    #[track_caller]
    fn refused(&self, selector: &Value, code: u64, said: &[&str]) {
        let pod = Pod::new("c1");
        let output = self.run("ADD", selector, &pod);
        let error = output.error_code(code);
        for said in said {
            assert!(
                format!("{}: {}", error.msg, error.details).contains(said),
                "{said}\n{output}"
            );
        }
        assert_eq!(pod.netns.links(), ["lo"]);
        assert_eq!(self.node.files(), [""; 0]);
    }
}

pub(crate) fn conf(selector: &Value) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "ipvlan", "masterSelector": selector,
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}
    })
}

#[test]
fn a_mac_leads_to_the_device_and_not_to_what_is_on_top_of_it() {
    let fixture = Fixture::new();
    fixture.node.netns.ip(&[
        "link", "add", "link", "enp40s0", "name", "vlan7", "type", "vlan", "id", "7",
    ]);
    assert_eq!(
        fixture.master(&json!({"mac": "02-00-00-00-00-02"})),
        "enp40s0"
    );
}

#[test]
fn the_inventory_answers_for_eni_device_index_and_subnet() {
    let fixture = Fixture::new();
    fixture.write_inventory(&fixture.inventory().to_string());
    assert_eq!(fixture.master(&json!({"eni": "eni-01"})), "ens6");
    assert_eq!(fixture.master(&json!({"eni": "eni-02"})), "enp40s0");
    assert_eq!(fixture.master(&json!({"deviceIndex": 2})), "enp40s0");
    assert_eq!(fixture.master(&json!({"subnet": "10.0.1.0/24"})), "ens6");
    assert_eq!(
        fixture.master(&json!({"subnet": "2001:db8:2::/64"})),
        "enp40s0"
    );
    assert_eq!(fixture.master(&json!({"subnet": "subnet-02"})), "enp40s0");
    let mut inventory = fixture.inventory();
    inventory["enis"][0]["networkCardIndex"] = json!(1);
    inventory["enis"][0]["tags"] = json!({"role": "data"});
    inventory["enis"][0]["securityGroups"] = json!(["sg-01", "sg-02"]);
    fixture.write_inventory(&inventory.to_string());
    for selector in [
        json!({"tag": {"role": "data"}}),
        json!({"securityGroup": "sg-02"}),
        json!({"networkCard": 1, "deviceIndex": 1}),
    ] {
        assert_eq!(fixture.master(&selector), "ens6", "{selector}");
    }
}

#[test]
fn a_subnet_that_the_inventory_does_not_know_is_found_by_an_address_of_the_node() {
    let fixture = Fixture::new();
    fixture
        .node
        .netns
        .ip(&["address", "add", "10.0.7.9/24", "dev", "enp40s0"]);
    assert_eq!(fixture.master(&json!({"subnet": "10.0.7.0/24"})), "enp40s0");
    fixture.write_inventory(&fixture.inventory().to_string());
    assert_eq!(fixture.master(&json!({"subnet": "10.0.7.0/24"})), "enp40s0");
}

#[test]
fn check_and_status_follow_the_selector() {
    let fixture = Fixture::new();
    fixture.write_inventory(&fixture.inventory().to_string());
    let (pod, selector) = (Pod::new("c1"), json!({"deviceIndex": 1, "networkCard": 0}));
    let mut checked = conf(&selector);
    checked["prevResult"] = fixture.run("ADD", &selector, &pod).ok();
    let check = Call::ours("ipvlan", "CHECK")
        .conf(&checked)
        .pod(&pod, "net1");
    fixture.node.run(&check).ok();
    let status = |selector: &Value| {
        fixture
            .node
            .run(&Call::ours("ipvlan", "STATUS").conf(&conf(selector)))
    };
    status(&selector).ok();
    status(&json!({"deviceIndex": 7})).error_code(50);
    status(&json!({"deviceIndex": 1, "networkCard": 1})).error_code(50);
}

#[test]
fn no_or_two_matching_interfaces_are_an_error_that_lists_the_candidates() {
    let fixture = Fixture::new();
    let both = ["ens6 (02:00:00:00:00:01)", "enp40s0 (02:00:00:00:00:02)"];
    fixture.refused(
        &json!({"mac": "02:00:00:00:00:09"}),
        7,
        &["no interface matches", both[0], both[1]],
    );
    fixture.refused(
        &json!({"pciBusID": "ffff:00:1f.7"}),
        7,
        &["no interface matches", both[0]],
    );
    fixture.refused(
        &json!({"subnet": "10.0.7.0/24"}),
        7,
        &["no interface matches", both[1]],
    );
    for (n, name) in ["ens6", "enp40s0"].iter().enumerate() {
        fixture
            .node
            .netns
            .ip(&["address", "add", &format!("10.0.7.{n}/24"), "dev", name]);
    }
    fixture.refused(
        &json!({"subnet": "10.0.7.0/24"}),
        7,
        &[
            "several interfaces match masterSelector subnet 10.0.7.0/24: candidates: ",
            both[0],
            both[1],
        ],
    );
}

#[test]
fn what_eni_sync_has_not_written_is_named() {
    let fixture = Fixture::new();
    for selector in [
        json!({"eni": "eni-01"}),
        json!({"deviceIndex": 1}),
        json!({"subnet": "subnet-01"}),
    ] {
        fixture.refused(
            &selector,
            7,
            &["masterSelector needs /run/eni-cni/enis.json, which eni-sync writes"],
        );
    }
    for text in [
        "",
        "{",
        "[]",
        "{\"enis\": 7}",
        "{\"enis\": [{\"id\": \"eni-01\"}]}",
    ] {
        fixture.write_inventory(text);
        fixture.refused(
            &json!({"eni": "eni-01"}),
            6,
            &["/run/eni-cni/enis.json is not an inventory of ENIs"],
        );
    }
}

#[test]
fn bad_selectors_are_refused_before_anything_is_touched() {
    let fixture = Fixture::new();
    let keys = "mac, pciBusID, subnet, eni, deviceIndex, networkCard, tag and securityGroup";
    let one = format!("masterSelector needs at least one of {keys}");
    for nothing in [
        json!({}),
        json!({"mac": "", "tag": {}}),
        json!({"tag": {"a": null}}),
    ] {
        fixture.refused(&nothing, 7, &[&one]);
    }
    for (key, value) in [
        ("mac", "02:00"),
        ("pciBusID", "../../x"),
        ("subnet", "10.0.0.0"),
        ("eni", "i-0123"),
        ("securityGroup", "default"),
    ] {
        fixture.refused(
            &json!({key: value}),
            7,
            &[&format!("invalid masterSelector.{key}: {value:?}")],
        );
    }
    fixture.refused(
        &json!({"deviceIndex": -1}),
        7,
        &["invalid masterSelector.deviceIndex: \"-1\""],
    );
    fixture.refused(
        &json!({"deviceIndex": "1"}),
        7,
        &[
            "invalid masterSelector: {\"deviceIndex\":\"1\"}",
            "deviceIndex: invalid type",
        ],
    );
    fixture.refused(&json!("eth1"), 7, &["invalid masterSelector: \"eth1\""]);
    fixture.refused(
        &json!({"mac": MACS[0], "subnetID": "subnet-01"}),
        7,
        &[
            "masterSelector has the unknown key \"subnetID\"",
            &format!("its keys are {keys}"),
        ],
    );
    let pod = Pod::new("c1");
    for (key, value) in [("master", json!("ens6")), ("linkInContainer", json!(true))] {
        let mut conf = conf(&json!({"mac": MACS[0]}));
        conf[key] = value;
        let output = fixture
            .node
            .run(&Call::ours("ipvlan", "ADD").conf(&conf).pod(&pod, "net1"));
        assert!(
            output
                .error_code(7)
                .msg
                .contains("masterSelector exclude each other"),
            "{output}"
        );
    }
}

/// The schema is what eni-sync is held to; the inventory of these tests obeys it.
#[test]
fn the_schema_of_the_inventory_is_that_of_its_reader() {
    let path = repository().join("eni-sync/enis.schema.json");
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let eni = &schema["properties"]["enis"]["items"];
    let inventory = Fixture::new().inventory();
    let keys = |value: &Value| {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    let mut required: Vec<String> = serde_json::from_value(eni["required"].clone()).unwrap();
    required.sort();
    assert_eq!(keys(&inventory["enis"][0]), required);
    assert_eq!(keys(&eni["properties"]), required);
    let mut required: Vec<String> = serde_json::from_value(schema["required"].clone()).unwrap();
    required.sort();
    assert_eq!(keys(&inventory), required);
    assert_eq!(keys(&schema["properties"]), required);
}
