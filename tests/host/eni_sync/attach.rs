//! ENIs that a node creates and attaches by itself, with the VPC CNI beside it: whatever has
//! no tag at any moment is lost to it.

mod bad_input;
mod by_agent;
mod carried;
mod holders;
mod killed;
mod policy;
mod rivals;
mod taken_away;
mod undescribed;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::eni_lab::{DataPlane, Fault, GroupId, Hold, Lab, Names, Shown, SubnetId, VpcId};
use harness::vpc::while_held;
use harness::{AwsNode, Call, Host, Node, Output};
use serde_json::{Value, json};

const CREATE: &str = "CreateNetworkInterface";
const ATTACH: &str = "AttachNetworkInterface";
const DETACH: &str = "DetachNetworkInterface";
const MODIFY: &str = "ModifyNetworkInterfaceAttribute";
const DESCRIBE: &str = "DescribeNetworkInterfaces";

/// Everything that changes ENIs.
const CHANGES: [&str; 5] = [CREATE, ATTACH, MODIFY, DETACH, "DeleteNetworkInterface"];

/// A VPC with a subnet for pods in each of two zones, and a security group.
struct Site {
    lab: Lab,
    vpc: VpcId,
    nodes: SubnetId,
    pods: SubnetId,
    group: GroupId,
    plane: DataPlane,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new();
        let vpc = lab.create_vpc("10.0.0.0/16");
        let nodes = lab.create_subnet(&vpc, "10.0.1.0/24", None);
        let pods = lab.create_subnet(&vpc, "10.0.4.0/24", Some("2001:db8:4::/64"));
        let far = lab.create_subnet(&vpc, "10.0.5.0/24", None);
        lab.set_zone(&far, "us-west-2b");
        for subnet in [&pods, &far] {
            lab.tag_subnet(subnet, "role", "pods");
        }
        let group = lab.create_security_group(&vpc, "role", "pods");
        let plane = DataPlane::new(&lab, &vpc);
        Self {
            lab,
            vpc,
            nodes,
            pods,
            group,
            plane,
        }
    }

    /// A node that has its primary ENI only, with the VPC CNI on it.
    fn node(&self) -> AwsNode {
        self.node_of_type("m5.xlarge")
    }

    fn node_of_type(&self, kind: &str) -> AwsNode {
        let node = AwsNode::new(Node::new(), &self.lab, kind, &self.nodes);
        self.plane
            .connect(&node.instance, &node.node.netns, Names::Ens);
        self.lab.rules(|rules| {
            rules.vpc_cni.insert(node.instance.clone());
        });
        node
    }

    /// ENIs of one kind, found by tags.
    fn wanted(&self, name: &str, count: usize) -> Value {
        json!({
            "name": name, "count": count,
            "subnets": {"tags": {"role": "pods"}},
            "securityGroups": {"tags": {"role": "pods"}},
        })
    }

    /// A configuration with ENIs whose links are left alone, which takes no time.
    fn configuration(&self, enis: &[Value]) -> Value {
        json!({"links": false, "enis": enis})
    }

    /// The ENIs that exist for pods, sorted by their ids.
    fn enis(&self) -> Vec<Shown> {
        let mut enis = self.lab.all_enis();
        enis.retain(|eni| eni.tags.contains_key("eni-cni/network"));
        enis
    }

    /// That there are exactly these ENIs, each on the node, with all its tags and to go with it.
    #[track_caller]
    fn assert_exactly(&self, node: &AwsNode, expected: &[(&str, usize)], what: &str) {
        let enis = self.enis();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for eni in &enis {
            assert_eq!(
                eni.instance.as_ref(),
                Some(&node.instance),
                "{what}: {enis:#?}"
            );
            assert!(eni.delete_on_termination, "{what}: {eni:#?}");
            assert_eq!(eni.groups, [self.group.to_string()], "{what}: {eni:#?}");
            assert_eq!(eni.subnet, self.pods, "{what}: {eni:#?}");
            let tags = ["node.k8s.amazonaws.com/no_manage", "eni-cni/instance"];
            let tags = tags.map(|tag| eni.tags[tag].clone());
            assert_eq!(tags, ["true", node.instance.as_str()], "{what}: {eni:#?}");
            assert!(!eni.is_of_vpc_cni(), "{what}: {eni:#?}");
            *counts.entry(&eni.tags["eni-cni/network"]).or_default() += 1;
        }
        let counts: Vec<(&str, usize)> = counts.into_iter().collect();
        assert_eq!(counts, expected, "{what}");
    }

    /// How many changes of ENIs EC2 was asked for.
    fn changes(&self) -> u64 {
        let calls = self.lab.calls();
        CHANGES.iter().filter_map(|action| calls.get(*action)).sum()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let malformed = self.lab.malformed_requests();
            assert!(malformed.is_empty(), "{malformed:#?}");
        }
    }
}

