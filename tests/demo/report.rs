//! What the demo prints. Whatever is not as it must be ends it.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use harness::eni_lab::VpcId;
use harness::{AwsNode, Pod};

/// An address that a pod has, and the link of the node that it is reached at.
pub struct Reached<'a> {
    pub pod: &'a Pod,
    pub address: &'a str,
    pub link: &'a str,
}

pub fn heading(text: &str) {
    println!("\n== {text}\n");
    if let Some(seconds) = elapsed() {
        println!("({seconds} s of about 180)\n");
    }
}

/// The seconds since `make demo` has begun to show something, where it does so on a terminal.
fn elapsed() -> Option<u64> {
    let begun: u64 = std::env::var("DEMO_BEGUN").ok()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    now.as_secs().checked_sub(begun)
}

/// Why what comes next is shown.
pub fn says(text: &str) {
    println!("{text}\n");
}

/// What a program has printed.
pub fn quote(text: &str) {
    for line in text.trim_end().lines() {
        println!("  | {line}");
    }
}

#[track_caller]
pub fn check(holds: bool, what: &str) {
    assert!(holds, "NOT SO: {what}");
    println!("  ok: {what}");
}

/// From pod to ENI to VPC: every address must be where packets for it have to go.
#[track_caller]
pub fn show_in_vpc(at: &AwsNode, vpc: &VpcId, reached: &[Reached<'_>]) {
    println!("pod     address        link   its ENI               owner in the VPC");
    for Reached { pod, address, link } in reached {
        let owner = at.lab.owner(vpc, parsed(address));
        let owner_text = owner
            .as_ref()
            .map_or("nobody".to_owned(), |o| o.to_string());
        let eni = at.eni(link);
        println!("{:7} {address:14} {link:6} {eni:22} {owner_text}", pod.id);
        assert!(
            owner.as_ref() == Some(eni),
            "NOT SO: the VPC delivers {address} to {eni}"
        );
    }
    let mut expected: Vec<IpAddr> = reached.iter().map(|r| parsed(r.address)).collect();
    let mut found = at.addresses();
    expected.sort();
    found.sort();
    assert!(
        found == expected,
        "NOT SO: the ENIs have these addresses and no other, but {found:?}"
    );
    println!("  ok: the VPC delivers each of them to the pod's ENI, and no other address\n");
}

fn parsed(address: &str) -> IpAddr {
    address.parse().expect("it is an address")
}
