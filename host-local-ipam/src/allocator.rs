//! Chooses the addresses of an ADD. This is a pure function of the taken addresses;
//! nothing is read or reserved here.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use common::address::{Cidr, number};
use common::cni::result::IpConfig;
use common::error::{Error, Result};

use crate::range::{Range, RangeSet};
use crate::taken::Taken;

/// The state that a choice depends on.
#[derive(Debug, Default)]
pub struct State {
    /// The container of the ADD.
    pub container_id: String,
    /// The addresses that are reserved.
    pub taken: Taken,
    /// The reserved addresses of the attachment itself, in the order of their files.
    pub own: Vec<IpAddr>,
    /// The last address that was reserved from each range set.
    pub last_reserved: Vec<Option<IpAddr>>,
}

/// An address to be reserved, and its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// The address.
    pub address: IpAddr,
    range: &'a Range,
}

impl Choice<'_> {
    /// The address as the result shows it.
    pub fn ip_config(&self) -> IpConfig {
        let host = Cidr::host(self.address);
        IpConfig {
            address: Cidr::new(self.address, self.range.prefix()).unwrap_or(host),
            gateway: Some(self.range.gateway()),
            interface: None,
        }
    }
}

/// One address of every set, in the order of the sets: the first requested one that is in
/// the set, otherwise the next free one.
///
/// # Errors
/// Code 999 with the texts of the Go plugin.
pub fn choose<'a>(
    sets: &'a [RangeSet],
    requested: &[IpAddr],
    state: &State,
) -> Result<Vec<Choice<'a>>> {
    let mut pending = requested.to_vec();
    let mut choices = Vec::new();
    for (index, set) in sets.iter().enumerate() {
        let wanted = pending.iter().position(|address| set.contains(*address));
        let choice = match wanted {
            Some(position) => choose_requested(set, pending.remove(position), state),
            None => choose_next(set, index, state),
        };
        choices.push(choice.map_err(|cause| {
            Error::internal(format!("failed to allocate for range {index}: {cause}"))
        })?);
    }
    if pending.is_empty() {
        return Ok(choices);
    }
    let left: Vec<String> = pending.iter().map(IpAddr::to_string).collect();
    Err(Error::internal(format!(
        "failed to allocate all requested IPs: {}",
        left.join(" ")
    )))
}

/// The first free address of `set` after `last`: round robin over all of its ranges, so
/// that a released address is not used again for as long as possible.
pub fn next_free<'a>(set: &'a RangeSet, last: Option<IpAddr>, taken: &Taken) -> Option<Choice<'a>> {
    round(set, last).find_map(|(range, part)| {
        let address = range.address(first_free(taken, part, range.gateway())?);
        Some(Choice { address, range })
    })
}

/// The taken addresses of `set` after `last`, in the order of [`next_free`].
pub fn taken_after(
    set: &RangeSet,
    last: Option<IpAddr>,
    taken: &Taken,
) -> impl Iterator<Item = IpAddr> {
    round(set, last).flat_map(|(range, part)| {
        let numbers = taken.numbers_in(part);
        numbers.map(|number| range.address(number))
    })
}

/// The first of `sets` that has no free address, if there is one.
pub fn first_exhausted<'a>(sets: &'a [RangeSet], taken: &Taken) -> Option<&'a RangeSet> {
    let mut sets = sets.iter();
    sets.find(|set| next_free(set, None, taken).is_none())
}

/// The message that `set` has no free address.
pub fn exhausted(set: &RangeSet) -> String {
    format!("no IP addresses available in range set: {set}")
}

fn choose_requested<'a>(
    set: &'a RangeSet,
    address: IpAddr,
    state: &State,
) -> Result<Choice<'a>, String> {
    let range = set
        .range_for(address)
        .ok_or_else(|| format!("{address} not in range set {set}"))?;
    if address == range.gateway() {
        return Err(format!("requested ip {address} is subnet's gateway"));
    }
    if range.excludes(address) {
        return Err(format!("requested ip {address} is excluded"));
    }
    if state.taken.contains(address) {
        return Err(format!(
            "requested IP address {address} is not available in range set {set}"
        ));
    }
    Ok(Choice { address, range })
}

