//! Finds where an ENI can be attached to the instance: slots of the network card, and device
//! indexes on it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use common::error::{Error, Result};

use crate::provision::holder::Attached;
use crate::provision::request::INSTANCE_TAG;
use crate::provision::wanted::Wanted;
use crate::vpc::ec2::{Description, Place};
use crate::vpc::inventory::Look;

/// The first free device index of a network card, apart from those that EC2 has refused.
pub(super) fn free(enis: &[Description], card: u32, refused: &BTreeSet<u32>) -> Place {
    let on_card = enis.iter().filter(|eni| eni.network_card == card);
    let taken: BTreeSet<u32> = on_card.map(|eni| eni.device_index).collect();
    let is_free = |index: &u32| !taken.contains(index) && !refused.contains(index);
    Place {
        network_card: card,
        // There are more numbers than ENIs, so one is always free.
        device_index: (0..=u32::MAX).find(is_free).unwrap_or(u32::MAX),
    }
}

/// How many ENIs of a kind are missing.
pub(crate) fn missing<'a, T>(enis: &'a [T], wanted: &Wanted) -> u32
where
    Attached<'a>: From<&'a T>,
{
    let is_its = |eni: &Attached<'_>| eni.network == Some(&wanted.name) && !eni.is_primary();
    let there = enis.iter().map(Attached::from).filter(is_its).count();
    wanted
        .count
        .saturating_sub(u32::try_from(there).unwrap_or(u32::MAX))
}

/// The ENIs that the configuration asks for, and the others without the primary one: those that
/// it does not name, and, of too many, the last ones. Both are sorted by their places.
pub(super) fn split<'a, T>(enis: &'a [T], wanted: &[Wanted]) -> (Vec<&'a T>, Vec<&'a T>)
where
    Attached<'a>: From<&'a T>,
{
    let both = enis.iter().map(|eni| (eni, Attached::from(eni)));
    let mut sorted: Vec<(&T, Attached<'_>)> = both.filter(|(_, eni)| !eni.is_primary()).collect();
    sorted.sort_by_key(|(_, eni)| eni.place);
    let most = |name: &str| {
        wanted
            .iter()
            .find(|w| w.name == name)
            .map_or(0, |w| w.count)
    };
    let mut there: BTreeMap<&str, u32> = BTreeMap::new();
    let is_wanted = |(_, eni): &(&T, Attached<'a>)| {
        let Some(name) = eni.network else {
            return false;
        };
        let number = there.entry(name).or_default();
        *number += 1;
        *number <= most(name)
    };
    let (these, others): (Vec<_>, Vec<_>) = sorted.into_iter().partition(is_wanted);
    let only = |both: Vec<(&'a T, Attached<'a>)>| both.into_iter().map(|(eni, _)| eni).collect();
    (only(these), only(others))
}

/// Whether an ENI was created for an instance.
pub(super) fn is_of<'a>(eni: impl Into<Attached<'a>>, instance: &str) -> bool {
    let eni = eni.into();
    let own = eni.tags.get(INSTANCE_TAG);
    own.is_some_and(|own| own == instance) && !eni.is_primary()
}

