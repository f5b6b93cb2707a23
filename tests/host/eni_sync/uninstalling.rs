//! `uninstall`: what it removes, what it puts back, and what keeps it from that.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness::eni_lab::Hold;
use harness::vpc::{Vpc, VpcNode, device_call, eventually, ip, while_held};
use harness::{Agent, Output, Pod, go_plugin, our_plugin, run_tool};
use serde_json::json;
use tempfile::TempDir;

use super::ipam::{ASSIGN, call, del, intents, ipv4, sharing};
use super::killed::kill_while_held;
use super::prefixes::{kept, known, node_of_its_own, one, prefixes};
use super::prefixes_killed::kill_while_asking;
use super::release_command::let_the_second_eni_fail;

/// A node's directory with Go's plugins, over which ours have been installed.
fn installed(node: &VpcNode) -> TempDir {
    let [source, target] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for name in ["ipvlan", "host-local", "bridge"] {
        fs::copy(go_plugin(name), target.path().join(name)).unwrap();
    }
    for name in ["ipvlan", "host-local", "host-device"] {
        fs::copy(our_plugin(name), source.path().join(name)).unwrap();
    }
    // What is installed under this name is found by its bytes, and no program is as long as one
    // with debug information.
    let program = our_plugin("eni-sync").display().to_string();
    let stripped = source.path().join("eni-sync").display().to_string();
    let output = run_tool("strip", &["-o", &stripped, &program]);
    assert!(output.status.success(), "{output:?}");
    let [from, to] = [&source, &target].map(|d| d.path().display().to_string());
    let output = node.command(&["install", "--source", &from, "--target", &to]);
    assert_eq!(output.status, Some(0), "{output}");
    target
}

#[track_caller]
fn uninstall(node: &VpcNode, target: &TempDir, more: &[&str], status: i32) -> Output {
    let target = target.path().display().to_string();
    let arguments = [&["uninstall", "--target", &target], more].concat();
    let output = node.command(&arguments);
    assert_eq!(output.status, Some(status), "{output}");
    output
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn is_same(target: &TempDir, name: &str) -> bool {
    fs::read(target.path().join(name)).unwrap() == fs::read(go_plugin(name)).unwrap()
}

#[test]
fn what_was_there_before_comes_back_and_nothing_of_ours_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    assert!(!is_same(&target, "ipvlan"));
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.del(&pod);
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    let output = uninstall(&node, &target, &[], 0);
    assert!(output.stdout.contains(": released\n"), "{output}");
    assert!(node.addresses().is_empty());
    assert_eq!(names(target.path()), ["bridge", "host-local", "ipvlan"]);
    assert!(is_same(&target, "ipvlan") && is_same(&target, "host-local"));
    let mode = fs::metadata(target.path().join("ipvlan")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o7777, 0o755);
    assert!(!node.node.state().join("eni-cni").exists());
    assert!(!node.run_directory().join("eni-cni").exists());
    // Once more there is nothing to do, and no AWS is needed for it.
    node.lab.reset_calls();
    let output = uninstall(&node, &target, &[], 0);
    assert!(node.lab.calls().is_empty(), "{:?}", node.lab.calls());
    assert!(!output.stdout.contains("removed"), "{output}");
}

#[test]
fn a_dry_run_says_the_same_and_changes_nothing() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.del(&pod);
    let before = names(target.path());
    let output = uninstall(&node, &target, &["--dry-run"], 0);
    for text in [
        format!("10.0.4.70 on {}: would be released", node.eni),
        "/ipvlan would be what it was before".to_owned(),
        "/host-device would be removed".to_owned(),
        "/eni-sync would be removed".to_owned(),
        "/var/lib/cni/eni-cni would be removed".to_owned(),
    ] {
        assert!(output.stdout.contains(&text), "{text}: {output}");
    }
    assert_eq!(names(target.path()), before);
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    assert_eq!(node.ledger()["10.0.4.70"], "releasing");
}

