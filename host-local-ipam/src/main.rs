//! host-local: hands out addresses from ranges, one file an address, so that the Go
//! plugin of the same name and this one can alternate on one directory. It knows
//! nothing of interfaces; the plugin that executes it does.

use std::net::IpAddr;
use std::os::unix::process::parent_id;
use std::process::ExitCode;

use common::args::{CmdArgs, ConfArgs};
use common::config::is_listed;
use common::error::{Error, ErrorCode, Errors, Result};
use common::plugin::{self, Commands};
use common::result::{AddResult, Dns};
use common::say;

use host_local_ipam::allocation::Allocation;
use host_local_ipam::boot::Boot;
use host_local_ipam::config::Config;
use host_local_ipam::container::Container;
use host_local_ipam::range::RangeSet;
use host_local_ipam::reservation::{Applicant, Holder, Owner, Reservation, owned_by};
use host_local_ipam::sources::Sources;
use host_local_ipam::status::status;
use host_local_ipam::store::Store;
use host_local_ipam::survey::Survey;
use host_local_ipam::{allocator, config, form, resolv_conf};

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
