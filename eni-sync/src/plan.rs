//! What follows from the ledger, as values: no file, no call, no clock is touched
//! here. The rules that must never be broken are here.

use std::net::{IpAddr, Ipv4Addr};

use common::address::Cidr;
use common::error::{Error, Result};
use common::inventory::{Eni, NO_MANAGE_TAG};

use crate::ec2::Description;
use crate::ledger::{Entry, Owner, State, Timestamp};

/// How many addresses of every subnet are AWS': the first four and the last. Source:
/// Amazon VPC User Guide, "Subnet sizing".
const RESERVED_FIRST: u128 = 4;
/// So long, in seconds, addresses wait for others whose cool-down is nearly over.
const BATCHED: u64 = 5;
/// So many addresses that are due make a call worth its price while an ADD waits.
const WORTH_A_CALL: usize = 10;
/// So long may an address that is due wait for others, in seconds.
const LONGEST_WAIT: u64 = 60;

/// What an attachment's wish for an address comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The address is on the ENI for whoever comes: no call is needed.
    Take,
    /// The address should be on the ENI already: if it is, no call is needed.
    Reuse,
    /// AWS has to be asked.
    Ask,
    /// Another living attachment of this node has it.
    Taken,
}

/// Decides about `owner`'s wish for the address that the ledger has as `entry`.
pub(crate) fn claim(entry: Option<&Entry>, owner: &Owner, other_lives: bool) -> Claim {
    let Some(entry) = entry else {
        return Claim::Ask;
    };
    let is_own = entry.is_owned_by(owner);
    match &entry.state {
        State::Held | State::Claiming { .. } if !is_own && other_lives => Claim::Taken,
        State::Pooled => Claim::Take,
        State::Held | State::Adopted | State::Releasing { asked: false, .. } => Claim::Reuse,
        State::Claiming { .. } | State::Releasing { .. } => Claim::Ask,
    }
}

/// Whether the addresses of `entries` that are due should be removed now, while an ADD
/// is waiting, or left for a batch that is worth a call.
pub(crate) fn is_worth_releasing(entries: &[Entry], now: Timestamp) -> bool {
    let due = due(entries, now);
    due.len() >= WORTH_A_CALL
        || due.iter().any(|entry| match entry.state {
            State::Releasing { after, .. } => after.saturating_add(LONGEST_WAIT) <= now,
            _ => false,
        })
}

/// The entries whose addresses may be removed, the one that has waited longest first.
/// A clock that was set back does not keep an address for longer than its cool-down.
pub(crate) fn due(entries: &[Entry], now: Timestamp) -> Vec<&Entry> {
    let mut due: Vec<(Timestamp, &Entry)> = entries
        .iter()
        .filter_map(|entry| match entry.state {
            State::Releasing { after, .. } if after <= now || entry.since > now => {
                Some((after, entry))
            }
            _ => None,
        })
        .collect();
    due.sort_by_key(|(after, entry)| (*after, entry.address));
    due.into_iter().map(|(_, entry)| entry).collect()
}

/// When the addresses of an ENI should be removed that are on their way out: as soon as
/// one is due, or a little later, when more will be that one call can remove as well.
pub(crate) fn release_time(entries: &[Entry], now: Timestamp) -> Option<Timestamp> {
    let times = cooling(entries).into_iter();
    let times = times.filter_map(|entry| match entry.state {
        State::Releasing { after, .. } => Some(if entry.since > now { 0 } else { after }),
        _ => None,
    });
    let times: Vec<Timestamp> = times.collect();
    let last = times.iter().min()?.saturating_add(BATCHED);
    times.into_iter().filter(|time| *time <= last).max()
}

/// The entries that are on their way out, due or not, the oldest first: what can be
/// given up when the ENI is full.
pub(crate) fn cooling(entries: &[Entry]) -> Vec<&Entry> {
    due(entries, Timestamp::MAX)
}

/// Whether the addresses of an ENI may be changed at all.
///
/// # Errors
/// Code 7 with the reason and what to do.
pub(crate) fn require_managed(eni: &Eni) -> Result<()> {
    require_managed_as(&eni.id, eni.is_primary(), eni.no_manage)
}

fn require_managed_as(id: &str, is_primary: bool, no_manage: bool) -> Result<()> {
    if is_primary {
        let msg = format!("{id} is the primary ENI of this node");
        let details = "its addresses are the VPC CNI's; pods need a secondary ENI";
        return Err(Error::config(msg).with_details(details));
    }
    if !no_manage {
        let msg = format!("{id} is not tagged {NO_MANAGE_TAG}=true");
        let details = "without the tag the VPC CNI gives its addresses to other pods";
        return Err(Error::config(msg).with_details(details));
    }
    Ok(())
}

