//! The prefixes of an ENI in the ledger: an entry for each, with the states of an address, and
//! the requests for prefixes whose answers are not known. Both are in dot-files beside the
//! entries of addresses, which versions without prefixes ignore.

use std::collections::HashSet;
use std::iter;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use common::address::{Cidr, number, step};
use common::error::{Error, ErrorCode, Result};
use common::files::format;
use common::say;
use serde::{Deserialize, Serialize};

use super::attachment::Present;
use super::clock::Clock;
use super::document::{read, remove, remove_damaged, write};
use super::entry::DESCRIBE_LAG;
use super::excluded::{self, Excluded};
use super::{EniLedger, Entries, Entry, Event, State, Takeover, Timestamp, journal, list, now};

/// The start of the name of a prefix's file.
const PREFIX: &str = ".prefix-";
/// The start of the name of a file about a request for prefixes.
const ASKED: &str = ".asked-";

/// One prefix of an ENI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Prefix {
    /// The prefix.
    pub(crate) prefix: Cidr,
    /// Its state, in the entry of its first address.
    pub(crate) entry: Entry,
    /// The ranges file of the host-local that gives out its addresses; without one, networks
    /// without addresses get them. So nobody else does, and an address has one giver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ranges_file: Option<PathBuf>,
    /// Those of its addresses that the node gives to nobody, from the first to the last one of
    /// each block.
    #[serde(skip)]
    excluded: Vec<(IpAddr, IpAddr)>,
}

/// The content of a prefix's file, with the clock by which its times are measured.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(flatten)]
    prefix: Prefix,
    clock: Clock,
    /// An earlier version does not know `rangesFile`. It must not read the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format_version: Option<u64>,
}

impl Prefix {
    /// A prefix that EC2 has assigned to the ENI.
    pub(crate) fn assigned(prefix: Cidr) -> Option<Self> {
        let claimed = Event::Claimed {
            takeover: Takeover::Never,
            best_effort: false,
        };
        let entry = Entry::begin(prefix.address(), &claimed, None)?;
        let mut entry = entry.after(&Event::Assigned { for_pool: true })?;
        // EC2 has just answered.
        entry.is_earlier = false;
        Some(Self::new(prefix, entry))
    }

    /// A prefix that was found on the ENI and is not known to the ledger.
    pub(crate) fn found(prefix: Cidr) -> Option<Self> {
        let entry = Entry::begin(prefix.address(), &Event::Seen, None)?;
        Some(Self::new(prefix, entry))
    }

    fn new(prefix: Cidr, entry: Entry) -> Self {
        Self {
            prefix,
            entry,
            ranges_file: None,
            excluded: Vec::new(),
        }
    }

    /// The same where host-local gives out its addresses, by this ranges file, or networks
    /// without addresses get them.
    #[must_use]
    pub(crate) fn listed_in(self, ranges_file: Option<&Path>) -> Self {
        let ranges_file = ranges_file.map(Path::to_owned);
        Self {
            ranges_file,
            ..self
        }
    }

    /// The same where the node gives some addresses to nobody.
    #[must_use]
    pub(crate) fn without(self, excluded: &Excluded) -> Self {
        let excluded = excluded.within(self.prefix);
        Self { excluded, ..self }
    }

    /// The same where the node gives none of these addresses to anybody either.
    #[must_use]
    pub(crate) fn without_those(mut self, addresses: &[IpAddr]) -> Self {
        let own = addresses.iter().filter(|address| self.contains(**address));
        let own: Vec<(IpAddr, IpAddr)> = own.map(|address| (*address, *address)).collect();
        self.excluded.extend(own);
        self
    }

    /// The same where it is not known what is excluded: the node gives none of it to anybody.
    fn without_any(self) -> Self {
        let excluded = vec![(self.prefix.address(), self.prefix.last())];
        Self { excluded, ..self }
    }

    /// Whether an address is one that the node gives to nobody.
    pub(crate) fn excludes(&self, address: IpAddr) -> bool {
        self.block_with(address).is_some()
    }

    /// The excluded block that contains an address.
    fn block_with(&self, address: IpAddr) -> Option<(IpAddr, IpAddr)> {
        let mut blocks = self.excluded.iter().copied();
        blocks.find(|(first, last)| *first <= address && address <= *last)
    }

