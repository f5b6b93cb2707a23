//! One allocation in a locked store: what is taken is looked up, addresses are chosen
//! and reserved, and the index is left up to date.

use std::net::IpAddr;

use common::error::{Error, ErrorCode, Result};

use crate::allocator::{self, Choice, State};
use crate::boot::Boot;
use crate::ended::Examined;
use crate::index::{Entry, Index};
use crate::range::RangeSet;
use crate::reservation::{Applicant, describe_holders, name_unproven};
use crate::store::Store;
use crate::survey::Survey;

/// What is asked for, and of what.
#[derive(Debug)]
pub struct Allocation<'a> {
    /// The locked store.
    pub store: &'a Store,
    /// Who asks.
    pub applicant: &'a Applicant,
    /// This boot.
    pub boot: Boot,
    /// Of each of them an address is wanted.
    pub range_sets: &'a [RangeSet],
    /// Addresses that are preferred.
    pub requested: &'a [IpAddr],
}

impl<'a> Allocation<'a> {
    /// Reserves one address of every range set: all of them or none. What cannot be
    /// had according to the index is asked of the files before it is refused.
    ///
    /// # Errors
    /// Code 999 with the texts of the Go plugin when there is no address to be had, 5
    /// naming what cannot be read or written, 11 as for [`Store::reserve`].
    pub fn run(&self) -> Result<Vec<Choice<'a>>> {
        let owner = &self.applicant.owner;
        let mut survey = Survey::for_allocation(self.store, Some(owner), &self.boot)?;
        name_unproven(self.store.directory(), &survey.unproven(&self.boot));
        let mut choices = self.reserve(&mut survey);
        if let Err(error) = &choices
            && !self.is_final(error, &survey)
        {
            survey = Survey::of_files_for_allocation(self.store, Some(owner), &self.boot)?;
            choices = self.reserve(&mut survey);
        }
        match &choices {
            Ok(choices) => {
                let entry = |choice: &Choice<'_>| Entry::new(owner.key(), choice.address);
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

    fn reserve(&self, survey: &mut Survey) -> Result<Vec<Choice<'a>>> {
        let last_reserved = self.store.last_reserved(self.range_sets.len())?;
        let examined = self.examined(survey);
        let ended = examined.in_turn(self.range_sets, self.requested, &last_reserved);
        survey.abandon(ended)?;
        if let Some(set) = allocator::first_exhausted(self.range_sets, survey.taken()) {
            let ended = self
                .examined(survey)
                .in_exhausted(set, &self.applicant.owner.container_id);
            survey.abandon(ended)?;
        }
        self.store.reclaim(&survey.abandoned, &self.boot)?;
        let choices = self.choose(survey, last_reserved)?;
        self.store.reserve(self.applicant, &choices)?;
        Ok(choices)
    }

    fn examined<'b>(&'b self, survey: &'b Survey) -> Examined<'b> {
        Examined {
            store: self.store,
            machine: &self.boot.machine,
            taken: survey.taken(),
        }
    }

    fn choose(
        &self,
        survey: &Survey,
        last_reserved: Vec<Option<IpAddr>>,
    ) -> Result<Vec<Choice<'a>>> {
        let owner = &self.applicant.owner;
        let own = survey.relevant.iter().filter(|r| r.may_be_of(owner));
        let state = State {
            container_id: owner.container_id.clone(),
            taken: survey.taken().clone(),
            own: own.map(|r| r.address).collect(),
            last_reserved,
        };
        let choices = allocator::choose(self.range_sets, self.requested, &state);
        choices.map_err(|error| self.with_holders(error, survey))
    }

    /// The error of an allocation, with those who hold what it needs.
    fn with_holders(&self, error: Error, survey: &Survey) -> Error {
        let taken = survey.taken();
        let requested = self.requested.iter().copied();
        let requested: Vec<IpAddr> = requested.filter(|one| taken.contains(*one)).collect();
        let set = allocator::first_exhausted(self.range_sets, taken);
        let of_set = set.into_iter();
        let of_set = of_set.flat_map(|set| allocator::taken_after(set, None, taken));
        match describe_holders(self.store.directory(), requested.into_iter().chain(of_set)) {
            Some(holders) => error.with_details(holders),
            None => error,
        }
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
