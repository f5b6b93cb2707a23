//! Checks of the node's ENIs, independent of networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::attach::inventory::{Eni, NO_MANAGE_TAG};

use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::Finding;
use crate::ledger::{Entry, Event, State};
use crate::registration::prefixes::supply;
use crate::vpc::ec2::{Description, Family};
use crate::vpc::eni;

pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    let is_for_pods = |eni: &&Eni| eni::require_managed(eni).is_ok();
    let for_pods: Vec<&Eni> = facts.enis().iter().filter(is_for_pods).collect();
    let mut findings = Vec::new();
    findings.extend(existence(facts, &for_pods));
    findings.extend(subnets(&for_pods));
    findings.extend(facts.unread_records.iter().map(|why| record(why)));
    for eni in for_pods {
        findings.push(interface(facts, eni));
        findings.extend(uses(facts, eni));
        if let Some(own) = facts.own(&eni.id) {
            findings.push(source_dest_check(own));
            findings.push(delete_on_termination(own));
            let families = Family::ALL.into_iter();
            findings.extend(families.filter_map(|family| slots(facts, eni, own, family)));
        }
    }
    findings
}

fn existence(facts: &Facts, for_pods: &[&Eni]) -> Option<Finding> {
    const CHECK: &str = "eni-for-pods";
    let inventory = facts.inventory.as_ref()?;
    let count = for_pods.len();
    Some(match count {
        0 => Finding::error(
            CHECK,
            &inventory.instance_id,
            "the node has no ENI for pods",
        )
        .advise(format!(
            "attach an ENI, and tag it {NO_MANAGE_TAG}=true before that"
        )),
        _ => Finding::ok(CHECK, &inventory.instance_id, format!("{count} for pods")),
    })
}

/// A record of an ENI that cannot be read.
fn record(why: &str) -> Finding {
    Finding::error("eni-record", "node", why.to_owned()).advise(
        "if it is leaving-<MAC>.json, no pod gets the ENI with this MAC address while the file is \
         there; if eni-sync detach does not run, and EC2 shows the ENI attached to this instance, \
         remove the file",
    )
}

fn subnets(for_pods: &[&Eni]) -> Vec<Finding> {
    let mut by_subnet: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for eni in for_pods {
        by_subnet.entry(&eni.subnet_id).or_default().push(&eni.id);
    }
    let several = by_subnet.into_iter().filter(|(_, enis)| enis.len() > 1);
    let finding = |(subnet, enis): (&str, Vec<&str>)| {
        let says = format!("{} are in one subnet", enis.join(" and "));
        Finding::info("same-subnet", subnet, says)
            .advise("eni-sync tells them apart by MAC address; a selector by subnet cannot")
    };
    several.map(finding).collect()
}

fn interface(facts: &Facts, eni: &Eni) -> Finding {
    const CHECK: &str = "eni-interface";
    match facts.host.link(&eni.mac) {
        None => Finding::warning(
            CHECK,
            &eni.id,
            format!("the node has no interface with its MAC address {}", eni.mac),
        )
        .advise("it is in a pod (host-device), or bound to a driver for user space"),
        Some(link) if !link.up => {
            let says = format!("{} is down", link.name);
            Finding::warning(CHECK, &eni.id, says).advise(up(&link.name))
        }
        Some(link) => Finding::ok(CHECK, &eni.id, format!("{} is up", link.name)),
    }
}

/// The uses of the interface by the node itself, although it is for pods.
fn uses(facts: &Facts, eni: &Eni) -> Vec<Finding> {
    let Some(link) = facts.host.link(&eni.mac) else {
        return Vec::new();
    };
    let name = &link.name;
    let used = facts.host.uses(link);
    let leased: Vec<String> = used.leased.iter().map(ToString::to_string).collect();
    let (has_default, servers) = (used.default_route, used.name_servers);
    let advice = "let no network manager configure this interface: for systemd-networkd, a file \
                  below /etc/systemd/network that matches its MAC address, with Unmanaged=yes";
    let finding = |check, is_used: bool, used: String, unused: &str| match is_used {
        true => Finding::warning(check, &eni.id, used).advise(advice),
        false => Finding::ok(check, &eni.id, format!("{name} {unused}")),
    };
    let leased_says = format!("{name} has {} for a limited time", leased.join(", "));
    let default_says = format!("the node has a default route through {name}");
    let servers_say = format!("the node asks {servers} for names through {name}");
    vec![
        finding(
            "eni-dhcp",
            !leased.is_empty(),
            leased_says,
            "has no address by DHCP",
        ),
        finding(
            "eni-default-route",
            has_default,
            default_says,
            "has no default route of the node",
        ),
        finding(
            "eni-dns",
            !servers.is_empty(),
            servers_say,
            "has no name servers",
        ),
    ]
}

