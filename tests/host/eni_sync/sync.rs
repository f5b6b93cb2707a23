//! `sync --once`: one comparison of the ledger with EC2, by an operator.

use std::fs;

use harness::Pod;
use harness::vpc::{Vpc, ip};

const NOTHING: &str =
    "addresses adopted: 0, lost and assigned again: 0, abandoned: 0, gone: 0, missing: 0\n";

#[test]
fn a_sync_repairs_what_differs_and_reports_it() {
    let vpc = Vpc::new();
    let node = vpc.node();
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    let pod = Pod::new("c2");
    node.add(&pod, &["10.0.4.71"]).ok();
    node.lab
        .unassign(&node.eni, &["10.0.4.71".parse().unwrap()]);
    node.lab.assign(&node.eni, &["10.0.4.99".parse().unwrap()]);
    node.let_time_pass(60);
    let output = node.command(&["sync", "--once"]);
    assert_eq!(output.status, Some(0), "{output}");
    assert_eq!(
        output.stdout,
        "addresses adopted: 1, lost and assigned again: 1, abandoned: 0, gone: 0, missing: 0\n"
    );
    assert_eq!(node.addresses(), ["10.0.4.70", "10.0.4.71", "10.0.4.99"]);
    assert_eq!(node.ledger()["10.0.4.99"], "adopted");
    assert_eq!(node.command(&["sync", "--once"]).stdout, NOTHING);
}

#[test]
fn one_sync_knows_all_that_a_lost_ledger_had_and_an_eni_has_brought() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.lab.assign_prefix(&node.eni, "10.0.4.96/28");
    fs::remove_dir_all(node.ledger_path()).unwrap();
    let second = node.lab.multus_eni(&node.instance, &vpc.pods);
    node.lab
        .assign(&second, &[ip("10.0.4.80"), ip("10.0.4.81")]);
    node.lab.assign_prefix(&second, "10.0.4.112/28");
    node.lab.reset_calls();
    let output = node.command(&["sync", "--once"]);
    assert_eq!(output.status, Some(0), "{output}");
    let adopted = |texts: &[&str]| {
        let pairs = texts.iter();
        let pairs = pairs.map(|text| ((*text).to_owned(), "adopted".to_owned()));
        pairs.collect::<Vec<_>>()
    };
    let known = |eni| node.ledger_of(eni).into_iter().collect::<Vec<_>>();
    assert_eq!(known(&node.eni), adopted(&["10.0.4.70"]));
    assert_eq!(node.prefixes_of(&node.eni), adopted(&["10.0.4.96/28"]));
    assert_eq!(known(&second), adopted(&["10.0.4.80", "10.0.4.81"]));
    assert_eq!(node.prefixes_of(&second), adopted(&["10.0.4.112/28"]));
    let calls = node.lab.calls();
    assert!(
        calls.keys().all(|action| action.starts_with("Describe")),
        "{calls:?}"
    );
    // The pod has its address as before, and takes it away with it.
    node.check(&pod, &["10.0.4.70"]).ok();
    assert_eq!(node.ledger()["10.0.4.70"], "held");
    node.del(&pod);
    node.end_cooldown("10.0.4.70");
    node.gc(&[]);
    assert_eq!(node.addresses(), [""; 0]);
}

#[test]
fn a_log_gets_a_line_for_each_eni() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let second = node.lab.multus_eni(&node.instance, &vpc.pods);
    let output = node.command(&["sync", "--once"]);
    let expected = format!("{} (ens6) compared\n{second} compared\n", node.eni);
    assert_eq!(output.stderr, expected, "{output}");
}

#[test]
fn a_terminal_gets_a_progress_bar() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let call = node.call("").without("CNI_COMMAND").env("TERM", "xterm");
    let program = harness::our_plugin("eni-sync");
    let typescript = node.run_directory().join("typescript");
    let mut process = std::process::Command::new("script");
    let command = format!("{} sync --once", program.display());
    process.args(["-qec", &command, "/run/typescript"]);
    process.env_clear();
    for name in [
        "PATH",
        "TERM",
        "AWS_ENDPOINT_URL_EC2",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    ] {
        process.env(name, call.variable(name));
    }
    let output = node.node.inside(|| call.run_as(process));
    assert_eq!(output.status, Some(0), "{output}");
    let shown = fs::read_to_string(typescript).unwrap();
    assert!(shown.contains("0/1 ENIs"), "{shown:?}");
    assert!(shown.contains("addresses adopted: 0"), "{shown:?}");
    assert!(!shown.contains("compared"), "{shown:?}");
}

#[test]
fn what_aws_refuses_is_an_error_of_the_sync() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let action = "DescribeNetworkInterfaces".to_owned();
    node.lab.rules(|rules| {
        rules.denied_actions.insert(action);
    });
    let output = node.command(&["sync", "--once"]);
    assert_eq!(output.status, Some(1), "{output}");
    assert_eq!(output.stdout, "");
    assert!(
        output
            .stderr
            .contains("does not permit ec2:DescribeNetworkInterfaces"),
        "{output}"
    );
}
