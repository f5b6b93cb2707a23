//! What the ledger has of the prefixes of an ENI: an entry for each, in the same states as
//! that of an address, and that EC2 was asked for some and has not been heard. Both are in
//! dot-files beside the entries of addresses, which a version that knows none of it leaves
//! alone.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use common::address::Cidr;
use common::error::{Error, ErrorCode, Result};
use common::say;
use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::document::{read, remove, remove_damaged, write};
use super::entry::DESCRIBE_LAG;
use super::{EniLedger, Entries, Entry, Event, State, Takeover, Timestamp, journal, list, now};

/// What the name of a prefix's file begins with.
const PREFIX: &str = ".prefix-";
/// The same of a file that says that EC2 was asked for prefixes.
const ASKED: &str = ".asked-";

/// One prefix of an ENI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Prefix {
    /// The prefix.
    pub(crate) prefix: Cidr,
    /// What is done with it, as with an address: that of the entry is its first one.
    pub(crate) entry: Entry,
}

/// The same in a file, with the clock that its times are of.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(flatten)]
    prefix: Prefix,
    clock: Clock,
}

impl Prefix {
    /// One that EC2 has answered to have given to the ENI.
    pub(crate) fn assigned(prefix: Cidr) -> Option<Self> {
        let claimed = Event::Claimed {
            takeover: Takeover::Never,
            best_effort: false,
        };
        let entry = Entry::begin(prefix.address(), &claimed, None)?;
        let entry = entry.after(&Event::Assigned { for_pool: true })?;
        Some(Self { prefix, entry })
    }

    /// One that was found on the ENI, nobody knows for what.
    pub(crate) fn found(prefix: Cidr) -> Option<Self> {
        let entry = Entry::begin(prefix.address(), &Event::Seen, None)?;
        Some(Self { prefix, entry })
    }

    /// What it is after `event`; nothing when it is to be forgotten.
    #[must_use]
    pub(crate) fn after(self, event: &Event) -> Option<Self> {
        let entry = self.entry.after(event)?;
        Some(Self { entry, ..self })
    }

    /// Whether it is of the family of IPv6.
    pub(crate) fn is_ipv6(&self) -> bool {
        !self.prefix.is_ipv4()
    }

    /// Whether an address is one of it.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.prefix.contains(address)
    }

    /// Whether EC2 has it on the ENI, and is not removing it, for all that it has said.
    pub(crate) fn is_there(&self) -> bool {
        let is_going = matches!(self.entry.state, State::Releasing { asked: true, .. });
        self.entry.is_on_eni() && !is_going && !self.entry.is_missing()
    }

    /// Whether its addresses may be handed out.
    pub(crate) fn is_open(&self, now: Timestamp) -> bool {
        self.entry.state == State::Pooled && self.entry.is_believed(now)
    }
}

/// EC2 was asked for prefixes of one family, and its answer is not in the ledger: the process
/// was killed, or the answer was lost. What has come to the ENI since then and has no entry
/// is what EC2 chose.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    /// The prefixes of the family that were on the ENI before.
    pub(crate) before: Vec<Cidr>,
    /// How many it was asked for.
    pub(crate) count: usize,
    since: Timestamp,
    clock: Clock,
}

impl Asked {
    /// Whether a description shows all that EC2 may have chosen.
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

/// The prefix that a file is called after.
pub(super) fn prefix_of_file(name: &str) -> Option<Cidr> {
    let (address, length) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
    format!("{address}/{length}").parse().ok()
}

impl EniLedger {
    /// The prefixes as they are at this moment, for who only looks. What EC2 has removed is
    /// not among them.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn read_prefixes(&self) -> Result<Vec<Prefix>> {
        let mut prefixes = read_prefixes(&self.directory, &Clock::read()?)?;
        prefixes.retain(|prefix| prefix.entry.state != State::Removed);
        Ok(prefixes)
    }

    /// The prefixes that EC2 has removed so short a time ago that it may show them still.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn removed_prefixes(&self) -> Result<Vec<Cidr>> {
        let mut prefixes = read_prefixes(&self.directory, &Clock::read()?)?;
        prefixes.retain(|prefix| prefix.entry.state == State::Removed);
        Ok(prefixes.iter().map(|prefix| prefix.prefix).collect())
    }

    /// Why files that are called as those of prefixes are none, each with its prefix if its name
    /// has one.
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

    /// Why it cannot be read what EC2 was asked for.
    pub(crate) fn unreadable_asked(&self) -> Vec<Error> {
        let files = [false, true].map(|ipv6| self.directory.join(asked_file(ipv6)));
        let read = files.iter().map(|path| read::<Asked>(path));
        read.filter_map(Result::err).collect()
    }
}

