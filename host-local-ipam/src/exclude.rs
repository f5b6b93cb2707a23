//! Addresses in a range that are never assigned. They are stored as blocks with a first
//! and a last address, not as lists, so an IPv6 network /65 costs no more than one
//! address.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use common::address::{Cidr, parse_address};
use serde_json::Value;

/// One entry of `exclude`: the addresses of a network, or a single one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    /// The entry as written.
    pub text: String,
    /// The first address.
    pub first: IpAddr,
    /// The last address.
    pub last: IpAddr,
}

impl Exclusion {
    /// Reads an address or a network; host bits of a network are ignored.
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = match text.parse::<Cidr>() {
            // An IPv4 address in IPv6 notation: its prefix length counts other bits.
            Ok(cidr) if cidr.address().to_canonical() != cidr.address() => return None,
            Ok(cidr) => (cidr.network().address(), cidr.last()),
            Err(_) => parse_address(text).map(|address| (address, address)).ok()?,
        };
        Some(Self {
            text: text.to_owned(),
            first,
            last,
        })
    }

    /// Whether the addresses are of the same family as `address`.
    pub fn is_of_family(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4()
    }
}

/// Reads the value of the key `exclude`. Its type is checked here and not by the JSON
/// reader, so that an error names the key and the value.
///
/// # Errors
/// A message that names the key and the wrong value.
pub fn parse(value: &Value) -> Result<Vec<Exclusion>, String> {
    let entries = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(entries) => entries,
        other => return Err(format!("exclude {other} is not a list of addresses")),
    };
    let parsed = entries.iter().map(|entry| {
        let exclusion = entry.as_str().and_then(Exclusion::parse);
        exclusion.ok_or_else(|| format!("exclude {entry} is neither an address nor a CIDR"))
    });
    parsed.collect()
}

/// The parts of `first` to `last` that no block of `excluded` covers, in order.
/// Blocks may overlap each other and the ends.
pub fn parts_left(
    first: u128,
    last: u128,
    mut excluded: Vec<(u128, u128)>,
) -> Vec<RangeInclusive<u128>> {
    excluded.sort_unstable();
    let mut parts = Vec::new();
    let mut next = first;
    for (begin, end) in excluded {
        if begin > last {
            break;
        }
        if next < begin {
            parts.push(next..=begin - 1);
        }
        // No number is after a block that ends with the largest one.
        let Some(after) = end.checked_add(1) else {
            return parts;
        };
        next = next.max(after);
    }
    if next <= last {
        parts.push(next..=last);
    }
    parts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_is_an_address_or_a_network_with_or_without_host_bits() {
        for (text, first, last) in [
            ("10.0.0.5", "10.0.0.5", "10.0.0.5"),
            ("10.0.0.5/32", "10.0.0.5", "10.0.0.5"),
            ("10.0.0.5/30", "10.0.0.4", "10.0.0.7"),
            ("10.0.0.5/0", "0.0.0.0", "255.255.255.255"),
            ("::ffff:10.0.0.5", "10.0.0.5", "10.0.0.5"),
            (
                "2001:db8::7/65",
                "2001:db8::",
                "2001:db8::7fff:ffff:ffff:ffff",
            ),
        ] {
            let exclusion = Exclusion::parse(text).unwrap();
            let ends = (exclusion.first.to_string(), exclusion.last.to_string());
            assert_eq!(ends, (first.to_owned(), last.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key() {
        for (value, expected) in [
            (
                json!(["10.0.0.5", "10.0.0"]),
                "exclude \"10.0.0\" is neither an address nor a CIDR",
            ),
            (
                json!(["10.0.0.0/33"]),
                "exclude \"10.0.0.0/33\" is neither an address nor a CIDR",
            ),
            (
                json!(["::ffff:10.0.0.0/120"]),
                "exclude \"::ffff:10.0.0.0/120\" is neither an address nor a CIDR",
            ),
            (json!([""]), "exclude \"\" is neither an address nor a CIDR"),
            (json!([7]), "exclude 7 is neither an address nor a CIDR"),
            (
                json!([null]),
                "exclude null is neither an address nor a CIDR",
            ),
            (
                json!("10.0.0.5"),
                "exclude \"10.0.0.5\" is not a list of addresses",
            ),
            (json!({}), "exclude {} is not a list of addresses"),
        ] {
            assert_eq!(parse(&value).unwrap_err(), expected);
        }
        assert_eq!(parse(&Value::Null).unwrap(), []);
        assert_eq!(parse(&json!([])).unwrap(), []);
    }

    #[test]
    fn the_parts_left_are_what_counting_one_by_one_leaves() {
        let blocks: Vec<(u128, u128)> = (0..7).flat_map(|a| (a..7).map(move |b| (a, b))).collect();
        for a in &blocks {
            for b in &blocks {
                for c in &blocks {
                    let excluded = vec![*a, *b, *c];
                    let is_left = |n: &u128| excluded.iter().all(|(x, y)| n < x || y < n);
                    let expected: Vec<u128> = (1..=5).filter(is_left).collect();
                    let parts = parts_left(1, 5, excluded.clone());
                    let ours: Vec<u128> = parts.iter().cloned().flatten().collect();
                    assert_eq!(ours, expected, "{excluded:?}");
                    let empty = parts.iter().filter(|part| part.is_empty()).count();
                    assert_eq!(empty, 0, "{parts:?}");
                }
            }
        }
    }

    #[test]
    fn a_block_may_end_with_the_largest_number() {
        let max = u128::MAX;
        assert_eq!(parts_left(0, max, vec![(5, max)]), [0..=4]);
        assert_eq!(parts_left(0, max, vec![(0, max), (3, 4)]), []);
        assert_eq!(parts_left(0, max, vec![(0, max - 1)]), [max..=max]);
    }
}
