//! Messages of the kernel: whatever they are, what is taken from them are addresses and
//! names as the rest of the code expects them. A rule is told to the kernel as it was
//! found.
#![no_main]

use common::address::Cidr;
use common::kernel::netlink::{Link, Reply, SourceRule, parse_mac};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| match Reply::parse(data) {
    Some(Reply::Link(link)) => assert_link(&link),
    Some(Reply::Address(address)) => assert_cidr(address.cidr),
    Some(Reply::Route(route)) => assert_cidr(route.dst),
    Some(Reply::Rule(rule)) => assert_told_as_found(&rule),
    None => {}
});

fn assert_link(link: &Link) {
    for mac in [&link.mac, &link.permanent_mac] {
        assert_eq!(parse_mac(mac).is_some(), mac.len() == 17, "{mac:?}");
    }
}

fn assert_cidr(cidr: Cidr) {
    assert!(cidr.prefix() <= if cidr.is_ipv4() { 32 } else { 128 });
    assert!(cidr.contains(cidr.address()) && cidr.contains(cidr.last()));
    assert_eq!(cidr.to_string().parse(), Ok(cidr));
}

fn assert_told_as_found(rule: &SourceRule) {
    let bytes = Reply::rule_bytes(rule);
    assert_eq!(Reply::parse(&bytes), Some(Reply::Rule(*rule)));
}
