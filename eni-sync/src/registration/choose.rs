//! Gives addresses to an attachment whose network has no ranges: the addresses that it
//! requests, and for each other family one that EC2 chooses, or has chosen earlier for an
//! attachment that does not need it any more. If the attachment asks again, it gets the same
//! addresses.

use std::collections::HashMap;
use std::net::IpAddr;

use common::address::Cidr;
use common::attach::inventory::{Eni, require_staying};
use common::error::{Error, ErrorCode, Result};

use crate::ledger::{EniLedger, Entries, Entry, Excluded, Ledger, Owner, State, Whose, Wish};
use crate::registration::attached::is_part;
use crate::registration::claim::require_own;
use crate::registration::count::{self, is_chosen_for};
use crate::registration::in_use;
use crate::registration::node::Node;
use crate::registration::prefixes::give;
use crate::registration::prefixes::supply::{prefix_of, there};
use crate::registration::register::{confirm, register, settle_until};
use crate::registration::request::{Choice, Request};
use crate::registration::shared::Shared;
use crate::registration::unheard;
use crate::vpc::clients::Aws;
use crate::vpc::ec2::Family;
use crate::vpc::eni;
use crate::vpc::inventory;

/// Gives the attachment of `request` its addresses, each with the prefix length of the subnet.
///
/// # Errors
/// Code 7 for an address that can never be given, 11 for one that EC2 or another attachment
/// does not give now, 100 without permission, 5 or 6 naming a file of the ledger.
pub(crate) fn choose(
    aws: &Aws,
    ledger: &Ledger,
    shared: &Shared,
    choice: &Choice,
    request: &Request,
) -> Result<Vec<Cidr>> {
    request.owner.require_short()?;
    let (inventory, eni) = inventory::find(aws, &choice.mac)?;
    eni::require_managed(&eni)?;
    let families = choice.families(&eni)?;
    if !choice.addresses.is_empty() {
        let prefixes = ledger.of_attached(&eni)?.read_prefixes()?;
        choice.require_included(&ledger.excluded()?)?;
        choice.require_free(&eni, &there(&prefixes, &eni.prefixes))?;
        choice.require_unpooled(&ledger.of_attached(&eni)?)?;
    }
    let node = Node {
        aws,
        ledger,
        inventory: &inventory,
        shared,
    };
    let addresses = match choice.is_whole && choice.addresses.is_empty() {
        true => of_eni(&node, &eni, choice, &request.owner)?,
        false => {
            register(&node, &eni, &choice.addresses, request)?;
            let chosen = of_ec2(&node, &eni, &families, request)?;
            choice.addresses.iter().copied().chain(chosen).collect()
        }
    };
    // Who is detaching it looks into the ledger after it has said so.
    require_staying(&eni.interface, &eni.mac)?;
    Ok(addresses
        .into_iter()
        .filter_map(|address| in_subnet(&eni, address))
        .collect())
}

/// An address with the prefix length of the subnet.
pub(crate) fn in_subnet(eni: &Eni, address: IpAddr) -> Option<Cidr> {
    let subnet = eni.subnet_cidrs.iter().find(|cidr| cidr.contains(address));
    Cidr::new(address, subnet?.prefix())
}

impl Choice {
    /// The families of which EC2 has to choose an address.
    fn families(&self, eni: &Eni) -> Result<Vec<Family>> {
        let has = |family: &Family| {
            let first = |cidr: &Cidr| Family::of(cidr.address()) == *family;
            eni.subnet_cidrs.iter().any(first)
        };
        let wanted = self.families.clone();
        let missing = wanted.iter().flatten().find(|family| !has(family));
        if let Some(family) = missing {
            let (subnet, family) = (&eni.subnet_id, family.name());
            let msg = format!("{subnet}, the subnet of {}, has no {family} range", eni.id);
            let details = "name the families that it has, or give the subnet a range";
            return Err(Error::config(msg).with_details(details));
        }
        let mut families = wanted.unwrap_or_else(|| Family::ALL.into_iter().filter(has).collect());
        let is_named = |family: &Family| {
            let mut named = self.addresses.iter();
            named.any(|address| Family::of(*address) == *family)
        };
        families.retain(|family| !self.is_whole && !is_named(family));
        Ok(families)
    }

    /// Checks that no requested address is excluded.
    fn require_included(&self, excluded: &Excluded) -> Result<()> {
        let mut addresses = self.addresses.iter();
        match addresses.find(|address| excluded.contains(**address)) {
            None => Ok(()),
            Some(address) => {
                let details = "exclude in the configuration of the agent names it";
                Err(Error::config(format!("requested ip {address} is excluded"))
                    .with_details(details))
            }
        }
    }

