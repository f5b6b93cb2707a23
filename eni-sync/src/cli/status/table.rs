//! The status as text for people.

use common::address::Cidr;
use common::text::printable;

use super::offered::Offered;
use super::{Address, Difference, EniStatus, Plugins, PrefixStatus, Status};
use crate::cli::output::{self, duration};
use crate::ledger::Timestamp;

/// The columns of addresses.
pub(super) const ADDRESS_TITLES: [&str; 7] = [
    "ADDRESS",
    "STATE",
    "SINCE",
    "POD",
    "CONTAINER",
    "NETWORK",
    "NOTE",
];

/// The status at the time `now`.
pub(super) fn render(status: &Status, now: Timestamp) -> String {
    let mut text = match (status.live, status.inventory_age_seconds) {
        (true, _) => format!("{}, as EC2 says now\n", describe(status)),
        (false, Some(age)) => {
            let age = duration(age);
            format!("{}, as EC2 said {age} ago\n", describe(status))
        }
        (false, None) => "no inventory: EC2 has not been asked on this node yet\n".to_owned(),
    };
    for eni in &status.enis {
        text.push('\n');
        text.push_str(&format!("{}\n", printable(&heading(eni))));
        if !eni.addresses.is_empty() || !eni.prefixes.is_empty() {
            text.push_str(&output::table(&rows(eni, now)));
        }
        for why in &eni.damaged {
            text.push_str(&format!("{}\n", printable(why)));
        }
    }
    for why in &status.damaged {
        text.push_str(&format!("\n{}\n", printable(why)));
    }
    let slots = slots(status);
    if !slots.is_empty() {
        text.push('\n');
    }
    for line in slots {
        text.push_str(&format!("{}\n", printable(&line)));
    }
    for resource in &status.resources {
        text.push_str(&format!("\n{}\n", printable(&offered(resource))));
    }
    if !status.plugins.installed.is_empty() {
        text.push_str(&format!("\n{}\n", plugins(&status.plugins)));
    }
    text
}

/// The kinds of ENIs in the configuration, and the slots with their holders.
fn slots(status: &Status) -> Vec<String> {
    let kinds = status.wanted.iter().flatten();
    let kinds = kinds.map(|kind| {
        let (name, attached, count) = (&kind.name, kind.attached, kind.count);
        format!("ENIs {name}: {attached} of {count} attached")
    });
    let cards = status.slots.iter();
    let cards = cards.map(|card| format!("network card {}: {}", card.network_card, card.says()));
    kinds.chain(cards).collect()
}

fn offered(resource: &Offered) -> String {
    let Offered {
        name,
        healthy,
        unhealthy,
        ..
    } = resource;
    let registered = match resource.registered {
        true => "registered with the kubelet",
        false => "not registered with the kubelet",
    };
    let first = format!("resource {name}: {healthy} healthy, {unhealthy} unhealthy, {registered}");
    let too_much = resource.enis.iter().filter(|offer| offer.is_too_much());
    let too_much = too_much.map(|offer| {
        let (eni, devices, room) = (&offer.eni, offer.devices, offer.room.unwrap_or_default());
        format!("{devices} of {eni}, which has room for {room}")
    });
    [first]
        .into_iter()
        .chain(too_much)
        .chain(resource.problems.iter().cloned())
        .collect::<Vec<_>>()
        .join("; ")
}

fn plugins(plugins: &Plugins) -> String {
    let installed = plugins.installed.iter();
    let each: Vec<String> = installed
        .map(|(name, installed)| format!("{name} ({installed})"))
        .collect();
    let directory = plugins.directory.display();
    printable(&format!("plugins in {directory}: {}", each.join(", "))).into_owned()
}

fn describe(status: &Status) -> String {
    let Status {
        instance_id,
        instance_type,
        region,
        ..
    } = status;
    printable(&format!("{instance_id} ({instance_type}, {region})")).into_owned()
}

