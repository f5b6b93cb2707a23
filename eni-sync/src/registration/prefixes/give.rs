//! Gives attachments addresses of the prefixes of an ENI. EC2 is not asked: the VPC delivers
//! packets for the whole prefix to the ENI, and the ledger has the addresses that are in use.

use std::collections::HashSet;
use std::net::IpAddr;

use common::address::Cidr;
use common::attach::inventory::Eni;
use common::error::Result;
use common::say;

use super::free::free;
use super::supply::{self, free_address, prefix_of, trusted, unknown};
use crate::ledger::{
    EniLedger, Entries, Entry, Event, Excluded, Owner, Prefix, State, Takeover, Whose, now,
};
use crate::registration::node::Node;
use crate::registration::{release, rules};
use crate::vpc::ec2::Family;

/// No other ENI can have an address of a prefix of this ENI, so nothing is taken over.
const CLAIMED: Event = Event::Claimed {
    takeover: Takeover::Never,
    best_effort: false,
};

/// The free addresses in the prefixes of an ENI, read once for all attachments that get one.
pub(crate) struct Giver<'a> {
    entries: &'a Entries,
    eni: &'a Eni,
    prefixes: Vec<Prefix>,
    taken: HashSet<IpAddr>,
    excluded: Excluded,
}

impl<'a> Giver<'a> {
    /// The free addresses at this moment; they stay free while the ledger is locked.
    ///
    /// # Errors
    /// Code 5 or 6 naming a file of the ledger.
    pub(crate) fn new(entries: &'a Entries, eni: &'a Eni) -> Result<Self> {
        let mut prefixes = entries.prefixes()?;
        // The others are host-local's, which would not see what is given here.
        prefixes.retain(|prefix| prefix.ranges_file.is_none());
        let (taken, excluded) = match prefixes.is_empty() {
            true => (HashSet::new(), Excluded::default()),
            false => (entries.addresses()?, entries.excluded()?),
        };
        Ok(Self {
            entries,
            eni,
            prefixes,
            taken,
            excluded,
        })
    }

    /// Gives an attachment a free address of a family, if there is one.
    ///
    /// # Errors
    /// Code 5 naming a file of the ledger.
    pub(crate) fn give(&mut self, family: Family, owner: &Owner) -> Result<Option<IpAddr>> {
        let is_taken = |address| self.taken.contains(&address) || self.excluded.contains(address);
        let free = free_address(&self.prefixes, self.eni, family, now(), is_taken);
        let claimed = free.and_then(|address| {
            let claimed = Entry::claimed(address, None, &CLAIMED, owner.clone())?;
            Some((address, claimed.chosen()))
        });
        let Some((address, claimed)) = claimed else {
            return Ok(None);
        };
        self.entries.cover(claimed)?;
        self.taken.insert(address);
        Ok(Some(address))
    }
}

/// Gives free addresses of prefixes to the wishes of `whose`, as far as there are any.
///
/// # Errors
/// Code 5 or 6 naming a file of the ledger.
pub(crate) fn serve(ledger: &EniLedger, eni: &Eni, whose: Whose<'_>) -> Result<()> {
    let entries = ledger.open()?;
    let mut giver = Giver::new(&entries, eni)?;
    if giver.prefixes.is_empty() {
        return Ok(());
    }
    for wish in entries.living_wishes(whose)? {
        let family = if wish.ipv6 { Family::V6 } else { Family::V4 };
        if wish.refusal.is_none() && giver.give(family, &wish.owner)?.is_some() {
            entries.forget_wish(&wish)?;
        }
    }
    Ok(())
}

/// Writes down that claimed addresses are on the ENI if they are in one of its prefixes.
///
/// # Errors
/// Code 5 naming a file of the ledger.
pub(crate) fn cover(node: &Node<'_>, ledger: &EniLedger, eni: &Eni) -> Result<()> {
    let shown = shown(node, ledger, eni)?;
    let entries = ledger.open()?;
    let trusted = trusted(&entries.prefixes()?, eni, &shown, now());
    if trusted.is_empty() {
        return Ok(());
    }
    for entry in entries.all()? {
        if is_claimed(&entry) && prefix_of(&trusted, entry.address).is_some() {
            entries.cover(entry)?;
        }
    }
    Ok(())
}

/// The prefixes that the metadata show, if an address is claimed in one that the ledger does not
/// know. Without an answer EC2 is asked for the address, as for any other.
fn shown(node: &Node<'_>, ledger: &EniLedger, eni: &Eni) -> Result<Vec<Cidr>> {
    if eni.prefixes.is_empty() {
        return Ok(Vec::new());
    }
    let is_asked = {
        let entries = ledger.open()?;
        let unknown = unknown(&entries.prefixes()?, &eni.prefixes);
        let is_in = |entry: &Entry| prefix_of(&unknown, entry.address).is_some();
        !unknown.is_empty() && entries.all()?.iter().any(|e| is_claimed(e) && is_in(e))
    };
    if !is_asked {
        return Ok(Vec::new());
    }
    let imds = node.aws.imds_soon();
    let shown = imds.and_then(|imds| imds.prefixes(&eni.mac));
    Ok(shown.unwrap_or_default())
}

fn is_claimed(entry: &Entry) -> bool {
    matches!(entry.state, State::Claiming { .. })
}

/// Frees the addresses of prefixes whose cool-down is over. Called when no other address of
/// them is free, before EC2 is asked for more.
///
/// # Errors
/// Code 5 naming a file of the ledger, and those of [`release::without_living`].
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
    let ended = release::without_whole(ledger, &eni.mac, ended, &mut kept)?;
    for why in kept {
        say!("{why}");
    }
    free(ledger, Some(eni), ended).map(drop)
}