/// The advice for an interface that is down, and the usual reason.
pub(crate) fn up(name: &str) -> String {
    format!(
        "ip link set {name} up; Amazon Linux 2023 does not set up an ENI that is attached after the boot"
    )
}

fn source_dest_check(own: &Description) -> Finding {
    const CHECK: &str = "source-dest-check";
    match own.source_dest_check {
        true => Finding::ok(
            CHECK,
            &own.id,
            "on: the VPC drops what is sent from an address that has moved to another ENI",
        ),
        false => Finding::info(CHECK, &own.id, "off")
            .advise("eni-sync does not need it off; pods that route for others do"),
    }
}

fn delete_on_termination(own: &Description) -> Finding {
    const CHECK: &str = "delete-on-termination";
    match own.delete_on_termination {
        true => Finding::ok(CHECK, &own.id, "its addresses go with the instance"),
        false => Finding::warning(
            CHECK,
            &own.id,
            "it stays with all its addresses when the instance ends",
        )
        .advise("set DeleteOnTermination on its attachment"),
    }
}

/// Whether an ENI has a free address for the next pod. Addresses of a pool and in cool-down can
/// be given to it; an ENI that one pod has as a whole, or that a driver for user space uses,
/// needs none.
fn slots(facts: &Facts, eni: &Eni, own: &Description, family: Family) -> Option<Finding> {
    const CHECK: &str = "slots";
    let used = own.used(family);
    let limit = family.limit(eni);
    let name = match family {
        Family::V4 => "IPv4",
        Family::V6 if used == 0 => return None,
        Family::V6 => "IPv6",
    };
    let says = format!("{used} of {limit} {name} addresses used");
    let is_shared = facts.host.link(&eni.mac).is_some();
    Some(match limit {
        // The limit is not known.
        0 => Finding::info(CHECK, &eni.id, format!("{used} {name} addresses used")),
        limit if used < limit => Finding::ok(CHECK, &eni.id, says),
        _ if !is_shared => Finding::ok(CHECK, &eni.id, format!("{says}, all by one pod")),
        _ => full(facts, eni, says, family),
    })
}

fn full(facts: &Facts, eni: &Eni, says: String, family: Family) -> Finding {
    const CHECK: &str = "slots";
    let is_free = |entry: &&Entry| {
        let can_be_given = matches!(entry.state, State::Pooled | State::Releasing { .. });
        can_be_given && Family::of(entry.address) == family
    };
    let single = entries(facts, eni).iter().filter(is_free).count();
    let (for_all, for_pools) = free_in_prefixes(facts, eni, family);
    let parts = [
        (single, format!(", {single} of them by no pod")),
        (
            for_all,
            format!(", and {for_all} addresses of its prefixes are free"),
        ),
        (
            for_pools,
            format!(", and {for_pools} addresses of its prefixes are free for host-local"),
        ),
    ];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    let says = parts.fold(says, |says, (_, part)| says + &part);
    let who = match (single, for_all, for_pools) {
        (0, 0, 0) => {
            return Finding::error(CHECK, &eni.id, says)
                .advise("the next pod fails: use a larger instance type or another ENI");
        }
        (0, 0, _) => "pods of networks without a pool of prefixes fail",
        (_, 0, _) => "pods beyond these fail",
        _ => "pods beyond these fail, and those that ask for an address by name",
    };
    let advice = format!("{who}: use a larger instance type or another ENI");
    Finding::warning(CHECK, &eni.id, says).advise(advice)
}

fn entries<'a>(facts: &'a Facts, eni: &Eni) -> &'a [Entry] {
    let ledger = facts.ledger.as_ref().ok();
    let entries = ledger.and_then(|ledger| ledger.get(&eni.id));
    entries.map_or(&[], Vec::as_slice)
}

/// How many addresses of an ENI's prefixes are free: for networks without ranges, and for the
/// networks whose host-local has a ranges file. A pod that only host-local knows has one, too.
fn free_in_prefixes(facts: &Facts, eni: &Eni, family: Family) -> (usize, usize) {
    let mut taken = entries(facts, eni).to_vec();
    let is_unknown = |address: &&IpAddr| taken.iter().all(|entry| entry.address != **address);
    let unknown = facts.reserved.iter().filter(is_unknown);
    let unknown = unknown.filter_map(|address| Entry::begin(*address, &Event::Seen, None));
    let unknown: Vec<Entry> = unknown.collect();
    taken.extend(unknown);
    let prefixes = facts.prefixes.get(&eni.id).into_iter().flatten();
    let of_family = prefixes.filter(|p| Family::of(p.prefix.address()) == family);
    of_family.fold((0usize, 0usize), |(for_all, for_pools), prefix| {
        let free = supply::free(prefix, &taken);
        match prefix.ranges_file {
            None => (for_all.saturating_add(free), for_pools),
            Some(_) => (for_all, for_pools.saturating_add(free)),
        }
    })
}