    /// The addresses that the node gives to pods, in order. Excluded blocks, which can be as large
    /// as the prefix, are not walked through.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let first = self.usable_from(self.prefix.address());
        iter::successors(first, |address| self.usable_from(self.next_of(*address)?))
    }

    /// The blocks of addresses that the node gives to pods, in order, each from its first to its
    /// last address: one, unless addresses are excluded.
    pub(crate) fn blocks(&self) -> Vec<(IpAddr, IpAddr)> {
        let mut blocks = Vec::new();
        let mut next = self.usable_from(self.prefix.address());
        while let Some(first) = next {
            let behind = self.excluded.iter().filter(|(start, _)| *start > first);
            let end = behind.min_by_key(|(start, _)| *start);
            let last = end.map_or(self.prefix.last(), |(start, _)| step(*start, -1));
            blocks.push((first, last));
            next = self.next_of(last).and_then(|next| self.usable_from(next));
        }
        blocks
    }

    /// The first address from `address` on that is not excluded.
    fn usable_from(&self, mut address: IpAddr) -> Option<IpAddr> {
        while let Some((_, last)) = self.block_with(address) {
            address = self.next_of(last)?;
        }
        Some(address)
    }

    /// The next address of the prefix; `None` behind the last one.
    fn next_of(&self, address: IpAddr) -> Option<IpAddr> {
        (address < self.prefix.last()).then(|| step(address, 1))
    }

    /// How many addresses of it pods can have.
    pub(crate) fn size(&self) -> usize {
        let count = |(first, last): (IpAddr, IpAddr)| number(last) - number(first) + 1;
        let all = count((self.prefix.address(), self.prefix.last()));
        let excluded = self.excluded.iter().copied().map(count).sum();
        usize::try_from(all.saturating_sub(excluded)).unwrap_or(usize::MAX)
    }

    /// The prefix after `event`; `None` when it is to be forgotten.
    #[must_use]
    pub(crate) fn after(self, event: &Event) -> Option<Self> {
        let entry = self.entry.after(event)?;
        Some(Self { entry, ..self })
    }

    /// Whether it is an IPv6 prefix.
    pub(crate) fn is_ipv6(&self) -> bool {
        !self.prefix.is_ipv4()
    }

    /// Whether it contains an address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.prefix.contains(address)
    }

    /// Whether it is on the ENI and not being removed, according to EC2's answers.
    pub(crate) fn is_there(&self) -> bool {
        let is_going = matches!(self.entry.state, State::Releasing { asked: true, .. });
        self.entry.is_on_eni() && !is_going && !self.entry.is_missing()
    }

    /// Whether its addresses may be handed out.
    pub(crate) fn is_open(&self, now: Timestamp) -> bool {
        self.entry.state == State::Pooled && self.entry.is_believed(now)
    }
}

/// A request for prefixes of one family whose answer is not in the ledger: the process was
/// killed, or the answer was lost. Prefixes without an entry that have come to the ENI since
/// then are those that EC2 chose.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    /// The prefixes of the family that were on the ENI before.
    pub(crate) before: Vec<Cidr>,
    /// How many prefixes EC2 was asked for.
    pub(crate) count: usize,
    /// The ranges file that is to have the prefixes, as for [`Prefix`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ranges_file: Option<PathBuf>,
    since: Timestamp,
    clock: Clock,
}

impl Asked {
    /// Whether a description now shows all that EC2 may have chosen.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        now.checked_sub(self.since)
            .is_none_or(|age| age >= DESCRIBE_LAG)
    }
}

pub(super) fn asked_file(ipv6: bool) -> String {
    format!("{ASKED}{}", if ipv6 { "ipv6" } else { "ipv4" })
}

fn prefix_file(prefix: Cidr) -> String {
    format!("{PREFIX}{}-{}", prefix.address(), prefix.prefix())
}

/// The prefix in the name of a file.
pub(super) fn prefix_of_file(name: &str) -> Option<Cidr> {
    let (address, length) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
    format!("{address}/{length}").parse().ok()
}

