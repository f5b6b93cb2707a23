//! Compares the ledger with what EC2 has, ENI by ENI, and repairs what differs: what is
//! lost is assigned again, what is unknown is adopted and left alone, and what nobody
//! lives for any more is released.

use std::fmt;
use std::time::Duration;

use common::error::{Errors, Result};
use common::inventory::Eni;
use common::netns::Holders;

use crate::config::Takeover;
use crate::ledger::{Entries, Entry, State, now};
use crate::plan::{self, Drift};
use crate::registrar::{Node, TURN_DEADLINE, settle};

/// What was different, in addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// On the ENI and unknown to the ledger.
    pub(crate) adopted: usize,
    /// Held by the ledger and not on the ENI.
    pub(crate) lost: usize,
    /// Held for attachments that have ended without a DEL.
    pub(crate) abandoned: usize,
    /// Known to the ledger, needed by nobody, and gone.
    pub(crate) gone: usize,
}

impl Report {
    /// Whether nothing was different.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            adopted,
            lost,
            abandoned,
            gone,
        } = self;
        write!(
            f,
            "addresses adopted: {adopted}, lost and assigned again: {lost}, \
             abandoned: {abandoned}, gone: {gone}"
        )
    }
}

/// Compares every ENI for pods with the ledger. Addresses of attachments that ended
/// without a DEL are released `grace` after they were registered. `progress` hears of
/// each ENI that is done.
///
/// # Errors
/// What went wrong with any of them; the others are done.
pub(crate) fn run(
    node: &Node<'_>,
    grace: Duration,
    progress: &mut dyn FnMut(&Eni),
) -> Result<Report> {
    let mut report = Report::default();
    let mut errors = Errors::default();
    let enis = node.inventory.enis.iter();
    for eni in enis.filter(|eni| plan::require_managed(eni).is_ok()) {
        errors.keep(compare(node, eni, grace, &mut report));
        progress(eni);
    }
    errors.into_result().map(|()| report)
}

fn compare(node: &Node<'_>, eni: &Eni, grace: Duration, report: &mut Report) -> Result<()> {
    let ledger = node.ledger.of_eni(&eni.id)?;
    let _turn = ledger.take_turn(TURN_DEADLINE)?;
    let ec2 = node.aws.ec2(&node.inventory.region);
    let actual = ec2.eni(&eni.id);
    let actual = actual.map_err(|failure| failure.error(&format!("look at {}", eni.id)))?;
    let Some(actual) = actual else {
        return Ok(());
    };
    {
        let (entries, holders) = (ledger.open()?, Holders::default());
        let lives = |entry: &Entry| entry.may_have_living_owner(&holders);
        for drift in plan::compare(&entries.all()?, &actual) {
            repair(&entries, drift, &lives, report)?;
        }
        for entry in entries.all()? {
            if is_old(&entry, grace) && !lives(&entry) {
                report.abandoned += 1;
                entries.write(&entry.into_cooldown())?;
            }
        }
    }
    settle(node, eni, &ledger)
}

fn repair(
    entries: &Entries,
    drift: Drift,
    lives: &dyn Fn(&Entry) -> bool,
    report: &mut Report,
) -> Result<()> {
    match drift {
        Drift::Unknown(address) => {
            report.adopted += 1;
            entries.write(&Entry::new(address, State::Adopted, None))
        }
        Drift::Gone(entry) => {
            report.gone += 1;
            entries.forget(entry.address)
        }
        Drift::Lost(entry) if lives(&entry) => {
            report.lost += 1;
            entries.write(&entry.into_state(State::Claiming {
                takeover: Takeover::DeadOwner,
                best_effort: true,
                refusal: None,
            }))
        }
        Drift::Lost(entry) => {
            report.abandoned += 1;
            entries.forget(entry.address)
        }
    }
}

/// Whether an address has been held for longer than an attachment needs to appear.
fn is_old(entry: &Entry, grace: Duration) -> bool {
    let is_over = entry.since.saturating_add(grace.as_secs()) <= now() || entry.since > now();
    entry.state == State::Held && is_over
}