/// Checks that the network card has room for one more ENI. If the limit is not known, EC2
/// refuses what is too much.
///
/// # Errors
/// Code 7 with the holders of the slots.
pub(super) fn require_slot(look: &Look, name: &str, card: u32) -> Result<()> {
    let kind = &look.identity.instance_type;
    let none = |why: String| {
        let msg = format!("enis {name:?}: there is no room for one more ENI");
        Err(Error::config(msg).with_details(why))
    };
    let interfaces = &look.limits.interfaces;
    let number = usize::try_from(card).unwrap_or(usize::MAX);
    let Some(most) = interfaces.get(number) else {
        return match interfaces.is_empty() {
            true => Ok(()),
            false => none(format!("{kind} has no network card {card}")),
        };
    };
    let on_card = look.enis.iter().filter(|eni| eni.network_card == card);
    let holders = on_card.map(Attached::from);
    let holders: Vec<String> = holders.map(|eni| eni.named(eni.holder())).collect();
    if u32::try_from(holders.len()).is_ok_and(|taken| taken < *most) {
        return Ok(());
    }
    none(format!(
        "network card {card} of this {kind} has all of its {most} ENIs: {}",
        holders.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use common::attach::inventory::NETWORK_TAG;

    use super::*;
    use crate::vpc::ec2::Limits;
    use crate::vpc::inventory::Interfaces;

    fn look(enis: &[Description], interfaces: &[u32]) -> Look {
        let text = r#"{"region": "r", "instanceId": "i-1", "instanceType": "t"}"#;
        Look {
            interfaces: Interfaces::default(),
            identity: serde_json::from_str(text).unwrap(),
            enis: enis.to_vec(),
            limits: Limits {
                interfaces: interfaces.to_vec(),
                ..Limits::default()
            },
            cidrs: BTreeMap::new(),
            edition: None,
            free: BTreeMap::new(),
        }
    }

    fn eni(card: u32, index: u32) -> Description {
        let place = Place {
            network_card: card,
            device_index: index,
        };
        Description {
            id: format!("eni-{card}-{index}"),
            tags: BTreeMap::new(),
            no_manage: false,
            ..Description::planned("i-1".to_owned(), "", place)
        }
    }

    fn index(enis: &[Description], card: u32, refused: &[u32]) -> u32 {
        free(enis, card, &refused.iter().copied().collect()).device_index
    }

    #[test]
    fn the_first_index_that_nobody_has_is_taken_on_each_card() {
        let enis = [eni(0, 0), eni(0, 1), eni(0, 3), eni(1, 1)];
        assert_eq!(index(&enis, 0, &[]), 2);
        assert_eq!(index(&enis, 0, &[2]), 4);
        assert_eq!(index(&enis, 1, &[]), 0);
    }

    #[test]
    fn a_full_card_names_those_who_have_its_slots() {
        let enis = [eni(0, 0), eni(0, 1), eni(1, 0)];
        let look = look(&enis, &[2, 2]);
        require_slot(&look, "pods", 1).unwrap();
        let error = require_slot(&look, "pods", 0).unwrap_err();
        assert_eq!(
            error.details,
            "network card 0 of this t has all of its 2 ENIs: eni-0-0 (the primary ENI), eni-0-1 \
             (attached by somebody else without the tag for pods, so the VPC CNI may use it)"
        );
        let error = require_slot(&look, "pods", 2).unwrap_err();
        assert_eq!(error.details, "t has no network card 2");
    }

    #[test]
    fn of_too_many_enis_the_last_ones_are_not_wanted() {
        let text = r#"[{"name": "user", "count": 2, "subnets": {"ids": ["subnet-1"]},
            "securityGroups": {"ids": ["sg-1"]}}]"#;
        let wanted: Vec<Wanted> = serde_json::from_str(text).unwrap();
        let of = |name: &str, index| {
            let mut eni = eni(0, index);
            eni.tags.insert(NETWORK_TAG.to_owned(), name.to_owned());
            eni
        };
        let enis = [
            of("user", 4),
            of("old", 2),
            of("user", 1),
            eni(0, 0),
            of("user", 3),
        ];
        let (there, others) = split(&enis, &wanted);
        let ids = |enis: Vec<&Description>| -> Vec<String> {
            enis.into_iter().map(|eni| eni.id.clone()).collect()
        };
        assert_eq!(ids(there), ["eni-0-1", "eni-0-3"]);
        assert_eq!(ids(others), ["eni-0-2", "eni-0-4"]);
    }

    #[test]
    fn without_limits_ec2_decides() {
        let look = look(&[eni(0, 0), eni(0, 1)], &[]);
        require_slot(&look, "pods", 0).unwrap();
    }
}