impl EniLedger {
    /// The prefixes at this moment, for a caller that only reads. Prefixes that EC2 has removed
    /// are not among them.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn read_prefixes(&self) -> Result<Vec<Prefix>> {
        let mut prefixes = read_prefixes(&self.directory, &Clock::read()?)?;
        prefixes.retain(|prefix| prefix.entry.state != State::Removed);
        Ok(under(prefixes, self.attachment.as_ref()))
    }

    /// The prefixes that EC2 has removed so recently that it may still show them.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn removed_prefixes(&self) -> Result<Vec<Cidr>> {
        let mut prefixes = read_prefixes(&self.directory, &Clock::read()?)?;
        prefixes.retain(|prefix| prefix.entry.state == State::Removed);
        Ok(prefixes.iter().map(|prefix| prefix.prefix).collect())
    }

    /// The files of prefixes that cannot be read: the reason, and the prefix if the name of the
    /// file has one.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(super) fn unreadable_prefixes(&self) -> Result<Vec<(Option<Cidr>, Error)>> {
        let found = each_prefix(&self.directory, &Clock::read()?)?.into_iter();
        let unreadable = found.filter_map(|(name, prefix)| {
            let error = prefix.err()?;
            Some((prefix_of_file(&name), error))
        });
        Ok(unreadable.collect())
    }

    /// The errors of the files about requests for prefixes that cannot be read.
    pub(crate) fn unreadable_asked(&self) -> Vec<Error> {
        let files = [false, true].map(|ipv6| self.directory.join(asked_file(ipv6)));
        let read = files.iter().map(|path| read::<Asked>(path));
        read.filter_map(Result::err).collect()
    }
}

fn under(prefixes: Vec<Prefix>, attachment: Option<&Present>) -> Vec<Prefix> {
    let prefixes = prefixes.into_iter().map(|prefix| Prefix {
        entry: prefix.entry.under(attachment),
        ..prefix
    });
    prefixes.collect()
}

fn read_prefixes(directory: &Path, clock: &Clock) -> Result<Vec<Prefix>> {
    let mut prefixes = Vec::new();
    for (_, found) in each_prefix(directory, clock)? {
        match found {
            Ok(prefix) => prefixes.extend(prefix),
            // One unreadable file must not block all other prefixes.
            Err(error) => say!("{error}"),
        }
    }
    Ok(prefixes)
}

/// The names of the files of prefixes, with the content of each.
pub(super) fn each_prefix(
    directory: &Path,
    clock: &Clock,
) -> Result<Vec<(String, Result<Option<Prefix>>)>> {
    let mut names = list(directory)?;
    names.retain(|name| name.starts_with(PREFIX));
    let excluded = match directory.parent() {
        // Who gives out or asks for addresses says why it cannot be read.
        Some(root) if !names.is_empty() => excluded::read(root).ok(),
        _ => Some(Excluded::default()),
    };
    let usable = |prefix: Prefix| match &excluded {
        Some(excluded) => prefix.without(excluded),
        None => prefix.without_any(),
    };
    let found = names.into_iter().map(|name| {
        let prefix = read_prefix(directory, &name, clock);
        (name, prefix.map(|prefix| prefix.map(usable)))
    });
    Ok(found.collect())
}

/// The content of the file of a prefix.
fn read_prefix(directory: &Path, name: &str, clock: &Clock) -> Result<Option<Prefix>> {
    let path = directory.join(name);
    let Some(Written {
        prefix,
        clock: then,
        ..
    }) = read::<Written>(&path)?
    else {
        return Ok(None);
    };
    if prefix_file(prefix.prefix) != name {
        let msg = format!("{path:?} is about another prefix");
        return Err(Error::new(ErrorCode::DECODING, msg));
    }
    let entry = prefix.entry.moved_by(clock.was_set_by(&then));
    Ok(Some(Prefix { entry, ..prefix }))
}

