//! `eni-sync status`: shows the addresses of this node's ENIs, by the ledger and the inventory.
//! It changes nothing, and asks EC2 only with `--live`.

mod damage;
mod html;
mod offered;
mod page;
mod table;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use common::address::Cidr;
use common::attach::inventory::{Eni, Inventory};
use common::error::Result;
use common::kernel::netns::{Holders, Presence};
use common::say;
use serde::Serialize;

use self::damage::add_damage;
use self::offered::Offered;
use crate::agent::configuration::{CNI_PATH, Configuration};
use crate::cli::doctor::{Findings, agent_config};
use crate::cli::output;
use crate::installed::{self, Installed};
use crate::ledger::{Content, Entry, Ledger, Owner, Prefix, State, Timestamp, now};
use crate::log;
use crate::provision;
use crate::provision::host::Host;
use crate::provision::overview::{Card, EniView, Kind, Node, Overview};
use crate::provision::wanted::Wanted;
use crate::registration::prefixes::supply;
use crate::vpc::clients::Aws;
use crate::vpc::ec2::{Description, Family};
use crate::vpc::eni;
use crate::vpc::inventory;

/// The options of `eni-sync status`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Ask EC2, and mark the addresses that are only in the ledger or only on an ENI
    #[arg(long)]
    live: bool,
    /// The configuration of the agent, which names the ENIs that the node is to have; without
    /// it, /etc/eni-sync/agent.json if there is one
    #[arg(long, value_name = "FILE")]
    agent_config: Option<PathBuf>,
    /// The directory of the plugins
    #[arg(long, value_name = "DIRECTORY", default_value = CNI_PATH)]
    cni_path: PathBuf,
}

/// The status of this node; the document of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    instance_id: String,
    instance_type: String,
    region: String,
    /// How old the inventory is; `None` when there is none, or EC2 was asked.
    inventory_age_seconds: Option<u64>,
    /// Whether EC2 was asked.
    live: bool,
    enis: Vec<EniStatus>,
    /// Why records of ENIs that are attached or detached cannot be read.
    damaged: Vec<String>,
    /// The kinds of ENIs in the configuration; `None` if it is not known.
    wanted: Option<Vec<Kind>>,
    /// The slots of the instance, with their holders.
    slots: Vec<Card>,
    plugins: Plugins,
    /// The resources that the agent offers to the kubelet; empty if no agent answers.
    resources: Vec<Offered>,
}

/// The plugins in the directory.
#[derive(Debug, Serialize)]
struct Plugins {
    directory: PathBuf,
    /// By name, without those that are missing or cannot be read.
    installed: BTreeMap<String, Installed>,
}

