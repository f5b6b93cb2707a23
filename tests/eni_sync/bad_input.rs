//! What is wrong before AWS is asked: configuration, metadata, and a ledger that cannot
//! be read or written. The error names it, nothing is assigned and nothing is lost.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use harness::{Call, Pod};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use super::fixture::{AwsNode, Vpc, prev_result};

const ADDRESS: &str = "10.0.4.70";

/// Whether EC2 was not asked to change anything.
fn is_unchanged(node: &AwsNode) -> bool {
    let calls = node.lab.calls();
    calls.keys().all(|action| action.starts_with("Describe"))
}

/// A call that must fail with this code and say all of `said`, and change nothing.
#[track_caller]
fn assert_refused(node: &AwsNode, call: &Call, code: u64, said: &[&str]) {
    let output = node.run(call);
    let error = output.error_code(code);
    for said in said {
        let text = format!("{}: {}", error.msg, error.details);
        assert!(text.contains(said), "{said:?} is not said\n{output}");
    }
    assert!(is_unchanged(node), "{:?}", node.lab.calls());
}

#[test]
fn an_add_that_is_chained_behind_nothing_says_so() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let call = node.conf_call("ADD", &Pod::new("c1"), &[], &json!({ "prevResult": null }));
    let said = ["Required prevResult missing", "chained behind a plugin"];
    assert_refused(&node, &call, 7, &said);
}

#[test]
fn an_interface_that_is_no_eni_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let result = prev_result(&pod, &[("02:ff:00:00:00:01", &[ADDRESS])]);
    let call = node.conf_call("ADD", &pod, &[], &json!({ "prevResult": result }));
    let said = [
        "02:ff:00:00:00:01",
        node.instance.as_str(),
        "VPC delivers nothing",
    ];
    assert_refused(&node, &call, 7, &said);
}

#[test]
fn an_address_on_an_interface_that_does_not_exist_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let mut result = prev_result(&pod, &[(&node.mac, &[ADDRESS])]);
    result["ips"][0]["interface"] = json!(7);
    let call = node.conf_call("ADD", &pod, &[], &json!({ "prevResult": result }));
    assert_refused(&node, &call, 7, &[ADDRESS, "interface 7"]);
    let mut result = prev_result(&pod, &[("", &[ADDRESS])]);
    result["interfaces"][0]["name"] = json!("net7");
    let call = node.conf_call("ADD", &pod, &[], &json!({ "prevResult": result }));
    assert_refused(&node, &call, 7, &["\"net7\" has no MAC address"]);
}

#[test]
fn an_address_that_the_subnet_cannot_have_is_named_with_the_subnet() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for (address, said) in [
        ("10.0.5.70", ["is not in the subnet of", "10.0.4.0/24"]),
        ("10.0.1.70", ["is not in the subnet of", "2001:db8:4::/64"]),
        ("2001:db8:5::70", ["is not in the subnet of", "10.0.4.0/24"]),
        ("10.0.4.1", ["is reserved by AWS", "10.0.4.0/24"]),
        ("10.0.4.255", ["is reserved by AWS", "10.0.4.0/24"]),
        ("2001:db8:4::3", ["is reserved by AWS", "2001:db8:4::/64"]),
    ] {
        let pod = Pod::new("c1");
        let call = node.pod_call("ADD", &pod, &[ADDRESS, address]);
        assert_refused(&node, &call, 7, &[address, said[0], said[1]]);
    }
    assert_eq!(node.ledger().len(), 0, "nothing was claimed");
}

#[test]
fn wrong_values_are_named_with_what_is_possible() {
    let vpc = Vpc::new();
    let node = vpc.node();
    for (key, value, said) in [
        ("strict", json!("no"), "true or false"),
        ("cooldownSeconds", json!(-1), "0 to 86400"),
        ("cooldownSeconds", json!("30"), "0 to 86400"),
        ("cooldownSeconds", json!(1e9), "0 to 86400"),
        (
            "takeover",
            json!("sometimes"),
            "never, dead-owner or always",
        ),
        ("takeover", json!(true), "never, dead-owner or always"),
    ] {
        let pod = Pod::new("c1");
        for command in ["ADD", "CHECK", "STATUS"] {
            let call = node.conf_call(command, &pod, &[ADDRESS], &json!({ key: value.clone() }));
            assert_refused(&node, &call, 7, &[&format!("invalid {key}"), said]);
        }
    }
}

