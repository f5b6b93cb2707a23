//! Decisions by the ledger. Pure: no file, no call and no clock is used here. The rules about
//! ENIs are in `vpc::eni`.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::ledger::{Absence, Entry, Owner, State, Takeover, Timestamp};
use crate::vpc::ec2::Description;

/// How long, in seconds, due addresses wait for others whose cool-down is nearly over.
const BATCHED: u64 = 5;
/// How many due addresses are worth a call while an ADD waits.
const WORTH_A_CALL: usize = 10;
/// How long, in seconds, a due address may wait for others.
const LONGEST_WAIT: u64 = 60;

/// The decision about an attachment's claim of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The address is on the ENI for any attachment: no call is needed.
    Take,
    /// The address should be on the ENI: if the metadata confirm it, no call is needed.
    Reuse,
    /// AWS has to be asked.
    Ask,
    /// Another existing attachment of this node has it.
    Taken,
}

/// Decides about `owner`'s claim of the address whose entry is `entry`. An address that EC2 has
/// not confirmed for a while is requested again, because another user may have removed it; for
/// an address of a pool, which serves to avoid calls, the metadata are enough. An address that
/// any network lets float may be on another node now, which the metadata show later. What EC2
/// has confirmed before the ENI was attached to this node again is requested in any case.
pub(crate) fn claim(
    entry: Option<&Entry>,
    (owner, takeover): (&Owner, Takeover),
    other_lives: bool,
    now: Timestamp,
) -> Claim {
    let Some(entry) = entry else {
        return Claim::Ask;
    };
    let is_own = entry.is_owned_by(owner) || entry.is_found_for(owner);
    let is_believed = entry.is_believed(now);
    match &entry.state {
        State::Held | State::Claiming { .. } if !is_own && other_lives => Claim::Taken,
        _ if entry.floats || takeover == Takeover::Always => Claim::Ask,
        State::Pooled if is_believed => Claim::Take,
        // The metadata may be as old as the attachment before.
        State::Pooled if entry.is_of_earlier_attachment() => Claim::Ask,
        State::Pooled => Claim::Reuse,
        State::Held | State::Adopted | State::Releasing { asked: false, .. } if is_believed => {
            Claim::Reuse
        }
        State::Held
        | State::Adopted
        | State::Releasing { .. }
        | State::Claiming { .. }
        | State::Withdrawn { .. }
        | State::Removed => Claim::Ask,
    }
}

/// Whether the due addresses of `entries` should be removed now, while an ADD waits, or left
/// for a larger batch.
pub(crate) fn is_worth_releasing(entries: &[Entry], now: Timestamp) -> bool {
    let due = due(entries, now);
    due.len() >= WORTH_A_CALL
        || due.iter().any(|entry| {
            let due = entry.due(now);
            due.is_some_and(|due| due.saturating_add(LONGEST_WAIT) <= now)
        })
}

/// The entries whose addresses may be removed, the one that has waited longest first.
/// A clock that was set back does not keep an address for longer than its cool-down.
pub(crate) fn due(entries: &[Entry], now: Timestamp) -> Vec<&Entry> {
    let mut due = leaving(entries, now);
    due.retain(|(time, _)| *time <= now);
    due.into_iter().map(|(_, entry)| entry).collect()
}

/// When the addresses of an ENI that are being released should be removed: as soon as one is
/// due, or a little later, if the same call can then remove more.
pub(crate) fn release_time(entries: &[Entry], now: Timestamp) -> Option<Timestamp> {
    let times = leaving(entries, now).into_iter().map(|(time, _)| time);
    let times: Vec<Timestamp> = times.collect();
    let last = times.first()?.saturating_add(BATCHED);
    times.into_iter().filter(|time| *time <= last).max()
}

/// The entries of addresses on the ENI that are being released, due or not, the oldest first:
/// they can be removed early when the ENI is full.
pub(crate) fn cooling(entries: &[Entry], now: Timestamp) -> Vec<&Entry> {
    let leaving = leaving(entries, now).into_iter().map(|(_, entry)| entry);
    let is_there = |entry: &&Entry| matches!(entry.state, State::Releasing { .. });
    leaving.filter(is_there).collect()
}

/// The entries whose addresses are on the ENI and not needed: a pool may get them, unless a pod
/// has one nevertheless. An adopted address must have been there long enough, because a
/// description may show addresses that EC2 has removed.
pub(crate) fn reclaimable(entries: &[Entry], now: Timestamp) -> Vec<&Entry> {
    let cooled = due(entries, now).into_iter();
    let cooled = cooled.filter(|e| matches!(e.state, State::Releasing { asked: false, .. }));
    let adopted = entries.iter();
    let adopted = adopted.filter(|e| e.state == State::Adopted && e.was_seen_twice());
    cooled.chain(adopted).collect()
}

