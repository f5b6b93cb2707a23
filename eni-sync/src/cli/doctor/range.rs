//! The addresses that an IPAM plugin hands out, by its configuration: for host-local by its own
//! library; also for whereabouts and static, which are not of this suite.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use common::address::{Cidr, number, numbered, parse_address, step};
use host_local_ipam::range;
use serde_json::Value;

type Outcome<T> = Result<T, String>;

/// A range of addresses of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The network, whose prefix length the pods get.
    pub(crate) subnet: Cidr,
    pub(crate) first: IpAddr,
    pub(crate) last: IpAddr,
    /// The gateway of the pods, if there is one.
    pub(crate) gateway: Option<IpAddr>,
    /// The addresses that are handed out, as ranges of numbers.
    parts: Vec<RangeInclusive<u128>>,
}

impl Range {
    /// Whether `address` is handed out.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let is_of_family = address.is_ipv4() == self.first.is_ipv4();
        let number = number(address);
        is_of_family && self.parts.iter().any(|part| part.contains(&number))
    }

    /// An address that both hand out.
    pub(crate) fn common(&self, other: &Self) -> Option<IpAddr> {
        if self.first.is_ipv4() != other.first.is_ipv4() {
            return None;
        }
        let pairs = self.parts.iter();
        let mut pairs = pairs.flat_map(|part| other.parts.iter().map(move |o| (part, o)));
        pairs.find_map(|(part, other)| {
            let first = *part.start().max(other.start());
            (first <= *part.end().min(other.end())).then(|| numbered(first, self.first))
        })
    }

    /// How many addresses are handed out.
    pub(crate) fn size(&self) -> u128 {
        let sizes = self.parts.iter().map(|part| part.end() - part.start());
        sizes.fold(0, |sum, size| sum.saturating_add(size).saturating_add(1))
    }

    /// Whether all of it is in `cidrs`, each part in one of them.
    pub(crate) fn is_within(&self, cidrs: &[Cidr]) -> bool {
        let covers = |part: &RangeInclusive<u128>, cidr: &Cidr| {
            let (first, last) = (number(cidr.network().address()), number(cidr.last()));
            cidr.is_ipv4() == self.first.is_ipv4() && first <= *part.start() && *part.end() <= last
        };
        let mut parts = self.parts.iter();
        parts.all(|part| cidrs.iter().any(|cidr| covers(part, cidr)))
    }

    /// A range of host-local, which never hands out the gateway.
    pub(crate) fn of_host_local(range: &range::Range) -> Self {
        let gateway = range.gateway();
        let whole = Self {
            subnet: range.subnet(),
            first: range.first(),
            last: range.last(),
            gateway: Some(gateway),
            parts: range.from(range.first()).collect(),
        };
        whole.without(gateway, gateway)
    }

    fn new(subnet: Cidr, ends: [Option<IpAddr>; 2], gateway: Option<IpAddr>) -> Self {
        let [start, end] = ends;
        let network = subnet.network().address();
        let first = start.unwrap_or_else(|| step(network, 1));
        let last = end.unwrap_or_else(|| match subnet.last() {
            last @ IpAddr::V4(_) => step(last, -1),
            last @ IpAddr::V6(_) => last,
        });
        let whole = number(first)..=number(last);
        Self {
            subnet,
            first,
            last,
            gateway,
            parts: vec![whole],
        }
    }

    fn without(mut self, first: IpAddr, last: IpAddr) -> Self {
        if first.is_ipv4() != self.first.is_ipv4() {
            return self;
        }
        let (first, last) = (number(first), number(last));
        let rest = self.parts.iter().flat_map(|part| {
            let before = *part.start()..=(*part.end()).min(first.saturating_sub(1));
            let after = (*part.start()).max(last.saturating_add(1))..=*part.end();
            match first > *part.end() || last < *part.start() {
                true => [Some(part.clone()), None],
                false => [Some(before).filter(|_| first > 0), Some(after)],
            }
        });
        self.parts = rest.flatten().filter(|part| !part.is_empty()).collect();
        self
    }

    fn without_all(self, exclude: Option<&Value>) -> Outcome<Self> {
        let entries = exclude.and_then(Value::as_array);
        let mut range = self;
        for entry in entries.into_iter().flatten().filter_map(Value::as_str) {
            range = match entry.parse::<Cidr>() {
                Ok(cidr) => range.without(cidr.network().address(), cidr.last()),
                Err(_) => parse_address(entry).map(|one| range.without(one, one))?,
            };
        }
        Ok(range)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}/{}", self.first, self.subnet.prefix()),
            false => write!(f, "{}-{}/{}", self.first, self.last, self.subnet.prefix()),
        }
    }
}

/// The first four addresses and the last one of a subnet, which AWS reserves. Source: Amazon
/// VPC User Guide, "Subnet sizing".
pub(crate) fn reserved(subnet: Cidr) -> Vec<IpAddr> {
    let network = subnet.network().address();
    let first = (0..4).map(|by| step(network, by));
    first.chain([subnet.last()]).collect()
}

