//! Registers the addresses of attachments on an ENI. Every process writes its claims into the
//! ledger and waits for its turn on the ENI; the process that has the turn asks AWS for all
//! claims of the meantime. So there is one change at a time, a burst of pods becomes a few
//! calls, and no process waits for a timer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use common::attach::inventory::{Eni, require_staying};
use common::error::{Error, ErrorCode, Result};
use common::kernel::netns::Holders;
use common::say;

use crate::deadline::Deadline;
use crate::ledger::{
    EniLedger, Entries, Entry, Event, Ledger, Owner, Refusal, State, Takeover, Whose, now,
};
use crate::registration::assign::{Assigner, Claimed};
use crate::registration::claim::{claim, refuse_used, require_own};
use crate::registration::desired::Wanted;
use crate::registration::node::{Node, TURN_DEADLINE};
use crate::registration::prefixes::give;
use crate::registration::request::Request;
use crate::registration::rules;
use crate::registration::shared::Shared;
use crate::registration::turns::Part;
use crate::registration::without::Without;
use crate::registration::{count, release, unheard};
use crate::vpc::clients::Aws;
use crate::vpc::eni;
use crate::vpc::inventory;

/// How long, in seconds, a refused address that its pod can do without is not requested again:
/// it makes AWS refuse the whole batch.
const RETRY_PAUSE: u64 = 60;
/// How long a process that comes again waits for a second look.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The reason in the log for releasing an address that was claimed and not assigned yet.
const HAS_ENDED: &str = "its attachment has ended";

/// Registers all addresses of an attachment, each on the ENI with its MAC address.
///
/// # Errors
/// Those of [`register`] and of finding the ENI.
pub(crate) fn register_all(
    aws: &Aws,
    ledger: &Ledger,
    shared: &Shared,
    wanted: &Wanted,
    request: &Request,
) -> Result<()> {
    for (mac, addresses) in wanted {
        let (inventory, eni) = inventory::find(aws, mac)?;
        let node = Node {
            aws,
            ledger,
            inventory: &inventory,
            shared,
        };
        register(&node, &eni, addresses, request)?;
    }
    Ok(())
}

/// Registers `addresses` on `eni`. After a failure the claims stay in the ledger: the DEL that
/// follows releases them.
///
/// # Errors
/// Code 7 for an address that can never be registered, 11 for one that another attachment or
/// ENI has or that AWS does not assign now, and while the ENI is being detached from the node, 100
/// without permission, 5 or 6 naming a file of the ledger.
pub(crate) fn register(
    node: &Node<'_>,
    eni: &Eni,
    addresses: &[IpAddr],
    request: &Request,
) -> Result<()> {
    let addresses = addresses.iter().copied();
    let (wanted, own): (Vec<_>, Vec<_>) = addresses.partition(|a| eni::needs_entry(eni, *a));
    require_own(node, eni, &own, &request.owner)?;
    if wanted.is_empty() {
        return Ok(());
    }
    eni::require_all(eni, &wanted)?;
    let ledger = node.ledger.of_attached(eni)?.until(node.aws.deadline());
    let reusable = claim(node, eni, &ledger, (&wanted, request))?;
    give::cover(node, &ledger, eni)?;
    confirm(node, eni, &ledger, &reusable, request)?;
    settle_until(node, eni, &ledger, |entries| {
        let is_held = answer(entries, &wanted, request)?;
        Ok(is_held.then_some(()))
    })?;
    require_staying(&eni.interface, &eni.mac)
}

/// Settles the ENI, in this thread or in another one, until `answer` finds an answer in the
/// ledger.
///
/// # Errors
/// The error of `answer`, and code 11 when there is no time left.
pub(crate) fn settle_until<T>(
    node: &Node<'_>,
    eni: &Eni,
    ledger: &EniLedger,
    answer: impl Fn(&Entries) -> Result<Option<T>>,
) -> Result<T> {
    let deadline = node.aws.deadline();
    loop {
        if let Some(answer) = answer(&ledger.open()?)? {
            return Ok(answer);
        }
        let turns = &node.shared.turns;
        let lead = match turns.join(&eni.id, deadline.left_of(TURN_DEADLINE)) {
            Part::Lead(lead) => lead,
            Part::Served => continue,
            Part::TooLate => return Err(too_late(&eni.id)),
        };
        let turn = ledger.take_turn(TURN_DEADLINE)?;
        let mut until_next = None;
        let mut found = answer(&ledger.open()?)?;
        if found.is_none() {
            until_next = settle(node, eni, ledger)?;
            found = answer(&ledger.open()?)?;
        }
        // Those that have been served as well need not wait for what follows.
        drop(lead);
        if let Some(answer) = found {
            release_if_worth(node, ledger);
            return Ok(answer);
        }
        drop(turn);
        thread::sleep(pause_before_next(until_next, deadline, &eni.id)?);
    }
}

