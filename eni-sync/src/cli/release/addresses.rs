//! Releases the addresses of one ENI: finds out for each selected one whether it must stay, and
//! removes the others.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;

use common::error::{Error, Result};

use super::candidate::{Candidate, candidates};
use super::line::Fate;
use super::{Manner, Selection};
use crate::ledger::{EniLedger, State};
use crate::registration::attached::Whole;
use crate::registration::in_use::{self, Living};
use crate::registration::node::Node;
use crate::registration::release::{self, End, Ends};
use crate::vpc::ec2::Description;
use crate::vpc::eni;

/// The facts by which addresses of an ENI must stay.
struct Seen {
    living: Living,
    /// The addresses whose files cannot be read.
    unreadable: HashMap<IpAddr, Error>,
    /// The pods that may have the ENI as a whole, if it is on this node.
    whole: Option<Whole>,
    /// The reservations of host-local, with the files: their containers may be invisible, so
    /// such addresses are not left over.
    reserved: BTreeMap<IpAddr, PathBuf>,
}

/// Releases the selected addresses of an ENI, apart from those that must stay. The caller must
/// have the turn, unless this is a dry run.
///
/// # Errors
/// The errors of AWS, code 5 or 6 naming a file, and those of [`in_use::look_from`].
pub(super) fn release(
    node: &Node<'_>,
    ledger: &EniLedger,
    selection: &Selection,
    manner: &Manner,
) -> Result<Vec<(IpAddr, Fate)>> {
    let actual = actual(node, ledger)?;
    let candidates = candidates(&ledger.read()?, actual.as_ref(), selection);
    let mut seen = look(node, (ledger, &candidates), actual.as_ref())?;
    if selection.foreign {
        seen.reserved = manner.reserved()?;
    }
    let mut fates = Vec::new();
    let mut accepted = Vec::new();
    for candidate in candidates {
        match reason_to_stay(&candidate, manner, &seen)? {
            Some(why) => fates.push((candidate.address, Fate::Kept(why))),
            None => accepted.push(candidate),
        }
    }
    if manner.dry_run {
        fates.extend(accepted.iter().map(|c| (c.address, Fate::WouldBe)));
    } else {
        fates.extend(carry_out(node, ledger, accepted)?);
    }
    fates.sort_by_key(|(address, _)| *address);
    Ok(fates)
}

/// Collects the facts by which candidates must stay.
fn look(
    node: &Node<'_>,
    (ledger, candidates): (&EniLedger, &[Candidate]),
    actual: Option<&Description>,
) -> Result<Seen> {
    let is_candidate = |address| candidates.iter().any(|c| c.address == address);
    Ok(Seen {
        living: in_use::look_from(node.ledger, is_candidate)?,
        unreadable: ledger.unreadable()?.into_iter().collect(),
        whole: actual.map(|eni| Whole::of(&eni.mac)).transpose()?,
        reserved: BTreeMap::new(),
    })
}

/// The reason why an address is not released, if there is one.
fn reason_to_stay(candidate: &Candidate, manner: &Manner, seen: &Seen) -> Result<Option<String>> {
    if let Some(error) = seen.unreadable.get(&candidate.address) {
        return Ok(Some(error.to_string()));
    }
    if let Some(path) = seen.reserved.get(&candidate.address) {
        return Ok(Some(format!("host-local has it: {}", path.display())));
    }
    let why = candidate.reason_to_stay(&seen.living, manner.force)?;
    let whole = || {
        let whole = seen.whole.as_ref()?;
        whole.reason_to_keep(candidate.entry.as_ref())
    };
    Ok(why.or_else(whole))
}

/// The current description of the ENI, if it is on this node and its addresses may be removed.
pub(super) fn actual(node: &Node<'_>, ledger: &EniLedger) -> Result<Option<Description>> {
    let ec2 = node.aws.ec2(&node.inventory.region)?;
    let id = ledger.id();
    let actual = ec2.eni(id);
    let actual = actual.map_err(|failure| failure.error(&format!("look at {id}")))?;
    let own = node.inventory.instance_id.as_str();
    let own = actual.filter(|eni| eni.instance_id.as_deref() == Some(own));
    if let Some(eni) = &own {
        eni::require_releasable(eni)?;
    }
    Ok(own)
}

/// Writes down that the addresses are due, and releases them.
pub(super) fn carry_out(
    node: &Node<'_>,
    ledger: &EniLedger,
    accepted: Vec<Candidate>,
) -> Result<Vec<(IpAddr, Fate)>> {
    let mut due = Vec::new();
    let mut addresses = Vec::new();
    {
        let entries = ledger.open()?;
        for candidate in accepted {
            addresses.push(candidate.address);
            if entries.get(candidate.address)? == candidate.entry
                && let Some(entry) = candidate.into_due()
            {
                entries.write(&entry)?;
                due.push(entry);
            }
        }
    }
    let released = release::release(node, ledger, due);
    let (ends, failure) = match released {
        Ok(ends) => (ends, None),
        Err(error) => (Ends::new(), Some(error)),
    };
    let fate = |address: IpAddr| match (ends.get(&address), &failure) {
        (Some(end), _) => fate_of(end),
        (None, Some(why)) => fate_after_failure(ledger, address, why),
        (None, None) => claimed(),
    };
    let addresses = addresses.into_iter();
    Ok(addresses.map(|address| (address, fate(address))).collect())
}

/// The result for an address, by the result of the release.
fn fate_of(end: &End) -> Fate {
    match end {
        End::Removed | End::Freed => Fate::Released,
        End::Absent => Fate::NotThere,
        End::Elsewhere => Fate::Kept(
            "the ENI is not attached to this node, which only forgets what it knows of it"
                .to_owned(),
        ),
        End::Kept(why) => Fate::Kept(why.clone()),
    }
}

/// The result for an address after a release that failed.
fn fate_after_failure(ledger: &EniLedger, address: IpAddr, why: &Error) -> Fate {
    let entry = match ledger.open().and_then(|entries| entries.get(address)) {
        Ok(entry) => entry,
        Err(error) => return Fate::Kept(format!("{why}; {error}")),
    };
    match entry.map(|entry| entry.state) {
        None | Some(State::Removed) => Fate::Released,
        Some(State::Releasing { .. } | State::Withdrawn { .. }) => {
            Fate::Kept(format!("{why}; it is due, and is tried again"))
        }
        Some(_) => claimed(),
    }
}

fn claimed() -> Fate {
    Fate::Kept("an attachment has claimed it meanwhile".to_owned())
}
