//! The whole ledger at one moment, for output that shows several parts of it: each file is read
//! once, and nothing is locked.

use std::collections::BTreeMap;

use common::error::Result;
use common::say;

use super::clock::Clock;
use super::prefix::{each_prefix, prefix_of_file};
use super::{Damage, EniLedger, Entry, Ledger, Prefix, State, names, read};

/// The ledger's content for one ENI, without the addresses and prefixes that EC2 has removed.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) entries: Vec<Entry>,
    pub(crate) prefixes: Vec<Prefix>,
    /// The files that cannot be read, in order.
    pub(crate) damage: Vec<Damage>,
}

/// The content for each ENI, by its id.
pub(crate) type Contents = BTreeMap<String, Content>;

impl Ledger {
    /// The content for every ENI.
    ///
    /// # Errors
    /// Code 5 naming a directory.
    pub(crate) fn contents(&self) -> Result<Contents> {
        let enis = self.enis()?.into_iter();
        let content = |eni: EniLedger| Ok((eni.id.clone(), eni.content()?));
        enis.map(content).collect()
    }
}

impl EniLedger {
    fn content(&self) -> Result<Content> {
        let clock = Clock::read()?;
        let mut content = Content::default();
        self.read_entries(&clock, &mut content)?;
        self.read_prefixes_into(&clock, &mut content)?;
        content.damage.extend(self.damage_of_questions());
        Ok(content)
    }

    fn read_entries(&self, clock: &Clock, content: &mut Content) -> Result<()> {
        let mut damage = Vec::new();
        for name in names(&self.directory)? {
            match read(&self.directory.join(&name), clock) {
                Ok(entry) => content.entries.extend(entry),
                Err(error) => {
                    say!("{error}");
                    damage.extend(name.parse().ok().map(|address| (address, error)));
                }
            }
        }
        content
            .entries
            .retain(|entry| entry.state != State::Removed);
        damage.sort_by_key(|(address, _)| *address);
        let damage = damage.into_iter();
        let damage = damage.map(|(address, error)| Damage::of_address(address, error));
        content.damage.extend(damage);
        Ok(())
    }

    fn read_prefixes_into(&self, clock: &Clock, content: &mut Content) -> Result<()> {
        for (name, found) in each_prefix(&self.directory, clock)? {
            match found {
                Ok(prefix) => content.prefixes.extend(prefix),
                Err(error) => {
                    say!("{error}");
                    let damage = Damage::of_prefix(prefix_of_file(&name), error);
                    content.damage.push(damage);
                }
            }
        }
        content
            .prefixes
            .retain(|prefix| prefix.entry.state != State::Removed);
        Ok(())
    }
}
