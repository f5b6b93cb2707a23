//! Removes addresses from ENIs: only those that are releasing in the ledger, that no pod has,
//! and that EC2 shows on an ENI of this node at that moment. An address that was only claimed
//! is looked for first, and forgotten if it is not there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use common::attach::inventory::Eni;
use common::error::{Error, Errors, Result};

use crate::ledger::{Absence, EniLedger, Entry, Event, Ledger, State, now};
use crate::registration::attached::Whole;
use crate::registration::here;
use crate::registration::in_use::{self, Living, Reach};
use crate::registration::node::{Node, TURN_DEADLINE};
use crate::registration::prefixes::free::free;
use crate::registration::prefixes::supply::{self, prefix_of};
use crate::registration::settled::unsettled;
use crate::registration::shared::Shared;
use crate::registration::unassign::{Answer, Answers, Unassigner};
use crate::registration::{rules, unheard};
use crate::vpc::clients::Aws;
use crate::vpc::ec2::{Description, Ec2, Family, OwnEni};
use crate::vpc::eni;
use crate::vpc::failure::{Failure, Kind};
use crate::vpc::inventory;

/// How long, in seconds, the removal of an address is postponed that a pod still has.
const POSTPONED: u64 = 60;
/// The same for an address that EC2 refuses to remove: it makes EC2 refuse the others with it.
const REFUSED: u64 = 300;
/// The same for addresses of an ENI that is not on this node, or may not be.
const AWAY: u64 = 300;

/// The results for addresses that were to be removed. An address that was claimed meanwhile is
/// not among them.
pub(crate) type Ends = HashMap<IpAddr, End>;

/// The result for an address that was to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// EC2 has removed it.
    Removed,
    /// No pod has it any more. It is still on the ENI, as a part of its prefix.
    Freed,
    /// It is not on the ENI, according to EC2.
    Absent,
    /// The ENI is not on this node, or does not exist: its addresses are not changed.
    Elsewhere,
    /// It stays, for this reason.
    Kept(String),
}

/// Removes every address of an ENI whose cool-down is over, and returns the result for each.
/// The caller must have the turn.
///
/// # Errors
/// The failures of calls; the addresses stay due.
pub(crate) fn release_due(node: &Node<'_>, ledger: &EniLedger) -> Result<Ends> {
    let entries = ledger.open()?.all()?;
    let due: Vec<Entry> = rules::due(&entries, now()).into_iter().cloned().collect();
    release(node, ledger, due)
}

/// Removes every due address from every ENI. If none is due, AWS is not asked. Adds to `kept`
/// the due addresses that stay, and why.
///
/// # Errors
/// The failures of any of the ENIs; the others are done.
pub(crate) fn release_all_due(aws: &Aws, ledger: &Ledger, kept: &mut Vec<String>) -> Result<()> {
    let is_due = |entries: &[Entry]| !rules::due(entries, now()).is_empty();
    release_where(aws, ledger, is_due, kept)
}

/// The same for a caller that comes regularly: due addresses wait a little for others. Returns
/// how long it is until the next release; `None` if no address is being released.
///
/// # Errors
/// As for [`release_all_due`].
pub(crate) fn release_in_batches(
    aws: &Aws,
    ledger: &Ledger,
    kept: &mut Vec<String>,
) -> Result<Option<Duration>> {
    let time = |entries: &[Entry]| rules::release_time(entries, now());
    let is_time = |entries: &[Entry]| time(entries).is_some_and(|time| time <= now());
    release_where(aws, ledger, is_time, kept)?;
    let mut next = None;
    for eni in ledger.enis()? {
        next = time(&eni.open()?.all()?).into_iter().chain(next).min();
    }
    // The ledger's times are in seconds.
    Ok(next.map(|time| Duration::from_secs(time.saturating_sub(now()).max(1))))
}

