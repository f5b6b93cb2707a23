//! `eni-sync release`: an operator gives addresses back. What a living attachment or
//! any pod has stays, whatever the operator says; what nobody knows stays unless the
//! operator insists.

mod prefixes;
mod reserved;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;
use common::address::Cidr;
use common::error::{Error, Result};
use common::kernel::netns::{Holders, Presence};
use common::text::printable;

use crate::cli::output;
use crate::ledger::{EniLedger, Entry, Event, Ledger, Owner, State, now};
use crate::registration::attached;
use crate::registration::in_use::{self, Living, Reach};
use crate::registration::node::{Node, TURN_DEADLINE};
use crate::registration::release::{self, End, Ends};
use crate::registration::shared::Shared;
use crate::registration::unheard;
use crate::vpc::clients::Aws;
use crate::vpc::ec2::Description;
use crate::vpc::eni;
use crate::vpc::inventory;

/// Which addresses to release; those that all options agree on.
#[derive(Args, Clone, Debug, Default)]
#[group(required = true, multiple = true)]
pub(crate) struct Selection {
    /// The addresses that the ledger has for a network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// The addresses of an ENI
    #[arg(long, value_name = "ID")]
    eni: Option<String>,
    /// These addresses
    #[arg(long, value_name = "ADDRESS", num_args = 1..)]
    address: Vec<IpAddr>,
    /// What other programs have left: on an ENI for pods, of no attachment that eni-sync knows
    /// of, in no pool, and on no interface of any namespace
    #[arg(long)]
    foreign: bool,
    /// What eni-sync itself has assigned.
    #[arg(skip)]
    own: bool,
}

/// How to release them.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Release also what nobody knows the owner of, and what is in a pool; never what a
    /// pod has
    #[arg(long)]
    force: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// An address that is selected, with its entry if the ledger has one.
#[derive(Clone, Debug)]
struct Candidate {
    address: IpAddr,
    entry: Option<Entry>,
}

/// What becomes of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Released,
    WouldBe,
    /// It is not on the ENI, by what EC2 says.
    NotThere,
    Kept(String),
}

impl Fate {
    fn of(end: &End) -> Self {
        match end {
            End::Removed | End::Freed => Self::Released,
            End::Absent => Self::NotThere,
            End::Elsewhere => Self::Kept(
                "the ENI is not attached to this node, which only forgets what it knows of it"
                    .to_owned(),
            ),
            End::Kept(why) => Self::Kept(why.clone()),
        }
    }

    /// What has become of an address whose release went wrong somewhere.
    fn after_failure(entry: Option<&Entry>, why: &Error) -> Self {
        match entry.map(|entry| &entry.state) {
            None | Some(State::Removed) => Self::Released,
            Some(State::Releasing { .. } | State::Withdrawn { .. }) => {
                Self::Kept(format!("{why}; it is due, and is tried again"))
            }
            Some(_) => Self::claimed(),
        }
    }

    fn claimed() -> Self {
        Self::Kept("an attachment has claimed it meanwhile".to_owned())
    }
}

/// What a line is about.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Address(IpAddr),
    Prefix(Cidr),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
        }
    }
}

/// The line of one address or prefix.
struct Line {
    subject: Subject,
    eni: String,
    fate: Fate,
}

impl Line {
    fn is_about(&self, address: IpAddr) -> bool {
        matches!(self.subject, Subject::Address(own) if own == address)
    }

    fn is_kept(&self) -> bool {
        matches!(self.fate, Fate::Kept(_))
    }
}

/// Releases what is selected. The status is a failure when anything of it stays.
///
/// # Errors
/// Code 7 for an ENI that is unknown or not for pods; what AWS says; code 5 naming a
/// file of the ledger.
pub(crate) fn run(selection: &Selection, manner: Manner) -> Result<ExitCode> {
    report(selection, &release(selection, manner)?)
}

