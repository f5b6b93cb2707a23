//! Checks of the addresses that networks hand out, against the subnet of their ENI and all ENIs
//! in it.

use std::net::IpAddr;

use common::address::Cidr;
use common::attach::inventory::Eni;

use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::network::Network;
use crate::cli::doctor::range::{Range, reserved, router};
use crate::vpc::ec2::{Description, Family};

const OWNER: &str = "foreign-owner";
/// How many addresses one finding names.
const NAMED: usize = 5;

pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for network in &facts.networks {
        let ranges = match &network.ranges {
            Ok(ranges) => ranges,
            Err(why) => {
                let finding = Finding::error("range", &network.subject, why);
                findings.push(finding.advise("its IPAM plugin refuses it, too"));
                continue;
            }
        };
        let Some(eni) = facts.eni_of(network) else {
            continue;
        };
        for range in ranges {
            findings.extend(check_range(facts, network, eni, range));
        }
    }
    findings
}

fn check_range(facts: &Facts, network: &Network, eni: &Eni, range: &Range) -> Vec<Finding> {
    let subject = &network.subject;
    let of_eni = |cidr: &&Cidr| cidr.contains(range.first) && cidr.contains(range.last);
    let Some(subnet) = eni.subnet_cidrs.iter().copied().find(|cidr| of_eni(&cidr)) else {
        return vec![outside(subject, eni, range)];
    };
    let inside = format!("{range} is in {subnet} of {}", eni.subnet_id);
    let mut findings = vec![
        Finding::ok("range-subnet", subject, inside),
        mask(subject, subnet, range),
        reserved_addresses(subject, subnet, range),
    ];
    findings.extend(gateway(subject, subnet, range));
    if let Some(own) = facts.own(&eni.id) {
        findings.extend(slots(subject, eni, own, range));
        findings.extend(owners(facts, network, own, range));
    }
    let reservations = facts.reservations.get(&eni.subnet_id);
    findings.extend(reservations.map(|reservations| {
        let explicit = reservations.iter().filter(|found| found.is_explicit);
        let cidrs: Vec<Cidr> = explicit.map(|found| found.cidr).collect();
        reservation(subject, eni, range, &cidrs)
    }));
    findings
}

fn outside(subject: &str, eni: &Eni, range: &Range) -> Finding {
    let cidrs: Vec<String> = eni.subnet_cidrs.iter().map(Cidr::to_string).collect();
    let cidrs = cidrs.join(", ");
    let says = format!("{range} is not in {}, which has {cidrs}", eni.subnet_id);
    Finding::error("range-subnet", subject, says)
        .advise("EC2 assigns only addresses of the ENI's subnet")
}

fn mask(subject: &str, subnet: Cidr, range: &Range) -> Finding {
    const CHECK: &str = "range-mask";
    let (given, needed) = (range.subnet.prefix(), subnet.prefix());
    match given == needed {
        true => Finding::ok(CHECK, subject, format!("/{given}")),
        false => {
            let says = format!("pods get a /{given}, and the subnet is {subnet}");
            Finding::error(CHECK, subject, says).advise(format!(
                "write the whole subnet {subnet}, with rangeStart and rangeEnd for the part"
            ))
        }
    }
}

fn reserved_addresses(subject: &str, subnet: Cidr, range: &Range) -> Finding {
    const CHECK: &str = "range-reserved";
    let found = reserved(subnet);
    let found: Vec<IpAddr> = found.into_iter().filter(|a| range.contains(*a)).collect();
    match found.is_empty() {
        true => Finding::ok(CHECK, subject, "none of AWS' own addresses is in the range"),
        false => {
            let says = format!("{range} has addresses of AWS: {}", named(&found));
            Finding::error(CHECK, subject, says).advise(
                "set rangeStart and rangeEnd: the first four addresses and the last one are AWS'",
            )
        }
    }
}

/// For IPv4 only: the router of an IPv6 subnet is announced and has no address in the subnet.
fn gateway(subject: &str, subnet: Cidr, range: &Range) -> Option<Finding> {
    const CHECK: &str = "gateway";
    let gateway = range.gateway.filter(IpAddr::is_ipv4)?;
    let router = router(subnet);
    Some(match gateway == router {
        true => Finding::ok(CHECK, subject, gateway.to_string()),
        false => {
            let says = format!("{gateway} is not the router of {subnet}");
            Finding::error(CHECK, subject, says).advise(format!("it is {router}"))
        }
    })
}

