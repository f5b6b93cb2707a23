//! CHECK of an attachment's addresses on one ENI.

use std::net::IpAddr;

use common::attach::inventory::Eni;
use common::error::{Error, ErrorCode, Result};
use common::kernel::netns::Holders;

use crate::ledger::{EniLedger, Entries, Entry, Event, Owner, State, now};
use crate::registration::node::{Node, TURN_DEADLINE};
use crate::registration::prefixes::supply::{prefix_of, trusted};
use crate::registration::request::Request;
use crate::vpc::eni;

/// Checks an attachment against the ledger and the VPC. The metadata can confirm that an
/// address is on the ENI; only EC2 can tell that it is not.
///
/// # Errors
/// Code 999 naming the first address that is not on the ENI, or is another attachment's.
pub(crate) fn verify(
    node: &Node<'_>,
    eni: &Eni,
    addresses: &[IpAddr],
    request: &Request,
) -> Result<()> {
    let mut open = addresses.to_vec();
    open.retain(|address| eni::needs_entry(eni, *address));
    if open.is_empty() {
        return Ok(());
    }
    let ledger = node.ledger.of_attached(eni)?;
    let ledger = ledger.until(node.aws.deadline());
    let unknown = not_held(&ledger.open()?, &open, &request.owner)?;
    let prefixes = trusted(&ledger.open()?.prefixes()?, eni, &[], now());
    open.retain(|a| unknown.contains(a) || prefix_of(&prefixes, *a).is_none());
    if open.is_empty() {
        return Ok(());
    }
    let shown = node.aws.imds()?.addresses(&eni.mac).unwrap_or_default();
    open.retain(|address| unknown.contains(address) || !shown.contains(address));
    if open.is_empty() {
        return Ok(());
    }
    let shown = node.aws.imds()?.prefixes(&eni.mac).unwrap_or_default();
    open.retain(|address| unknown.contains(address) || prefix_of(&shown, *address).is_none());
    if open.is_empty() {
        return Ok(());
    }
    // The description may have changes that the process with the turn has not written down yet.
    let _turn = match unknown.is_empty() {
        true => None,
        false => Some(ledger.take_turn(TURN_DEADLINE)?),
    };
    let known = entries_of(&ledger.open()?, &open)?;
    let ec2 = node.aws.ec2(&node.inventory.region)?;
    let found = ec2.eni(&eni.id);
    let found = found.map_err(|failure| failure.error(&format!("look at {}", eni.id)))?;
    for (address, entry) in &known {
        let is_shown = found.as_ref().is_some_and(|found| found.covers(*address));
        let is_leaving = entry.as_ref().is_some_and(|e| e.may_be_leaving(now()));
        if !is_shown || is_leaving {
            let msg = format!("{address} is not assigned to {}", eni.id);
            return Err(Error::internal(msg));
        }
    }
    let proven = known
        .into_iter()
        .filter(|(address, _)| unknown.contains(address));
    adopt(&ledger, proven, request)
}

/// The entry of each of `addresses`, if there is one.
fn entries_of(entries: &Entries, addresses: &[IpAddr]) -> Result<Vec<(IpAddr, Option<Entry>)>> {
    let addresses = addresses.iter();
    let entries = addresses.map(|address| Ok((*address, entries.get(*address)?)));
    entries.collect()
}

/// The addresses that the ledger does not hold for this attachment.
///
/// # Errors
/// Code 999 when it holds one for another attachment that exists, or has ended this one.
fn not_held(entries: &Entries, addresses: &[IpAddr], owner: &Owner) -> Result<Vec<IpAddr>> {
    let (mut unknown, holders) = (Vec::new(), Holders::default());
    let lives = |entry: &Entry| entry.may_have_living_owner(&holders);
    for address in addresses {
        let entry = entries.get(*address)?;
        let is_own = entry.as_ref().is_some_and(|entry| entry.is_owned_by(owner));
        match entry {
            Some(entry) if is_own && entry.state == State::Held => {}
            // What was ended is not what the ledger has lost.
            Some(entry) if is_own && entry.is_leaving() => {
                let msg = format!("{address} is not this attachment's any more");
                let details = "the attachment has been ended";
                return Err(Error::internal(msg).with_details(details));
            }
            Some(entry) if !is_own && entry.state == State::Held && lives(&entry) => {
                let msg = format!("the ledger has {address} for another attachment");
                let other = entry
                    .owner
                    .as_ref()
                    .map(Owner::to_string)
                    .unwrap_or_default();
                return Err(Error::internal(msg).with_details(other));
            }
            _ => unknown.push(*address),
        }
    }
    Ok(unknown)
}

/// Writes into the ledger, if it was lost, what CHECK has proved: that the attachment has these
/// addresses and that they are on the ENI.
///
/// # Errors
/// Code 11 when an entry has changed since before EC2 was asked.
fn adopt(
    ledger: &EniLedger,
    proven: impl Iterator<Item = (IpAddr, Option<Entry>)>,
    request: &Request,
) -> Result<()> {
    let entries = ledger.open()?;
    let claimed = Event::Claimed {
        takeover: request.takeover,
        best_effort: request.best_effort,
    };
    for (address, before) in proven {
        let known = entries.get(address)?;
        if known != before {
            let msg = format!("the ledger of {} changed while AWS was asked", ledger.id());
            return Err(Error::new(ErrorCode::TRY_AGAIN, msg));
        }
        let entry = Entry::claimed(address, known, &claimed, request.owner.clone());
        if let Some(entry) = entry {
            entries.note(entry, &Event::Assigned { for_pool: false })?;
        }
    }
    Ok(())
}

/// Checks the addresses of an attachment that has a whole ENI against the VPC. They are not
/// claimed, so the ledger is not used.
///
/// # Errors
/// Code 999 naming the first address that is not on the ENI.
pub(crate) fn verify_whole(node: &Node<'_>, eni: &Eni, addresses: &[IpAddr]) -> Result<()> {
    let shown = node.aws.imds()?.addresses(&eni.mac).unwrap_or_default();
    if addresses.iter().all(|address| shown.contains(address)) {
        return Ok(());
    }
    let found = node.aws.ec2(&node.inventory.region)?.eni(&eni.id);
    let found = found.map_err(|failure| failure.error(&format!("look at {}", eni.id)))?;
    let covers = |address: &&IpAddr| !found.as_ref().is_some_and(|found| found.covers(**address));
    match addresses.iter().find(covers) {
        None => Ok(()),
        Some(address) => {
            let msg = format!("{address} is not assigned to {}", eni.id);
            Err(Error::internal(msg))
        }
    }
}
