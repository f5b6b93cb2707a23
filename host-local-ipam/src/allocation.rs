//! One allocation: the store is locked, what is taken is looked up, addresses are chosen
//! and reserved.

use std::net::IpAddr;
use std::os::unix::process::parent_id;

use common::cni::args::CmdArgs;
use common::cni::result::IpConfig;
use common::error::{Error, ErrorCode, Result};

use crate::allocator::{self, Choice, State};
use crate::boot::Boot;
use crate::config::Config;
use crate::container::Container;
use crate::ended::Examined;
use crate::form;
use crate::range::RangeSet;
use crate::reservation::{Applicant, Owner, describe_holders, name_unproven};
use crate::store::Store;
use crate::survey::Survey;

/// Reserves one address of every range set of `config` for the attachment that `args` are
/// about. `caller` is the process that has asked for them.
///
/// # Errors
/// Those of [`Allocation::run`], [`Store::create`] and of the ranges file; code 11 when
/// `caller` has ended.
pub fn allocate(args: &CmdArgs, config: &Config, caller: u32) -> Result<Vec<IpConfig>> {
    let store = create_store(config)?;
    // Both under the lock: so a DEL that comes after a kill finds what was reserved before,
    // and an edit takes effect for every ADD that comes after it.
    require_caller(caller)?;
    let range_sets = config.sources.read()?;
    let boot = Boot::of(store.directory())?;
    if !boot.is_known {
        form::require_own(store.directory())?;
    }
    let applicant = Applicant {
        owner: Owner::of(args),
        container: Container::of(&args.netns, &boot.machine),
    };
    let allocation = Allocation {
        store: &store,
        applicant: &applicant,
        boot,
        range_sets: &range_sets,
        requested: &config.requested,
    };
    let choices = allocation.run()?;
    Ok(choices.iter().map(Choice::ip_config).collect())
}

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
    /// Code 999 with the texts of the Go plugin when no address is free, 5
    /// naming what cannot be read or written, 11 as for [`Store::reserve`].
    pub fn run(&self) -> Result<Vec<Choice<'a>>> {
        let owner = Some(&self.applicant.owner);
        let mut survey = Survey::for_allocation(self.store, owner, &self.boot)?;
        name_unproven(self.store.directory(), &survey.unproven(&self.boot));
        let mut choices = self.reserve(&mut survey);
        if let Err(error) = &choices
            && !survey.is_final(self.store, error)
        {
            survey = Survey::of_files_for_allocation(self.store, owner, &self.boot)?;
            choices = self.reserve(&mut survey);
        }
        match &choices {
            Ok(_) => survey.leave_index(),
            Err(error) if error.code == ErrorCode::INTERNAL => survey.leave_index(),
            // Nothing could be written, or somebody does not take the lock.
            Err(_) => {}
        }
        choices
    }

    fn reserve(&self, survey: &mut Survey) -> Result<Vec<Choice<'a>>> {
        let last_reserved = self.store.last_reserved(self.range_sets.len())?;
        self.reclaim(survey, &last_reserved)?;
        let choices = self.choose(survey, last_reserved)?;
        survey.made = self.store.reserve(self.applicant, &choices)?;
        Ok(choices)
    }

    /// Releases what containers have left that have ended: a few of them, and of a set
    /// without a free address as many as are worth the wait.
    fn reclaim(&self, survey: &mut Survey, last_reserved: &[Option<IpAddr>]) -> Result<()> {
        let examined = self.examined(survey);
        let ended = examined.in_turn(self.range_sets, self.requested, last_reserved);
        survey.end(ended);
        if let Some(set) = allocator::first_exhausted(self.range_sets, &survey.taken) {
            let attempt = &self.applicant.owner.container_id;
            let ended = self.examined(survey).in_exhausted(set, attempt);
            survey.end(ended);
        }
        self.store.reclaim(&survey.ended, &self.boot)
    }

    fn examined<'b>(&'b self, survey: &'b Survey) -> Examined<'b> {
        Examined {
            store: self.store,
            machine: &self.boot.machine,
            taken: &survey.taken,
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
            taken: survey.taken.clone(),
            own: own.map(|r| r.address).collect(),
            last_reserved,
        };
        let choices = allocator::choose(self.range_sets, self.requested, &state);
        choices.map_err(|error| self.with_holders(error, survey))
    }

    /// The error of an allocation, with those who hold what it needs.
    fn with_holders(&self, error: Error, survey: &Survey) -> Error {
        let taken = &survey.taken;
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
}

/// The locked store. It is made only where there are ranges to allocate from: a file
/// that is wrong leaves no directory behind.
fn create_store(config: &Config) -> Result<Store> {
    if let Some(store) = Store::open(&config.directory)? {
        return Ok(store);
    }
    config.sources.read()?;
    Store::create(&config.directory)
}

/// Makes sure that the process that has executed this ADD still runs. When it was killed,
/// its attachment may have been detached already, and nobody would release the address.
fn require_caller(caller: u32) -> Result<()> {
    if parent_id() == caller {
        return Ok(());
    }
    let msg = "the process that asked for an address has ended";
    Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details("nothing was reserved"))
}
