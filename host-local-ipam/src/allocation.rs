//! One allocation: locks the store, reads which addresses are taken, chooses addresses and
//! reserves them.

use std::net::IpAddr;
use std::os::unix::process::parent_id;

use common::cni::args::CmdArgs;
use common::cni::result::IpConfig;
use common::error::{Error, ErrorCode, Result};
use common::say;

use crate::allocator::{self, Choice, State};
use crate::boot::Boot;
use crate::config::Config;
use crate::container::Container;
use crate::ended::Examined;
use crate::form;
use crate::range::RangeSet;
use crate::reservation::{Applicant, Owner, describe_holders, log_unproven};
use crate::store::{self, Store};
use crate::survey::Survey;

/// Reserves one address of every range set of `config` for the attachment in `args`.
/// `caller` is the pid of the process that has executed this plugin.
///
/// # Errors
/// Those of [`Allocation::run`], [`Store::create`], [`Container::of`] and of the ranges file;
/// code 11 when `caller` has ended.
pub fn allocate(args: &CmdArgs, config: &Config, caller: u32) -> Result<Vec<IpConfig>> {
    let store = create_store(config)?;
    // Both are done under the lock: so a DEL that comes after a kill finds all
    // reservations, and a change of the ranges file applies to every later ADD.
    require_caller(caller)?;
    let range_sets = config.sources.read()?;
    let boot = Boot::of(store.directory())?;
    if !boot.is_known {
        form::require_own(store.directory())?;
    }
    let applicant = Applicant {
        owner: Owner::of(args),
        container: Container::of(args, &boot.machine)?,
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

/// The input of an allocation.
#[derive(Debug)]
pub struct Allocation<'a> {
    /// The locked store.
    pub store: &'a Store,
    /// The attachment that gets the addresses.
    pub applicant: &'a Applicant,
    /// This boot.
    pub boot: Boot,
    /// The range sets; one address of each is reserved.
    pub range_sets: &'a [RangeSet],
    /// The requested addresses.
    pub requested: &'a [IpAddr],
}

impl<'a> Allocation<'a> {
    /// Reserves one address of every range set: all of them or none. If the allocation
    /// fails with the content of the index, it is tried again with that of all files.
    ///
    /// # Errors
    /// Code 999 with the texts of the Go plugin when no address is free, 5 naming the file
    /// that cannot be read or written, 11 as for [`Store::reserve`].
    pub fn run(&self) -> Result<Vec<Choice<'a>>> {
        let owner = Some(&self.applicant.owner);
        let mut survey = Survey::for_allocation(self.store, owner, &self.boot)?;
        log_unproven(self.store.directory(), &survey.unproven(&self.boot));
        if let Err(error) = survey.require_readable() {
            say!("{error}");
        }
        let mut choices = self.reserve(&mut survey);
        if let Err(error) = &choices
            && !survey.is_final(self.store, error)
        {
            survey = Survey::of_files_for_allocation(self.store, owner, &self.boot)?;
            choices = self.reserve(&mut survey);
        }
        match &choices {
            Ok(_) => survey.save_index(),
            Err(error) if error.code == ErrorCode::INTERNAL => survey.save_index(),
            // A file could not be written, or a process does not use the lock.
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

    /// Releases reservations of containers that have ended: a few of each set, and more of
    /// a set without a free address.
    fn reclaim(&self, survey: &mut Survey, last_reserved: &[Option<IpAddr>]) -> Result<()> {
        let examined = self.examined(survey);
        let ended = examined.in_turn(self.range_sets, self.requested, last_reserved);
        survey.end(ended);
        if let Some(set) = allocator::first_exhausted(self.range_sets, &survey.taken) {
            let attempt = &self.applicant.owner.container_id;
            let ended = self.examined(survey).in_exhausted(set, attempt);
            survey.end(ended);
        }
        self.store.reclaim(&survey.ended)?;
        match survey.has_examined_all(&self.boot) {
            true => self.boot.write(self.store.directory()),
            // The next ADD examines them.
            false => Ok(()),
        }
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

    /// Adds the holders of the needed addresses to the error of an allocation.
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

/// Opens and locks the store. It is created only if the range sets can be read, so that an
/// invalid ranges file does not cause an empty directory.
fn create_store(config: &Config) -> Result<Store> {
    if !store::is_directory(&config.directory)? {
        config.sources.read()?;
    }
    Store::create(&config.directory)
}

/// Makes sure that the process that has executed this ADD still runs. If it was killed,
/// the DEL of its attachment may have come already, and the address would never be
/// released.
fn require_caller(caller: u32) -> Result<()> {
    if parent_id() == caller {
        return Ok(());
    }
    let msg = "the process that asked for an address has ended";
    Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details("nothing was reserved"))
}
