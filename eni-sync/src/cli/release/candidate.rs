//! The selected addresses, and why one of them is not released.

use std::net::IpAddr;

use common::error::Result;
use common::kernel::netns::{Holders, Presence};

use super::Selection;
use crate::ledger::{Entry, Event, State, now};
use crate::registration::in_use::Living;
use crate::vpc::ec2::Description;

/// A selected address, with its entry if the ledger has one.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) address: IpAddr,
    pub(super) entry: Option<Entry>,
}

impl Candidate {
    /// Whether eni-sync has not assigned it, as far as it knows.
    fn is_foreign(&self) -> bool {
        match &self.entry {
            None => true,
            Some(entry) => entry.state == State::Adopted && entry.owner.is_none(),
        }
    }

    /// The reason why the address is not released, if there is one.
    pub(super) fn reason_to_stay(&self, living: &Living, force: bool) -> Result<Option<String>> {
        if let Some(entry) = &self.entry
            && let Some(owner) = &entry.owner
        {
            let is_ending = matches!(entry.state, State::Releasing { .. });
            match owner.presence(&Holders::default()) {
                Presence::Living if !is_ending => {
                    return Ok(Some(format!("in use by {owner}")));
                }
                Presence::Unknown(why) if !is_ending => {
                    return Ok(Some(format!("it may be in use by {owner}: {why}")));
                }
                _ => {}
            }
        }
        let why = match &self.entry {
            Some(entry) => living.reason_to_keep_entry(entry)?,
            None => living.reason_to_keep(self.address, None),
        };
        if why.is_some() {
            return Ok(why);
        }
        let reason = match self.entry.as_ref().map(|entry| &entry.state) {
            None | Some(State::Adopted) => "its owner is not known; --force releases it",
            Some(State::Pooled) => "the agent's pool would have it again; --force releases it",
            Some(_) => return Ok(None),
        };
        Ok((!force).then(|| reason.to_owned()))
    }

    /// The entry of the address, due now. An address without an entry was found on the ENI.
    pub(super) fn into_due(self) -> Option<Entry> {
        let address = self.address;
        let found = || Entry::begin(address, &Event::Seen, None);
        let entry = self.entry.or_else(found)?;
        entry.after(&Event::Ended { after: now() })
    }
}

/// The selected addresses: those in the ledger, and those that are only on the ENI, which
/// belong to no network.
pub(super) fn candidates(
    entries: &[Entry],
    actual: Option<&Description>,
    selection: &Selection,
) -> Vec<Candidate> {
    let network = selection.network.as_ref();
    let is_of_network = |entry: &&Entry| {
        network.is_none_or(|network| {
            let owner = entry.owner.as_ref();
            owner.is_some_and(|owner| owner.network == *network)
        })
    };
    let known = entries.iter().filter(is_of_network).map(|entry| Candidate {
        address: entry.address,
        entry: Some(entry.clone()),
    });
    let is_unknown = |address: &&IpAddr| {
        network.is_none() && !entries.iter().any(|entry| entry.address == **address)
    };
    let found = actual.iter().flat_map(|actual| &actual.secondary);
    let unknown = found.filter(is_unknown).map(|address| Candidate {
        address: *address,
        entry: None,
    });
    let is_listed = |candidate: &Candidate| {
        selection.address.is_empty() || selection.address.contains(&candidate.address)
    };
    let is_of_kind = |candidate: &Candidate| match candidate.is_foreign() {
        true => !selection.own,
        false => !selection.foreign,
    };
    let all = known.chain(unknown);
    all.filter(|candidate| is_listed(candidate) && is_of_kind(candidate))
        .collect()
}