/// `attach` with this configuration, and more arguments.
fn call(node: &AwsNode, configuration: &Value, more: &[&str]) -> Call {
    configured(node, "attach", configuration, more)
}

/// `detach` with this configuration, and more arguments.
fn detach_call(node: &AwsNode, configuration: &Value, more: &[&str]) -> Call {
    configured(node, "detach", configuration, more)
}

fn configured(node: &AwsNode, command: &str, configuration: &Value, more: &[&str]) -> Call {
    let path = node.run_directory().join("eni-sync.json");
    fs::write(path, configuration.to_string()).unwrap();
    let arguments = [command, "--config", "/run/eni-sync.json"];
    node.eni_sync().arguments(&[&arguments[..], more].concat())
}

fn attach(node: &AwsNode, configuration: &Value, more: &[&str]) -> Output {
    let call = call(node, configuration, more);
    node.node.run(&call)
}

/// The same, which must succeed: what is printed as JSON.
#[track_caller]
fn attached(node: &AwsNode, configuration: &Value) -> Value {
    let output = attach(node, configuration, &["--json"]);
    assert_eq!(output.status, Some(0), "{output}");
    serde_json::from_str(&output.stdout).unwrap()
}

fn inventory(node: &AwsNode) -> Value {
    let path = node.run_directory().join("eni-cni/enis.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The files of what is begun.
fn record_files(node: &AwsNode) -> Vec<PathBuf> {
    let directory = fs::read_dir(node.node.state().join("eni-cni/enis"));
    let entries = directory.into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// How many records there are, apart from those which only say that an ENI is deleted.
fn records(node: &AwsNode) -> usize {
    let is_of_deleted = |path: &PathBuf| {
        let record: Option<Value> = serde_json::from_slice(&fs::read(path).unwrap()).ok();
        record.is_some_and(|record| record["made"]["deleted"].is_number())
    };
    let files = record_files(node).into_iter();
    files.filter(|path| !is_of_deleted(path)).count()
}

/// Makes the records of the node older than any description of EC2 may be.
fn let_records_settle(node: &AwsNode) {
    for path in record_files(node) {
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["since"] = json!(1);
        if let Some(made) = record["made"].as_object_mut() {
            made["created"] = json!(1);
            for time in ["attached", "deleted"] {
                if made.get(time).is_some_and(Value::is_number) {
                    made[time] = json!(1);
                }
            }
        }
        fs::write(&path, record.to_string()).unwrap();
    }
}

/// Attaches what the configuration names, until nothing is left to be written down.
fn attached_and_settled(node: &AwsNode, configuration: &Value) {
    attached(node, configuration);
    let_records_settle(node);
    attached(node, configuration);
}

/// That EC2 refuses a request with this code.
fn refusal(status: u16, code: &str) -> Fault {
    Fault::Error {
        status,
        code: code.to_owned(),
        message: "It is refused".to_owned(),
    }
}

/// What EC2 says of an ENI that is too new for it.
fn unknown() -> Fault {
    refusal(400, "InvalidNetworkInterfaceID.NotFound")
}

#[test]
fn a_node_gets_the_enis_that_its_configuration_names_and_sets_them_up() {
    let site = Site::new();
    let node = site.node();
    let enis = [site.wanted("control", 1), site.wanted("user", 2)];
    let configuration = json!({"enis": enis});
    let report = attached(&node, &configuration);
    site.assert_exactly(&node, &[("control", 1), ("user", 2)], "first");
    let places: Vec<_> = site.enis().iter().map(|eni| eni.place).collect();
    assert_eq!(places, [Some((0, 1)), Some((0, 2)), Some((0, 3))]);
    for (number, eni) in report["enis"].as_array().unwrap().iter().enumerate() {
        let name = format!("ens{}", 6 + number);
        assert_eq!(eni["interface"], *name);
        let link = node.node.netns.link(&name).unwrap();
        assert!(harness::is_up(&link), "{link}");
        assert_eq!(link["mtu"], 9001, "{link}");
        let written = inventory(&node)["enis"].as_array().unwrap().clone();
        let written = written.iter().find(|written| written["id"] == eni["id"]);
        let written = written.unwrap_or_else(|| panic!("{}", inventory(&node)));
        assert_eq!(written["network"], eni["name"]);
        assert_eq!(written["interface"], *name);
        assert_eq!(
            written["subnetCidrs"],
            json!(["10.0.4.0/24", "2001:db8:4::/64"])
        );
    }
}

#[test]
fn what_is_attached_already_costs_no_change() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 2)]);
    let first = attached(&node, &configuration);
    assert_eq!(records(&node), 2);
    let_records_settle(&node);
    site.lab.reset_calls();
    let second = attached(&node, &configuration);
    assert_eq!(site.changes(), 0, "{:?}", site.lab.calls());
    assert_eq!(site.lab.calls()[DESCRIBE], 1);
    assert_eq!(records(&node), 0);
    let ids = |report: &Value| -> Vec<Value> {
        let enis = report["enis"].as_array().unwrap();
        enis.iter().map(|eni| eni["id"].clone()).collect()
    };
    assert_eq!(ids(&first), ids(&second));
    assert_eq!(second["enis"][0]["isNew"], false);
    let table = attach(&node, &configuration, &[]);
    assert!(table.stdout.contains("was attached"), "{table}");
}

