//! One allocation in a locked store: what is taken is looked up, addresses are chosen
//! and reserved, and the index is left up to date.

use std::net::IpAddr;

use common::error::{Error, ErrorCode, Result};

use crate::allocator::{self, Choice, State};
use crate::boot::Boot;
use crate::index::{Entry, Index};
use crate::range::RangeSet;
use crate::reservation::Owner;
use crate::store::Store;
use crate::survey::Survey;

/// What is asked for, and of what.
#[derive(Debug)]
pub(crate) struct Allocation<'a> {
    /// The locked store.
    pub(crate) store: &'a Store,
    /// Who asks.
    pub(crate) owner: &'a Owner,
    /// This boot.
    pub(crate) boot: Boot,
    /// Of each of them an address is wanted.
    pub(crate) range_sets: &'a [RangeSet],
    /// Addresses that are preferred.
    pub(crate) requested: &'a [IpAddr],
}

impl<'a> Allocation<'a> {
    /// Reserves one address of every range set: all of them or none. What cannot be
    /// had according to the index is asked of the files before it is refused.
    ///
    /// # Errors
    /// Code 999 with the texts of the Go plugin when there is no address to be had, 5
    /// naming what cannot be read or written, 11 as for [`Store::reserve`].
    pub(crate) fn run(&self) -> Result<Vec<Choice<'a>>> {
        let mut survey = Survey::for_allocation(self.store, Some(self.owner), &self.boot)?;
        let mut choices = self.reserve(&survey);
        if let Err(error) = &choices
            && !self.is_final(error, &survey)
        {
            survey = Survey::of_files_for_allocation(self.store, Some(self.owner), &self.boot)?;
            choices = self.reserve(&survey);
        }
        match &choices {
            Ok(choices) => {
                let entry = |choice: &Choice<'_>| Entry::new(self.owner.key(), choice.address);
                let made: Vec<Entry> = choices.iter().map(entry).collect();
                survey.leave_index(self.store, &made, Vec::new());
            }
            Err(error) if error.code == ErrorCode::INTERNAL => {
                survey.leave_index(self.store, &[], Vec::new());
            }
            // Nothing could be written, or somebody does not take the lock.
            Err(_) => {}
        }
        choices
    }

    fn reserve(&self, survey: &Survey) -> Result<Vec<Choice<'a>>> {
        self.store.reclaim(&survey.abandoned, &self.boot)?;
        let own = survey.relevant.iter().filter(|r| r.may_be_of(self.owner));
        let state = State {
            container_id: self.owner.container_id.clone(),
            taken: survey.taken().clone(),
            own: own.map(|r| r.address).collect(),
            last_reserved: self.store.last_reserved(self.range_sets.len()),
        };
        let choices = allocator::choose(self.range_sets, self.requested, &state)?;
        self.store.reserve(self.owner, &choices)?;
        Ok(choices)
    }

    /// Whether it would be the same error without the index.
    fn is_final(&self, error: &Error, survey: &Survey) -> bool {
        if error.code == ErrorCode::IO {
            // Perhaps it is the index that has filled the disk.
            return Index::discard(self.store.directory()).is_err();
        }
        survey.is_certain(self.store)
    }
}
