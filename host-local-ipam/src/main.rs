//! host-local: hands out addresses from ranges, one file an address, so that the Go
//! plugin of the same name and this one can alternate on one directory. It knows
//! nothing of interfaces; the plugin that executes it does.

mod allocator;
mod atomic;
mod boot;
mod config;
mod exclude;
mod lock;
mod range;
mod ranges_file;
mod reservation;
mod resolv_conf;
mod sources;
mod store;
mod taken;

use std::net::IpAddr;
use std::process::ExitCode;

use common::args::{CmdArgs, ConfArgs};
use common::config::is_listed;
use common::error::{Error, ErrorCode, Errors, Result};
use common::plugin::{self, Commands};
use common::result::{AddResult, Dns};

use crate::allocator::State;
use crate::config::Config;
use crate::range::RangeSet;
use crate::reservation::{Holder, Owner, owned_by};
use crate::sources::Sources;
use crate::store::Store;
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
    let config = Config::read(&args.conf, &args.cni_args)?;
    let dns = match &config.resolv_conf {
        Some(path) => resolv_conf::read(path)?,
        None => Dns::default(),
    };
    let owner = Owner::of(args);
    let store = create_store(&config)?;
    // Under the lock, so that an edit takes effect for every ADD that comes after it.
    let range_sets = config.sources.read()?;
    let survey = store.survey()?;
    store.reclaim(&survey)?;
    let state = State {
        container_id: owner.container_id.clone(),
        taken: survey.taken(),
        own: survey.owned_by(&owner),
        last_reserved: store.last_reserved(range_sets.len()),
    };
    let choices = allocator::choose(&range_sets, &config.requested, &state)?;
    let addresses: Vec<IpAddr> = choices.iter().map(|choice| choice.address).collect();
    store.reserve(&owner, &addresses)?;
    Ok(AddResult {
        ips: choices.iter().map(allocator::Choice::ip_config).collect(),
        routes: config.routes,
        dns,
        ..AddResult::default()
    })
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
    let reservations = match Store::open(&config.directory)? {
        Some(store) => store.reservations()?,
        None => Vec::new(),
    };
    let own = owned_by(&reservations, &Owner::of(args));
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
        eprintln!("only the configured ranges are checked: {error}");
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
    let reservations = store.reservations()?;
    let mut errors = Errors::default();
    for reservation in owned_by(&reservations, &Owner::of(args)) {
        errors.keep(store.release(reservation));
    }
    errors.into_result()
}

fn status(conf: &ConfArgs) -> Result<()> {
    let config = Config::read(conf, "")?;
    let store = Store::peek(&config.directory)?;
    let range_sets = config.sources.read()?;
    let taken = match &store {
        Some(store) => store.survey()?.taken(),
        None => Taken::default(),
    };
    for set in &range_sets {
        if allocator::next_free(set, None, &taken).is_none() {
            let msg = allocator::exhausted(set);
            return Err(Error::new(ErrorCode::UNAVAILABLE, msg));
        }
    }
    Ok(())
}

fn gc(conf: &ConfArgs) -> Result<()> {
    let directory = config::directory(conf)?;
    let Some(valid) = conf.document.valid_attachments()? else {
        return Ok(());
    };
    let Some(store) = Store::open(&directory)? else {
        return Ok(());
    };
    let mut errors = Errors::default();
    for reservation in store.reservations()? {
        match &reservation.holder {
            Holder::Owner(owner) if is_listed(&valid, &owner.container_id, &owner.ifname) => {}
            Holder::Owner(_) | Holder::Nobody => {
                errors.keep(store.release(&reservation));
            }
            Holder::Unknown(why) => {
                errors.keep::<()>(Err(reservation.is_broken(why)));
            }
        }
    }
    errors.into_result()
}