#[test]
fn while_a_pod_is_attached_it_is_named_and_everything_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let pod = Pod::new("c1");
    let call = node.pod_call("ADD", &pod, &["10.0.4.70"]);
    let args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0";
    node.run(&call.env("CNI_ARGS", args)).ok();
    let before = names(target.path());
    let output = uninstall(&node, &target, &[], 1);
    let named = "pod default/web-0, container c1, interface net1, network mgmt";
    assert!(output.stderr.contains(named), "{output}");
    assert_eq!(names(target.path()), before);
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    // Told to, it removes the programs; what the pod has stays, and what is known of it.
    let output = uninstall(&node, &target, &["--force"], 1);
    assert!(
        output.stdout.contains("kept: in use by pod default/web-0"),
        "{output}"
    );
    assert!(is_same(&target, "ipvlan"));
    assert_eq!(node.addresses(), ["10.0.4.70"]);
    assert_eq!(node.ledger()["10.0.4.70"], "held");
}

#[test]
fn an_attachment_of_a_plugin_counts_without_an_address_in_the_vpc() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add_device();
    let target = installed(&node);
    let pod = Pod::new("c1");
    node.run(&device_call("ADD", "dpdk", "dev7", &pod)).ok();
    let output = uninstall(&node, &target, &[], 1);
    let named = "container c1, interface net1, network dpdk";
    assert!(output.stderr.contains(named), "{output}");
    node.run(&device_call("DEL", "dpdk", "dev7", &pod)).ok();
    uninstall(&node, &target, &[], 0);
}

#[test]
fn an_agent_that_runs_would_bring_everything_back() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let _agent = Agent::start(&node, &json!({}));
    let before = names(target.path());
    for more in [&[][..], &["--force"]] {
        let output = uninstall(&node, &target, more, 1);
        assert!(output.stderr.contains("the agent runs"), "{output}");
    }
    assert_eq!(names(target.path()), before);
}

#[test]
fn what_others_have_put_there_since_stays_and_so_do_their_addresses() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let theirs = target.path().join("ipvlan");
    fs::remove_file(&theirs).unwrap();
    fs::write(&theirs, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o755)).unwrap();
    node.lab.assign(&node.eni, &[ip("10.0.4.98")]);
    node.command(&["sync", "--once"]);
    assert_eq!(node.ledger()["10.0.4.98"], "adopted");
    let output = uninstall(&node, &target, &[], 0);
    assert!(output.stdout.contains("/ipvlan stays: it is "), "{output}");
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "#!/bin/sh\n");
    assert_eq!(node.addresses(), ["10.0.4.98"]);
}

#[test]
fn a_program_that_cannot_be_put_back_is_kept_and_so_is_the_one_that_tries_again() {
    let vpc = Vpc::new();
    let mut node = vpc.node();
    let target = installed(&node);
    let ipvlan = target.path().join("ipvlan");
    let known = node.node.state().join("eni-cni/host-device/known");
    fs::create_dir_all(&known).unwrap();
    // The kernel replaces no mount.
    node.node.bind(&ipvlan, &ipvlan);
    let output = uninstall(&node, &target, &[], 1);
    // A plugin of ours that stays may need it.
    assert!(known.exists(), "{output}");
    assert!(output.stderr.contains("failed to put"), "{output}");
    let kept = target.path().join(".eni-cni-replaced/ipvlan");
    assert_eq!(
        fs::read(&kept).unwrap(),
        fs::read(go_plugin("ipvlan")).unwrap()
    );
    assert!(is_same(&target, "host-local"));
    assert!(target.path().join("eni-sync").exists());
    node.node.unbind(&ipvlan);
    let output = uninstall(&node, &target, &[], 0);
    assert!(!known.exists(), "{output}");
    assert_eq!(names(target.path()), ["bridge", "host-local", "ipvlan"]);
    assert!(is_same(&target, "ipvlan"));
    // A process that is killed leaves the program that goes on.
    assert!(
        output.stdout.ends_with("/eni-sync is removed\n"),
        "{output}"
    );
}

#[test]
fn a_pod_that_starts_while_ec2_is_asked_keeps_its_record_and_its_plugins() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add_device();
    let target = installed(&node);
    let ended = Pod::new("c1");
    node.add(&ended, &["10.0.4.70"]).ok();
    node.del(&ended);
    let before = names(target.path());
    let pod = Pod::new("c2");
    let held = ("UnassignPrivateIpAddresses", Hold::BeforeCommit);
    let uninstalling = || uninstall(&node, &target, &[], 1);
    let add = device_call("ADD", "dpdk", "dev7", &pod);
    let (output, _) = while_held(&node.lab, held, uninstalling, || node.run(&add).ok());
    let named = "container c2, interface net1, network dpdk";
    assert!(output.stderr.contains(named), "{output}");
    assert_eq!(names(target.path()), before);
    node.run(&device_call("DEL", "dpdk", "dev7", &pod)).ok();
    uninstall(&node, &target, &[], 0);
}

