//! The CNI commands. ADD succeeds when the VPC has the addresses; DEL only writes down
//! that they may go, so that AWS never keeps a pod from ending.

pub(crate) mod config;
pub(crate) mod socket;

use std::net::IpAddr;
use std::time::Duration;

use common::attach::inventory::{Eni, Inventory, NO_MANAGE_TAG};
use common::cni::args::{CmdArgs, ConfArgs, cni_arg};
use common::cni::config::is_listed;
use common::cni::result::AddResult;
use common::error::{Error, ErrorCode, Errors, Result};
use common::kernel::netns::{Holders, NetNs};
use common::records::boot_id;
use common::say;

use self::config::Config;
use crate::deadline::Deadline;
use crate::ledger::{EniLedger, Entries, Entry, Event, Ledger, Life, Owner, State, now};
use crate::registration::desired::{self, Wanted};
use crate::registration::looks::Looks;
use crate::registration::node::{Node, TURN_DEADLINE};
use crate::registration::register::{self, give_up};
use crate::registration::release;
use crate::registration::request::Request;
use crate::vpc::clients::Aws;
use crate::vpc::eni;
use crate::vpc::inventory;

/// How long an ADD or a CHECK may take, whatever it waits for. Source: a kubelet gives its
/// runtime two minutes for a request.
pub(crate) const TIME: Duration = Duration::from_secs(100);

pub(crate) fn add(args: &CmdArgs) -> Result<AddResult> {
    let deadline = Deadline::after(TIME);
    let config = Config::parse(&args.conf.document)?;
    let prev_result = prev_result(&args.conf)?;
    let wanted = desired::by_mac(&prev_result, args)?;
    let request = Request {
        owner: owner(args, &config)?,
        takeover: config.takeover,
        best_effort: !config.strict,
    };
    let ledger = Ledger::of_node();
    match register(&ledger, &wanted, &request, deadline) {
        Ok(()) => Ok(prev_result),
        Err(error) if config.strict => {
            // The runtime sends a DEL now. Nothing waits for it.
            if let Err(second) = del(args) {
                say!("undoing a failed ADD: {second}");
            }
            Err(error)
        }
        Err(error) => {
            say!("{error}; going on, because strict is false");
            Ok(prev_result)
        }
    }
}

/// Has the agent register the addresses, or does it where there is none.
fn register(ledger: &Ledger, wanted: &Wanted, request: &Request, deadline: Deadline) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    match socket::register(wanted, request, deadline) {
        Some(answer) => answer,
        None => {
            let looks = Looks::default();
            let aws = Aws::open().until(deadline);
            register::register_all(&aws, ledger, &looks, wanted, request)
        }
    }
}

fn owner(args: &CmdArgs, config: &Config) -> Result<Owner> {
    let netns = NetNs::open(&args.netns)?;
    let value = |name: &str| cni_arg(&args.cni_args, name);
    let pod = match (value("K8S_POD_NAMESPACE"), value("K8S_POD_NAME")) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => String::new(),
    };
    Ok(Owner {
        network: args.conf.network.clone(),
        container_id: args.container_id.to_string(),
        ifname: args.ifname.to_string(),
        pod,
        life: Life::Namespace {
            netns_id: netns.id()?,
            netns: args.netns.clone(),
            boot_id: boot_id()?,
        },
        cooldown_seconds: config.cooldown.as_secs(),
    })
}

fn prev_result(conf: &ConfArgs) -> Result<AddResult> {
    conf.document.prev_result(conf.version)?.ok_or_else(|| {
        let details = "eni-sync is chained behind a plugin that makes an interface";
        Error::config("Required prevResult missing").with_details(details)
    })
}

pub(crate) fn del(args: &CmdArgs) -> Result<()> {
    give_up(&Ledger::of_node(), "DEL", |entry| entry.is_of(args))?;
    socket::announce();
    Ok(())
}

pub(crate) fn check(args: &CmdArgs) -> Result<()> {
    let config = Config::parse(&args.conf.document)?;
    let wanted = desired::by_mac(&prev_result(&args.conf)?, args)?;
    let request = Request {
        owner: owner(args, &config)?,
        takeover: config.takeover,
        best_effort: !config.strict,
    };
    let aws = Aws::open().until(Deadline::after(TIME));
    let ledger = Ledger::of_node();
    for (mac, addresses) in &wanted {
        let (inventory, eni) = inventory::find(&aws, mac)?;
        let node = Node {
            aws: &aws,
            ledger: &ledger,
            inventory: &inventory,
            looks: &Looks::default(),
        };
        verify(&node, &eni, addresses, &request)?;
    }
    Ok(())
}