/// The address of AWS' router in an IPv4 subnet: the one after the network's.
pub(crate) fn router(subnet: Cidr) -> IpAddr {
    step(subnet.network().address(), 1)
}

/// The ranges of the `ipam` section of a plugin that is not of this suite; empty for an unknown
/// plugin.
///
/// # Errors
/// The text that cannot be read.
pub(crate) fn of_ipam(ipam: &Value) -> Outcome<Vec<Range>> {
    match text(ipam, "type").unwrap_or_default() {
        "whereabouts" => whereabouts(ipam),
        "static" => list(ipam, "addresses").iter().map(fixed).collect(),
        _ => Ok(Vec::new()),
    }
}

fn whereabouts(ipam: &Value) -> Outcome<Vec<Range>> {
    let inline = text(ipam, "range").map(|_| ipam.clone());
    let all = inline.into_iter().chain(list(ipam, "ipRanges"));
    let range = |raw: Value| {
        let written = text(&raw, "range").ok_or("an entry of ipRanges has no range")?;
        // `10.0.4.70-10.0.4.80/24` is both ends and the prefix length.
        let (start, cidr) = match written.split_once('-') {
            Some((start, cidr)) => (Some(parse_address(start.trim())?), cidr.trim()),
            None => (None, written),
        };
        let cidr: Cidr = cidr.parse()?;
        let end = start.map(|_| cidr.address());
        let ends = [
            address(&raw, "range_start")?.or(start),
            address(&raw, "range_end")?.or(end),
        ];
        let range = Range::new(cidr.network(), ends, address(&raw, "gateway")?);
        range.without_all(raw.get("exclude"))
    };
    all.map(range).collect()
}

fn fixed(entry: &Value) -> Outcome<Range> {
    let cidr: Cidr = text(entry, "address")
        .ok_or("an entry of addresses has no address")?
        .parse()?;
    let one = Some(cidr.address());
    let gateway = address(entry, "gateway")?;
    Ok(Range::new(cidr.network(), [one, one], gateway))
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    let found = value.get(key)?.as_str();
    found.filter(|text| !text.is_empty())
}

fn list(value: &Value, key: &str) -> Vec<Value> {
    let found = value.get(key);
    found.and_then(Value::as_array).cloned().unwrap_or_default()
}

fn address(value: &Value, key: &str) -> Outcome<Option<IpAddr>> {
    text(value, key).map(parse_address).transpose()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ranges(ipam: &Value) -> Vec<String> {
        let ranges = of_ipam(ipam).unwrap();
        let text = |range: &Range| format!("{range} {} {:?}", range.size(), range.gateway);
        ranges.iter().map(text).collect()
    }

    #[test]
    fn every_plugins_way_to_write_a_range_is_understood() {
        for (ipam, expected) in [
            (
                json!({ "type": "whereabouts", "range": "10.0.4.70-10.0.4.80/24" }),
                "10.0.4.70-10.0.4.80/24 11 None",
            ),
            (
                json!({ "type": "whereabouts", "ipRanges": [{ "range": "2001:db8:4::/64" }] }),
                "2001:db8:4::1-2001:db8:4:0:ffff:ffff:ffff:ffff/64 18446744073709551615 None",
            ),
            (
                json!({ "type": "static", "addresses": [{ "address": "10.0.4.70/24" }] }),
                "10.0.4.70/24 1 None",
            ),
        ] {
            assert_eq!(ranges(&ipam), [expected], "{ipam}");
        }
        assert!(ranges(&json!({ "type": "dhcp" })).is_empty());
    }

    #[test]
    fn an_exclusion_leaves_what_is_around_it() {
        let subnet: Cidr = "10.0.4.0/24".parse().unwrap();
        let ip = |last: u8| IpAddr::from([10, 0, 4, last]);
        let range = Range::new(subnet, [Some(ip(10)), Some(ip(19))], None);
        let cut = range.clone().without(ip(12), ip(14));
        assert_eq!(cut.size(), 7);
        assert!(cut.contains(ip(11)) && !cut.contains(ip(12)) && cut.contains(ip(15)));
        assert_eq!(range.clone().without(ip(0), ip(10)).size(), 9);
        assert_eq!(range.clone().without(ip(19), ip(30)).size(), 9);
        assert_eq!(range.clone().without(ip(20), ip(30)).size(), 10);
        assert_eq!(range.without(ip(0), ip(255)).size(), 0);
    }

    #[test]
    fn what_is_no_range_is_named() {
        let wrong = json!({ "type": "whereabouts", "range": "10.0.4.0" });
        assert_eq!(
            of_ipam(&wrong).unwrap_err(),
            "invalid CIDR address: 10.0.4.0"
        );
        let wrong = json!({ "type": "whereabouts", "ipRanges": [{}] });
        assert_eq!(
            of_ipam(&wrong).unwrap_err(),
            "an entry of ipRanges has no range"
        );
    }
}