/// Releases what eni-sync has assigned and no pod has; true when any of it stays. What others
/// have assigned is not looked at.
///
/// # Errors
/// As for [`run`].
pub(crate) fn release_own(dry_run: bool) -> Result<bool> {
    let selection = Selection {
        own: true,
        ..Selection::default()
    };
    let force = true;
    let lines = release(&selection, Manner { force, dry_run })?;
    if !lines.is_empty() {
        report(&selection, &lines)?;
    }
    Ok(is_any_unheard()? || lines.iter().any(Line::is_kept))
}

/// Names the ENIs that EC2 may have given to what nobody has heard of yet; true if there are any.
fn is_any_unheard() -> Result<bool> {
    let mut is_any = false;
    for eni in Ledger::of_node().enis()? {
        if eni.is_unheard()? {
            is_any = true;
            let line = format!(
                "{}: EC2 was asked for more, and its answer was lost: what it gave is seen within \
                 a minute, so do this again then",
                eni.id()
            );
            output::print(format!("{}\n", printable(&line)).as_bytes())?;
        }
    }
    Ok(is_any)
}

fn release(selection: &Selection, manner: Manner) -> Result<Vec<Line>> {
    let manner = Manner {
        force: manner.force || selection.foreign,
        ..manner
    };
    let aws = Aws::open();
    let ledger = Ledger::of_node();
    let (inventory, found) = inventory::ask(&aws)?;
    let node = Node {
        aws: &aws,
        ledger: &ledger,
        inventory: &inventory,
        shared: &Shared::default(),
    };
    let mut lines = Vec::new();
    for eni in enis(&ledger, &found, selection)? {
        let ledger = ledger.of_eni(&eni)?;
        let work = Work {
            node: &node,
            ledger: &ledger,
            manner,
        };
        let fates = work.release(selection)?;
        lines.extend(fates.into_iter().map(|(subject, fate)| Line {
            subject,
            eni: eni.clone(),
            fate,
        }));
    }
    lines.extend(out_of_reach(selection, &found, &lines));
    Ok(lines)
}

/// The ENIs that the selection is about: those for pods, and those in the ledger.
fn enis(ledger: &Ledger, found: &[Description], selection: &Selection) -> Result<BTreeSet<String>> {
    let known = ledger.enis()?;
    let known = known.iter().map(|eni| eni.id().to_owned());
    let managed = found
        .iter()
        .filter(|eni| eni::require_releasable(eni).is_ok());
    let mut enis: BTreeSet<String> = managed.map(|eni| eni.id.clone()).chain(known).collect();
    if let Some(wanted) = &selection.eni {
        if let Some(eni) = found.iter().find(|eni| eni.id == *wanted) {
            eni::require_releasable(eni)?;
        }
        enis.retain(|eni| eni == wanted);
        if enis.is_empty() {
            let msg = format!("{wanted:?} is neither an ENI of this node nor in its ledger");
            return Err(Error::config(msg));
        }
    }
    Ok(enis)
}

/// What keeps addresses of an ENI.
struct Seen {
    living: Living,
    /// The addresses whose files are no entries.
    unreadable: HashMap<IpAddr, Error>,
    /// Why those that nobody has claimed may be a pod's that has the whole ENI.
    whole: Option<String>,
}

/// One ENI and what is to be done with it.
struct Work<'a> {
    node: &'a Node<'a>,
    ledger: &'a EniLedger,
    manner: Manner,
}