/// Removes the due addresses from the ENIs whose entries satisfy `is_time`.
fn release_where(
    aws: &Aws,
    ledger: &Ledger,
    is_time: impl Fn(&[Entry]) -> bool,
    kept: &mut Vec<String>,
) -> Result<()> {
    let mut errors = Errors::default();
    for eni in ledger.enis()? {
        let entries = errors.keep(eni.open().and_then(|entries| entries.all()));
        let is_time = is_time(&entries.unwrap_or_default());
        // If that cannot be determined, a look at EC2 is needed.
        let is_unheard = errors.keep(eni.is_unheard()).unwrap_or(true);
        if !is_time && !is_unheard {
            continue;
        }
        let Some(inventory) = errors.keep(inventory::current(aws, |_| true)) else {
            continue;
        };
        let node = Node {
            aws,
            ledger,
            inventory: &inventory,
            shared: &Shared::default(),
        };
        let turn = errors.keep(eni.take_turn(TURN_DEADLINE));
        if turn.is_some() {
            errors.keep(unheard::find(&node, &eni));
            // The file stays, and is reported each time.
            kept.extend(eni.unreadable_asked().iter().map(Error::to_string));
            let ends = errors.keep(release_due(&node, &eni));
            kept.extend(reasons_to_keep(&ends.unwrap_or_default()));
        }
    }
    errors.into_result()
}

/// Removes up to `wanted` addresses of a family that are in their cool-down, the oldest first,
/// and returns how many are gone. The caller must have the turn.
///
/// # Errors
/// As for [`release_due`].
pub(crate) fn release_oldest(
    node: &Node<'_>,
    ledger: &EniLedger,
    family: Family,
    wanted: usize,
) -> Result<usize> {
    let entries = ledger.open()?.all()?;
    let oldest = rules::cooling(&entries, now()).into_iter();
    // An address of a prefix uses no slot that its removal would free.
    let prefixes = ledger.read_prefixes()?;
    let is_single = |entry: &Entry| !prefixes.iter().any(|p| p.contains(entry.address));
    let oldest = oldest.filter(|e| Family::of(e.address) == family && is_single(e));
    let ends = release(node, ledger, oldest.take(wanted).cloned().collect())?;
    let has_gone = |end: &&End| matches!(end, End::Removed | End::Absent);
    Ok(ends.values().filter(has_gone).count())
}

/// Removes the addresses of `entries`, which no pod needs, and returns the results. The caller
/// must have the turn.
///
/// # Errors
/// As for [`release_due`].
pub(crate) fn release(node: &Node<'_>, ledger: &EniLedger, entries: Vec<Entry>) -> Result<Ends> {
    ledger.open()?.forget_removed()?;
    let mut ends = Ends::new();
    let entries = keep_living(ledger, entries, &mut ends)?;
    let mut enis = node.inventory.enis.iter();
    let own = enis.find(|eni| eni.id == ledger.id());
    let entries = keep_whole_of_prefixes(ledger, own, entries, &mut ends)?;
    let (freed, entries) = free(ledger, own, entries)?;
    ends.extend(freed.iter().map(|entry| (entry.address, End::Freed)));
    if entries.is_empty() {
        return Ok(ends);
    }
    let releasing = Releasing {
        ledger,
        aws: node.aws,
        ec2: node.aws.ec2(&node.inventory.region)?,
        instance: &node.inventory.instance_id,
    };
    let Some((actual, entries)) = releasing.look(entries, &mut ends)? else {
        return Ok(ends);
    };
    let entries = keep_whole(ledger, &actual.mac, entries, &mut ends)?;
    let entries = look_for_withdrawn(ledger, entries, &actual, &mut ends)?;
    let entries = mark_asked(ledger, entries)?;
    for family in Family::ALL {
        let of_family = entries
            .iter()
            .filter(|entry| Family::of(entry.address) == family);
        let of_family: Vec<Entry> = of_family.cloned().collect();
        releasing.remove(&actual, &of_family, &mut ends)?;
    }
    Ok(ends)
}

/// The release of addresses of one ENI.
struct Releasing<'a> {
    ledger: &'a EniLedger,
    aws: &'a Aws,
    ec2: &'a Ec2,
    /// This node.
    instance: &'a str,
}