#[test]
fn each_eni_costs_three_calls() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 3)]));
    let calls = site.lab.calls();
    let changes: Vec<u64> = [CREATE, ATTACH, MODIFY].map(|action| calls[action]).into();
    assert_eq!(changes, [3, 3, 3], "{calls:?}");
    assert_eq!(site.changes(), 9);
    // What is attached, and what was created for this node and is not.
    assert_eq!(calls[DESCRIBE], 2, "{calls:?}");
    // The ranges of what is attached, and what was chosen; once for all of a kind.
    assert_eq!(calls["DescribeSubnets"], 2, "{calls:?}");
    assert_eq!(calls["DescribeSecurityGroups"], 1, "{calls:?}");
}

#[test]
fn ids_own_tags_and_a_network_card_can_be_chosen() {
    let site = Site::new();
    let node = site.node_of_type("c6in.32xlarge");
    let wanted = json!({
        "name": "fast", "networkCard": 1, "tags": {"cluster": "blue"},
        "subnets": {"ids": [site.pods.as_str()]},
        "securityGroups": {"ids": [site.group.as_str()]},
    });
    attached(&node, &site.configuration(&[wanted]));
    site.assert_exactly(&node, &[("fast", 1)], "ids");
    let eni = site.enis().remove(0);
    assert_eq!(eni.place, Some((1, 0)));
    assert_eq!(eni.tags["cluster"], "blue");
    assert!(!site.lab.calls().contains_key("DescribeSecurityGroups"));
}

#[test]
fn of_several_subnets_the_one_with_the_most_free_addresses_is_taken_and_all_groups() {
    let site = Site::new();
    let node = site.node();
    let large = site.lab.create_subnet(&site.vpc, "10.0.32.0/20", None);
    site.lab.tag_subnet(&large, "role", "pods");
    let second = site.lab.create_security_group(&site.vpc, "role", "pods");
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    let eni = site.enis().remove(0);
    assert_eq!(eni.subnet, large);
    let groups: BTreeSet<String> = eni.groups.into_iter().collect();
    let all = [site.group.to_string(), second.to_string()];
    assert_eq!(groups, BTreeSet::from(all));
}

#[test]
fn a_terminal_is_shown_what_is_being_done() {
    let site = Site::new();
    let node = site.node();
    // Nobody could read what is there for a millisecond.
    site.lab
        .rules(|rules| rules.latency = Duration::from_millis(300));
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    let call = call(&node, &configuration, &[]).env("TERM", "xterm");
    let program = harness::our_plugin("eni-sync");
    let command = format!("{} attach --config /run/eni-sync.json", program.display());
    let call = call
        .of_program("script")
        .arguments(&["-qec", &command, "/run/typescript"]);
    let output = node.node.run(&call);
    assert_eq!(output.status, Some(0), "{output}");
    let shown = fs::read_to_string(node.run_directory().join("typescript")).unwrap();
    for said in ["creating an ENI of user in subnet-", "of user is attached"] {
        assert!(shown.contains(said), "{shown:?}");
    }
}