fn too_late(eni: &str) -> Error {
    Deadline::missed(&format!("EC2 to assign addresses to {eni}"))
}

/// How long a process waits for the next look at EC2 while its addresses are not on the ENI.
///
/// # Errors
/// Code 11 naming what there is no time for, or that there is nothing to wait for.
fn pause_before_next(
    until_next: Option<Duration>,
    deadline: Deadline,
    eni: &str,
) -> Result<Duration> {
    if deadline.is_over() {
        return Err(too_late(eni));
    }
    let pause = until_next.ok_or_else(|| {
        let msg = format!("the ledger of {eni} changed while AWS was asked");
        Error::new(ErrorCode::TRY_AGAIN, msg)
    })?;
    match pause < deadline.left() {
        true => Ok(pause),
        false => Err(Deadline::missed("a second look at EC2")),
    }
}

/// Registers the addresses that host-local has reserved for attachments without `eni-sync` in
/// their network, with one call for all of them. A refused address is tried again when the ENI
/// is settled next. Returns the addresses that could not be claimed.
///
/// # Errors
/// Those of [`register`] that concern all of them; the others are in the ledger.
pub(crate) fn register_reservations(
    node: &Node<'_>,
    eni: &Eni,
    reservations: BTreeMap<IpAddr, Owner>,
    takeover: Takeover,
) -> Result<Vec<Without>> {
    eni::require_managed(eni)?;
    let ledger = node.ledger.of_attached(eni)?;
    let known = ledger.open()?.all()?;
    // A claim may wait for a second look.
    let is_open = |entry: &Entry| matches!(entry.state, State::Claiming { refusal: None, .. });
    let mut is_news = known.iter().any(is_open);
    let mut without = Vec::new();
    for (address, owner) in reservations {
        let is_new = !known.iter().any(|entry| {
            let is_known = entry.is_for(&owner) || entry.is_told_of(&owner);
            entry.address == address && is_known
        });
        if !is_new || !eni::needs_entry(eni, address) {
            continue;
        }
        let request = Request {
            owner,
            takeover,
            best_effort: true,
        };
        let claimed = eni::require_assignable(eni, address).and_then(|()| {
            let reusable = claim(node, eni, &ledger, (&[address], &request))?;
            confirm(node, eni, &ledger, &reusable, &request)
        });
        match claimed {
            Ok(()) => is_news = true,
            Err(why) => without.push(Without {
                owner: request.owner,
                address,
                why,
            }),
        }
    }
    if is_news {
        settle_in_turns(node, eni, &ledger)?;
    }
    Ok(without)
}

/// Takes over, without a call, the addresses that are still on the ENI by the metadata. Not for
/// a network that lets addresses float.
pub(crate) fn confirm(
    node: &Node<'_>,
    eni: &Eni,
    ledger: &EniLedger,
    reusable: &[IpAddr],
    request: &Request,
) -> Result<()> {
    if reusable.is_empty() || request.takeover == Takeover::Always {
        return Ok(());
    }
    // Without metadata EC2 is asked, as for any other address.
    let shown = node.aws.imds_soon()?.addresses(&eni.mac);
    let shown = shown.unwrap_or_default();
    let entries = ledger.open()?;
    for address in reusable.iter().filter(|address| shown.contains(address)) {
        if let Some(entry) = entries.get(*address)?.filter(|e| is_claimed_by(e, request)) {
            entries.note(entry, &Event::Shown)?;
        }
    }
    Ok(())
}

fn is_claimed_by(entry: &Entry, request: &Request) -> bool {
    entry.is_owned_by(&request.owner) && matches!(entry.state, State::Claiming { .. })
}

/// Whether all of `wanted` is held by the request's attachment.
///
/// # Errors
/// The refusal of one of them; code 11 when the attachment has ended meanwhile.
fn answer(entries: &Entries, wanted: &[IpAddr], request: &Request) -> Result<bool> {
    let mut all_held = true;
    for address in wanted {
        let entry = entries.get(*address)?;
        let entry = entry.filter(|entry| entry.is_owned_by(&request.owner));
        match entry.map(|entry| entry.state) {
            Some(State::Held) => {}
            Some(State::Claiming { refusal: None, .. }) => all_held = false,
            Some(State::Claiming {
                refusal: Some(refusal),
                ..
            }) => return Err(refusal.error()),
            Some(
                State::Releasing { .. }
                | State::Withdrawn { .. }
                | State::Removed
                | State::Adopted
                | State::Pooled,
            )
            | None => {
                let msg = format!("the attachment ended while {address} was registered");
                return Err(Error::new(ErrorCode::TRY_AGAIN, msg));
            }
        }
    }
    Ok(all_held)
}