impl Releasing<'_> {
    /// The ENI as EC2 shows it now, and `entries`, if it is on this node; `None` if it is not:
    /// then nothing of it is removed, and `ends` gets the results.
    fn look(
        &self,
        entries: Vec<Entry>,
        ends: &mut Ends,
    ) -> Result<Option<(Description, Vec<Entry>)>> {
        let actual = self.ec2.eni(self.ledger.id());
        let actual = actual.map_err(|failure| self.failed(&failure))?;
        if actual.as_ref().is_some_and(|eni| eni.instance_id.is_none()) {
            let why = format!("{} is attached to no instance", self.ledger.id());
            keep_away(self.ledger, entries, &why, ends)?;
            return Ok(None);
        }
        let is_here = |eni: &Description| eni.instance_id.as_deref() == Some(self.instance);
        let Some(actual) = actual.filter(is_here) else {
            // The ENI is gone, or on another instance with its addresses: if that is confirmed,
            // this node forgets them.
            ends.extend(entries.iter().map(|entry| (entry.address, End::Elsewhere)));
            forget_missing(self.ledger, entries)?;
            return Ok(None);
        };
        eni::require_releasable(&actual)?;
        if let Some(why) = here::reason_to_doubt(self.aws, &actual.mac)? {
            keep_away(self.ledger, entries, &why, ends)?;
            return Ok(None);
        }
        Ok(Some((actual, entries)))
    }

    /// Has AWS remove addresses of one family, and writes down EC2's answers, also if it has not
    /// answered for all of them. An address that EC2 refuses to remove stays.
    fn remove(&self, actual: &Description, entries: &[Entry], ends: &mut Ends) -> Result<()> {
        let own = OwnEni::new(self.ec2, self.ledger.id(), self.instance).seen_now();
        let unassigner = Unassigner::new(&own, actual);
        let addresses: Vec<IpAddr> = entries.iter().map(|entry| entry.address).collect();
        let (answers, done) = unassigner.unassign(&addresses);
        let is_open = |entry: &&Entry| answers.iter().all(|(a, _)| *a != entry.address);
        let open: Vec<Entry> = entries.iter().filter(is_open).cloned().collect();
        note_answers(self.ledger, answers, entries, ends)?;
        match done {
            // It has left while AWS was asked. An attempt may have been carried out before.
            Err(failure) if failure.kind == Kind::NotOurs => match self.look(open, ends)? {
                Some(_) => Err(self.failed(&failure)),
                None => Ok(()),
            },
            done => done.map_err(|failure| self.failed(&failure)),
        }
    }

    fn failed(&self, failure: &Failure) -> Error {
        failure.error(&format!("release addresses of {}", self.ledger.id()))
    }
}

/// Keeps the addresses of an ENI that is not on this node, or may not be, for this reason: it may
/// come back with them, and if they were forgotten, no entry would know them.
fn keep_away(ledger: &EniLedger, entries: Vec<Entry>, why: &str, ends: &mut Ends) -> Result<()> {
    for entry in entries {
        ends.insert(entry.address, End::Kept(why.to_owned()));
        postpone(ledger, entry, AWAY)?;
    }
    Ok(())
}

/// Forgets the addresses that no description shows, as far as this description proves that.
fn forget_missing(ledger: &EniLedger, missing: Vec<Entry>) -> Result<()> {
    let entries = ledger.open()?;
    for entry in missing {
        if entries.get(entry.address)?.as_ref() != Some(&entry) {
            continue;
        }
        match entry.absence(now()) {
            Absence::TooEarly => {}
            Absence::Noted(noted) => entries.write(&noted)?,
            Absence::Proven => entries.forget(&entry)?,
        }
    }
    Ok(())
}

