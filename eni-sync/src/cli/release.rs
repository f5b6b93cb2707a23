//! `eni-sync release`: releases addresses and prefixes for an operator. An address that an
//! existing attachment or any pod has is never released; one without a known owner only with
//! `--force`.

mod addresses;
mod candidate;
mod line;
mod prefixes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use common::address::Cidr;
use common::error::{Error, Errors, Result};

use self::line::{Fate, Line, Subject, out_of_reach, report};
use super::doctor;
use crate::agent::configuration::Configuration;
use crate::agent::reserved;
use crate::ledger::{EniLedger, Ledger};
use crate::registration::node::{Node, TURN_DEADLINE};
use crate::registration::shared::Shared;
use crate::registration::unheard;
use crate::vpc::clients::Aws;
use crate::vpc::ec2::Description;
use crate::vpc::eni;
use crate::vpc::inventory;

/// The selection: an address must match all options.
#[derive(Args, Clone, Debug, Default)]
#[group(required = true, multiple = true)]
pub(crate) struct Selection {
    /// The addresses that the ledger has for a network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// The addresses of an ENI
    #[arg(long, value_name = "ID")]
    eni: Option<String>,
    /// These addresses
    #[arg(long, value_name = "ADDRESS", num_args = 1..)]
    address: Vec<IpAddr>,
    /// These prefixes, with those of their addresses that no pod has any more
    #[arg(long, value_name = "CIDR", num_args = 1..)]
    #[arg(conflicts_with_all = ["network", "address", "foreign"])]
    prefix: Vec<Cidr>,
    /// Addresses that other programs have left: on an ENI for pods, of no attachment that
    /// eni-sync knows, in no pool, and on no interface of any namespace
    #[arg(long)]
    foreign: bool,
    /// The addresses that eni-sync itself has assigned.
    #[arg(skip)]
    own: bool,
}

/// How to release them.
#[derive(Args, Clone, Debug)]
pub(crate) struct Manner {
    /// Also release addresses without a known owner, and those of a pool; never those of a pod
    #[arg(long)]
    pub(super) force: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The configuration of the agent, which has the directories of host-local's reservations;
    /// without it, /etc/eni-sync/agent.json if there is one
    #[arg(long, value_name = "FILE")]
    pub(super) agent_config: Option<PathBuf>,
}

impl Manner {
    /// The addresses that host-local has reserved on this node, with the files.
    ///
    /// # Errors
    /// Code 5, 6 or 7 naming the configuration of the agent or a directory.
    fn reserved(&self) -> Result<BTreeMap<IpAddr, PathBuf>> {
        reserved::everywhere(&self.configuration()?)
    }

    /// The same, including those of every ADD that may have read a ranges file as it was before
    /// this call.
    ///
    /// # Errors
    /// As for [`Manner::reserved`], and code 11 when the lock of a network is not free in time.
    fn settled(&self) -> Result<BTreeMap<IpAddr, PathBuf>> {
        let configuration = self.configuration()?;
        reserved::await_adds(&configuration)?;
        reserved::everywhere(&configuration)
    }

    fn configuration(&self) -> Result<Configuration> {
        let path = doctor::agent_config(self.agent_config.as_deref());
        let configuration = path.map(|path| Configuration::read(&path)).transpose()?;
        Ok(configuration.unwrap_or_default())
    }
}

/// Releases the selection. The status is a failure when any of it stays.
///
/// # Errors
/// Code 7 for an ENI that is unknown or not for pods; the errors of AWS; code 5 naming a file
/// of the ledger. An error of one ENI is returned when the others are done.
pub(crate) fn run(selection: &Selection, manner: &Manner) -> Result<ExitCode> {
    let (lines, errors) = release(selection, manner)?;
    report(selection, &lines, errors)
}

/// Releases the addresses and prefixes that eni-sync has assigned and no pod has; true when any
/// of them stays. Those that other programs have assigned are not touched.
///
/// # Errors
/// As for [`run`].
pub(crate) fn release_own(manner: &Manner) -> Result<bool> {
    let selection = Selection {
        own: true,
        ..Selection::default()
    };
    let (lines, errors) = release(&selection, manner)?;
    if !lines.is_empty() || !errors.is_empty() {
        report(&selection, &lines, errors)?;
    }
    Ok(lines.iter().any(Line::is_kept))
}

/// Releases the selection, ENI by ENI: returns the results, and the errors of any of the ENIs.
fn release(selection: &Selection, manner: &Manner) -> Result<(Vec<Line>, Errors)> {
    let manner = &Manner {
        force: manner.force || selection.foreign || selection.own,
        ..manner.clone()
    };
    let aws = Aws::open();
    let ledger = Ledger::of_node();
    let (inventory, found) = inventory::ask(&aws)?;
    let node = Node {
        aws: &aws,
        ledger: &ledger,
        inventory: &inventory,
        shared: &Shared::default(),
    };
    let (mut lines, mut errors) = (Vec::new(), Errors::default());
    for eni in enis(&ledger, &found, selection)? {
        let ledger = ledger.of_eni(&eni);
        let released =
            ledger.and_then(|ledger| release_of_eni(&node, &ledger, selection, manner, &mut lines));
        errors.keep(released);
    }
    lines.extend(out_of_reach(selection, &found, &lines));
    Ok((lines, errors))
}

/// Releases the selection of one ENI. Adds the results to `lines`, also if the rest fails.
fn release_of_eni(
    node: &Node<'_>,
    ledger: &EniLedger,
    selection: &Selection,
    manner: &Manner,
    lines: &mut Vec<Line>,
) -> Result<()> {
    let _turn = match manner.dry_run {
        true => None,
        false => Some(ledger.take_turn(TURN_DEADLINE)?),
    };
    if !manner.dry_run {
        // Addresses of a lost answer were chosen for this node, so other programs have not left
        // them.
        unheard::find(node, ledger)?;
    }
    let line = |subject: Subject, fate: Fate| Line {
        subject,
        eni: ledger.id().to_owned(),
        fate,
    };
    if selection.prefix.is_empty() {
        let addresses = addresses::release(node, ledger, selection, manner)?.into_iter();
        lines.extend(addresses.map(|(address, fate)| line(Subject::Address(address), fate)));
    }
    // The addresses of this node's own prefixes are free by now, apart from those that pods
    // have.
    let prefixes = match selection.own {
        true => prefixes::release_own(node, ledger, manner)?,
        false => prefixes::release(node, ledger, selection, manner)?,
    };
    let prefixes = prefixes.into_iter();
    lines.extend(prefixes.map(|(prefix, fate)| line(Subject::Prefix(prefix), fate)));
    Ok(())
}

/// The ENIs to which the selection can apply: those for pods, and those in the ledger.
fn enis(ledger: &Ledger, found: &[Description], selection: &Selection) -> Result<BTreeSet<String>> {
    let known = ledger.enis()?;
    let known = known.iter().map(|eni| eni.id().to_owned());
    let managed = found
        .iter()
        .filter(|eni| eni::require_releasable(eni).is_ok());
    let mut enis: BTreeSet<String> = managed.map(|eni| eni.id.clone()).chain(known).collect();
    if let Some(wanted) = &selection.eni {
        if let Some(eni) = found.iter().find(|eni| eni.id == *wanted) {
            eni::require_releasable(eni)?;
        }
        enis.retain(|eni| eni == wanted);
        if enis.is_empty() {
            let msg = format!("{wanted:?} is neither an ENI of this node nor in its ledger");
            return Err(Error::config(msg));
        }
    }
    Ok(enis)
}
