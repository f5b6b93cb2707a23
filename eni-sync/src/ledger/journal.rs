//! Logs what happens to an address: on which ENI, for which attachment, and why. Every change
//! of an entry is logged here, so that the log is complete.

use tracing::{debug, info, warn};

use super::entry::{Entry, Timestamp, now};
use super::life_cycle::Event;
use super::owner::Owner;
use super::prefix::Prefix;
use super::refusal::Refusal;
use super::state::State;

/// Logs an event of an address, with all that is known of its attachment.
macro_rules! tell {
    ($level:ident, $what:literal, $eni:expr, $entry:expr, $($more:tt)*) => {{
        let owner = Whose::of($entry.owner.as_ref());
        $level!(
            eni = $eni,
            address = %$entry.address,
            pod = owner.pod,
            network = owner.network,
            container = owner.container,
            interface = owner.interface,
            $($more)*,
            $what
        );
    }};
}

/// The fields of an attachment, as far as they are known.
#[derive(Default)]
struct Whose<'a> {
    pod: Option<&'a str>,
    network: Option<&'a str>,
    container: Option<&'a str>,
    interface: Option<&'a str>,
}

impl<'a> Whose<'a> {
    fn of(owner: Option<&'a Owner>) -> Self {
        let known = |name: &'a String| Some(name.as_str()).filter(|name| !name.is_empty());
        owner.map_or(Self::default(), |owner| Self {
            pod: known(&owner.pod),
            network: known(&owner.network),
            container: known(&owner.container_id),
            interface: known(&owner.ifname),
        })
    }
}

/// Logs a change to an address of `eni`: `before` and `after` are its entries in the ledger.
pub(super) fn tell(eni: &str, before: Option<&Entry>, after: &Entry, event: &Event) {
    let entry = after;
    let states = (before.map(|entry| &entry.state), &after.state);
    match (event, states) {
        (Event::Claimed { .. }, _) => tell!(debug, "claimed", eni, entry, reason = "asked for"),
        (Event::Taken, (Some(State::Pooled), _)) => {
            tell!(info, "assigned", eni, entry, reason = "taken from the pool");
        }
        (Event::Shown, (_, State::Held)) => {
            let reason = "on the ENI still since an earlier attachment";
            tell!(info, "assigned", eni, entry, reason);
        }
        (Event::Assigned { for_pool: true }, (_, State::Pooled)) => {
            tell!(info, "assigned", eni, entry, reason = "for the pool");
        }
        (Event::Assigned { .. }, (_, State::Held)) => {
            tell!(info, "assigned", eni, entry, reason = "for its attachment");
        }
        (Event::Assigned { .. }, _) => {
            let reason = "its attachment has ended meanwhile";
            tell!(info, "assigned", eni, entry, reason);
        }
        (Event::Refused(refusal), (Some(State::Claiming { refusal: known, .. }), _)) => {
            let is_new = known.as_ref().is_none_or(|known| !known.is_same(refusal));
            refused(eni, entry, refusal, is_new);
        }
        (Event::Seen, (None | Some(State::Removed), _)) => {
            let reason = "on the ENI, and unknown to the ledger";
            tell!(info, "adopted", eni, entry, reason);
        }
        (Event::Missed(_), (Some(State::Held), _)) => {
            let reason = "somebody else has removed it from the ENI: it is assigned again";
            tell!(warn, "lost", eni, entry, reason);
        }
        (Event::Ended { .. }, (Some(State::Pooled), _)) => {
            tell!(
                info,
                "ended",
                eni,
                entry,
                reason = "no pool has it any more"
            );
        }
        (Event::Unassigning, _) => {
            tell!(debug, "releasing", eni, entry, reason = "EC2 is asked");
        }
        (Event::Unassigned, (Some(State::Releasing { after, .. }), _)) => {
            let reason = reason_of_release(*after);
            tell!(info, "released", eni, entry, reason);
        }
        (Event::Pooled, _) => tell!(info, "pooled", eni, entry, reason = "no container has it"),
        _ => {}
    }
}

/// A new refusal is a warning; a repeated one, which may come every minute, is a debug event.
fn refused(eni: &str, entry: &Entry, refusal: &Refusal, is_new: bool) {
    let (code, reason) = (refusal.code, refusal.error().to_string());
    match is_new {
        true => tell!(warn, "refused", eni, entry, code, reason),
        false => tell!(debug, "refused", eni, entry, code, reason),
    }
}

/// Logs that a prefix of the ENI contains an address that was claimed.
pub(super) fn covered(eni: &str, entry: &Entry) {
    tell!(
        info,
        "assigned",
        eni,
        entry,
        reason = "it is in a prefix of the ENI"
    );
}

/// Logs that an attachment does not need its address any more, and why.
pub(super) fn ended(eni: &str, before: &Entry, why: &str) {
    tell!(info, "ended", eni, before, reason = why);
}

/// Logs that an address of a prefix is free again.
pub(super) fn freed(eni: &str, before: &Entry) {
    let reason = "its cool-down is over, and its prefix stays";
    tell!(info, "released", eni, before, reason);
}

/// Logs a change to a prefix of `eni`: `before` and `after` are its entries in the ledger.
pub(super) fn prefix(eni: &str, before: Option<&Prefix>, after: &Prefix, event: &Event) {
    let what = match (event, &after.entry.state) {
        (Event::Assigned { .. }, _) => "assigned",
        (Event::Seen, State::Adopted) if before.is_none() => "adopted",
        (Event::Pooled, State::Pooled) => "pooled",
        (Event::Ended { .. }, _) => "ended",
        (Event::Unassigned, State::Removed) => "released",
        _ => return,
    };
    info!(eni, prefix = %after.prefix, "{what}");
}

/// Logs that the entry of an address was removed.
pub(super) fn forgotten(eni: &str, before: &Entry) {
    let reason = "EC2 does not show it on the ENI any more";
    tell!(info, "forgotten", eni, before, reason);
}

fn reason_of_release(after: Timestamp) -> &'static str {
    match after <= now() {
        true => "its cool-down is over",
        false => "room was needed on the ENI before its cool-down was over",
    }
}
