//! Gives back the prefixes that eni-sync has got for an ENI, for whoever removes eni-sync. One
//! that nobody knows stays with those who have assigned it.

use std::net::IpAddr;

use common::address::Cidr;
use common::attach::inventory::Eni;
use common::error::Result;

use super::Manner;
use super::line::Fate;
use crate::agent::configuration::Configuration;
use crate::agent::reserved;
use crate::ledger::{EniLedger, Event, Prefix, State, now};
use crate::registration::attached;
use crate::registration::in_use::{self, Reach};
use crate::registration::node::Node;
use crate::registration::prefixes::give_back;

/// Has EC2 take every prefix of an ENI that no pod has an address of. Only for the one in turn,
/// unless it only says what would be done.
///
/// # Errors
/// Code 5 or 6 naming a file, and those of looking into the namespaces.
pub(super) fn release(
    node: &Node<'_>,
    ledger: &EniLedger,
    manner: Manner,
) -> Result<Vec<(Cidr, Fate)>> {
    let own = own(ledger)?;
    if own.is_empty() {
        return Ok(Vec::new());
    }
    let mut enis = node.inventory.enis.iter();
    let Some(eni) = enis.find(|eni| eni.id == ledger.id()) else {
        return elsewhere(node, ledger, &own);
    };
    match manner.dry_run {
        true => foretell(node, eni, own),
        false => give_up(node, eni, ledger, &own),
    }
}

/// What [`give_up`] would do.
fn foretell(node: &Node<'_>, eni: &Eni, own: Vec<Prefix>) -> Result<Vec<(Cidr, Fate)>> {
    let whole = attached::reason_to_keep(&eni.mac)?;
    let living = in_use::look_from(node.ledger, Reach::Processes)?;
    let reserved = reserved()?;
    let fate = |prefix: Prefix| {
        let in_use = || give_back::in_use_by(&prefix, &living, &reserved);
        let why = whole.clone().or_else(in_use);
        (prefix.prefix, why.map_or(Fate::WouldBe, Fate::Kept))
    };
    Ok(own.into_iter().map(fate).collect())
}

fn reserved() -> Result<Vec<IpAddr>> {
    reserved::addresses(&Configuration::default())
}

fn give_up(
    node: &Node<'_>,
    eni: &Eni,
    ledger: &EniLedger,
    own: &[Prefix],
) -> Result<Vec<(Cidr, Fate)>> {
    {
        let entries = ledger.open()?;
        for prefix in own {
            entries.note_prefix(prefix, &Event::Ended { after: now() })?;
        }
    }
    let mut kept = Vec::new();
    let outcome = give_back::give_back(node, eni, ledger, reserved, &mut kept);
    let failure = outcome.err().map(|error| error.to_string());
    let left = ledger.read_prefixes()?;
    let fate = |prefix: Cidr| {
        if left.iter().all(|left| left.prefix != prefix) {
            return Fate::Released;
        }
        let why = kept.iter().find(|(kept, _)| *kept == prefix);
        let why = why.map(|(_, why)| why.clone()).or(failure.clone());
        Fate::Kept(why.unwrap_or_else(|| "somebody uses it again".to_owned()))
    };
    let fates = own.iter().map(|own| (own.prefix, fate(own.prefix)));
    Ok(fates.collect())
}

/// The prefixes that eni-sync has got.
fn own(ledger: &EniLedger) -> Result<Vec<Prefix>> {
    let mut own = ledger.read_prefixes()?;
    own.retain(|prefix| prefix.entry.state != State::Adopted);
    Ok(own)
}

/// What becomes of the prefixes of an ENI that is not this node's: they stay on it, if it exists.
fn elsewhere(node: &Node<'_>, ledger: &EniLedger, own: &[Prefix]) -> Result<Vec<(Cidr, Fate)>> {
    let id = ledger.id();
    let actual = node.aws.ec2(&node.inventory.region)?.eni(id);
    let actual = actual.map_err(|failure| failure.error(&format!("look at {id}")))?;
    let fate = match actual {
        Some(_) => Fate::Kept("the ENI is not attached to this node".to_owned()),
        None => Fate::NotThere,
    };
    let fates = own.iter().map(|own| (own.prefix, fate.clone()));
    Ok(fates.collect())
}