    /// Checks that the ledger would know another user of a requested address: the primary
    /// addresses of the ENI are the node's, and any pod may have got an address of a prefix.
    fn require_free(&self, eni: &Eni, prefixes: &[Cidr]) -> Result<()> {
        if self.is_whole {
            return Ok(());
        }
        for address in &self.addresses {
            if eni.primary_addresses.contains(address) {
                let msg = format!("{address} is an address of {} itself", eni.id);
                let details = "pods that share an ENI get its secondary addresses";
                return Err(Error::config(msg).with_details(details));
            }
            if let Some(prefix) = prefix_of(prefixes, *address) {
                let msg = format!("{address} is in the prefix {prefix} of {}", eni.id);
                let details = format!(
                    "any pod of this node may get it; ask for addresses outside of prefixes: a \
                     CIDR reservation of {} of type explicit keeps them from prefixes",
                    eni.subnet_id
                );
                return Err(Error::config(msg).with_details(details));
            }
        }
        Ok(())
    }
}

impl Choice {
    /// Checks that host-local cannot give a requested address to another pod.
    fn require_unpooled(&self, ledger: &EniLedger) -> Result<()> {
        let entries = ledger.open()?;
        for address in &self.addresses {
            let entry = entries.get(*address)?;
            if entry.is_some_and(|entry| entry.state == State::Pooled) {
                let msg = format!("{address} is in a pool of {}", ledger.id());
                let details = "host-local may give it to any pod of the network that has the pool: \
                               ask for addresses outside of the ranges of pools";
                return Err(Error::config(msg).with_details(details));
            }
        }
        Ok(())
    }
}

/// The addresses of an ENI that one attachment has as a whole, the primary ones first. They
/// need not be claimed, and stay on the ENI when the attachment ends.
fn of_eni(node: &Node<'_>, eni: &Eni, choice: &Choice, owner: &Owner) -> Result<Vec<IpAddr>> {
    let what = format!("look at {}", eni.id);
    let found = node.aws.ec2(&node.inventory.region)?.eni(&eni.id);
    let found = found.map_err(|failure| failure.error(&what))?;
    let found = found.ok_or_else(|| {
        let msg = format!("EC2 does not show {} at this moment", eni.id);
        Error::new(ErrorCode::TRY_AGAIN, msg)
    })?;
    require_own(node, eni, &found.primary, owner)?;
    let wanted = choice.families.clone().unwrap_or_default();
    let is_wanted = |a: &IpAddr| wanted.is_empty() || wanted.contains(&Family::of(*a));
    let mut parts = parts(node, eni, found.secondary, owner)?;
    parts.retain(is_wanted);
    require_listed(node, eni, &parts)?;
    let mut addresses = found.primary;
    addresses.extend(parts);
    let is_of = |family: Family| move |address: &IpAddr| Family::of(*address) == family;
    let missing = wanted.iter().find(|f| !addresses.iter().any(is_of(**f)));
    if let Some(family) = missing {
        let msg = format!("{} has no {} address", eni.id, family.name());
        let details = "assign one to the ENI, or do not name this family";
        return Err(Error::config(msg).with_details(details));
    }
    addresses.retain(is_wanted);
    Ok(addresses)
}

/// Checks that the metadata show these addresses as well: a description may be older than the
/// removal of one of them, which another ENI may have by now.
fn require_listed(node: &Node<'_>, eni: &Eni, addresses: &[IpAddr]) -> Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    let listed = node.aws.imds_soon()?.addresses(&eni.mac)?;
    match addresses.iter().find(|address| !listed.contains(address)) {
        None => Ok(()),
        Some(address) => {
            let msg = format!("EC2 shows {address} on {}, and the metadata do not", eni.id);
            let details = "one of them is old: the address has come, or left, a moment ago";
            Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details))
        }
    }
}

/// Those of the secondary addresses that are for nobody else: not claimed, not chosen by EC2 in an
/// answer that was lost, and not used without a claim. The attachment may have them already.
fn parts(
    node: &Node<'_>,
    eni: &Eni,
    mut secondary: Vec<IpAddr>,
    owner: &Owner,
) -> Result<Vec<IpAddr>> {
    let mut known = HashMap::new();
    {
        let entries = node.ledger.of_attached(eni)?.open()?;
        for address in &secondary {
            known.insert(*address, entries.get(*address)?);
        }
        secondary.retain(|address| {
            let entry = known.get(address).and_then(Option::as_ref);
            let is_own = entry.is_some_and(|entry| entry.is_in_use() && entry.is_owned_by(owner));
            is_own || is_part(entry)
        });
        let unknown = |address: &IpAddr| known.get(address).is_none_or(Option::is_none);
        if let Some(unheard) = unheard::readable(&entries)? {
            secondary.retain(|a| !unknown(a) || unheard.before.contains(a));
        }
    }
    if !secondary.is_empty() {
        let used = in_use::look_beside(owner, node.ledger, |a| secondary.contains(&a))?;
        secondary.retain(|address| !used.has(*address));
    }
    Ok(secondary)
}

