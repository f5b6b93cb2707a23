//! Gives attachments addresses of the prefixes of an ENI. EC2 is not asked: the VPC delivers
//! all of a prefix to the ENI, and the ledger says which addresses of it somebody has.

use common::attach::inventory::Eni;
use common::error::Result;
use common::say;

use super::free::free;
use super::supply::{self, free_address, prefix_of, trusted};
use crate::ledger::{EniLedger, Entries, Entry, Event, Owner, State, Takeover, Wish, now};
use crate::registration::{release, rules};
use crate::vpc::ec2::Family;

/// Nobody else can have what is in a prefix of the ENI.
const CLAIMED: Event = Event::Claimed {
    takeover: Takeover::Never,
    best_effort: false,
};

/// Gives an attachment a free address of a family; whether there was one.
///
/// # Errors
/// Code 5 naming a file of the ledger.
pub(crate) fn give(entries: &Entries, eni: &Eni, family: Family, owner: &Owner) -> Result<bool> {
    let prefixes = entries.prefixes()?;
    if prefixes.is_empty() {
        return Ok(false);
    }
    let known = entries.addresses()?;
    let address = free_address(&prefixes, eni, family, now(), |address| {
        known.contains(&address)
    });
    let Some(address) = address else {
        return Ok(false);
    };
    let claimed = Entry::claimed(address, None, &CLAIMED, owner.clone());
    let Some(claimed) = claimed else {
        return Ok(false);
    };
    entries.cover(None, claimed.chosen())?;
    Ok(true)
}

/// Gives those that wait free addresses of prefixes, as far as there are any.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger.
pub(crate) fn serve(ledger: &EniLedger, eni: &Eni, of: impl Fn(&Wish) -> bool) -> Result<()> {
    let entries = ledger.open()?;
    if entries.prefixes()?.is_empty() {
        return Ok(());
    }
    for wish in entries.living_wishes()?.into_iter().filter(of) {
        let family = if wish.ipv6 { Family::V6 } else { Family::V4 };
        if wish.refusal.is_none() && give(&entries, eni, family, &wish.owner)? {
            entries.forget_wish(&wish)?;
        }
    }
    Ok(())
}

/// Notes of every claimed address that a prefix of the ENI has that it is there.
///
/// # Errors
/// Code 5 naming a file of the ledger.
pub(crate) fn cover(ledger: &EniLedger, eni: &Eni) -> Result<()> {
    let entries = ledger.open()?;
    let trusted = trusted(&entries.prefixes()?, eni, now());
    if trusted.is_empty() {
        return Ok(());
    }
    for entry in entries.all()? {
        let is_claimed = matches!(entry.state, State::Claiming { .. });
        if is_claimed && prefix_of(&trusted, entry.address).is_some() {
            entries.cover(Some(&entry), entry.clone())?;
        }
    }
    Ok(())
}

/// Frees what is due of the prefixes when all of them are used up, before EC2 is asked for
/// more.
///
/// # Errors
/// Code 5 naming a file of the ledger, and those of looking into the namespaces.
pub(crate) fn free_due(ledger: &EniLedger, eni: &Eni) -> Result<()> {
    let (all, prefixes) = {
        let entries = ledger.open()?;
        (entries.all()?, entries.prefixes()?)
    };
    let there = supply::there(&prefixes, &eni.prefixes);
    let due = rules::due(&all, now()).into_iter();
    let due = due.filter(|entry| prefix_of(&there, entry.address).is_some());
    let due: Vec<Entry> = due.cloned().collect();
    let mut kept = Vec::new();
    let ended = release::without_living(ledger, due, &mut kept)?;
    for why in kept {
        say!("{why}");
    }
    free(ledger, Some(eni), ended).map(drop)
}