/// The entries whose addresses EC2 has chosen and confirmed recently, and that no pod needs any
/// more: the next attachment of a network without ranges may get them, unless a pod has one
/// nevertheless.
pub(crate) fn spare(entries: &[Entry], now: Timestamp) -> Vec<&Entry> {
    let mut spare = reclaimable(entries, now);
    spare.retain(|entry| entry.chosen && entry.is_believed(now));
    spare
}

/// The entries that no pod needs, with the time at which each is due, in this order.
fn leaving(entries: &[Entry], now: Timestamp) -> Vec<(Timestamp, &Entry)> {
    let times = entries.iter();
    let times = times.filter_map(|entry| Some((entry.due(now)?, entry)));
    let mut times: Vec<(Timestamp, &Entry)> = times.collect();
    times.sort_by_key(|(time, entry)| (*time, entry.address));
    times
}

/// A difference between a description and the ledger about one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Drift {
    /// It is on the ENI, and the ledger does not know it.
    Unknown(IpAddr),
    /// It is on the ENI, as the ledger says or expects.
    Confirmed(Entry),
    /// The ledger holds it for an attachment, and it is not on the ENI.
    Lost(Entry),
    /// The ledger has it without an attachment, and this is the first description without it.
    Missing(Entry),
    /// The ledger has it without an attachment, and it is not on the ENI.
    Gone(Entry),
}

/// The differences between the ledger of an ENI and a description. Addresses that are being
/// claimed or released do not count, nor do recent changes in the ledger, because the
/// description may be older. The addresses in `known` have a file in the ledger, which may be
/// unreadable.
pub(crate) fn compare(
    entries: &[Entry],
    known: &HashSet<IpAddr>,
    actual: &Description,
    now: Timestamp,
) -> Vec<Drift> {
    let unknown = actual.secondary.iter().copied();
    let unknown = unknown
        .filter(|address| !known.contains(address))
        .map(Drift::Unknown);
    let settled = entries.iter();
    let settled = settled.filter(|entry| !entry.is_too_young_to_compare(now));
    let drifts = settled.filter_map(|entry| match actual.covers(entry.address) {
        true => seen(entry, now),
        false => missed(entry, now),
    });
    unknown.chain(drifts).collect()
}

fn seen(entry: &Entry, now: Timestamp) -> Option<Drift> {
    let is_news = match entry.state {
        State::Withdrawn { .. } | State::Removed => true,
        State::Claiming { .. } => false,
        _ => entry.needs_confirmation(now),
    };
    is_news.then(|| Drift::Confirmed(entry.clone()))
}

fn missed(entry: &Entry, now: Timestamp) -> Option<Drift> {
    match (&entry.state, entry.absence(now)) {
        (_, Absence::TooEarly) => None,
        (State::Held, _) => Some(Drift::Lost(entry.clone())),
        (State::Adopted | State::Pooled, Absence::Noted(noted)) => Some(Drift::Missing(*noted)),
        (State::Adopted | State::Pooled, Absence::Proven) => Some(Drift::Gone(entry.clone())),
        (
            State::Claiming { .. }
            | State::Releasing { .. }
            | State::Withdrawn { .. }
            | State::Removed,
            _,
        ) => None,
    }
}

#[cfg(test)]
mod tests {
    use common::kernel::netns::NetNsId;

    use super::*;
    use crate::ledger::{Event, Life};

    fn owner(container_id: &str) -> Owner {
        Owner {
            network: "mgmt".into(),
            container_id: container_id.into(),
            ifname: "net1".into(),
            pod: String::new(),
            life: Life::Namespace {
                netns: "/run/netns/x".into(),
                netns_id: NetNsId {
                    device: 4,
                    inode: 7,
                    made: None,
                    process: None,
                    cookie: None,
                    nsid: None,
                },
                boot_id: "b".into(),
            },
            cooldown_seconds: 30,
            takeover: None,
        }
    }

    const DEFAULT: Takeover = Takeover::DeadOwner;

    /// The time of the tests; what is in [`entry`] is as old as that.
    const NOW: Timestamp = 100;

