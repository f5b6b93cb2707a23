//! The files of the ledger that cannot be read, in one list for all commands that show them.
//! The address or prefix of such a file is not changed until an operator removes the file.

use std::net::IpAddr;

use common::address::Cidr;
use common::error::{Error, Result};

use super::clock::Clock;
use super::{EniLedger, addresses, read};

/// A file that cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    /// The subject of the file.
    pub(crate) about: About,
    /// Why it cannot be read; it names the file.
    pub(crate) error: Error,
}

/// The subject of a file, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// An address.
    Address(IpAddr),
    /// A prefix.
    Prefix(Cidr),
    /// A prefix that the name of the file does not tell.
    NoPrefix,
    /// A request that EC2 choose prefixes, whose answer is not known.
    Asked,
    /// A request that EC2 choose addresses, whose answer is not known.
    Unheard,
}

impl EniLedger {
    /// The addresses whose files cannot be read, each with the reason.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn unreadable(&self) -> Result<Vec<(IpAddr, Error)>> {
        let addresses = addresses(&self.directory)?.into_iter();
        let clock = Clock::read()?;
        let unreadable = addresses.filter_map(|address| {
            let found = read(&self.directory.join(address.to_string()), &clock);
            found.err().map(|error| (address, error))
        });
        Ok(unreadable.collect())
    }

    /// Every file that cannot be read, in order. Wishes are not among them: an attachment that
    /// waits writes its wish again.
    ///
    /// # Errors
    /// Code 5 naming the directory.
    pub(crate) fn damage(&self) -> Result<Vec<Damage>> {
        let mut addresses = self.unreadable()?;
        addresses.sort_by_key(|(address, _)| *address);
        let addresses = addresses.into_iter();
        let addresses = addresses.map(|(address, error)| Damage::of_address(address, error));
        let prefixes = self.unreadable_prefixes()?.into_iter();
        let prefixes = prefixes.map(|(prefix, error)| Damage::of_prefix(prefix, error));
        let all = addresses.chain(prefixes).chain(self.damage_of_questions());
        Ok(all.collect())
    }

    /// The unreadable files of requests that EC2 choose addresses or prefixes.
    pub(super) fn damage_of_questions(&self) -> impl Iterator<Item = Damage> {
        let asked = self.unreadable_asked().into_iter();
        let asked = asked.map(|error| (About::Asked, error));
        let unheard = self.unreadable_unheard().into_iter();
        let unheard = unheard.map(|error| (About::Unheard, error));
        let questions = asked.chain(unheard);
        questions.map(|(about, error)| Damage { about, error })
    }
}

impl Damage {
    pub(super) fn of_address(address: IpAddr, error: Error) -> Self {
        let about = About::Address(address);
        Self { about, error }
    }

    /// The prefix is taken from the name of the file, if it has one.
    pub(super) fn of_prefix(prefix: Option<Cidr>, error: Error) -> Self {
        let about = prefix.map_or(About::NoPrefix, About::Prefix);
        Self { about, error }
    }
}