#[test]
fn bad_arguments_of_the_runtime_are_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let add = node.pod_call("ADD", &pod, &[ADDRESS]);
    assert_refused(
        &node,
        &add.clone().env("CNI_ARGS", "K8S_POD_NAME"),
        4,
        &["K8S_POD_NAME"],
    );
    assert_refused(
        &node,
        &add.clone().env("CNI_NETNS", "/run/netns/gone"),
        8,
        &["/run/netns/gone"],
    );
    assert_refused(
        &node,
        &add.clone().env("CNI_CONTAINERID", "../c1"),
        4,
        &["containerID", "../c1"],
    );
    assert_refused(
        &node,
        &add.env("CNI_IFNAME", "net/1"),
        4,
        &["interface name"],
    );
}

#[test]
fn the_pod_is_named_where_its_address_is_in_the_way() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=core;K8S_POD_NAME=upf-0;X=y";
    node.run(&node.pod_call("ADD", &pod, &[ADDRESS]).env("CNI_ARGS", args))
        .ok();
    let error = node.add(&Pod::new("c2"), &[ADDRESS]).error_code(11);
    assert!(error.msg.contains(ADDRESS), "{error:?}");
    assert!(error.details.contains("pod core/upf-0"), "{error:?}");
    assert_eq!(node.ledger()[ADDRESS], "held");
}

#[test]
fn a_node_without_credentials_says_so() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab.no_role();
    let pod = Pod::new("c1");
    let call = node.pod_call("ADD", &pod, &[ADDRESS]);
    assert_refused(&node, &call, 11, &["there are no valid AWS credentials"]);
}

#[test]
fn a_node_without_metadata_says_so() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let call = node.pod_call("ADD", &pod, &[ADDRESS]);
    node.lab.rules(|rules| rules.imds_unreachable_token = true);
    assert_refused(
        &node,
        &call,
        11,
        &["instance metadata service gives no IMDSv2 token"],
    );
    node.lab.rules(|rules| rules.imds_down = true);
    assert_refused(&node, &call, 11, &["instance metadata service"]);
}

#[test]
fn metadata_that_do_not_have_a_new_eni_yet_are_not_needed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.lab
        .rules(|rules| rules.imds_404_after_attach = Duration::from_secs(3600));
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.check(&pod, &[ADDRESS]).ok();
    node.add(&pod, &[ADDRESS]).ok();
}

/// Puts something at a path that is no entry of the ledger.
type Breaking = fn(&Path);

const BROKEN: [(&str, Breaking); 7] = [
    ("empty", |path| fs::write(path, "").unwrap()),
    ("corrupt", |path| {
        fs::write(path, "{\"address\": \"10.0.4.70\", ").unwrap()
    }),
    ("not UTF-8", |path| fs::write(path, b"\xff\xfe{}").unwrap()),
    ("huge", |path| {
        File::create(path).unwrap().set_len(1 << 30).unwrap()
    }),
    ("a symbolic link", |path| {
        symlink("/etc/hostname", path).unwrap()
    }),
    ("a FIFO", |path| mkfifo(path, Mode::S_IRWXU).unwrap()),
    ("a directory", |path| fs::create_dir(path).unwrap()),
];

#[test]
fn an_entry_that_cannot_be_read_stands_in_nobody_elses_way() {
    for (what, make) in BROKEN {
        let vpc = Vpc::new();
        let node = vpc.node();
        let pod = Pod::new("c1");
        node.add(&pod, &["10.0.4.71"]).ok();
        let path = node.ledger_path().join(ADDRESS);
        make(&path);
        node.lab.reset_calls();
        let unlucky = Pod::new("c2");
        let call = node.pod_call("ADD", &unlucky, &[ADDRESS]);
        assert_refused(
            &node,
            &call,
            6,
            &[&format!("ledger/{}/{ADDRESS}", node.eni), "remove"],
        );
        assert!(path.symlink_metadata().is_ok(), "{what} is kept");
        let other = Pod::new("c3");
        node.add(&other, &["10.0.4.72"]).ok();
        node.del(&pod);
        fs::rename(&path, node.ledger_path().join(".kept")).unwrap();
        node.end_cooldown("10.0.4.71");
        fs::rename(node.ledger_path().join(".kept"), &path).unwrap();
        node.gc(&[&other]);
        assert_eq!(node.addresses(), ["10.0.4.72"], "{what}");
        assert!(path.symlink_metadata().is_ok(), "{what} is kept");
    }
}