#[test]
fn an_agent_that_starts_keeps_everything() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let before = names(target.path());
    let lock = node.run_directory().join("eni-cni/agent.sock.lock");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let lock = fs::File::create(lock).unwrap();
    lock.lock().unwrap();
    let output = uninstall(&node, &target, &["--force"], 1);
    assert!(output.stderr.contains("an agent starts"), "{output}");
    assert_eq!(names(target.path()), before);
    lock.unlock().unwrap();
    uninstall(&node, &target, &[], 0);
}

#[test]
fn an_eni_that_is_begun_keeps_its_record() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let before = names(target.path());
    let enis = node.node.state().join("eni-cni/enis");
    fs::create_dir_all(&enis).unwrap();
    let record = json!({
        "network": "user-plane", "networkCard": 0, "since": 1, "request": {
            "token": "7", "subnetId": "subnet-1", "groups": [], "tags": {}, "description": "",
        },
    });
    fs::write(enis.join("7.json"), record.to_string()).unwrap();
    fs::write(enis.join("8.json"), "{").unwrap();
    let mut attached = record.clone();
    attached["made"] = json!({
        "eni": "eni-9", "mac": "02:00:00:00:00:09", "subnetId": "subnet-1", "vpcId": "vpc-1",
        "primary": [], "created": 1, "attached": 1,
    });
    fs::write(enis.join("9.json"), attached.to_string()).unwrap();
    let output = uninstall(&node, &target, &[], 1);
    assert!(!output.stderr.contains("eni-9"), "{output}");
    for said in [
        "an ENI that EC2 was asked for of user-plane",
        "8.json\" is not the record of an ENI",
        "`eni-sync attach` completes that",
    ] {
        assert!(output.stderr.contains(said), "{said}: {output}");
    }
    assert_eq!(names(target.path()), before);
    uninstall(&node, &target, &["--force"], 1);
    assert_eq!(names(&enis), ["7.json", "8.json", "9.json"]);
}

#[test]
fn a_record_that_cannot_be_read_is_named_and_force_passes_it() {
    for (damage, named) in [
        ("{", "cannot read the record of an attachment in"),
        (r#"{"formatVersion": 9}"#, "is of a newer version"),
    ] {
        let vpc = Vpc::new();
        let node = vpc.node();
        node.add_device();
        let target = installed(&node);
        let pod = Pod::new("c1");
        node.run(&device_call("ADD", "dpdk", "dev7", &pod)).ok();
        let records = node.node.state().join("eni-cni/host-device/dpdk");
        let record = records.join("c1:net1.json");
        fs::write(&record, damage).unwrap();
        let output = uninstall(&node, &target, &[], 1);
        assert!(output.stderr.contains("1 are attached"), "{output}");
        assert!(output.stderr.contains(named), "{output}");
        assert!(output.stderr.contains("c1:net1.json"), "{output}");
        uninstall(&node, &target, &["--force"], 1);
        assert_eq!(names(target.path()), ["bridge", "host-local", "ipvlan"]);
        assert_eq!(fs::read_to_string(&record).unwrap(), damage);
    }
}

#[test]
fn what_was_released_is_said_also_when_another_eni_fails() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let before = names(target.path());
    let [(good, released), (bad, stays)] = let_the_second_eni_fail(&vpc, &node);
    let output = uninstall(&node, &target, &[], 1);
    let line = format!("{released} on {good}: released\n");
    assert!(output.stdout.contains(&line), "{output}");
    assert!(output.stderr.contains(bad.as_str()), "{output}");
    assert_eq!(names(target.path()), before);
    let output = uninstall(&node, &target, &["--force"], 1);
    let said = format!("not every address is released: {bad} is not tagged");
    assert!(output.stdout.contains(&said), "{output}");
    assert_eq!(names(target.path()), ["bridge", "host-local", "ipvlan"]);
    assert_eq!(node.addresses_of(&bad), [stays]);
}