fn choose_next<'a>(set: &'a RangeSet, index: usize, state: &State) -> Result<Choice<'a>, String> {
    if let Some(own) = state.own.iter().find(|address| set.contains(**address)) {
        return Err(format!(
            "{own} has been allocated to {}, duplicate allocation is not allowed",
            state.container_id
        ));
    }
    let last = state.last_reserved.get(index).copied().flatten();
    next_free(set, last, &state.taken).ok_or_else(|| exhausted(set))
}

/// One round over the set: every number once, except the excluded ones, in parts, each
/// with its range. It begins after `last`, continues over all ranges, and ends with
/// `last` itself. It begins with the first range when `last` is not in the set, because
/// the configuration has changed or nothing was reserved yet.
fn round(
    set: &RangeSet,
    last: Option<IpAddr>,
) -> impl Iterator<Item = (&Range, RangeInclusive<u128>)> {
    let ranges = set.ranges();
    let (begin, start) = start_of_round(ranges, last);
    let in_order = ranges.iter().cycle().skip(begin).take(ranges.len());
    let forward = in_order.enumerate().flat_map(move |(nth, range)| {
        let from = start.filter(|_| nth == 0).unwrap_or_else(|| range.first());
        range.from(from).map(move |part| (range, part))
    });
    let rest = ranges.get(begin).zip(start).into_iter();
    let rest = rest.flat_map(|(range, start)| range.until(start).map(move |part| (range, part)));
    forward.chain(rest)
}

/// The first free number of a part that is not the gateway's.
fn first_free(taken: &Taken, part: RangeInclusive<u128>, gateway: IpAddr) -> Option<u128> {
    let end = *part.end();
    let free = taken.first_free(part)?;
    if free != number(gateway) {
        return Some(free);
    }
    taken.first_free(free.checked_add(1)?..=end)
}