/// Gives an attachment one address of each family, chosen by EC2.
fn of_ec2(
    node: &Node<'_>,
    eni: &Eni,
    families: &[Family],
    request: &Request,
) -> Result<Vec<IpAddr>> {
    if families.is_empty() {
        return Ok(Vec::new());
    }
    let ledger = node.ledger.of_attached(eni)?.until(node.aws.deadline());
    if let Some(held) = wish(&ledger, eni, families, request)? {
        return Ok(held);
    }
    count::serve(&ledger, eni, Whose::Of(&request.owner))?;
    give::cover(node, &ledger, eni)?;
    let claimed = claimed(&ledger.open()?, families, request)?;
    confirm(node, eni, &ledger, &claimed, request)?;
    settle_until(node, eni, &ledger, |entries| {
        answer(entries, families, request)
    })
}

/// Writes a wish for each family of which the attachment has no address yet and no prefix of
/// the ENI has a free one. Returns the addresses if the attachment has all of them.
fn wish(
    ledger: &EniLedger,
    eni: &Eni,
    families: &[Family],
    request: &Request,
) -> Result<Option<Vec<IpAddr>>> {
    let entries = ledger.open()?;
    let all = entries.all()?;
    let (mut held, mut giver) = (Vec::new(), give::Giver::new(&entries, eni)?);
    for family in families {
        let ipv6 = *family == Family::V6;
        match own(&all, *family, request) {
            // EC2 refused it when the attachment asked before.
            Some(entry) if entry.is_refused() => {
                entries.end(entry.clone(), "it could not be had")?;
            }
            Some(entry) => {
                held.extend((entry.state == State::Held).then_some(entry.address));
                continue;
            }
            None => {}
        }
        match giver.give(*family, &request.owner)? {
            Some(address) => held.push(address),
            None => entries.write_wish(&Wish::new(request.owner.clone(), ipv6))?,
        }
    }
    Ok((held.len() == families.len()).then_some(held))
}

/// The entry of the address that EC2 has chosen for an attachment.
fn own<'a>(all: &'a [Entry], family: Family, request: &Request) -> Option<&'a Entry> {
    let ipv6 = family == Family::V6;
    let mut all = all.iter();
    all.find(|entry| is_chosen_for(entry, &request.owner, ipv6))
}

/// The addresses that an attachment has claimed.
fn claimed(entries: &Entries, families: &[Family], request: &Request) -> Result<Vec<IpAddr>> {
    if families.iter().all(|f| waits(entries, *f, request)) {
        return Ok(Vec::new());
    }
    let all = entries.all()?;
    let own = |family: &Family| own(&all, *family, request);
    Ok(families
        .iter()
        .filter_map(own)
        .map(|entry| entry.address)
        .collect())
}

/// The addresses that an attachment has, once it has all of them.
///
/// # Errors
/// The refusal of one of them; code 11 when the attachment has ended meanwhile.
fn answer(
    entries: &Entries,
    families: &[Family],
    request: &Request,
) -> Result<Option<Vec<IpAddr>>> {
    if families.iter().any(|f| waits(entries, *f, request)) {
        return Ok(None);
    }
    let (mut held, all) = (Vec::new(), entries.all()?);
    for family in families {
        let entry = own(&all, *family, request);
        match entry.map(|entry| (entry.address, &entry.state)) {
            Some((address, State::Held)) => held.push(address),
            Some((
                _,
                State::Claiming {
                    refusal: Some(refusal),
                    ..
                },
            )) => return Err(refusal.error()),
            Some(_) => {}
            None => require_wish(entries, *family, request)?,
        }
    }
    Ok((held.len() == families.len()).then_some(held))
}

/// Whether an attachment still waits for an address of a family. Whoever gives it one, or
/// refuses it, changes its wish: one file tells, however many pods have addresses.
fn waits(entries: &Entries, family: Family, request: &Request) -> bool {
    // A wish that cannot be read is reported where the entries do not tell.
    let wish = entries.wish(&request.owner, family == Family::V6);
    wish.is_ok_and(|wish| wish.is_some_and(|wish| wish.refusal.is_none()))
}

fn require_wish(entries: &Entries, family: Family, request: &Request) -> Result<()> {
    let wish = entries.wish(&request.owner, family == Family::V6)?;
    let wish = wish.ok_or_else(|| {
        let family = family.name();
        let msg = format!("the attachment ended while it waited for an {family} address");
        Error::new(ErrorCode::TRY_AGAIN, msg)
    })?;
    wish.refusal.map_or(Ok(()), |refusal| Err(refusal.error()))
}