/// Finds out which of the addresses that were only claimed are on the ENI. Returns these, and
/// all others in `entries`.
fn look_for_withdrawn(
    ledger: &EniLedger,
    entries: Vec<Entry>,
    actual: &Description,
    ends: &mut Ends,
) -> Result<Vec<Entry>> {
    let is_withdrawn = |entry: &Entry| matches!(entry.state, State::Withdrawn { .. });
    let (withdrawn, mut leaving): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_withdrawn);
    let (there, missing): (Vec<_>, Vec<_>) = withdrawn
        .into_iter()
        .partition(|entry| actual.secondary.contains(&entry.address));
    ends.extend(missing.iter().map(|entry| (entry.address, End::Absent)));
    forget_missing(ledger, missing)?;
    for entry in there {
        leaving.extend(change(ledger, entry, &Event::Seen)?);
    }
    Ok(leaving)
}

/// Writes down EC2's answers about `entries`.
fn note_answers(
    ledger: &EniLedger,
    answers: Answers,
    entries: &[Entry],
    ends: &mut Ends,
) -> Result<()> {
    let eni = ledger.id();
    let has_gone = |answer: &Answer| matches!(answer, Answer::Removed | Answer::Absent);
    let gone = answers.iter().filter(|(_, answer)| has_gone(answer));
    note_removed(ledger, gone.map(|(address, _)| *address))?;
    for (address, answer) in answers {
        let why = |failure: Failure| failure.error(&format!("remove {address} from {eni}"));
        let (end, seconds) = match answer {
            Answer::Removed => (End::Removed, 0),
            Answer::Absent => (End::Absent, 0),
            Answer::Refused(failure) => (End::Kept(why(failure).to_string()), REFUSED),
            Answer::Open(failure) => {
                let why = format!("EC2 has refused it together with others: {}", why(failure));
                (End::Kept(why), POSTPONED)
            }
        };
        if matches!(end, End::Kept(_))
            && let Some(entry) = entries.iter().find(|entry| entry.address == address)
        {
            postpone(ledger, entry.clone(), seconds)?;
        }
        ends.insert(address, end);
    }
    Ok(())
}

/// The addresses that stay although they were to be removed, in order, each with the reason.
fn reasons_to_keep(ends: &Ends) -> Vec<String> {
    let ends: BTreeMap<_, _> = ends.iter().collect();
    let kept = ends.into_iter().filter_map(|(address, end)| match end {
        End::Kept(why) => Some(format!("{address} stays: {why}")),
        End::Removed | End::Freed | End::Absent | End::Elsewhere => None,
    });
    kept.collect()
}

/// Postpones the addresses that a pod has or gets, and returns the others: the runtime may have
/// ended an attachment whose pod still runs, and host-local may have reserved the address
/// again. Adds to `kept` why addresses stay.
pub(crate) fn without_living(
    ledger: &EniLedger,
    entries: Vec<Entry>,
    kept: &mut Vec<String>,
) -> Result<Vec<Entry>> {
    let mut ends = Ends::new();
    let ended = keep_living(ledger, entries, &mut ends);
    kept.extend(reasons_to_keep(&ends));
    ended
}

/// The same for addresses that a pod may have with the whole ENI, which has this MAC address.
pub(crate) fn without_whole(
    ledger: &EniLedger,
    mac: &str,
    entries: Vec<Entry>,
    kept: &mut Vec<String>,
) -> Result<Vec<Entry>> {
    let mut ends = Ends::new();
    let left = keep_whole(ledger, mac, entries, &mut ends);
    kept.extend(reasons_to_keep(&ends));
    left
}

fn keep_whole(
    ledger: &EniLedger,
    mac: &str,
    entries: Vec<Entry>,
    ends: &mut Ends,
) -> Result<Vec<Entry>> {
    // Records are only read if it is necessary.
    if entries.is_empty() {
        return Ok(entries);
    }
    let whole = Whole::of(mac)?;
    keep(ledger, entries, ends, |entry| {
        Ok(whole.reason_to_keep(Some(entry)))
    })
}