#[test]
fn an_entry_about_another_address_is_not_believed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.71"]).ok();
    node.del(&pod);
    node.end_cooldown("10.0.4.71");
    let path = node.ledger_path();
    fs::rename(path.join("10.0.4.71"), path.join("10.0.4.72")).unwrap();
    let output = node.run(&node.gc_call(&[]));
    output.ok();
    assert!(output.stderr.contains("it is about 10.0.4.71"), "{output}");
    assert_eq!(node.addresses(), ["10.0.4.71"]);
}

#[test]
fn a_ledger_whose_directory_is_a_file_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let path = node.ledger_path();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "").unwrap();
    let pod = Pod::new("c1");
    let named = format!("/var/lib/cni/eni-cni/ledger/{}", node.eni);
    assert_refused(&node, &node.pod_call("ADD", &pod, &[ADDRESS]), 5, &[&named]);
    node.del(&pod);
    node.gc(&[]);
}

#[test]
fn on_a_read_only_file_system_nothing_is_assigned_or_lost() {
    let vpc = Vpc::new();
    let mut node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &[ADDRESS]).ok();
    node.lab.reset_calls();
    node.node.read_only("/var/lib/cni");
    let other = Pod::new("c2");
    let said = ["/var/lib/cni/eni-cni/ledger", "Read-only file system"];
    assert_refused(
        &node,
        &node.pod_call("ADD", &other, &["10.0.4.71"]),
        5,
        &said,
    );
    node.check(&pod, &[ADDRESS]).ok();
    assert_refused(&node, &node.pod_call("DEL", &pod, &[]), 5, &said);
    node.del(&other);
    assert_eq!(node.ledger()[ADDRESS], "held");
}

#[test]
fn on_a_full_disk_nothing_is_assigned() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    let add = node.pod_call("ADD", &pod, &[ADDRESS]);
    let state = node.node.state().join("eni-cni");
    fs::create_dir(&state).unwrap();
    let (output, left) = node.node.inside(|| {
        let disk = Path::new("/var/lib/cni/eni-cni");
        let tmpfs = Some("tmpfs");
        mount(tmpfs, disk, tmpfs, MsFlags::empty(), Some("size=16384"))
            .expect("tmpfs can be mounted");
        let mut filler = File::create(disk.join("filler")).unwrap();
        while filler.write(&[0; 4096]).is_ok() {}
        let output = add.run();
        let entries = disk.join("ledger").join(node.eni.to_string());
        let left: Vec<_> = fs::read_dir(entries)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        (output, left)
    });
    let error = output.error_code(5);
    assert!(
        error.msg.contains(ADDRESS) && error.details.contains("No space left"),
        "{error:?}"
    );
    assert!(is_unchanged(&node));
    assert!(
        left.iter().all(|name| name == ".lock" || name == ".turn"),
        "{left:?}"
    );
}

/// The inventory that an ADD has written, and its path.
fn inventory(node: &AwsNode) -> (std::path::PathBuf, Value) {
    let path = node.run_directory().join("eni-cni/enis.json");
    let text = fs::read(&path).unwrap();
    (path, serde_json::from_slice(&text).unwrap())
}

#[test]
fn an_inventory_that_cannot_be_read_is_made_anew() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
    let (path, good) = inventory(&node);
    for (number, (what, make)) in BROKEN.into_iter().enumerate() {
        if what == "a directory" {
            continue;
        }
        fs::remove_file(&path).unwrap();
        make(&path);
        node.add(&Pod::new("c1"), &[&format!("10.0.4.{}", 70 + number)])
            .ok();
        assert_eq!(inventory(&node).1, good, "{what}");
    }
}

#[test]
fn an_inventory_that_is_old_is_asked_for_again() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
    let (path, good) = inventory(&node);
    for age in [Duration::from_secs(601), Duration::from_secs(86_400)] {
        let mut outdated = good.clone();
        outdated["enis"][1]["noManage"] = json!(false);
        fs::write(&path, outdated.to_string()).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        node.add(&Pod::new("c1"), &[ADDRESS]).ok();
        assert_eq!(inventory(&node).1, good);
    }
}

#[test]
fn an_eni_that_was_attached_since_is_found() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
    let (path, _) = inventory(&node);
    let second = node.lab.multus_eni(&node.instance, &vpc.pods);
    let pod = Pod::new("c1");
    let result = prev_result(&pod, &[(&node.lab.mac(&second), &[ADDRESS])]);
    let call = node.conf_call("ADD", &pod, &[], &json!({ "prevResult": result }));
    // A list that lacks the ENI is believed for some seconds only.
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(11))
        .unwrap();
    node.run(&call).ok();
    assert_eq!(vpc.owner(ADDRESS), Some(second));
}