impl Plugins {
    fn of(directory: &Path) -> Self {
        let mut installed = BTreeMap::new();
        for found in installed::in_directory(directory) {
            match found.installed {
                Ok(Installed::Missing) => {}
                Ok(one) => {
                    installed.insert(found.name, one);
                }
                Err(cause) => say!("{} in {directory:?} cannot be read: {cause}", found.name),
            }
        }
        Self {
            directory: directory.to_owned(),
            installed,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EniStatus {
    id: String,
    /// Its data in the inventory; `None` when it is only in the ledger.
    #[serde(flatten)]
    known: Option<Known>,
    prefixes: Vec<PrefixStatus>,
    addresses: Vec<Address>,
    /// Why other files of the ledger cannot be read.
    damaged: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PrefixStatus {
    prefix: Cidr,
    /// The ledger's state, `unknown` when it is only on the ENI, or `unreadable`.
    state: String,
    /// When it came into this state, in seconds since 1970.
    since: Option<Timestamp>,
    /// When it may be given back at the earliest, in seconds since 1970.
    release_after: Option<Timestamp>,
    /// How many of its addresses have an entry in the ledger.
    taken: usize,
    /// The ranges file by which host-local gives out its addresses; `None` when networks without
    /// addresses get them.
    ranges_file: Option<PathBuf>,
    /// Why its file cannot be read.
    refusal: Option<String>,
    differs: Option<Difference>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    interface: String,
    mac: String,
    network_card_index: u32,
    device_index: u32,
    subnet_id: String,
    subnet_cidrs: Vec<Cidr>,
    /// Whether its addresses may be changed.
    managed: bool,
    ipv4: Slots,
    ipv6: Slots,
    /// Its holder, and the state of its interface.
    #[serde(flatten)]
    seen: Option<EniView>,
}

/// How many slots of an ENI are used, and how many it has.
#[derive(Debug, Serialize)]
struct Slots {
    used: usize,
    limit: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    address: IpAddr,
    /// The ledger's state, `unknown` when it is only on the ENI, or `unreadable`.
    state: String,
    /// When it came into this state, in seconds since 1970.
    since: Option<Timestamp>,
    /// When it may leave the ENI at the earliest, in seconds since 1970.
    release_after: Option<Timestamp>,
    owner: Option<Owned>,
    /// Why EC2 has refused it, or why its file cannot be read.
    refusal: Option<String>,
    differs: Option<Difference>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Owned {
    network: String,
    pod: String,
    container_id: String,
    ifname: String,
    /// Whether the attachment still exists; `None` when that is unknown.
    alive: Option<bool>,
    /// Why that is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
}

/// Where an address is that is missing in the ledger or on the ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Difference {
    OnlyInLedger,
    OnlyOnEni,
}

/// Prints the status.
///
/// # Errors
/// Those of reading the node's state, and the errors of AWS.
pub(crate) fn run(options: &Options) -> Result<()> {
    let agent = agent_config(options.agent_config.as_deref());
    let plugins = Plugins::of(&options.cni_path);
    let status = collect(options.live, plugins, wanted(agent.as_deref()))?;
    match options.json {
        true => output::print_json(&status),
        false => output::print(table::render(&status, now()).as_bytes()),
    }
}

/// The status as text and as JSON.
///
/// # Errors
/// As for [`run`].
pub(crate) fn report(plugins: &Path, agent: Option<&Path>) -> Result<(String, String)> {
    let status = collect(false, Plugins::of(plugins), wanted(agent))?;
    Ok((table::render(&status, now()), output::json(&status)?))
}

/// The status as a page, with the problems that the agent and the doctor find, and the last
/// changes.
///
/// # Errors
/// As for [`run`].
pub(crate) fn page(
    plugins: &Path,
    agent: Option<&Path>,
    wrong: &[String],
    findings: &Findings,
) -> Result<String> {
    let status = collect(false, Plugins::of(plugins), wanted(agent))?;
    let changes = log::changes();
    let seen = page::Seen {
        wrong,
        findings,
        changes: &changes,
    };
    Ok(page::render(&status, &seen, now()))
}

/// The ENIs in the agent's configuration; `None` if it is not known.
fn wanted(agent: Option<&Path>) -> Option<Vec<Wanted>> {
    match Configuration::read(agent?) {
        Ok(configuration) => Some(configuration.enis),
        Err(error) => {
            say!("{error}");
            None
        }
    }
}

fn overview(
    inventory: &Inventory,
    actual: Option<&[Description]>,
    wanted: Option<&[Wanted]>,
) -> Result<Overview> {
    let node = Node {
        instance_id: &inventory.instance_id,
        limits: &inventory.interface_limits,
        host: &Host::read()?,
    };
    Ok(match actual {
        Some(actual) => Overview::of(actual, wanted, node),
        None => Overview::of(&inventory.enis, wanted, node),
    })
}

fn collect(live: bool, plugins: Plugins, wanted: Option<Vec<Wanted>>) -> Result<Status> {
    let (inventory, actual) = match live {
        true => inventory::ask(&Aws::open()).map(|(found, all)| (found, Some(all)))?,
        false => (written(), None),
    };
    let overview = overview(&inventory, actual.as_deref(), wanted.as_deref())?;
    let mut ledger = Ledger::of_node().contents()?;
    let resources = Offered::all(&inventory, &ledger);
    let (mut enis, holders) = (Vec::new(), Holders::default());
    for eni in &inventory.enis {
        let Content {
            entries,
            prefixes,
            damage,
        } = ledger.remove(&eni.id).unwrap_or_default();
        let actual = actual.iter().flatten().find(|found| found.id == eni.id);
        let mut status = eni_status(eni, (entries, prefixes), actual, &holders);
        if let Some(known) = &mut status.known {
            known.seen = overview.eni(&eni.id).cloned();
        }
        add_damage(&mut status, damage);
        enis.push(status);
    }
    for (id, content) in ledger {
        let Content {
            entries,
            prefixes,
            damage,
        } = content;
        if entries.is_empty() && prefixes.is_empty() && damage.is_empty() {
            continue;
        }
        let gone = live.then_some(Difference::OnlyInLedger);
        let shown = prefix_lines(&prefixes, &entries, None);
        let addresses = entries.into_iter();
        let addresses = addresses.map(|entry| address(entry, gone, &holders));
        let mut status = EniStatus {
            id,
            known: None,
            prefixes: shown,
            addresses: addresses.collect(),
            damaged: Vec::new(),
        };
        add_damage(&mut status, damage);
        enis.push(status);
    }
    let is_written = !live && !inventory.instance_id.is_empty();
    let age = inventory::written_ago().filter(|_| is_written);
    Ok(Status {
        instance_id: inventory.instance_id,
        instance_type: inventory.instance_type,
        region: inventory.region,
        inventory_age_seconds: age.map(|age| age.as_secs()),
        live,
        enis,
        damaged: provision::unreadable(),
        wanted: wanted.map(|_| overview.kinds),
        slots: overview.cards,
        plugins,
        resources,
    })
}

/// The written inventory. It is only a copy: without it, the ledger is shown.
fn written() -> Inventory {
    let written = Inventory::read().unwrap_or_else(|error| {
        say!("{error}");
        None
    });
    written.unwrap_or_default()
}

fn eni_status(
    eni: &Eni,
    (entries, prefixes): (Vec<Entry>, Vec<Prefix>),
    actual: Option<&Description>,
    holders: &Holders,
) -> EniStatus {
    let slots = |family, limit| Slots {
        used: match actual {
            Some(actual) => actual.used(family),
            None => supply::Slots::of(eni, &entries, &prefixes, family).used,
        },
        limit,
    };
    let known = Known {
        interface: eni.interface.clone(),
        mac: eni.mac.clone(),
        network_card_index: eni.network_card_index,
        device_index: eni.device_index,
        subnet_id: eni.subnet_id.clone(),
        subnet_cidrs: eni.subnet_cidrs.clone(),
        managed: eni::require_managed(eni).is_ok(),
        ipv4: slots(Family::V4, eni.ipv4_limit),
        ipv6: slots(Family::V6, eni.ipv6_limit),
        seen: None,
    };
    let shown = prefix_lines(&prefixes, &entries, actual);
    let mut addresses = unknown(&entries, actual);
    for entry in entries {
        let is_missing = actual.is_some_and(|actual| !actual.covers(entry.address));
        let is_missing = is_missing && entry.is_on_eni();
        let differs = is_missing.then_some(Difference::OnlyInLedger);
        addresses.push(address(entry, differs, holders));
    }
    addresses.sort_by_key(|address| address.address);
    EniStatus {
        id: eni.id.clone(),
        known: Some(known),
        prefixes: shown,
        addresses,
        damaged: Vec::new(),
    }
}

/// The prefixes of the ledger, and those that are only on the ENI.
fn prefix_lines(
    prefixes: &[Prefix],
    entries: &[Entry],
    actual: Option<&Description>,
) -> Vec<PrefixStatus> {
    let known = prefixes.iter().map(|prefix| {
        let entry = &prefix.entry;
        let is_missing = actual.is_some_and(|actual| !actual.prefixes.contains(&prefix.prefix));
        PrefixStatus {
            prefix: prefix.prefix,
            state: entry.state.name().to_owned(),
            since: Some(entry.since),
            release_after: match entry.state {
                State::Releasing { after, .. } => Some(after),
                _ => None,
            },
            taken: supply::taken(prefix, entries),
            ranges_file: prefix.ranges_file.clone(),
            refusal: None,
            differs: is_missing.then_some(Difference::OnlyInLedger),
        }
    });
    let managed = actual.filter(|actual| eni::require_releasable(actual).is_ok());
    let found = managed.iter().flat_map(|actual| &actual.prefixes);
    let unknown = found.filter(|found| !prefixes.iter().any(|known| known.prefix == **found));
    let unknown = unknown.map(|prefix| PrefixStatus {
        prefix: *prefix,
        state: "unknown".to_owned(),
        since: None,
        release_after: None,
        taken: 0,
        ranges_file: None,
        refusal: None,
        differs: Some(Difference::OnlyOnEni),
    });
    known.chain(unknown).collect()
}

/// The addresses of an ENI that are not in the ledger. On an ENI that eni-sync does not manage,
/// these are no differences.
fn unknown(entries: &[Entry], actual: Option<&Description>) -> Vec<Address> {
    let managed = actual.filter(|actual| eni::require_releasable(actual).is_ok());
    let found = managed.iter().flat_map(|actual| &actual.secondary);
    let found = found.filter(|found| !entries.iter().any(|entry| entry.address == **found));
    let unknown = found.map(|address| Address {
        address: *address,
        state: "unknown".to_owned(),
        since: None,
        release_after: None,
        owner: None,
        refusal: None,
        differs: Some(Difference::OnlyOnEni),
    });
    unknown.collect()
}

fn address(entry: Entry, differs: Option<Difference>, holders: &Holders) -> Address {
    let (mut release_after, mut refused) = (None, None);
    match &entry.state {
        State::Releasing { after, .. } | State::Withdrawn { after } => {
            release_after = Some(*after);
        }
        State::Claiming { refusal, .. } => refused = refusal.as_ref().map(|r| r.error()),
        _ => {}
    }
    Address {
        address: entry.address,
        state: entry.state.name().to_owned(),
        since: Some(entry.since),
        release_after,
        owner: entry.owner.map(|owner| owned(owner, holders)),
        refusal: refused.map(|error| error.to_string()),
        differs,
    }
}

fn owned(owner: Owner, holders: &Holders) -> Owned {
    let (alive, unknown) = match owner.presence(holders) {
        Presence::Living => (Some(true), None),
        Presence::Ended => (Some(false), None),
        Presence::Unknown(why) => (None, Some(why.to_string())),
    };
    Owned {
        alive,
        unknown,
        network: owner.network,
        pod: owner.pod,
        container_id: owner.container_id,
        ifname: owner.ifname,
    }
}
