//! host-local: hands out addresses from ranges, one file an address, so that the Go
//! plugin of the same name and this one can alternate on one directory. It knows
//! nothing of interfaces; the plugin that executes it does.

mod allocation;
mod allocator;
mod atomic;
mod boot;
mod config;
mod container;
mod ended;
mod exclude;
mod form;
mod index;
mod lock;
mod range;
mod ranges_file;
mod reservation;
mod resolv_conf;
mod sources;
mod store;
mod survey;
mod taken;

use std::net::IpAddr;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::process::ExitCode;

use common::args::{CmdArgs, ConfArgs};
use common::config::is_listed;
use common::error::{Error, ErrorCode, Errors, Result};
use common::plugin::{self, Commands};
use common::result::{AddResult, Dns};
use common::say;

use crate::allocation::Allocation;
use crate::boot::Boot;
use crate::config::Config;
use crate::container::Container;
use crate::ended::Examined;
use crate::range::RangeSet;
use crate::reservation::{Applicant, Holder, Owner, Reservation, describe_holders, owned_by};
use crate::sources::Sources;
use crate::store::Store;
use crate::survey::Survey;
use crate::taken::Taken;

fn main() -> ExitCode {
    plugin::run(&Commands {
        name: "host-local",
        version: env!("CARGO_PKG_VERSION"),
        add,
        check,
        del,
        status,
        gc,
    })
}

fn add(args: &CmdArgs) -> Result<AddResult> {
    let caller = parent_id();
    let config = Config::read(&args.conf, &args.cni_args)?;
    let dns = match &config.resolv_conf {
        Some(path) => resolv_conf::read(path)?,
        None => Dns::default(),
    };
    let store = create_store(&config)?;
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
    let choices = Allocation {
        store: &store,
        applicant: &applicant,
        boot,
        range_sets: &range_sets,
        requested: &config.requested,
    }
    .run()?;
    Ok(AddResult {
        ips: choices.iter().map(allocator::Choice::ip_config).collect(),
        routes: config.routes,
        dns,
        ..AddResult::default()
    })
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

/// The locked store. It is made only where there are ranges to allocate from: a file
/// that is wrong leaves no directory behind.
fn create_store(config: &Config) -> Result<Store> {
    if let Some(store) = Store::open(&config.directory)? {
        return Ok(store);
    }
    config.sources.read()?;
    Store::create(&config.directory)
}

fn check(args: &CmdArgs) -> Result<()> {
    let config = Config::read(&args.conf, &args.cni_args)?;
    let prev_result = args.conf.document.prev_result(args.conf.version)?;
    let owner = Owner::of(args);
    let reservations = match Store::open(&config.directory)? {
        Some(store) => Survey::of_owner(&store, &owner)?.relevant,
        None => Vec::new(),
    };
    let own = owned_by(&reservations, &owner);
    let id = &args.container_id;
    if own.is_empty() {
        let msg = format!("host-local: Failed to find address added by container {id}");
        return Err(Error::internal(msg));
    }
    let range_sets = sets_to_check(&config.sources);
    let ours = |address: &IpAddr| range_sets.iter().any(|set| set.contains(*address));
    let expected = prev_result.into_iter().flat_map(|result| result.ips);
    match expected
        .map(|ip| ip.address.address())
        .filter(ours)
        .find(|address| own.iter().all(|r| r.address != *address))
    {
        Some(address) => Err(Error::internal(format!(
            "host-local: Failed to find address {address} added by container {id}"
        ))),
        None => Ok(()),
    }
}

/// The sets whose addresses in prevResult must be reserved ones. A file that is wrong
/// by now keeps the node from serving an ADD, which STATUS says, but breaks no
/// attachment: the addresses it listed are then not looked at one by one.
fn sets_to_check(sources: &Sources) -> Vec<RangeSet> {
    sources.read().unwrap_or_else(|error| {
        say!("only the configured ranges are checked: {error}");
        sources.configured().to_vec()
    })
}

fn del(args: &CmdArgs) -> Result<()> {
    let Some(directory) = config::directory_if_usable(&args.conf)? else {
        return Ok(());
    };
    let Some(store) = Store::open(&directory)? else {
        return Ok(());
    };
    let owner = Owner::of(args);
    let survey = Survey::of_owner(&store, &owner)?;
    let mut errors = Errors::default();
    let mut released = Vec::new();
    for reservation in owned_by(&survey.relevant, &owner) {
        if errors.keep(store.release(reservation)).is_some() {
            released.push(reservation.entry());
        }
    }
    survey.leave_index(&store, &[], released);
    errors.into_result()
}

fn status(conf: &ConfArgs) -> Result<()> {
    let config = Config::read(conf, "")?;
    let store = Store::peek(&config.directory)?;
    let range_sets = config.sources.read()?;
    if config.directory.is_dir() {
        form::require_own(&config.directory)?;
    }
    match store {
        Some(store) => check_capacity(&store, &range_sets),
        None => check_free(&range_sets, &Taken::default(), &config.directory),
    }
}

/// Whether every range set has a free address, according to the files where the index
/// alone says that it has not. What an ADD would reclaim counts as free.
fn check_capacity(store: &Store, range_sets: &[RangeSet]) -> Result<()> {
    let directory = store.directory();
    let boot = Boot::of(directory)?;
    let mut survey = Survey::for_allocation(store, None, &boot)?;
    if allocator::first_exhausted(range_sets, survey.taken()).is_none() {
        return Ok(());
    }
    if !survey.is_certain(store) {
        survey = Survey::of_files_for_allocation(store, None, &boot)?;
    }
    let examined = Examined {
        store,
        machine: &boot.machine,
        taken: survey.taken(),
    };
    let exhausted = allocator::first_exhausted(range_sets, survey.taken());
    match exhausted.map(|set| examined.in_exhausted(set, "")) {
        Some(ended) if !ended.is_empty() => Ok(()),
        _ => check_free(range_sets, survey.taken(), directory),
    }
}

fn check_free(range_sets: &[RangeSet], taken: &Taken, directory: &Path) -> Result<()> {
    let Some(set) = allocator::first_exhausted(range_sets, taken) else {
        return Ok(());
    };
    let error = Error::new(ErrorCode::UNAVAILABLE, allocator::exhausted(set));
    let holders = describe_holders(directory, allocator::taken_after(set, None, taken));
    Err(error.with_details(holders.unwrap_or_default()))
}

fn gc(conf: &ConfArgs) -> Result<()> {
    let directory = config::directory(conf)?;
    let Some(valid) = conf.document.valid_attachments()? else {
        return Ok(());
    };
    let Some(store) = Store::open(&directory)? else {
        return Ok(());
    };
    let is_valid = |r: &Reservation| matches!(&r.holder, Holder::Owner(owner) if is_listed(&valid, &owner.container_id, &owner.ifname));
    form::require_own(store.directory())?;
    let survey = Survey::of_files(&store, |r| !is_valid(r))?;
    let mut errors = Errors::default();
    let mut released = Vec::new();
    for reservation in &survey.relevant {
        let outcome = match &reservation.holder {
            Holder::Owner(_) | Holder::Nobody => store.release(reservation),
            Holder::Unknown(why) => Err(reservation.is_broken(why)),
        };
        if errors.keep(outcome).is_some() {
            released.push(reservation.entry());
        }
    }
    survey.leave_index(&store, &[], released);
    errors.into_result()
}