fn slots(subject: &str, eni: &Eni, own: &Description, range: &Range) -> Option<Finding> {
    const CHECK: &str = "range-slots";
    let family = Family::of(range.first);
    let limit = family.limit(eni);
    if limit == 0 {
        return None;
    }
    if range.is_within(&own.prefixes) {
        let says = format!("{range} is in a prefix of {}", own.id);
        return Some(Finding::ok(CHECK, subject, says));
    }
    let in_range = own.secondary.iter().filter(|a| range.contains(**a)).count();
    let others = own.used(family).saturating_sub(in_range);
    let free = limit.saturating_sub(others);
    let says = format!(
        "{} addresses in the range, {free} slots on {}",
        range.size(),
        eni.id
    );
    Some(
        match u128::try_from(free).is_ok_and(|free| free < range.size()) {
            true => Finding::warning(CHECK, subject, says).advise(
                "pods beyond that fail to start: let the scheduler count, or use a smaller range",
            ),
            false => Finding::ok(CHECK, subject, says),
        },
    )
}

/// Other ENIs that have addresses of the range.
fn owners(facts: &Facts, network: &Network, own: &Description, range: &Range) -> Vec<Finding> {
    let subject = &network.subject;
    let others = facts.neighbours.iter().filter(|eni| eni.id != own.id);
    let mut findings: Vec<Finding> = others
        .flat_map(|other| conflicts(network, other, range))
        .collect();
    if let Some(address) = own.primary.iter().find(|address| range.contains(**address)) {
        let says = format!("{address} is the primary address of {} itself", own.id);
        let finding = Finding::warning(OWNER, subject, says);
        findings.push(finding.advise("exclude it from the range, unless pods are to have it"));
    }
    if findings.is_empty() {
        let says = "no other ENI has an address of the range";
        findings.push(Finding::ok(OWNER, subject, says));
    }
    findings
}

/// A primary address can never move. A secondary address of another ENI is a conflict only if
/// the nodes do not know each other's reservations.
fn conflicts(network: &Network, other: &Description, range: &Range) -> Vec<Finding> {
    let subject = &network.subject;
    let has = |list: &[IpAddr]| -> Vec<IpAddr> {
        let found = list.iter().copied();
        found.filter(|address| range.contains(*address)).collect()
    };
    let holder = match &other.instance_id {
        Some(instance) => format!("{} of {instance}", other.id),
        None => other.id.clone(),
    };
    let (primary, secondary) = (has(&other.primary), has(&other.secondary));
    let mut findings = Vec::new();
    if !primary.is_empty() {
        let says = format!("{} is a primary address of {holder}", named(&primary));
        findings.push(
            Finding::error(OWNER, subject, says)
                .advise("exclude it from the range, and reserve the range in the subnet for pods"),
        );
    }
    if !secondary.is_empty() && network.is_handed_out_by_each_node {
        let says = format!("{} is assigned to {holder}", named(&secondary));
        findings.push(
            Finding::warning(OWNER, subject, says).advise(
                "host-local gives each node the whole range: use a rangesFile for each node",
            ),
        );
    }
    findings
}

fn reservation(subject: &str, eni: &Eni, range: &Range, explicit: &[Cidr]) -> Finding {
    const CHECK: &str = "cidr-reservation";
    match range.is_within(explicit) {
        true => Finding::ok(
            CHECK,
            subject,
            "EC2 gives no address of the range to others",
        ),
        false => Finding::info(
            CHECK,
            subject,
            "EC2 may give addresses of the range to other ENIs",
        )
        .advise(format!(
            "aws ec2 create-subnet-cidr-reservation --subnet-id {} \
                 --reservation-type explicit --cidr CIDR",
            eni.subnet_id
        )),
    }
}

/// The first addresses of a list, and how many more there are.
pub(crate) fn named(addresses: &[IpAddr]) -> String {
    let mut texts: Vec<String> = addresses
        .iter()
        .take(NAMED)
        .map(IpAddr::to_string)
        .collect();
    if addresses.len() > NAMED {
        texts.push(format!("{} more", addresses.len() - NAMED));
    }
    texts.join(", ")
}