/// Compares an attachment with the ledger and the VPC. The metadata can confirm that an
/// address is there; only EC2 can say that it is not.
fn verify(node: &Node<'_>, eni: &Eni, addresses: &[IpAddr], request: &Request) -> Result<()> {
    let mut open = addresses.to_vec();
    open.retain(|address| !eni::is_registered(eni, *address));
    if open.is_empty() {
        return Ok(());
    }
    let ledger = node.ledger.of_eni(&eni.id)?;
    let ledger = ledger.until(node.aws.deadline());
    let unknown = not_held(&ledger.open()?, &open, &request.owner)?;
    let shown = node.aws.imds()?.addresses(&eni.mac).unwrap_or_default();
    open.retain(|address| unknown.contains(address) || !shown.contains(address));
    if open.is_empty() {
        return Ok(());
    }
    // What has not been written down yet by whoever has the turn may be in its description.
    let _turn = match unknown.is_empty() {
        true => None,
        false => Some(ledger.take_turn(TURN_DEADLINE)?),
    };
    let known = entries_of(&ledger.open()?, &open)?;
    let ec2 = node.aws.ec2(&node.inventory.region)?;
    let found = ec2.eni(&eni.id);
    let found = found.map_err(|failure| failure.error(&format!("look at {}", eni.id)))?;
    for (address, entry) in &known {
        let is_shown = found.as_ref().is_some_and(|found| found.covers(*address));
        let is_leaving = entry.as_ref().is_some_and(|e| e.may_be_leaving(now()));
        if !is_shown || is_leaving {
            let msg = format!("{address} is not assigned to {}", eni.id);
            return Err(Error::internal(msg));
        }
    }
    let proven = known
        .into_iter()
        .filter(|(address, _)| unknown.contains(address));
    adopt(&ledger, proven, request)
}

/// What the ledger has of each of `addresses`.
fn entries_of(entries: &Entries, addresses: &[IpAddr]) -> Result<Vec<(IpAddr, Option<Entry>)>> {
    let addresses = addresses.iter();
    let entries = addresses.map(|address| Ok((*address, entries.get(*address)?)));
    entries.collect()
}

/// Which of `addresses` the ledger does not have for this attachment.
///
/// # Errors
/// Code 999 when it has one for another attachment that lives.
fn not_held(entries: &Entries, addresses: &[IpAddr], owner: &Owner) -> Result<Vec<IpAddr>> {
    let (mut unknown, holders) = (Vec::new(), Holders::default());
    let lives = |entry: &Entry| entry.may_have_living_owner(&holders);
    for address in addresses {
        let entry = entries.get(*address)?;
        let is_own = entry.as_ref().is_some_and(|entry| entry.is_owned_by(owner));
        match entry {
            Some(entry) if is_own && entry.state == State::Held => {}
            Some(entry) if !is_own && entry.state == State::Held && lives(&entry) => {
                let msg = format!("the ledger has {address} for another attachment");
                let other = entry
                    .owner
                    .as_ref()
                    .map(Owner::to_string)
                    .unwrap_or_default();
                return Err(Error::internal(msg).with_details(other));
            }
            _ => unknown.push(*address),
        }
    }
    Ok(unknown)
}

/// Writes down, for a ledger that was lost, what CHECK has proved: that the attachment
/// has these addresses and that they are on the ENI.
///
/// # Errors
/// Code 11 when the ledger says something else of one than it did before EC2 was asked.
fn adopt(
    ledger: &EniLedger,
    proven: impl Iterator<Item = (IpAddr, Option<Entry>)>,
    request: &Request,
) -> Result<()> {
    let entries = ledger.open()?;
    let claimed = Event::Claimed {
        takeover: request.takeover,
        best_effort: request.best_effort,
    };
    for (address, before) in proven {
        let known = entries.get(address)?;
        if known != before {
            let msg = format!("the ledger of {} changed while AWS was asked", ledger.id());
            return Err(Error::new(ErrorCode::TRY_AGAIN, msg));
        }
        let entry = Entry::claimed(address, known, &claimed, request.owner.clone());
        if let Some(entry) = entry {
            entries.note(entry, &Event::Assigned { for_pool: false })?;
        }
    }
    Ok(())
}

pub(crate) fn status(conf: &ConfArgs) -> Result<()> {
    Config::parse(&conf.document)?;
    let unavailable = |error: Error| error.with_code(ErrorCode::UNAVAILABLE);
    let aws = Aws::open();
    let identity = aws.imds()?.identity().map_err(unavailable)?;
    aws.require_credentials(&identity.region)
        .map_err(unavailable)?;
    let managed = |inventory: &Inventory| {
        let mut enis = inventory.enis.iter();
        enis.any(|eni| eni::require_managed(eni).is_ok())
    };
    let inventory = inventory::current(&aws, managed).map_err(unavailable)?;
    if managed(&inventory) {
        return Ok(());
    }
    let msg = format!("{} has no ENI for pods", inventory.instance_id);
    let details = format!("none but the primary one is tagged {NO_MANAGE_TAG}=true");
    Err(Error::new(ErrorCode::UNAVAILABLE, msg).with_details(details))
}

/// Ends what is not listed as valid, and removes from the ENIs what is due.
pub(crate) fn gc(conf: &ConfArgs) -> Result<()> {
    let Some(valid) = conf.document.valid_attachments()? else {
        return Ok(());
    };
    let ledger = Ledger::of_node();
    let mut errors = Errors::default();
    errors.keep(give_up(&ledger, "GC", |entry| {
        entry.owner.as_ref().is_some_and(|owner| {
            owner.network == conf.network && !is_listed(&valid, &owner.container_id, &owner.ifname)
        })
    }));
    let mut kept = Vec::new();
    let aws = Aws::open();
    errors.keep(release::release_all_due(&aws, &ledger, &mut kept));
    for why in kept {
        say!("{why}");
    }
    errors.into_result()
}
