//! The CNI commands. ADD succeeds when the addresses are registered in the VPC; DEL only writes
//! down that they may be unassigned, so that a failure of AWS never keeps a pod from ending.

mod agent_first;
pub(crate) mod attachment;
pub(crate) mod config;
mod ipam;
mod renamed;
pub(crate) mod section;
pub(crate) mod socket;
mod verify;

use common::cni::args::{CmdArgs, ConfArgs};
use common::cni::config::is_listed;
use common::cni::result::AddResult;
use common::error::{Error, Errors, Result};
use common::say;

use self::agent_first::{agent_first, own_aws};
use self::attachment::owner;
use self::config::Config;
use self::renamed::Renamed;
use self::section::Section;
use self::verify::verify;
use crate::deadline::Deadline;
use crate::ledger::Ledger;
use crate::registration::desired::{self, Wanted};
use crate::registration::ended::{Why, give_up};
use crate::registration::node::Node;
use crate::registration::register;
use crate::registration::release;
use crate::registration::request::Request;
use crate::registration::shared::Shared;
use crate::vpc::environment;
use crate::vpc::inventory;

pub(crate) fn add(args: &CmdArgs) -> Result<AddResult> {
    if section::is_meant(&args.conf) {
        return ipam::add(args).map_err(|error| undone(args, error));
    }
    let deadline = attachment::deadline();
    let config = Config::parse(&args.conf.document)?;
    let prev_result = prev_result(&args.conf)?;
    let wanted = desired::by_mac(&prev_result, args)?;
    let request = Request {
        owner: owner(args, config.cooldown, config.takeover)?,
        takeover: config.takeover,
        best_effort: !config.strict,
    };
    match register(args, &wanted, &request, deadline) {
        Ok(()) => Ok(prev_result),
        Err(error) if config.strict => Err(undone(args, error)),
        Err(error) => {
            say!("{error}; going on, because strict is false");
            Ok(prev_result)
        }
    }
}

/// Releases the addresses of a failed ADD, and returns its error. The runtime sends a DEL as
/// well.
fn undone(args: &CmdArgs, error: Error) -> Error {
    if let Err(second) = del(args) {
        say!("undoing a failed ADD: {second}");
    }
    error
}

/// Registers the addresses, by the agent if there is one.
fn register(args: &CmdArgs, wanted: &Wanted, request: &Request, deadline: Deadline) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let ask = || socket::register(wanted, request, deadline);
    agent_first(&args.conf, deadline, ask, |aws| {
        let (ledger, shared) = (Ledger::of_node(), Shared::default());
        register::register_all(aws, &ledger, &shared, wanted, request)
    })
}

fn prev_result(conf: &ConfArgs) -> Result<AddResult> {
    conf.document.prev_result(conf.version)?.ok_or_else(|| {
        let details = "eni-sync is chained behind a plugin that makes an interface";
        Error::config("Required prevResult missing").with_details(details)
    })
}

pub(crate) fn del(args: &CmdArgs) -> Result<()> {
    let renamed = Renamed::of(args);
    let addresses = args.conf.document.known_addresses(args.conf.version);
    let why = Why::Del { addresses };
    give_up(&Ledger::of_node(), &why, |owner, address| {
        owner.is_of(args) || renamed.is_meant(owner, address)
    })?;
    socket::announce();
    Ok(())
}

pub(crate) fn check(args: &CmdArgs) -> Result<()> {
    if section::is_meant(&args.conf) {
        return ipam::check(args);
    }
    let config = Config::parse(&args.conf.document)?;
    let wanted = desired::by_mac(&prev_result(&args.conf)?, args)?;
    let request = Request {
        owner: owner(args, config.cooldown, config.takeover)?,
        takeover: config.takeover,
        best_effort: !config.strict,
    };
    let aws = own_aws(&args.conf, attachment::deadline());
    let ledger = Ledger::of_node();
    for (mac, addresses) in &wanted {
        let (inventory, eni) = inventory::find(&aws, mac)?;
        let node = Node {
            aws: &aws,
            ledger: &ledger,
            inventory: &inventory,
            shared: &Shared::default(),
        };
        verify(&node, &eni, addresses, &request)?;
    }
    Ok(())
}

pub(crate) fn status(conf: &ConfArgs) -> Result<()> {
    match section::is_meant(conf) {
        true => Section::parse(conf, "").map(drop)?,
        false => Config::parse(&conf.document).map(drop)?,
    }
    agent_first::status(conf)
}

/// Ends the attachments that are not listed as valid, and removes the due addresses from the
/// ENIs.
pub(crate) fn gc(conf: &ConfArgs) -> Result<()> {
    let Some(valid) = conf.document.valid_attachments()? else {
        return Ok(());
    };
    let ledger = Ledger::of_node();
    let mut errors = Errors::default();
    errors.keep(give_up(&ledger, &Why::Gc, |owner, _| {
        owner.network == conf.network && !is_listed(&valid, &owner.container_id, &owner.ifname)
    }));
    // Only the agent's role may permit the removal.
    if socket::announce() && environment::is_role_of_agent() {
        return errors.into_result();
    }
    let mut kept = Vec::new();
    let aws = own_aws(conf, Deadline::default());
    errors.keep(release::release_all_due(&aws, &ledger, &mut kept));
    for why in kept {
        say!("{why}");
    }
    errors.into_result()
}
