//! ENIs that a node has and that EC2 does not describe yet, after the records were lost, as when a
//! bootstrap container ends.

use std::fs;
use std::time::Duration;

use harness::AwsNode;

use super::{CREATE, Site, attach, attached};

fn lose_records(node: &AwsNode) {
    for directory in [node.node.state(), node.run_directory()] {
        fs::remove_dir_all(directory.join("eni-cni")).unwrap();
    }
}

#[test]
fn an_eni_that_no_description_shows_yet_is_not_created_again() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    let lag = Duration::from_secs(4);
    site.lab.age(lag);
    attached(&node, &configuration);
    lose_records(&node);
    site.lab.rules(|rules| rules.describe_lag = lag);
    attached(&node, &configuration);
    site.assert_exactly(&node, &[("user", 1)], "described");
    assert_eq!(site.lab.calls()[CREATE], 1);
}

#[test]
fn what_is_not_described_in_time_is_named_and_nothing_is_created() {
    let site = Site::new();
    let node = site.node();
    let configuration = site.configuration(&[site.wanted("user", 1)]);
    let lag = Duration::from_secs(600);
    site.lab.age(lag);
    attached(&node, &configuration);
    lose_records(&node);
    site.lab.rules(|rules| rules.describe_lag = lag);
    let output = attach(&node, &configuration, &["--timeout", "5"]);
    assert_eq!(output.status, Some(1), "{output}");
    let mac = site.lab.mac(&site.enis()[0].id);
    let said = format!("EC2 does not describe the ENI with the MAC address {mac} yet");
    assert!(output.stderr.contains(&said), "{said}\n{output}");
    assert_eq!((site.enis().len(), site.lab.calls()[CREATE]), (1, 1));
}