impl Work<'_> {
    fn release(&self, selection: &Selection) -> Result<Vec<(Subject, Fate)>> {
        let _turn = match self.manner.dry_run {
            true => None,
            false => Some(self.ledger.take_turn(TURN_DEADLINE)?),
        };
        if !self.manner.dry_run {
            // What EC2 chose for this node is not what others have left.
            unheard::find(self.node, self.ledger)?;
        }
        let fates = self.release_addresses(selection)?;
        let fates = fates.into_iter();
        let mut fates: Vec<(Subject, Fate)> = fates
            .map(|(address, fate)| (Subject::Address(address), fate))
            .collect();
        if selection.own {
            // The addresses of prefixes are free by now, but for those that pods have.
            let prefixes = prefixes::release(self.node, self.ledger, self.manner)?.into_iter();
            fates.extend(prefixes.map(|(prefix, fate)| (Subject::Prefix(prefix), fate)));
        }
        Ok(fates)
    }

    fn release_addresses(&self, selection: &Selection) -> Result<Vec<(IpAddr, Fate)>> {
        let actual = self.actual()?;
        let candidates = candidates(&self.ledger.read()?, actual.as_ref(), selection);
        let seen = self.look(actual.as_ref(), &candidates)?;
        let mut fates = Vec::new();
        let mut accepted = Vec::new();
        for candidate in candidates {
            match self.reason_to_stay(&candidate, selection, &seen)? {
                Some(why) => fates.push((candidate.address, Fate::Kept(why))),
                None => accepted.push(candidate),
            }
        }
        if self.manner.dry_run {
            fates.extend(accepted.iter().map(|c| (c.address, Fate::WouldBe)));
        } else {
            fates.extend(self.carry_out(accepted)?);
        }
        fates.sort_by_key(|(address, _)| *address);
        Ok(fates)
    }

    /// Looks at all that may keep one of the candidates.
    fn look(&self, actual: Option<&Description>, candidates: &[Candidate]) -> Result<Seen> {
        let reach = Reach::to_release(candidates.iter().map(Candidate::owner));
        let is_any_unclaimed = candidates.iter().any(Candidate::is_unclaimed);
        Ok(Seen {
            living: in_use::look_from(self.node.ledger, reach)?,
            unreadable: self.ledger.unreadable()?.into_iter().collect(),
            whole: match actual.filter(|_| is_any_unclaimed) {
                Some(eni) => attached::reason_to_keep(&eni.mac)?,
                None => None,
            },
        })
    }

    /// Why an address is not released, if it is not.
    fn reason_to_stay(
        &self,
        candidate: &Candidate,
        selection: &Selection,
        seen: &Seen,
    ) -> Result<Option<String>> {
        if let Some(error) = seen.unreadable.get(&candidate.address) {
            return Ok(Some(error.to_string()));
        }
        let reserved = match selection.foreign {
            true => reserved::reservation(candidate.address)?,
            false => None,
        };
        if let Some(path) = reserved {
            return Ok(Some(format!("host-local has it: {}", path.display())));
        }
        let why = candidate.reason_to_stay(&seen.living, self.manner.force)?;
        let whole = seen.whole.as_ref().filter(|_| candidate.is_unclaimed());
        Ok(why.or_else(|| whole.cloned()))
    }

    /// The ENI as it is now, if it is one of this node whose addresses may be removed.
    fn actual(&self) -> Result<Option<Description>> {
        let ec2 = self.node.aws.ec2(&self.node.inventory.region)?;
        let id = self.ledger.id();
        let actual = ec2.eni(id);
        let actual = actual.map_err(|failure| failure.error(&format!("look at {id}")))?;
        let own = self.node.inventory.instance_id.as_str();
        let own = actual.filter(|eni| eni.instance_id.as_deref() == Some(own));
        if let Some(eni) = &own {
            eni::require_releasable(eni)?;
        }
        Ok(own)
    }

    /// Writes down that the addresses are due, and releases them.
    fn carry_out(&self, accepted: Vec<Candidate>) -> Result<Vec<(IpAddr, Fate)>> {
        let mut due = Vec::new();
        let mut addresses = Vec::new();
        {
            let entries = self.ledger.open()?;
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
        let released = release::release(self.node, self.ledger, due);
        let (ends, failure) = match released {
            Ok(ends) => (ends, None),
            Err(error) => (Ends::new(), Some(error)),
        };
        let entries = self.ledger.open()?;
        let fate = |address: IpAddr| {
            let fate = match (ends.get(&address), &failure) {
                (Some(end), _) => Fate::of(end),
                (None, Some(why)) => Fate::after_failure(entries.get(address)?.as_ref(), why),
                (None, None) => Fate::claimed(),
            };
            Ok((address, fate))
        };
        addresses.into_iter().map(fate).collect()
    }
}