#[test]
fn a_primary_address_is_outside_of_the_ranges_of_pods() {
    let site = Site::new();
    let node = site.node();
    let mut wanted = site.wanted("user", 3);
    // Seven addresses are left.
    wanted["primary"] = json!({"outside": ["10.0.4.12/30", "10.0.4.16/28", "10.0.4.32/27", "10.0.4.64/26", "10.0.4.128/25"]});
    attached(&node, &site.configuration(&[wanted]));
    site.assert_exactly(&node, &[("user", 3)], "outside");
    for eni in site.enis() {
        let address = site.lab.primary(&eni.id).to_string();
        let last: u8 = address.rsplit('.').next().unwrap().parse().unwrap();
        assert!((4..12).contains(&last), "{address}");
    }
}

/// EC2 would choose one of the first addresses.
#[test]
fn a_primary_address_does_not_count_as_excluded() {
    let site = Site::new();
    let node = site.node();
    let mut configuration = site.configuration(&[site.wanted("user", 2)]);
    configuration["exclude"] = json!(["10.0.4.0/25", "10.0.4.128/26", "10.0.4.192/27"]);
    attached(&node, &configuration);
    site.assert_exactly(&node, &[("user", 2)], "excluded");
    for eni in site.enis() {
        let address = site.lab.primary(&eni.id).to_string();
        let last: u8 = address.rsplit('.').next().unwrap().parse().unwrap();
        assert!(last >= 224, "{address}");
    }
}

#[test]
fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 2)]);
    let output = attach(&node, &configuration, &["--dry-run"]);
    assert_eq!(output.status, Some(0), "{output}");
    for index in [1, 2] {
        let line = format!(
            "user: would create an ENI in {} with {} and attach it at network card 0, device index {index}",
            site.pods, site.group
        );
        assert!(output.stdout.contains(&line), "{output}");
    }
    assert_eq!((site.changes(), records(&node)), (0, 0));
    attached(&node, &configuration);
    let output = attach(&node, &configuration, &["--dry-run"]);
    assert_eq!(output.stdout, "nothing is missing\n", "{output}");
}

#[test]
fn what_an_earlier_pass_has_attached_is_new_and_set_up() {
    let site = Site::new();
    let node = site.node();
    let full = refusal(400, "InsufficientFreeAddressesInSubnet");
    site.lab.fail_nth(CREATE, 2, full);
    let report = attached(&node, &json!({"enis": [site.wanted("user", 2)]}));
    site.assert_exactly(&node, &[("user", 2)], "two passes");
    for eni in report["enis"].as_array().unwrap() {
        assert_eq!(eni["isNew"], true, "{report:#}");
        let link = node.node.netns.link(eni["interface"].as_str().unwrap());
        assert!(harness::is_up(&link.unwrap()), "{report:#}");
    }
}

/// The kernel shows nothing: nobody has plugged the devices in.
#[test]
fn the_time_of_the_command_is_that_of_its_waits_for_interfaces_too() {
    let site = Site::new();
    let node = AwsNode::new(Node::new(), &site.lab, "m5.xlarge", &site.nodes);
    let configuration = json!({"enis": [site.wanted("user", 2)]});
    let begun = Instant::now();
    let output = attach(&node, &configuration, &["--timeout", "3", "--json"]);
    // A wait alone takes a minute otherwise.
    assert!(begun.elapsed() < Duration::from_secs(50), "{output}");
    assert_eq!(output.status, Some(1), "{output}");
    let said = "is attached, but no interface of the node has";
    assert_eq!(output.stdout.matches(said).count(), 2, "{output}");
    site.assert_exactly(&node, &[("user", 2)], "without interfaces");
}

#[test]
fn what_somebody_has_written_into_the_inventory_meanwhile_stays() {
    let site = Site::new();
    let node = site.node();
    attached(&node, &site.configuration(&[site.wanted("user", 1)]));
    let more = site.configuration(&[site.wanted("user", 2)]);
    let write = || {
        let mut newer = inventory(&node);
        newer["enis"][1]["prefixes"] = json!(["10.0.4.96/28"]);
        let path = node.run_directory().join("eni-cni/enis.json");
        fs::write(path, newer.to_string()).unwrap();
    };
    let held = (ATTACH, Hold::BeforeCommit);
    while_held(&site.lab, held, || attached(&node, &more), write);
    let enis = inventory(&node)["enis"].as_array().unwrap().clone();
    let prefixes: Vec<&Value> = enis.iter().map(|eni| &eni["prefixes"]).collect();
    assert_eq!(prefixes, [&json!([]), &json!(["10.0.4.96/28"]), &json!([])]);
}