    /// An entry that EC2 has confirmed at [`NOW`], as the file of it says.
    fn entry(last: u8, state: &State) -> Entry {
        let mut written = serde_json::to_value(state).unwrap();
        written["address"] = format!("10.0.4.{last}").into();
        written["owner"] = serde_json::to_value(owner("a")).unwrap();
        written["since"] = NOW.into();
        written["confirmed"] = NOW.into();
        serde_json::from_value(written).unwrap()
    }

    fn releasing(last: u8, after: Timestamp) -> Entry {
        let asked = false;
        entry(last, &State::Releasing { after, asked })
    }

    fn claiming() -> State {
        State::Claiming {
            takeover: Takeover::default(),
            best_effort: false,
            refusal: None,
        }
    }

    #[test]
    fn an_address_that_a_living_attachment_has_is_taken() {
        for state in [State::Held, claiming()] {
            let entry = entry(70, &state);
            let by = |id, lives| claim(Some(&entry), (&owner(id), DEFAULT), lives, NOW);
            assert_eq!(by("b", true), Claim::Taken);
            assert_ne!(by("b", false), Claim::Taken);
            assert_ne!(by("a", true), Claim::Taken);
        }
    }

    #[test]
    fn only_an_address_that_nobody_may_be_removing_is_used_again_without_a_call() {
        let asked = entry(
            70,
            &State::Releasing {
                after: 0,
                asked: true,
            },
        );
        for (entry, expected) in [
            (None, Claim::Ask),
            (Some(entry(70, &State::Held)), Claim::Reuse),
            (Some(entry(70, &State::Adopted)), Claim::Reuse),
            (Some(entry(70, &State::Pooled)), Claim::Take),
            (Some(releasing(70, 200)), Claim::Reuse),
            (Some(asked), Claim::Ask),
            (Some(entry(70, &claiming())), Claim::Ask),
            (
                Some(entry(70, &State::Withdrawn { after: 200 })),
                Claim::Ask,
            ),
            (Some(entry(70, &State::Removed)), Claim::Ask),
        ] {
            let found = |takeover| claim(entry.as_ref(), (&owner("a"), takeover), false, NOW);
            assert_eq!(found(DEFAULT), expected, "{entry:?}");
            assert_eq!(found(Takeover::Always), Claim::Ask, "{entry:?}");
        }
    }

    #[test]
    fn what_aws_has_not_confirmed_for_a_quarter_of_an_hour_is_not_used_without_a_look() {
        for (state, at_once, later) in [
            (State::Pooled, Claim::Take, Claim::Reuse),
            (State::Held, Claim::Reuse, Claim::Ask),
            (State::Adopted, Claim::Reuse, Claim::Ask),
        ] {
            let entry = entry(70, &state);
            let at = |now| claim(Some(&entry), (&owner("a"), DEFAULT), false, now);
            assert_eq!([at(NOW), at(NOW + 899)], [at_once; 2], "{entry:?}");
            assert_eq!(at(NOW + 900), later, "{entry:?}");
        }
    }

    #[test]
    fn what_any_network_lets_float_is_not_used_without_a_call() {
        let always = Event::Claimed {
            takeover: Takeover::Always,
            best_effort: false,
        };
        let mut entry = Entry::begin(IpAddr::from([10, 0, 4, 70]), &always, Some(owner("a")));
        for event in [
            Event::Assigned { for_pool: false },
            Event::Ended { after: NOW },
            Event::Pooled,
        ] {
            entry = entry.and_then(|entry| entry.after(&event));
            let now = entry.as_ref().unwrap().since;
            let found = claim(entry.as_ref(), (&owner("b"), DEFAULT), false, now);
            assert_eq!(found, Claim::Ask, "{entry:?}");
        }
        assert_eq!(entry.unwrap().state, State::Pooled);
    }

    #[test]
    fn what_was_never_confirmed_is_due_when_descriptions_cannot_be_older() {
        let withdrawn = |after| entry(70, &State::Withdrawn { after });
        assert_eq!(withdrawn(0).due(NOW), Some(NOW + 60));
        assert_eq!(withdrawn(NOW + 70).due(NOW), Some(NOW + 70));
        assert_eq!(cooling(&[withdrawn(0)], NOW), [] as [&Entry; 0]);
    }