impl Candidate {
    /// Whether eni-sync has not assigned it, as far as it knows.
    fn is_foreign(&self) -> bool {
        match &self.entry {
            None => true,
            Some(entry) => entry.state == State::Adopted && entry.owner.is_none(),
        }
    }

    /// Whether somebody may have it who did not have to claim it.
    fn is_unclaimed(&self) -> bool {
        self.entry.as_ref().is_none_or(Entry::is_unclaimed)
    }

    fn owner(&self) -> Option<&Owner> {
        self.entry.as_ref()?.owner.as_ref()
    }

    /// Why the address is not released, if it is not.
    fn reason_to_stay(&self, living: &Living, force: bool) -> Result<Option<String>> {
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
        if let Some(why) = living.reason_to_keep(self.address, self.owner()) {
            return Ok(Some(why));
        }
        let reason = match self.entry.as_ref().map(|entry| &entry.state) {
            None | Some(State::Adopted) => "nobody knows whose it is; --force releases it",
            Some(State::Pooled) => "the agent's pool would have it again; --force releases it",
            Some(_) => return Ok(None),
        };
        Ok((!force).then(|| reason.to_owned()))
    }

    /// The entry of an address that may be removed now. One that the ledger does not have
    /// was found on the ENI.
    fn into_due(self) -> Option<Entry> {
        let address = self.address;
        let found = || Entry::begin(address, &Event::Seen, None);
        let entry = self.entry.or_else(found)?;
        entry.after(&Event::Ended { after: now() })
    }
}

/// The addresses that are selected: of the ledger, and those that are on the ENI and
/// nowhere else, which belong to no network.
fn candidates(
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

/// The addresses asked for by name that are on the node's ENIs and not to be removed:
/// primary ones, and those of ENIs that are not for pods.
fn out_of_reach(selection: &Selection, found: &[Description], lines: &[Line]) -> Vec<Line> {
    if selection.network.is_some() {
        return Vec::new();
    }
    let is_open = |address: &&IpAddr| !lines.iter().any(|line| line.is_about(**address));
    let line = |address: &IpAddr| {
        let of_selection = |eni: &&Description| selection.eni.as_ref().is_none_or(|s| *s == eni.id);
        let mut enis = found.iter().filter(of_selection);
        let eni = enis.find(|eni| eni.has(*address))?;
        let why = match eni.primary.contains(address) {
            true => "it is the ENI's primary address",
            false => "the ENI is not for pods",
        };
        Some(Line {
            subject: Subject::Address(*address),
            eni: eni.id.clone(),
            fate: Fate::Kept(why.to_owned()),
        })
    };
    let open = selection.address.iter().filter(is_open);
    open.filter_map(line).collect()
}

fn report(selection: &Selection, lines: &[Line]) -> Result<ExitCode> {
    let mut text = String::new();
    for Line { subject, eni, fate } in lines {
        let fate = match fate {
            Fate::Released => "released".to_owned(),
            Fate::WouldBe => "would be released".to_owned(),
            Fate::NotThere => "not on the ENI".to_owned(),
            Fate::Kept(why) => format!("kept: {why}"),
        };
        let line = format!("{subject} on {eni}: {fate}");
        text.push_str(&format!("{}\n", printable(&line)));
    }
    let is_open = |address: &&IpAddr| !lines.iter().any(|line| line.is_about(**address));
    for address in selection.address.iter().filter(is_open) {
        text.push_str(&format!("{address}: nothing to release\n"));
    }
    if text.is_empty() {
        text.push_str("nothing to release\n");
    }
    output::print(text.as_bytes())?;
    Ok(match lines.iter().any(Line::is_kept) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}