/// Whether addresses of an ENI of this node may be removed, by what EC2 says now.
///
/// # Errors
/// As for [`require_managed`].
pub(crate) fn require_releasable(eni: &Description) -> Result<()> {
    require_managed_as(&eni.id, eni.is_primary(), eni.no_manage)
}

/// How the ledger and an ENI differ in one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Drift {
    /// It is on the ENI, and the ledger does not know it.
    Unknown(IpAddr),
    /// The ledger holds it for an attachment, and it is not on the ENI.
    Lost(Entry),
    /// The ledger remembers it for nobody, and it is not on the ENI.
    Gone(Entry),
}

/// How the ledger of an ENI differs from what EC2 says. What is being claimed or
/// released is on its way and differs from nothing.
pub(crate) fn compare(entries: &[Entry], actual: &Description) -> Vec<Drift> {
    let is_known = |address: &IpAddr| entries.iter().any(|entry| entry.address == *address);
    let unknown = actual.secondary.iter().copied();
    let unknown = unknown
        .filter(|address| !is_known(address))
        .map(Drift::Unknown);
    let missing = entries.iter().filter(|entry| !actual.has(entry.address));
    let missing = missing.filter_map(|entry| match entry.state {
        State::Held => Some(Drift::Lost(entry.clone())),
        State::Adopted | State::Pooled => Some(Drift::Gone(entry.clone())),
        State::Claiming { .. } | State::Releasing { .. } => None,
    });
    unknown.chain(missing).collect()
}

/// Whether an ENI, of whatever node, is one for pods: not a node's primary one, and not
/// one that the VPC CNI may have.
pub(crate) fn is_for_pods(eni: &Description) -> bool {
    eni.no_manage && !eni.is_primary()
}

/// Whether an address needs no registration: it is the ENI's own or in a prefix that
/// is delegated to it.
pub(crate) fn is_registered(eni: &Eni, address: IpAddr) -> bool {
    eni.primary_addresses.contains(&address)
        || eni.prefixes.iter().any(|prefix| prefix.contains(address))
}

/// Whether AWS can have an address on an ENI.
///
/// # Errors
/// Code 7 naming the address, the ENI and its subnet.
pub(crate) fn require_assignable(eni: &Eni, address: IpAddr) -> Result<()> {
    let subnet = eni.subnet_cidrs.iter().find(|cidr| cidr.contains(address));
    let Some(subnet) = subnet else {
        let cidrs: Vec<String> = eni.subnet_cidrs.iter().map(Cidr::to_string).collect();
        let msg = format!("{address} is not in the subnet of {}", eni.id);
        let details = format!("{} has {}", eni.subnet_id, cidrs.join(", "));
        return Err(Error::config(msg).with_details(details));
    };
    if is_reserved(*subnet, address) {
        let msg = format!("{address} is reserved by AWS");
        let details = format!("the first four addresses and the last one of {subnet} are");
        return Err(Error::config(msg).with_details(details));
    }
    Ok(())
}

fn is_reserved(subnet: Cidr, address: IpAddr) -> bool {
    let offset = number(address).wrapping_sub(number(subnet.network().address()));
    offset < RESERVED_FIRST || address == subnet.last()
}

