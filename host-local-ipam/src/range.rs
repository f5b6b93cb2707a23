//! Ranges of addresses, validated. Addresses of both families are converted to numbers
//! for calculations.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use common::address::{Cidr, number, numbered, step};

use crate::exclude::{Exclusion, parts_left};

/// A range as configured, without defaults.
#[derive(Clone, Debug, Default)]
pub struct RangeSpec {
    /// The network; required.
    pub subnet: Option<Cidr>,
    /// The first address to assign; the network's first host when not set.
    pub range_start: Option<IpAddr>,
    /// The last address to assign; the network's last host when not set.
    pub range_end: Option<IpAddr>,
    /// The gateway, which is never assigned; the network's first host when not set.
    pub gateway: Option<IpAddr>,
    /// Other addresses that are never assigned, of the same family.
    pub exclude: Vec<Exclusion>,
}

/// Addresses of one network, `first` to `last`, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    subnet: Cidr,
    first: IpAddr,
    last: IpAddr,
    gateway: IpAddr,
    /// The numbers of the addresses that are not excluded.
    parts: Vec<RangeInclusive<u128>>,
}

/// Ranges of one family that do not overlap; at least one.
#[derive(Clone, Debug)]
pub struct RangeSet(Vec<Range>);

impl Range {
    /// The range that `spec` describes, without what `exclude` names.
    ///
    /// # Errors
    /// A text of the Go plugin, or one that names the key `exclude`.
    fn new(spec: &RangeSpec, exclude: &[Exclusion]) -> Result<Self, String> {
        let subnet = spec.subnet.ok_or("IP <nil> not v4 nor v6")?;
        require_network(subnet)?;
        let first_host = step(subnet.address(), 1);
        let mut range = Self {
            subnet,
            first: spec.range_start.unwrap_or(first_host),
            last: spec.range_end.unwrap_or_else(|| last_host(subnet)),
            gateway: spec.gateway.unwrap_or(first_host),
            parts: Vec::new(),
        };
        let ends = [
            ("RangeStart", spec.range_start),
            ("RangeEnd", spec.range_end),
        ];
        for (name, configured) in ends {
            if let Some(end) = configured
                && (!subnet.contains(end) || range.first > range.last)
            {
                return Err(format!("{name} {end} not in network {subnet}"));
            }
        }
        require_family(&spec.exclude, subnet)?;
        range.parts = range.parts_outside(spec.exclude.iter().chain(exclude));
        Ok(range)
    }