/// The same for those in prefixes of the ENI: EC2 is not asked before they are freed.
fn keep_whole_of_prefixes(
    ledger: &EniLedger,
    eni: Option<&Eni>,
    entries: Vec<Entry>,
    ends: &mut Ends,
) -> Result<Vec<Entry>> {
    let Some(eni) = eni else {
        return Ok(entries);
    };
    let there = supply::there(&ledger.read_prefixes()?, &eni.prefixes);
    let is_inside = |entry: &Entry| prefix_of(&there, entry.address).is_some();
    let (inside, mut others): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_inside);
    others.extend(keep_whole(ledger, &eni.mac, inside, ends)?);
    Ok(others)
}

/// As [`without_living`], with the reasons in `ends`.
fn keep_living(ledger: &EniLedger, entries: Vec<Entry>, ends: &mut Ends) -> Result<Vec<Entry>> {
    // Namespaces are only read if it is necessary.
    if entries.is_empty() {
        return Ok(entries);
    }
    // The owners of other entries name namespaces that cannot be found otherwise.
    let known = ledger.open()?.all()?;
    let owners = known.iter().filter_map(|entry| entry.owner.as_ref());
    let asked: HashSet<IpAddr> = entries.iter().map(|entry| entry.address).collect();
    let living = in_use::look(owners, Reach::Visible, |address| asked.contains(&address))?;
    let unsettled = unsettled(&entries);
    keep(ledger, entries, ends, |entry| {
        let why = entry.reservation().and_then(|file| unsettled.get(file));
        match why {
            Some(why) => Ok(Some(why.clone())),
            None => reason_to_keep(entry, &living),
        }
    })
}

/// Postpones the addresses for which there is a reason to stay, and returns the others.
fn keep(
    ledger: &EniLedger,
    entries: Vec<Entry>,
    ends: &mut Ends,
    reason: impl Fn(&Entry) -> Result<Option<String>>,
) -> Result<Vec<Entry>> {
    let mut left = Vec::new();
    for entry in entries {
        let Some(why) = reason(&entry)? else {
            left.push(entry);
            continue;
        };
        ends.insert(entry.address, End::Kept(why));
        postpone(ledger, entry, POSTPONED)?;
    }
    Ok(left)
}

fn reason_to_keep(entry: &Entry, living: &Living) -> Result<Option<String>> {
    let reserved = || {
        let is_reserved = entry.is_reserved();
        is_reserved.then(|| "host-local has it reserved".to_owned())
    };
    Ok(living.reason_to_keep_entry(entry)?.or_else(reserved))
}

/// Writes down that AWS may be asked to remove these addresses, and returns those that were not
/// claimed meanwhile.
fn mark_asked(ledger: &EniLedger, entries: Vec<Entry>) -> Result<Vec<Entry>> {
    let mut asked = Vec::new();
    for entry in entries {
        asked.extend(change(ledger, entry, &Event::Unassigning)?);
    }
    Ok(asked)
}

/// Writes down that an address stays for this number of seconds.
fn postpone(ledger: &EniLedger, entry: Entry, seconds: u64) -> Result<()> {
    let after = now().saturating_add(seconds);
    change(ledger, entry, &Event::Postponed { after }).map(drop)
}

/// Writes down what `event` makes of an entry, unless the entry has changed since it was read.
/// Returns the new entry.
pub(crate) fn change(ledger: &EniLedger, entry: Entry, event: &Event) -> Result<Option<Entry>> {
    let entries = ledger.open()?;
    if entries.get(entry.address)?.as_ref() != Some(&entry) {
        return Ok(None);
    }
    let before = entry.clone();
    let changed = entries.after(entry, event);
    if let Some(changed) = &changed {
        entries.change(Some(&before), changed, event)?;
    }
    Ok(changed)
}

/// Writes down that the addresses are not on the ENI.
fn note_removed(ledger: &EniLedger, gone: impl Iterator<Item = IpAddr>) -> Result<()> {
    let entries = ledger.open()?;
    for address in gone {
        if let Some(entry) = entries.get(address)? {
            entries.note(entry, &Event::Unassigned)?;
        }
    }
    Ok(())
}