/// An address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// Whether the VPC has anything to do with an address: link-local and loopback
/// addresses work without it.
pub(crate) fn is_routed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_link_local() || v4.is_loopback() || v4 == Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(v6) => !(v6.is_unicast_link_local() || v6.is_loopback()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use common::netns::NetNsId;

    use super::*;
    use crate::config::Takeover;
    use crate::ledger::Life;

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
                },
                boot_id: "b".into(),
            },
            cooldown_seconds: 30,
        }
    }

    fn entry(last: u8, state: State) -> Entry {
        Entry {
            address: IpAddr::from([10, 0, 4, last]),
            state,
            owner: Some(owner("a")),
            since: 100,
        }
    }

    fn releasing(last: u8, after: Timestamp) -> Entry {
        let asked = false;
        entry(last, State::Releasing { after, asked })
    }

    fn claiming() -> State {
        State::Claiming {
            takeover: Takeover::default(),
            best_effort: false,
            refusal: None,
        }
    }

    pub(crate) fn eni() -> Eni {
        Eni {
            id: "eni-1".into(),
            mac: "02:00:00:00:00:01".into(),
            interface: "ens6".into(),
            network_card_index: 0,
            device_index: 1,
            subnet_id: "subnet-1".into(),
            subnet_cidrs: ["10.0.4.0/24", "2001:db8:4::/64"]
                .map(|text| text.parse().unwrap())
                .into(),
            vpc_id: "vpc-1".into(),
            no_manage: true,
            primary_addresses: vec![IpAddr::from([10, 0, 4, 10])],
            prefixes: vec!["10.0.4.128/28".parse().unwrap()],
            ipv4_limit: 10,
            ipv6_limit: 10,
        }
    }

    #[test]
    fn an_address_that_a_living_attachment_has_is_taken() {
        for state in [State::Held, claiming()] {
            let entry = entry(70, state);
            assert_eq!(claim(Some(&entry), &owner("b"), true), Claim::Taken);
            assert_ne!(claim(Some(&entry), &owner("b"), false), Claim::Taken);
            assert_ne!(claim(Some(&entry), &owner("a"), true), Claim::Taken);
        }
    }

    #[test]
    fn only_an_address_that_nobody_may_be_removing_is_used_again_without_a_call() {
        let asked = entry(
            70,
            State::Releasing {
                after: 0,
                asked: true,
            },
        );
        for (entry, expected) in [
            (None, Claim::Ask),
            (Some(entry(70, State::Held)), Claim::Reuse),
            (Some(entry(70, State::Adopted)), Claim::Reuse),
            (Some(entry(70, State::Pooled)), Claim::Take),
            (Some(releasing(70, 200)), Claim::Reuse),
            (Some(asked), Claim::Ask),
            (Some(entry(70, claiming())), Claim::Ask),
        ] {
            let found = claim(entry.as_ref(), &owner("a"), false);
            assert_eq!(found, expected, "{entry:?}");
        }
    }

    #[test]
    fn what_is_due_is_in_the_order_of_its_waiting() {
        let entries = [
            releasing(73, 180),
            releasing(71, 190),
            releasing(72, 181),
            releasing(74, 201),
            entry(75, State::Held),
        ];
        let last = |entries: Vec<&Entry>| {
            let octets = entries.iter().map(|entry| match entry.address {
                IpAddr::V4(v4) => v4.octets()[3],
                IpAddr::V6(_) => 0,
            });
            octets.collect::<Vec<_>>()
        };
        assert_eq!(last(due(&entries, 200)), [73, 72, 71]);
        assert_eq!(last(cooling(&entries)), [73, 72, 71, 74]);
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

    #[test]
    fn a_release_waits_for_others_but_not_for_ever() {
        let few = [releasing(71, 130), releasing(72, 140)];
        assert!(!is_worth_releasing(&few, 150));
        assert!(is_worth_releasing(&few, 190));
        let many: Vec<Entry> = (70..80).map(|last| releasing(last, 130)).collect();
        assert!(is_worth_releasing(&many, 130));
        assert!(!is_worth_releasing(&many, 129));
    }

    #[test]
    fn the_primary_eni_and_one_without_the_tag_are_left_alone() {
        require_managed(&eni()).unwrap();
        let primary = Eni {
            device_index: 0,
            ..eni()
        };
        let error = require_managed(&primary).unwrap_err();
        assert_eq!(error.msg, "eni-1 is the primary ENI of this node");
        let on_another_card = Eni {
            network_card_index: 1,
            ..primary.clone()
        };
        require_managed(&on_another_card).unwrap();
        let untagged = Eni {
            no_manage: false,
            ..eni()
        };
        let error = require_managed(&untagged).unwrap_err();
        assert_eq!(
            error.msg,
            "eni-1 is not tagged node.k8s.amazonaws.com/no_manage=true"
        );
    }

    #[test]
    fn an_enis_own_addresses_and_prefixes_need_no_registration() {
        for (address, expected) in [
            ("10.0.4.10", true),
            ("10.0.4.128", true),
            ("10.0.4.143", true),
            ("10.0.4.144", false),
            ("10.0.4.70", false),
        ] {
            let found = is_registered(&eni(), address.parse().unwrap());
            assert_eq!(found, expected, "{address}");
        }
    }

    #[test]
    fn addresses_that_aws_reserves_and_those_of_other_subnets_cannot_be_assigned() {
        let check = |text: &str| require_assignable(&eni(), text.parse().unwrap());
        for good in ["10.0.4.4", "10.0.4.254", "2001:db8:4::4"] {
            check(good).unwrap();
        }
        for reserved in [
            "10.0.4.0",
            "10.0.4.3",
            "10.0.4.255",
            "2001:db8:4::",
            "2001:db8:4::3",
            "2001:db8:4:0:ffff:ffff:ffff:ffff",
        ] {
            let error = check(reserved).unwrap_err();
            assert_eq!(error.msg, format!("{reserved} is reserved by AWS"));
        }
        let error = check("10.0.5.70").unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.0.5.70 is not in the subnet of eni-1: subnet-1 has 10.0.4.0/24, 2001:db8:4::/64"
        );
    }

    #[test]
    fn the_vpc_has_nothing_to_do_with_link_local_addresses() {
        for (address, expected) in [
            ("10.0.4.70", true),
            ("2001:db8::1", true),
            ("169.254.1.1", false),
            ("127.0.0.1", false),
            ("fe80::1", false),
            ("::1", false),
        ] {
            assert_eq!(is_routed(address.parse().unwrap()), expected, "{address}");
        }
    }
}
