//! The commands of host-local: it reserves addresses from ranges, with one file for each address,
//! in the format of the Go plugin of the same name, which can use the same directory. It does not
//! change interfaces; the plugin that delegates to it does.

use std::net::IpAddr;
use std::os::unix::process::parent_id;

use common::cni::args::{CmdArgs, ConfArgs};
use common::cni::config::is_listed;
use common::cni::result::{AddResult, Dns};
use common::error::{Error, Result};
use common::plugin::Commands;
use common::say;

use crate::allocation::allocate;
use crate::config::Config;
use crate::range::RangeSet;
use crate::reservation::{Holder, Owner, Reservation};
use crate::sources::Sources;
use crate::status::status;
use crate::store::Store;
use crate::survey::Survey;
use crate::{NAME, config, form, resolv_conf};

/// The commands of the plugin.
pub const COMMANDS: Commands = Commands {
    name: NAME,
    version: env!("CARGO_PKG_VERSION"),
    marker: common::marker!("host-local"),
    add,
    check,
    del,
    status,
    gc,
};

fn add(args: &CmdArgs) -> Result<AddResult> {
    let caller = parent_id();
    let config = Config::read(&args.conf, &args.cni_args)?;
    let dns = match &config.resolv_conf {
        Some(path) => resolv_conf::read(path)?,
        None => Dns::default(),
    };
    Ok(AddResult {
        ips: allocate(args, &config, caller)?,
        routes: config.routes,
        dns,
        ..AddResult::default()
    })
}

fn check(args: &CmdArgs) -> Result<()> {
    let config = Config::read(&args.conf, &args.cni_args)?;
    let prev_result = args.conf.document.prev_result(args.conf.version)?;
    let owner = Owner::of(args);
    let (own, is_readable) = match Store::open(&config.directory)? {
        Some(store) => {
            let survey = Survey::of_owner(&store, &owner)?;
            let is_readable = survey.require_readable();
            (survey.relevant, is_readable)
        }
        None => (Vec::new(), Ok(())),
    };
    let id = &args.container_id;
    if own.is_empty() {
        is_readable?;
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
        Some(address) => is_readable.and(Err(Error::internal(format!(
            "host-local: Failed to find address {address} added by container {id}"
        )))),
        None => Ok(()),
    }
}

/// The sets whose addresses in prevResult must be reserved. A ranges file that has become invalid
/// is an error of ADD and STATUS, but not of existing attachments: CHECK then does not compare
/// the addresses of its ranges.
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
    let mut survey = Survey::of_owner(&store, &Owner::of(args))?;
    // A file of any other address that cannot be read is another's, and must not keep the pod from
    // ending. If the runtime does not know the addresses, each such file may be the attachment's.
    let own = args.conf.document.known_addresses(args.conf.version);
    if !own.is_empty() {
        survey.pass_over_unreadable(|address| own.contains(&address));
    }
    survey.release(&store)
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
    Survey::of_files(&store, |r| !is_valid(r))?.release(&store)
}