fn read_prefixes(directory: &Path, clock: &Clock) -> Result<Vec<Prefix>> {
    let mut prefixes = Vec::new();
    for (_, found) in each_prefix(directory, clock)? {
        match found {
            Ok(prefix) => prefixes.extend(prefix),
            // One file must not stand in the way of all other prefixes.
            Err(error) => say!("{error}"),
        }
    }
    Ok(prefixes)
}

/// The names of the files that are called as those of prefixes, and what each says.
pub(super) fn each_prefix(
    directory: &Path,
    clock: &Clock,
) -> Result<Vec<(String, Result<Option<Prefix>>)>> {
    let mut names = list(directory)?;
    names.retain(|name| name.starts_with(PREFIX));
    let found = names.into_iter().map(|name| {
        let prefix = read_prefix(directory, &name, clock);
        (name, prefix)
    });
    Ok(found.collect())
}

/// What a file says that is called as that of a prefix.
fn read_prefix(directory: &Path, name: &str, clock: &Clock) -> Result<Option<Prefix>> {
    let path = directory.join(name);
    let Some(Written {
        prefix,
        clock: then,
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
        read_prefixes(&self.directory, &self.clock)
    }

    /// Every prefix that has a file, also one that cannot be read: whoever looks for prefixes
    /// that nobody knows must not find those.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn prefix_files(&self) -> Result<HashSet<Cidr>> {
        let names = list(&self.directory)?.into_iter();
        Ok(names.filter_map(|name| prefix_of_file(&name)).collect())
    }

    /// Writes down what `event` has made of a prefix: `before` is what the ledger had. A file
    /// that cannot be read is not replaced: nobody knows what it was to say.
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
        let written = Written {
            prefix: after.clone(),
            clock: self.clock.clone(),
        };
        write(&self.directory.join(name), &written)?;
        journal::prefix(&self.eni, before, after, event);
        Ok(())
    }

    /// Writes down what has become of a prefix, if the ledger has it as it is given. Returns
    /// what it is then.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn note_prefix(&self, prefix: &Prefix, event: &Event) -> Result<Option<Prefix>> {
        if !self.prefixes()?.contains(prefix) {
            return Ok(None);
        }
        let after = prefix.clone().after(event);
        match &after {
            Some(after) if after == prefix => {}
            Some(after) => self.change_prefix(Some(prefix), after, event)?,
            None => self.forget_prefix(prefix)?,
        }
        Ok(after)
    }

    /// Removes the entry of a prefix that is known not to be on the ENI.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn forget_prefix(&self, prefix: &Prefix) -> Result<()> {
        remove(&self.directory.join(prefix_file(prefix.prefix)))
    }

    /// Forgets the prefixes that EC2 has removed so long ago that nobody has an inventory with
    /// them, and no description shows them.
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

    /// What EC2 was asked for without being heard.
    ///
    /// # Errors
    /// Code 5 naming the file, 6 when it says nothing of the kind.
    pub(crate) fn asked(&self, ipv6: bool) -> Result<Option<Asked>> {
        let found: Option<Asked> = read(&self.directory.join(asked_file(ipv6)))?;
        Ok(found.map(|found| Asked {
            since: found
                .since
                .saturating_add_signed(self.clock.was_set_by(&found.clock)),
            ..found
        }))
    }

    /// Writes down that EC2 is about to be asked for so many, while `before` is on the ENI.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn begin_asking(&self, ipv6: bool, count: usize, before: Vec<Cidr>) -> Result<()> {
        let asked = Asked {
            before,
            count,
            since: now(),
            clock: self.clock.clone(),
        };
        write(&self.directory.join(asked_file(ipv6)), &asked)
    }

    /// Writes down that the answer has been heard, or can come no more.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn end_asking(&self, ipv6: bool) -> Result<()> {
        remove(&self.directory.join(asked_file(ipv6)))
    }

    /// Forgets what EC2 was asked for where nobody can read it; whether it did. A file of a newer
    /// format stays.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(crate) fn forget_damaged_asked(&self, ipv6: bool) -> Result<bool> {
        remove_damaged(&self.directory.join(asked_file(ipv6)))
    }
}
