//! Compares the ledger with EC2, ENI by ENI, and repairs the differences: lost addresses are
//! assigned again, unknown ones are adopted and not changed, and those whose attachments have
//! ended are released.

use std::fmt;
use std::time::Duration;

use common::attach::inventory::Eni;
use common::error::{Errors, Result};
use common::kernel::netns::Holders;

use crate::ledger::{Entries, Entry, Event, State, Takeover, now};
use crate::registration::node::{Node, TURN_DEADLINE};
use crate::registration::prefixes;
use crate::registration::prefixes::compare::Differences;
use crate::registration::register::settle_in_turns;
use crate::registration::rules::{self, Drift};
use crate::registration::unheard;
use crate::vpc::eni;

/// The reason in the log for releasing addresses of pods that ended without a DEL.
const ABANDONED: &str = "its container has gone without a DEL";

/// The differences, in numbers of addresses and prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// On the ENI and unknown to the ledger.
    pub(crate) adopted: usize,
    /// Held in the ledger and not on the ENI.
    pub(crate) lost: usize,
    /// Held for attachments that have ended without a DEL.
    pub(crate) abandoned: usize,
    /// In the ledger without an attachment, and not on the ENI any more.
    pub(crate) gone: usize,
    /// The same, but only one look at EC2 has shown it yet.
    pub(crate) missing: usize,
    /// On the ENI, and to be believed after one more look.
    pub(crate) settling: usize,
}

impl Report {
    /// How many addresses there are of each kind that differed.
    pub(crate) fn counts(&self) -> [(&'static str, usize); 5] {
        [
            ("adopted", self.adopted),
            ("lost", self.lost),
            ("abandoned", self.abandoned),
            ("gone", self.gone),
            ("missing", self.missing),
        ]
    }

    /// Whether nothing was different.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts().iter().all(|(_, count)| *count == 0)
    }

    /// Counts prefixes as well.
    fn add(&mut self, prefixes: Differences) {
        self.adopted += prefixes.adopted;
        self.gone += prefixes.gone;
        self.missing += prefixes.missing;
        self.settling += prefixes.settling;
    }

    /// Whether another look soon will settle what this one could not.
    pub(crate) fn needs_another_look(&self) -> bool {
        self.missing + self.settling > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts().map(|(kind, count)| match kind {
            // The repair is part of the report.
            "lost" => format!("lost and assigned again: {count}"),
            kind => format!("{kind}: {count}"),
        });
        write!(f, "addresses {}", counts.join(", "))
    }
}

/// Compares every ENI for pods with the ledger, and examines the ENIs that have left the node
/// with prefixes. Addresses of attachments that ended without a DEL are released `grace` after
/// they were registered. `progress` is called for each ENI that is done.
///
/// # Errors
/// The failures of any of the ENIs; the others are done.
pub(crate) fn run(
    node: &Node<'_>,
    grace: Duration,
    progress: &mut dyn FnMut(&Eni),
) -> Result<Report> {
    let mut report = Report::default();
    let mut errors = Errors::default();
    let enis = node.inventory.enis.iter();
    for eni in enis.filter(|eni| eni::require_managed(eni).is_ok()) {
        errors.keep(compare(node, eni, grace, &mut report));
        progress(eni);
    }
    for ledger in errors.keep(node.ledger.enis()).unwrap_or_default() {
        if !node.inventory.enis.iter().any(|eni| eni.id == ledger.id()) {
            let found = errors.keep(prefixes::gone::forget(node, &ledger));
            report.add(found.unwrap_or_default());
        }
    }
    errors.into_result().map(|()| report)
}

fn compare(node: &Node<'_>, eni: &Eni, grace: Duration, report: &mut Report) -> Result<()> {
    let ledger = node.ledger.of_attached(eni)?;
    let turn = ledger.take_turn(TURN_DEADLINE)?;
    let ec2 = node.aws.ec2(&node.inventory.region)?;
    let at = now();
    let actual = ec2.eni(&eni.id);
    let actual = actual.map_err(|failure| failure.error(&format!("look at {}", eni.id)))?;
    let Some(actual) = actual else {
        return Ok(());
    };
    let beside = unheard::look_beside(node, &ledger, &actual, at)?;
    {
        let (entries, holders) = (ledger.open()?, Holders::default());
        let lives = |entry: &Entry| entry.may_have_living_owner(&holders);
        entries.forget_removed()?;
        let undecided = unheard::note(&entries, &actual, &beside)?;
        report.settling += undecided.count();
        let mut known = entries.addresses()?;
        known.extend(&undecided.addresses);
        for drift in rules::compare(&entries.all()?, &known, &actual, now()) {
            repair(&entries, drift, &lives, report)?;
        }
        let differences = prefixes::compare::compare(&entries, &actual, &undecided.prefixes)?;
        report.add(differences);
        for entry in entries.all()? {
            if is_old(&entry, grace) && !lives(&entry) {
                report.abandoned += 1;
                entries.end(entry, ABANDONED)?;
            }
        }
        let settling = entries.all()?.into_iter().filter(is_settling);
        report.settling += settling.count();
    }
    drop(turn);
    settle_in_turns(node, eni, &ledger)
}

/// Whether an address still needs a second look: it was adopted, or its ENI was away.
fn is_settling(entry: &Entry) -> bool {
    let is_new = entry.state == State::Adopted && !entry.was_seen_twice();
    is_new || entry.needs_second_look()
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
            match Entry::begin(address, &Event::Seen, None) {
                Some(entry) => entries.change(None, &entry, &Event::Seen),
                None => Ok(()),
            }
        }
        Drift::Confirmed(entry) => entries.note(entry, &Event::Seen),
        Drift::Missing(noted) => {
            report.missing += 1;
            entries.write(&noted)
        }
        Drift::Gone(entry) => {
            report.gone += 1;
            entries.note(entry, &Event::Missed(Takeover::Never))
        }
        Drift::Lost(entry) if lives(&entry) => {
            report.lost += 1;
            let takeover = entry.takeover_when_lost();
            entries.note(entry, &Event::Missed(takeover))
        }
        Drift::Lost(entry) => {
            report.abandoned += 1;
            entries.end(entry, ABANDONED)
        }
    }
}

/// Whether an address has been held for longer than an attachment needs to appear.
fn is_old(entry: &Entry, grace: Duration) -> bool {
    let is_over = entry.since.saturating_add(grace.as_secs()) <= now() || entry.since > now();
    entry.state == State::Held && is_over
}