/// The index of the range that a round begins with, and the address in it; `None` means
/// its first address.
fn start_of_round(ranges: &[Range], last: Option<IpAddr>) -> (usize, Option<IpAddr>) {
    let Some(last) = last else { return (0, None) };
    match ranges.iter().position(|range| range.contains(last)) {
        None => (0, None),
        Some(index) => match ranges.get(index).and_then(|range| range.after(last)) {
            Some(next) => (index, Some(next)),
            None => ((index + 1) % ranges.len(), None),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::exclude;
    use crate::range::RangeSpec;

    /// A set of ranges `start end`, in /28 networks with the gateway given.
    fn set(ranges: &[(u8, u8, u8)]) -> RangeSet {
        set_without(ranges, &[])
    }

    /// As [`set`], without these addresses.
    fn set_without(ranges: &[(u8, u8, u8)], excluded: &[u8]) -> RangeSet {
        let excluded: Value = excluded.iter().map(|n| host(*n).to_string()).collect();
        let excluded = exclude::parse(&excluded).unwrap();
        let specs: Vec<RangeSpec> = ranges
            .iter()
            .map(|(start, end, gateway)| RangeSpec {
                subnet: Some(Cidr::new(host(start & 0xf0), 28).unwrap()),
                range_start: Some(host(*start)),
                range_end: Some(host(*end)),
                gateway: Some(host(*gateway)),
                exclude: Vec::new(),
            })
            .collect();
        RangeSet::new(&specs, &excluded).unwrap()
    }

    fn host(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    /// The addresses that consecutive ADDs get while nothing is released.
    fn round(set: &RangeSet, last: Option<IpAddr>) -> Vec<IpAddr> {
        let mut given = Vec::new();
        while let Some(choice) = next_free(set, last, &given.iter().copied().collect()) {
            given.push(choice.address);
        }
        given
    }

    /// The iterator of the Go plugin, one step at a time, on the last byte.
    fn round_of_go(ranges: &[(u8, u8, u8)], last: Option<u8>) -> Vec<IpAddr> {
        let inside = |n: u8| ranges.iter().position(|(a, b, _)| (*a..=*b).contains(&n));
        let mut index = last.and_then(inside).unwrap_or(0);
        let mut current = last.filter(|n| inside(*n).is_some());
        let mut start = None;
        let mut round = Vec::new();
        loop {
            let next = match current {
                None => ranges[index].0,
                Some(n) if n == ranges[index].1 => {
                    index = (index + 1) % ranges.len();
                    ranges[index].0
                }
                Some(n) => n + 1,
            };
            current = Some(next);
            match start {
                None => start = current,
                Some(first) if first == next => return round,
                Some(_) => {}
            }
            if next != ranges[index].2 {
                round.push(host(next));
            }
        }
    }

    #[test]
    fn a_round_has_the_order_of_go_wherever_it_begins() {
        let shapes: [&[(u8, u8, u8)]; 6] = [
            &[(2, 2, 1)],
            &[(1, 6, 1)],
            &[(1, 6, 4)],
            &[(2, 4, 1), (17, 19, 17), (33, 33, 33), (49, 52, 50)],
            &[(17, 19, 18), (1, 3, 3)],
            &[(5, 9, 200), (17, 18, 6)],
        ];
        for shape in shapes {
            let set = set(shape);
            for last in std::iter::once(None).chain((0..=60).map(Some)) {
                let ours = round(&set, last.map(host));
                assert_eq!(ours, round_of_go(shape, last), "{shape:?} after {last:?}");
            }
        }
    }

    #[test]
    fn the_next_free_address_is_the_first_free_one_of_the_round() {
        let shape = [(1, 4, 2), (17, 20, 17)];
        let set = set(&shape);
        let all: Vec<u8> = (1..=4).chain(17..=20).collect();
        for mask in 0u32..256 {
            let chosen = all
                .iter()
                .enumerate()
                .filter(|(bit, _)| mask >> bit & 1 == 1);
            let taken: Taken = chosen.map(|(_, n)| host(*n)).collect();
            for last in std::iter::once(None).chain(all.iter().copied().map(Some)) {
                let expected = round_of_go(&shape, last);
                let expected = expected.iter().find(|address| !taken.contains(**address));
                let ours = next_free(&set, last.map(host), &taken);
                assert_eq!(
                    ours.map(|c| c.address).as_ref(),
                    expected,
                    "{mask:b} {last:?}"
                );
            }
        }
    }

    /// The elements of `all` whose bits are set in `mask`.
    fn subset(all: &[u8], mask: u32) -> Vec<u8> {
        let bits = all.iter().enumerate();
        let chosen = bits.filter(|(bit, _)| mask >> bit & 1 == 1);
        chosen.map(|(_, n)| *n).collect()
    }

    #[test]
    fn the_next_free_address_is_never_an_excluded_one() {
        let shape = [(1, 4, 2), (17, 19, 17)];
        let all: Vec<u8> = (1..=4).chain(17..=19).collect();
        for excluded in 0..128 {
            let excluded = subset(&all, excluded);
            let set = set_without(&shape, &excluded);
            for last in std::iter::once(None).chain(all.iter().copied().map(Some)) {
                let left = round_of_go(&shape, last).into_iter();
                let left: Vec<IpAddr> = left
                    .filter(|address| excluded.iter().all(|n| host(*n) != *address))
                    .collect();
                let ours = round(&set, last.map(host));
                assert_eq!(ours, left, "{excluded:?} {last:?}");
                for mask in 0..128 {
                    let taken: Taken = subset(&all, mask).into_iter().map(host).collect();
                    let expected = left.iter().find(|address| !taken.contains(**address));
                    let ours = next_free(&set, last.map(host), &taken).map(|c| c.address);
                    assert_eq!(ours.as_ref(), expected, "{excluded:?} {mask:b} {last:?}");
                }
            }
        }
    }

    #[test]
    fn a_huge_excluded_block_is_skipped_at_once() {
        let spec = RangeSpec {
            subnet: Some("2001:db8::/64".parse().unwrap()),
            ..RangeSpec::default()
        };
        let whole: Value = vec!["2001:db8::/64"].into();
        let half: Value = vec!["2001:db8::7/65"].into();
        let set = |value: &Value| {
            RangeSet::new(std::slice::from_ref(&spec), &exclude::parse(value).unwrap()).unwrap()
        };
        let next = |set: &RangeSet, last: Option<&str>| {
            let last = last.map(|text| text.parse().unwrap());
            next_free(set, last, &Taken::default()).map(|choice| choice.address.to_string())
        };
        for last in [
            None,
            Some("2001:db8::9"),
            Some("2001:db8:0:0:ffff:ffff:ffff:ffff"),
        ] {
            assert_eq!(next(&set(&half), last).unwrap(), "2001:db8:0:0:8000::");
            assert_eq!(next(&set(&whole), last), None);
        }
    }

    fn state(taken: &[u8], own: &[u8]) -> State {
        State {
            container_id: "c1".into(),
            taken: taken.iter().chain(own).map(|n| host(*n)).collect(),
            own: own.iter().map(|n| host(*n)).collect(),
            last_reserved: Vec::new(),
        }
    }

    fn chosen(sets: &[RangeSet], requested: &[u8], state: &State) -> Result<Vec<u8>, String> {
        let requested: Vec<IpAddr> = requested.iter().map(|n| host(*n)).collect();
        let choices = choose(sets, &requested, state).map_err(|error| error.msg)?;
        let last_byte = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        };
        Ok(choices.iter().map(|c| last_byte(c.address)).collect())
    }

    #[test]
    fn each_set_takes_the_first_requested_address_that_it_has() {
        let sets = [set(&[(2, 6, 1)]), set(&[(17, 22, 17)])];
        let free = state(&[], &[]);
        assert_eq!(chosen(&sets, &[20], &free).unwrap(), [2, 20]);
        assert_eq!(chosen(&sets, &[20, 5], &free).unwrap(), [5, 20]);
        assert_eq!(
            chosen(&sets, &[5, 4, 99], &free).unwrap_err(),
            "failed to allocate all requested IPs: 10.0.0.4 10.0.0.99"
        );
    }

    #[test]
    fn an_address_that_is_not_available_is_reported_with_the_text_of_go() {
        let sets = [set(&[(1, 6, 1)]), set(&[(17, 18, 17)])];
        let error = |requested: &[u8], state: &State| chosen(&sets, requested, state).unwrap_err();
        assert_eq!(
            error(&[1], &state(&[], &[])),
            "failed to allocate for range 0: requested ip 10.0.0.1 is subnet's gateway"
        );
        assert_eq!(
            error(&[5], &state(&[5], &[])),
            "failed to allocate for range 0: requested IP address 10.0.0.5 is not available in range set 10.0.0.1-10.0.0.6"
        );
        assert_eq!(
            error(&[], &state(&[18], &[])),
            "failed to allocate for range 1: no IP addresses available in range set: 10.0.0.17-10.0.0.18"
        );
        assert_eq!(
            error(&[], &state(&[], &[18, 200])),
            "failed to allocate for range 1: 10.0.0.18 has been allocated to c1, duplicate allocation is not allowed"
        );
    }

    #[test]
    fn an_excluded_address_cannot_be_requested() {
        let sets = [set_without(&[(1, 6, 1)], &[1, 5, 6])];
        let error = |requested: &[u8], state: &State| chosen(&sets, requested, state).unwrap_err();
        for taken in [state(&[], &[]), state(&[5], &[])] {
            assert_eq!(
                error(&[5], &taken),
                "failed to allocate for range 0: requested ip 10.0.0.5 is excluded"
            );
        }
        assert_eq!(
            error(&[1], &state(&[], &[])),
            "failed to allocate for range 0: requested ip 10.0.0.1 is subnet's gateway"
        );
        assert_eq!(
            error(&[], &state(&[2, 3, 4], &[])),
            "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.6"
        );
        assert_eq!(
            error(&[], &state(&[], &[5])),
            "failed to allocate for range 0: 10.0.0.5 has been allocated to c1, duplicate allocation is not allowed"
        );
    }

    #[test]
    fn a_requested_address_is_given_to_an_attachment_that_has_another() {
        let sets = [set(&[(1, 6, 1)])];
        assert_eq!(chosen(&sets, &[5], &state(&[], &[3])).unwrap(), [5]);
    }
}