impl Entries {
    /// Every prefix that can be read.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn prefixes(&self) -> Result<Vec<Prefix>> {
        let prefixes = read_prefixes(&self.directory, &self.clock)?;
        Ok(under(prefixes, self.attachment.as_ref()))
    }

    /// Every prefix that has a file, also one that cannot be read: it is known to the ledger
    /// nevertheless.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn prefix_files(&self) -> Result<HashSet<Cidr>> {
        let names = list(&self.directory)?.into_iter();
        Ok(names.filter_map(|name| prefix_of_file(&name)).collect())
    }

    /// Writes down what `event` has made of a prefix: `before` is what the ledger had before. A
    /// file that cannot be read is not replaced, because its meaning is unknown.
    ///
    /// # Errors
    /// Code 5 naming the file, and 6 when it cannot be read.
    pub(crate) fn change_prefix(
        &self,
        before: Option<&Prefix>,
        after: &Prefix,
        event: &Event,
    ) -> Result<()> {
        let name = prefix_file(after.prefix);
        read_prefix(&self.directory, &name, &self.clock)?;
        let is_listed = after.ranges_file.is_some();
        let written = Written {
            prefix: self.proven(after.clone(), event),
            clock: self.clock.clone(),
            format_version: is_listed.then_some(format::OF_LISTED_PREFIX),
        };
        write(&self.directory.join(name), &written)?;
        journal::prefix(&self.eni, before, after, event);
        Ok(())
    }

    /// The prefix with what `event`, which has led to it, proves.
    fn proven(&self, after: Prefix, event: &Event) -> Prefix {
        let entry = after.entry.proven_by(event, self.attachment.as_ref());
        Prefix { entry, ..after }
    }

    /// Writes down what `event` has made of a prefix, if the ledger has exactly `prefix`.
    /// Returns the prefix after the event.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn note_prefix(&self, prefix: &Prefix, event: &Event) -> Result<Option<Prefix>> {
        if !self.prefixes()?.contains(prefix) {
            return Ok(None);
        }
        let after = prefix.clone().after(event);
        let after = after.map(|after| self.proven(after, event));
        match &after {
            Some(after) if after == prefix => {}
            Some(after) => self.change_prefix(Some(prefix), after, event)?,
            None => self.forget_prefix(prefix)?,
        }
        Ok(after)
    }

    /// Writes down that addresses of an adopted prefix may be handed out, by this ranges file or
    /// to networks without addresses, if the ledger has exactly `prefix`.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn open_prefix(&self, prefix: &Prefix, ranges_file: Option<&Path>) -> Result<()> {
        let is_same = self.prefixes()?.contains(prefix);
        let after = prefix.clone().after(&Event::Pooled).filter(|_| is_same);
        after.map_or(Ok(()), |after| {
            let after = after.listed_in(ranges_file);
            self.change_prefix(Some(prefix), &after, &Event::Pooled)
        })
    }

    /// Removes the entry of a prefix that is known not to be on the ENI.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn forget_prefix(&self, prefix: &Prefix) -> Result<()> {
        remove(&self.directory.join(prefix_file(prefix.prefix)))
    }

    /// Removes the entries of prefixes that EC2 removed so long ago that no inventory has them
    /// and no description shows them.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn forget_removed_prefixes(&self) -> Result<()> {
        for prefix in self.prefixes()? {
            let entry = &prefix.entry;
            if entry.state == State::Removed && !entry.is_removal_remembered(now()) {
                self.forget_prefix(&prefix)?;
            }
        }
        Ok(())
    }

    /// The request for prefixes whose answer is not known, if there is one.
    ///
    /// # Errors
    /// Code 5 naming the file, 6 when its content is something else.
    pub(crate) fn asked(&self, ipv6: bool) -> Result<Option<Asked>> {
        let found: Option<Asked> = read(&self.directory.join(asked_file(ipv6)))?;
        Ok(found.map(|found| Asked {
            since: found
                .since
                .saturating_add_signed(self.clock.was_set_by(&found.clock)),
            ..found
        }))
    }

    /// Writes down that EC2 is about to be asked for `count` prefixes for `ranges_file`, while
    /// `before` are on the ENI.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn begin_asking(
        &self,
        ipv6: bool,
        (count, ranges_file): (usize, Option<&Path>),
        before: Vec<Cidr>,
    ) -> Result<()> {
        let asked = Asked {
            before,
            count,
            ranges_file: ranges_file.map(Path::to_owned),
            since: now(),
            clock: self.clock.clone(),
        };
        write(&self.directory.join(asked_file(ipv6)), &asked)
    }

    /// Writes down that the answer is known, or cannot come any more.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn end_asking(&self, ipv6: bool) -> Result<()> {
        remove(&self.directory.join(asked_file(ipv6)))
    }

    /// Removes the file of a request if it cannot be read, and returns whether it did. A file
    /// of a newer format stays.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn forget_damaged_asked(&self, ipv6: bool) -> Result<bool> {
        remove_damaged(&self.directory.join(asked_file(ipv6)))
    }
}