    #[test]
    fn what_is_due_is_in_the_order_of_its_waiting() {
        let entries = [
            releasing(73, 180),
            releasing(71, 190),
            releasing(72, 181),
            releasing(74, 201),
            entry(75, &State::Held),
        ];
        let last = |entries: Vec<&Entry>| {
            let octets = entries.iter().map(|entry| match entry.address {
                IpAddr::V4(v4) => v4.octets()[3],
                IpAddr::V6(_) => 0,
            });
            octets.collect::<Vec<_>>()
        };
        assert_eq!(last(due(&entries, 200)), [73, 72, 71]);
        assert_eq!(last(cooling(&entries, 200)), [73, 72, 71, 74]);
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_no_address() {
        let entries = [releasing(71, 130)];
        assert!(due(&entries, 110).is_empty());
        assert_eq!(due(&entries, 50).len(), 1);
    }

    #[test]
    fn addresses_that_are_due_at_nearly_the_same_time_leave_together() {
        let time = |afters: &[Timestamp]| {
            let entries: Vec<Entry> = (70..).zip(afters).map(|(n, t)| releasing(n, *t)).collect();
            release_time(&entries, 120)
        };
        assert_eq!(time(&[]), None);
        assert_eq!(time(&[130]), Some(130));
        assert_eq!(time(&[134, 130, 136]), Some(134));
        assert_eq!(
            time(&[130, 135, 140, 145]),
            Some(135),
            "nobody waits for ever"
        );
    }

    /// A description of the ENI that shows these addresses.
    fn description(secondary: &[u8]) -> Description {
        let shown = secondary.iter();
        Description {
            id: "eni-1".into(),
            mac: String::new(),
            instance_id: None,
            network_card: 0,
            device_index: 1,
            attachment_id: None,
            attach_time: 0,
            tags: std::collections::BTreeMap::new(),
            description: String::new(),
            requester_id: String::new(),
            requester_managed: false,
            subnet_id: String::new(),
            vpc_id: String::new(),
            no_manage: true,
            security_groups: Vec::new(),
            source_dest_check: true,
            is_detaching: false,
            delete_on_termination: true,
            primary: Vec::new(),
            secondary: shown.map(|n| IpAddr::from([10, 0, 4, *n])).collect(),
            prefixes: Vec::new(),
        }
    }

    fn drifts(entries: &[Entry], shown: &[u8], now: Timestamp) -> Vec<Drift> {
        let known = entries.iter().map(|entry| entry.address).collect();
        compare(entries, &known, &description(shown), now)
    }

    #[test]
    fn what_the_ledger_has_just_written_is_not_compared() {
        for state in [State::Held, State::Pooled, State::Adopted] {
            let entries = [entry(70, &state)];
            assert_eq!(drifts(&entries, &[], NOW + 59), []);
            assert_ne!(drifts(&entries, &[], NOW + 60), []);
        }
    }

    #[test]
    fn what_is_missing_is_gone_when_a_later_look_misses_it_as_well() {
        let pooled = entry(70, &State::Pooled);
        let first = drifts(std::slice::from_ref(&pooled), &[], NOW + 60);
        let [Drift::Missing(noted)] = &first[..] else {
            panic!("{first:?}");
        };
        assert!(!noted.is_believed(NOW + 60));
        let noted = [noted.clone()];
        assert!(matches!(
            drifts(&noted, &[], NOW + 119)[..],
            [Drift::Missing(_)]
        ));
        let gone = [Drift::Gone(noted[0].clone())];
        assert_eq!(drifts(&noted, &[], NOW + 120), gone);
        let found = drifts(&noted, &[70], NOW + 120);
        assert_eq!(found, [Drift::Confirmed(noted[0].clone())]);
    }

    #[test]
    fn a_first_look_with_a_time_in_the_future_proves_nothing() {
        let pooled = entry(70, &State::Pooled);
        let first = drifts(std::slice::from_ref(&pooled), &[], NOW + 3600);
        let [Drift::Missing(noted)] = &first[..] else {
            panic!("{first:?}");
        };
        let noted = [noted.clone()];
        let again = drifts(&noted, &[], NOW + 60);
        assert!(matches!(again[..], [Drift::Missing(_)]), "{again:?}");
    }

    #[test]
    fn the_address_of_a_file_that_cannot_be_read_is_not_unknown() {
        let known = HashSet::from([IpAddr::from([10, 0, 4, 70])]);
        let found = compare(&[], &known, &description(&[70, 71]), NOW);
        assert_eq!(found, [Drift::Unknown(IpAddr::from([10, 0, 4, 71]))]);
    }

    #[test]
    fn a_release_waits_for_others_but_not_for_ever() {
        let few = [releasing(71, 130), releasing(72, 140)];
        assert!(!is_worth_releasing(&few, 150));
        assert!(is_worth_releasing(&few, 190));
        let many: Vec<Entry> = (70..80).map(|last| releasing(last, 130)).collect();
        assert!(is_worth_releasing(&many, 130));
        assert!(!is_worth_releasing(&many, 129));
    }
}