fn heading(eni: &EniStatus) -> String {
    let Some(known) = &eni.known else {
        return format!("{}: not an ENI of this node", eni.id);
    };
    let interface = match known.interface.as_str() {
        "" => "no interface",
        name => name,
    };
    let cidrs: Vec<String> = known.subnet_cidrs.iter().map(Cidr::to_string).collect();
    let (v4, v6) = (&known.ipv4, &known.ipv6);
    let note = match known.managed {
        true => "",
        false => ", not for pods",
    };
    let wrong = known.seen.iter().flat_map(|seen| seen.wrong());
    let wrong: String = wrong.map(|why| format!(", {why}")).collect();
    format!(
        "{} {interface}, {} {}, IPv4 {}/{}, IPv6 {}/{}{note}{wrong}",
        eni.id,
        known.subnet_id,
        cidrs.join(" "),
        v4.used,
        v4.limit,
        v6.used,
        v6.limit
    )
}

/// The prefixes and the addresses as rows of cells, the titles first.
pub(super) fn rows(eni: &EniStatus, now: Timestamp) -> Vec<Vec<String>> {
    let titles = ADDRESS_TITLES.map(str::to_owned).to_vec();
    let prefixes = eni.prefixes.iter().map(|prefix| prefix_row(prefix, now));
    let addresses = eni.addresses.iter().map(|address| row(address, now));
    let rows = prefixes.chain(addresses);
    std::iter::once(titles).chain(rows).collect()
}

fn prefix_row(prefix: &PrefixStatus, now: Timestamp) -> Vec<String> {
    let dash = || "-".to_owned();
    let since = prefix
        .since
        .map(|since| duration(now.saturating_sub(since)));
    let mut notes = match &prefix.refusal {
        Some(why) => vec![why.clone()],
        None => vec![format!("{} addresses taken", prefix.taken)],
    };
    let file = prefix.ranges_file.as_ref();
    notes.extend(file.map(|file| format!("for host-local, by {file:?}")));
    notes.extend(prefix.differs.map(place_of));
    notes.extend(prefix.release_after.map(|after| leaving(after, now)));
    vec![
        prefix.prefix.to_string(),
        prefix.state.clone(),
        since.unwrap_or_else(dash),
        dash(),
        dash(),
        dash(),
        notes.join("; "),
    ]
}

fn row(address: &Address, now: Timestamp) -> Vec<String> {
    let dash = || "-".to_owned();
    let owner = address.owner.as_ref();
    let since = address
        .since
        .map_or_else(dash, |since| duration(now.saturating_sub(since)));
    let pod = owner.filter(|owner| !owner.pod.is_empty());
    vec![
        address.address.to_string(),
        address.state.clone(),
        since,
        pod.map_or_else(dash, |owner| owner.pod.clone()),
        owner.map_or_else(dash, |o| format!("{}/{}", short(&o.container_id), o.ifname)),
        owner.map_or_else(dash, |owner| owner.network.clone()),
        note(address, now),
    ]
}

/// A container's id as other tools abbreviate it.
fn short(container_id: &str) -> &str {
    container_id.get(..13).unwrap_or(container_id)
}

fn note(address: &Address, now: Timestamp) -> String {
    let mut notes = Vec::new();
    notes.extend(address.differs.map(place_of));
    notes.extend(address.release_after.map(|after| leaving(after, now)));
    let is_in_use = address.release_after.is_none();
    let owner = address.owner.as_ref();
    if let Some(owner) = owner.filter(|_| is_in_use) {
        match (owner.alive, &owner.unknown) {
            (Some(false), _) => notes.push("its attachment has ended".to_owned()),
            (None, Some(why)) => notes.push(format!("its attachment may live: {why}")),
            _ => {}
        }
    }
    notes.extend(address.refusal.clone());
    notes.join("; ")
}

fn place_of(differs: Difference) -> String {
    match differs {
        Difference::OnlyInLedger => "only in the ledger".to_owned(),
        Difference::OnlyOnEni => "only on the ENI".to_owned(),
    }
}

fn leaving(after: Timestamp, now: Timestamp) -> String {
    match after.checked_sub(now) {
        Some(rest) if rest > 0 => format!("leaves in {}", duration(rest)),
        _ => "leaves next".to_owned(),
    }
}