/// Asks AWS for every address of the ENI that an existing attachment has claimed, in as many
/// turns as are needed. A process that comes again leaves an address claimed that needs a second
/// look much later.
///
/// # Errors
/// Those of [`settle`], and code 11 when a turn does not come in time.
pub(crate) fn settle_in_turns(node: &Node<'_>, eni: &Eni, ledger: &EniLedger) -> Result<()> {
    loop {
        let turn = ledger.take_turn(TURN_DEADLINE)?;
        let until_next = settle(node, eni, ledger)?;
        drop(turn);
        match until_next {
            Some(pause) if node.shared.comes_again && pause > LONGEST_PAUSE => return Ok(()),
            Some(pause) => thread::sleep(pause),
            None => return Ok(()),
        }
    }
}

/// Asks AWS for every address of the ENI that an existing attachment has claimed. An address
/// that needs a second look stays claimed and is not requested until then: returns how long
/// that is. So does one of which it is not known yet who has it. The caller must have the turn.
///
/// # Errors
/// Code 5 naming a file of the ledger; the refusals of AWS are written into the entries.
fn settle(node: &Node<'_>, eni: &Eni, ledger: &EniLedger) -> Result<Option<Duration>> {
    node.aws.await_budget();
    // Addresses of a lost answer, and those that no pod needs any more, go to waiting
    // attachments.
    unheard::find(node, ledger)?;
    give::cover(node, ledger, eni)?;
    count::serve(ledger, eni, Whose::Anybody)?;
    give::cover(node, ledger, eni)?;
    let until_second = |claimed: &Claimed| {
        let looks = &node.shared.looks;
        looks.until_second(claimed.address, Instant::now())
    };
    let is_due = |claimed: &&Claimed| until_second(claimed).is_none_or(|wait| wait.is_zero());
    let mut open = open_claims(ledger)?;
    let due: Vec<Claimed> = open.iter().filter(is_due).copied().collect();
    let (due, until_known) = refuse_used(node, eni, ledger, due)?;
    if !due.is_empty() {
        let outcomes = Assigner::new(node, eni)?.assign(&due);
        open.retain(|claimed| {
            outcomes
                .iter()
                .all(|(address, _)| *address != claimed.address)
        });
        let entries = ledger.open()?;
        // Without time left, a failure is not EC2's answer: the process with the next turn asks
        // again.
        let is_over = node.aws.deadline().is_over();
        let is_unheard = |outcome: &Result<()>| {
            is_over
                && outcome
                    .as_ref()
                    .is_err_and(|e| e.code == ErrorCode::TRY_AGAIN)
        };
        for (address, outcome) in outcomes {
            if is_unheard(&outcome) {
                continue;
            }
            if let Some(entry) = entries.get(address)? {
                note(&entries, entry, outcome)?;
            }
        }
    }
    let until_second = open.iter().filter_map(until_second).min();
    let until_next = count::settle(node, eni, ledger)?;
    let waits = until_second.into_iter().chain(until_next);
    Ok(waits.chain(until_known).min())
}

/// The claims of existing attachments that EC2 has not answered yet. Claims of attachments that
/// have ended are released.
fn open_claims(ledger: &EniLedger) -> Result<Vec<Claimed>> {
    let (entries, holders) = (ledger.open()?, Holders::default());
    let mut claimed = Vec::new();
    for entry in entries.forget_removed()? {
        let State::Claiming {
            takeover,
            best_effort,
            refusal,
        } = &entry.state
        else {
            continue;
        };
        let is_again = *best_effort && entry.since.saturating_add(RETRY_PAUSE) <= now();
        if !entry.may_have_living_owner(&holders) {
            entries.end(entry, HAS_ENDED)?;
        } else if refusal.is_none() || is_again {
            claimed.push(Claimed {
                address: entry.address,
                takeover: *takeover,
                was_removed_lately: entry.was_removed_lately(now()),
            });
        }
    }
    Ok(claimed)
}

/// Writes down AWS' answer about a claimed address. If the attachment has ended meanwhile, its
/// end counts.
fn note(entries: &Entries, entry: Entry, outcome: Result<()>) -> Result<()> {
    let for_pool = entry.is_for_pool();
    let event = match outcome {
        Ok(()) => Event::Assigned { for_pool },
        Err(error) => Event::Refused(Refusal::of(&error)),
    };
    entries.note(entry, &event)
}

/// Removes the due addresses, if they are worth a call while an ADD waits. The attachment does
/// not depend on it. Addresses that stay are due again later, and are logged then.
fn release_if_worth(node: &Node<'_>, ledger: &EniLedger) {
    let released = ledger
        .open()
        .and_then(|entries| entries.all())
        .map(|entries| rules::is_worth_releasing(&entries, now()))
        .and_then(|worth| match worth {
            true => release::release_due(node, ledger).map(drop),
            false => Ok(()),
        });
    if let Err(error) = released {
        say!("releasing addresses of {}: {error}", ledger.id());
    }
}