#[test]
fn a_file_of_the_ledger_that_cannot_be_read_is_named_and_stays() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let before = names(target.path());
    node.lab
        .assign(&node.eni, &["10.0.4.70", "10.0.4.71"].map(ip));
    fs::create_dir_all(node.ledger_path()).unwrap();
    fs::write(node.ledger_path().join("10.0.4.70"), "{").unwrap();
    let newer = r#"{"formatVersion": 9}"#;
    fs::write(node.ledger_path().join("10.0.4.71"), newer).unwrap();
    fs::write(node.ledger_path().join(".prefix-10.0.4.32-28"), "{").unwrap();
    let output = uninstall(&node, &target, &[], 1);
    for said in ["10.0.4.70", "10.0.4.71", ".prefix-10.0.4.32-28"] {
        let path = format!("/var/lib/cni/eni-cni/ledger/{}/{said}\"", node.eni);
        assert!(output.stdout.contains(&path), "{path}: {output}");
    }
    assert_eq!(names(target.path()), before);
    uninstall(&node, &target, &["--force"], 1);
    assert_eq!(
        fs::read_to_string(node.ledger_path().join("10.0.4.71")).unwrap(),
        newer
    );
    assert_eq!(node.addresses(), ["10.0.4.70", "10.0.4.71"]);
}

#[test]
fn prefixes_of_a_node_without_pods_are_given_back_also_those_that_nobody_has_heard_of() {
    for is_heard in [true, false] {
        let vpc = Vpc::new();
        let node = node_of_its_own(&vpc, "10.0.79.0/24");
        let target = installed(&node);
        if is_heard {
            let agent = kept(&node, &one(), 1);
            // Until this is gone, the agent may not have heard the answer.
            let is_unheard = || {
                intents(&node)
                    .iter()
                    .any(|name| name.starts_with(".asked-"))
            };
            assert!(eventually(|| !is_unheard()));
            agent.kill();
        } else {
            kill_while_asking(&node, &one(), Hold::AfterCommit);
        }
        let [prefix] = &prefixes(&node)[..] else {
            panic!("{:?}", prefixes(&node));
        };
        if is_heard {
            let output = uninstall(&node, &target, &["--dry-run"], 0);
            let would = format!("{prefix} on {}: would be released\n", node.eni);
            assert!(output.stdout.contains(&would), "{output}");
            let reserved = prefix.replace("/28", "");
            let store = node.node.state().join("networks/other");
            fs::create_dir_all(&store).unwrap();
            fs::write(store.join(&reserved), "c9\neth0").unwrap();
            let output = uninstall(&node, &target, &["--dry-run"], 1);
            let kept = format!("{prefix} on {}: kept: host-local has {reserved}", node.eni);
            assert!(output.stdout.contains(&kept), "{output}");
            fs::remove_dir_all(&store).unwrap();
        }
        // Processes of others may be in namespaces that cannot be read for a moment.
        let target = target.path().display().to_string();
        let arguments = ["uninstall", "--target", &target];
        let is_done = || node.command(&arguments).status == Some(0);
        assert!(eventually(is_done), "{:?}", known(&node));
        assert_eq!(prefixes(&node), [""; 0]);
        assert!(!node.ledger_path().exists());
    }
}

#[test]
fn what_ec2_may_still_show_of_a_lost_answer_is_waited_for() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    let pod = sharing(&node, "c1");
    let add = call(&node, "ADD", &pod, &ipv4());
    kill_while_held(&node, &add, ASSIGN, Hold::AfterCommit);
    del(&node, &pod);
    // It is not of others either.
    let output = node.command(&["release", "--foreign"]);
    assert_eq!(output.stdout, "nothing to release\n", "{output}");
    assert_eq!(node.addresses().len(), 1);
    let output = uninstall(&node, &target, &[], 1);
    assert!(output.stdout.contains("its answer was lost"), "{output}");
    assert!(node.addresses().is_empty());
    node.let_time_pass(61);
    uninstall(&node, &target, &[], 0);
}

#[test]
fn a_lost_answer_that_cannot_be_read_ends_when_its_file_is_removed_and_that_is_said() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let target = installed(&node);
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    node.del(&Pod::new("c1"));
    let unheard = node.ledger_path().join(".unheard");
    fs::write(&unheard, "{").unwrap();
    let said = node.command(&["doctor"]).stdout;
    assert!(
        said.contains("remove the file a minute after the last request"),
        "{said}"
    );
    let output = uninstall(&node, &target, &[], 1);
    assert!(output.stdout.contains("/.unheard"), "{output}");
    // It would never be over.
    assert!(!output.stdout.contains("do this again"), "{output}");
    fs::remove_file(&unheard).unwrap();
    uninstall(&node, &target, &[], 0);
}