    fn parts_outside<'a>(
        &self,
        exclude: impl Iterator<Item = &'a Exclusion>,
    ) -> Vec<RangeInclusive<u128>> {
        let excluded = exclude
            .filter(|exclusion| exclusion.is_of_family(self.first))
            .map(|exclusion| (number(exclusion.first), number(exclusion.last)));
        parts_left(number(self.first), number(self.last), excluded.collect())
    }

    /// The network.
    pub fn subnet(&self) -> Cidr {
        self.subnet
    }

    /// The prefix length of the network.
    pub fn prefix(&self) -> u8 {
        self.subnet.prefix()
    }

    /// The gateway; it may be outside of the range, or even of the network.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// Whether `address` is between the ends, excluded or not.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first <= address && address <= self.last
    }

    /// Whether `address`, which must be between the ends, is excluded.
    pub fn excludes(&self, address: IpAddr) -> bool {
        let number = number(address);
        !self.parts.iter().any(|part| part.contains(&number))
    }

    /// The numbers from `start` to the end of the range that are not excluded, in parts.
    pub fn from(&self, start: IpAddr) -> impl Iterator<Item = RangeInclusive<u128>> {
        let first = number(start);
        let parts = self.parts.iter();
        let parts = parts.map(move |part| *part.start().max(&first)..=*part.end());
        parts.filter(|part| !part.is_empty())
    }

    /// The numbers before `end` that are not excluded, in parts.
    pub fn until(&self, end: IpAddr) -> impl Iterator<Item = RangeInclusive<u128>> {
        let end = number(end);
        let parts = self.parts.iter();
        let parts = parts.map(move |part| *part.start()..=(*part.end()).min(end.saturating_sub(1)));
        parts.filter(|part| !part.is_empty())
    }

    /// The address with this number, which must be in the range.
    pub fn address(&self, number: u128) -> IpAddr {
        numbered(number, self.first)
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// The address after `address`, unless that is the last one of the range.
    pub fn after(&self, address: IpAddr) -> Option<IpAddr> {
        (address < self.last).then(|| step(address, 1))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl RangeSet {
    /// The set that `specs` describe, without what `exclude` names.
    ///
    /// # Errors
    /// A text of the Go plugin, or one that names the key `exclude`.
    pub fn new(specs: &[RangeSpec], exclude: &[Exclusion]) -> Result<Self, String> {
        let mut ranges: Vec<Range> = Vec::new();
        for spec in specs {
            let range = Range::new(spec, exclude)?;
            let family = ranges.first().unwrap_or(&range).first.is_ipv4();
            if range.first.is_ipv4() != family {
                return Err("mixed address families".into());
            }
            ranges.push(range);
        }
        if ranges.is_empty() {
            return Err("empty range set".into());
        }
        for (index, range) in ranges.iter().enumerate() {
            let mut later = ranges.iter().skip(index + 1);
            if let Some(other) = later.find(|later| range.overlaps(later)) {
                return Err(format!("subnets {range} and {other} overlap"));
            }
        }
        Ok(Self(ranges))
    }

    /// The ranges, in the order configured.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// Whether the addresses are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.0.iter().all(|range| range.first.is_ipv4())
    }

    /// The range that has `address`.
    pub fn range_for(&self, address: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(address))
    }

    /// Whether one of the ranges has `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.range_for(address).is_some()
    }

    /// Whether an address is in both sets.
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut pairs = self
            .0
            .iter()
            .flat_map(|a| other.0.iter().map(move |b| (a, b)));
        pairs.any(|(a, b)| a.overlaps(b))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(Range::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

/// Makes sure that addresses can be allocated from `subnet`: it must have at least two
/// host bits, and none set.
fn require_network(subnet: Cidr) -> Result<(), String> {
    let bits = if subnet.is_ipv4() { 32 } else { 128 };
    if subnet.prefix() > bits - 2 {
        return Err(format!("Network {subnet} too small to allocate from"));
    }
    // An IPv4 address in IPv6 notation: its prefix length counts other bits.
    if subnet.address().to_canonical() != subnet.address() {
        return Err("IPNet IP and Mask version mismatch".into());
    }
    let network = subnet.network().address();
    if network != subnet.address() {
        return Err(format!(
            "Network has host bits set. For a subnet mask of length {} the network address is {network}",
            subnet.prefix()
        ));
    }
    Ok(())
}

/// Makes sure that every exclusion is of the family of `subnet`. An exclusion outside of
/// the subnet is not an error.
fn require_family(exclude: &[Exclusion], subnet: Cidr) -> Result<(), String> {
    let foreign = |exclusion: &&Exclusion| !exclusion.is_of_family(subnet.address());
    match exclude.iter().find(foreign) {
        Some(Exclusion { text, .. }) => Err(format!(
            "exclude {text:?} is of another family than network {subnet}"
        )),
        None => Ok(()),
    }
}

/// The last address of a host: in IPv4 the broadcast address follows it.
fn last_host(subnet: Cidr) -> IpAddr {
    match subnet.last() {
        last @ IpAddr::V4(_) => step(last, -1),
        last @ IpAddr::V6(_) => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A range as `subnet start end gateway`, with `-` for a key that is not set.
    fn spec(text: &str) -> RangeSpec {
        let mut words = text.split(' ').map(|word| (word != "-").then_some(word));
        let mut next = || words.next().flatten();
        RangeSpec {
            subnet: next().map(|word| word.parse().unwrap()),
            range_start: next().map(|word| word.parse().unwrap()),
            range_end: next().map(|word| word.parse().unwrap()),
            gateway: next().map(|word| word.parse().unwrap()),
            exclude: Vec::new(),
        }
    }

    fn range(text: &str) -> Result<Range, String> {
        Range::new(&spec(text), &[])
    }

    fn set(ranges: &[&str]) -> Result<RangeSet, String> {
        let specs: Vec<RangeSpec> = ranges.iter().map(|text| spec(text)).collect();
        RangeSet::new(&specs, &[])
    }

    #[test]
    fn keys_that_are_not_set_have_the_defaults_of_go() {
        for (given, expected, gateway) in [
            ("10.0.0.0/24", "10.0.0.1-10.0.0.254", "10.0.0.1"),
            ("10.0.0.0/30", "10.0.0.1-10.0.0.2", "10.0.0.1"),
            ("0.0.0.0/0", "0.0.0.1-255.255.255.254", "0.0.0.1"),
            (
                "2001:db8::/64",
                "2001:db8::1-2001:db8::ffff:ffff:ffff:ffff",
                "2001:db8::1",
            ),
            ("2001:db8::/126", "2001:db8::1-2001:db8::3", "2001:db8::1"),
            (
                "10.0.0.0/24 10.0.0.0 10.0.0.255",
                "10.0.0.0-10.0.0.255",
                "10.0.0.1",
            ),
            (
                "10.0.0.0/24 10.0.0.9 10.0.0.9",
                "10.0.0.9-10.0.0.9",
                "10.0.0.1",
            ),
            (
                "10.0.0.0/24 - 10.0.0.5 192.0.2.1",
                "10.0.0.1-10.0.0.5",
                "192.0.2.1",
            ),
        ] {
            let range = range(given).unwrap();
            assert_eq!(range.to_string(), expected, "{given}");
            assert_eq!(range.gateway().to_string(), gateway, "{given}");
        }
    }

    #[test]
    fn an_invalid_range_is_refused_with_the_text_of_go() {
        for (given, expected) in [
            ("-", "IP <nil> not v4 nor v6"),
            (
                "10.0.0.0/31",
                "Network 10.0.0.0/31 too small to allocate from",
            ),
            (
                "10.0.0.0/32",
                "Network 10.0.0.0/32 too small to allocate from",
            ),
            (
                "2001:db8::/127",
                "Network 2001:db8::/127 too small to allocate from",
            ),
            ("::ffff:10.0.0.0/120", "IPNet IP and Mask version mismatch"),
            (
                "10.0.0.5/24",
                "Network has host bits set. For a subnet mask of length 24 the network address is 10.0.0.0",
            ),
            (
                "10.0.0.0/24 10.0.1.1",
                "RangeStart 10.0.1.1 not in network 10.0.0.0/24",
            ),
            (
                "10.0.0.0/24 2001:db8::1",
                "RangeStart 2001:db8::1 not in network 10.0.0.0/24",
            ),
            (
                "10.0.0.0/24 10.0.0.9 10.0.0.8",
                "RangeStart 10.0.0.9 not in network 10.0.0.0/24",
            ),
            (
                "10.0.0.0/24 10.0.0.255",
                "RangeStart 10.0.0.255 not in network 10.0.0.0/24",
            ),
            (
                "10.0.0.0/24 - 10.0.1.1",
                "RangeEnd 10.0.1.1 not in network 10.0.0.0/24",
            ),
            (
                "10.0.0.0/24 - 10.0.0.0",
                "RangeEnd 10.0.0.0 not in network 10.0.0.0/24",
            ),
            (
                "10.0.0.0/24 - 2001:db8::1",
                "RangeEnd 2001:db8::1 not in network 10.0.0.0/24",
            ),
        ] {
            assert_eq!(range(given).unwrap_err(), expected, "{given}");
        }
    }

    #[test]
    fn an_invalid_set_is_refused_with_the_text_of_go() {
        assert_eq!(set(&[]).unwrap_err(), "empty range set");
        assert_eq!(
            set(&["10.0.0.0/24", "2001:db8::/64"]).unwrap_err(),
            "mixed address families"
        );
        assert_eq!(
            set(&["10.0.0.0/24", "10.1.0.0/24", "10.0.0.0/30"]).unwrap_err(),
            "subnets 10.0.0.1-10.0.0.254 and 10.0.0.1-10.0.0.2 overlap"
        );
        assert!(set(&["10.0.0.0/24 - 10.0.0.9", "10.0.0.0/24 10.0.0.10"]).is_ok());
    }

    #[test]
    fn a_range_that_encloses_another_overlaps_it_from_either_side() {
        let big = set(&["10.0.0.0/16"]).unwrap();
        let small = set(&["192.0.2.0/24", "10.0.7.0/24"]).unwrap();
        assert!(big.overlaps(&small) && small.overlaps(&big));
        let other_family = set(&["::/0"]).unwrap();
        assert!(!big.overlaps(&other_family) && !other_family.overlaps(&big));
        assert!(!other_family.contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn the_last_address_has_no_next_one() {
        for text in ["0.0.0.0/0 - 255.255.255.255", "::/0"] {
            let range = range(text).unwrap();
            assert_eq!(range.after(range.last), None);
            assert_eq!(range.from(range.last).count(), 1);
            assert_eq!(range.until(range.first).count(), 0);
        }
    }
}
