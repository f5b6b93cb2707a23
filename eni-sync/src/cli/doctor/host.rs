//! Checks of the node itself: the agent, its files, and the kernel's addresses and routes.

use std::net::IpAddr;

use common::attach::inventory::{Eni, PATH};

use crate::agent::configuration::Networks;
use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::network::Network;
use crate::cli::doctor::range::Range;
use crate::cli::doctor::ranges::named;
use crate::cli::output::duration;
use crate::plugin::socket;

pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![agent(facts), inventory(facts)];
    findings.extend(agent_configuration(facts));
    findings.extend(facts.masters.iter().map(|master| {
        match master {
            Ok(says) => Finding::ok("agent-configuration", "node", says),
            Err(error) => Finding::error("agent-configuration", "node", error.to_string())
                .advise("the agent serves it as soon as the node has the interface"),
        }
    }));
    for network in &facts.networks {
        findings.extend(l3_route(facts, network));
        findings.extend(aliases(facts, network));
    }
    findings
}

fn agent(facts: &Facts) -> Finding {
    const CHECK: &str = "agent";
    match &facts.agent {
        Ok(Some(())) => Finding::ok(CHECK, socket::PATH, "answers"),
        Ok(None) => Finding::warning(CHECK, socket::PATH, "there is no agent").advise(
            "plugins register addresses themselves; nothing releases or repairs any in between",
        ),
        Err(cause) => {
            let says = format!("the agent does not answer: {cause}");
            Finding::error(CHECK, socket::PATH, says).advise("start it again, and see its log")
        }
    }
}

fn inventory(facts: &Facts) -> Finding {
    const CHECK: &str = "inventory";
    match &facts.written {
        Ok(Some(age)) => {
            let age = duration(age.as_secs());
            match changes(facts) {
                changes if changes.is_empty() => {
                    Finding::ok(CHECK, PATH, format!("written {age} ago"))
                }
                changes => {
                    let changes = changes.join(", ");
                    let says = format!("EC2 has changed since it was written {age} ago: {changes}");
                    Finding::warning(CHECK, PATH, says).advise(
                        "masterSelector goes by the file: the agent's next comparison with EC2 \
                         writes it again, eni-sync sync --once does so now",
                    )
                }
            }
        }
        Ok(None) => Finding::info(CHECK, PATH, "not written yet")
            .advise("masterSelector by ENI needs it: the agent or eni-sync sync --once writes it"),
        Err(error) => Finding::error(CHECK, PATH, error.to_string())
            .advise("masterSelector by ENI needs it: eni-sync sync --once writes it again"),
    }
}

/// The differences between EC2's descriptions of ENIs and the written inventory, in properties
/// by which interfaces are selected.
fn changes(facts: &Facts) -> Vec<String> {
    let Some(noted) = &facts.noted else {
        return Vec::new();
    };
    let now = facts.enis();
    let has = |enis: &[Eni], id: &str| enis.iter().any(|eni| eni.id == id);
    let gone = noted.enis.iter().filter(|eni| !has(now, &eni.id));
    let gone = gone.map(|eni| format!("{} has gone", eni.id));
    let others = now.iter().filter_map(|eni| {
        let Some(before) = noted.enis.iter().find(|before| before.id == eni.id) else {
            return Some(format!("{} is new", eni.id));
        };
        let differs = [
            ("the tags", before.tags != eni.tags),
            (
                "the security groups",
                before.security_groups != eni.security_groups,
            ),
            (
                "the place",
                (before.network_card_index, before.device_index)
                    != (eni.network_card_index, eni.device_index),
            ),
        ];
        let differs: Vec<&str> = differs.iter().filter(|d| d.1).map(|d| d.0).collect();
        (!differs.is_empty()).then(|| format!("{} of {}", differs.join(" and "), eni.id))
    });
    gone.chain(others).collect()
}

/// Errors of the configuration with which the agent would not start.
fn agent_configuration(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "agent-configuration";
    Some(match facts.watched.as_ref()? {
        Ok(Networks::Auto) => Finding::ok(CHECK, "node", "it finds the networks itself"),
        Ok(Networks::Listed(networks)) => {
            let says = format!("networks it watches: {}", networks.len());
            Finding::ok(CHECK, "node", says)
        }
        Err(error) => Finding::error(CHECK, "node", error.to_string())
            .advise("the agent does not start with it"),
    })
}

/// In L3 mode the node's routes decide which packets leave through the master.
fn l3_route(facts: &Facts, network: &Network) -> Option<Finding> {
    const CHECK: &str = "l3-route";
    let master = network.master().filter(|_| network.is_l3())?;
    let mut routes = facts.host.routes.iter().filter(|route| !route.from_kernel);
    let is_through = |hop: &(u32, Option<IpAddr>)| hop.0 == master.index;
    let route = routes.find(|route| route.next_hops.iter().any(is_through));
    let (subject, name) = (&network.subject, &master.name);
    Some(match route {
        Some(route) => Finding::ok(CHECK, subject, format!("{} through {name}", route.dst)),
        None => {
            let says = format!("mode is l3, and no route of the node goes through {name}");
            Finding::error(CHECK, subject, says)
                .advise("pods reach only their subnet: use mode l2, or add routes to the node")
        }
    })
}

/// Addresses for pods that the node itself has: then the node answers for them.
fn aliases(facts: &Facts, network: &Network) -> Option<Finding> {
    const CHECK: &str = "host-alias";
    let ranges = network
        .ranges
        .as_ref()
        .ok()
        .filter(|ranges| !ranges.is_empty())?;
    let primary = facts
        .eni_of(network)
        .map(|eni| eni.primary_addresses.as_slice());
    let is_alias = |address: &IpAddr| {
        let is_primary = primary.is_some_and(|primary| primary.contains(address));
        !is_primary && ranges.iter().any(|range: &Range| range.contains(*address))
    };
    let own = facts
        .host
        .addresses
        .iter()
        .map(|found| found.cidr.address());
    let found: Vec<IpAddr> = own.filter(is_alias).collect();
    let subject = &network.subject;
    Some(match found.is_empty() {
        true => Finding::ok(CHECK, subject, "the node has no address of the range"),
        false => {
            let says = format!("the node itself has {}", named(&found));
            Finding::error(CHECK, subject, says).advise(
                "remove it from the node; ec2-net-utils adds every address of an ENI: \
                 disable refresh-policy-routes for this interface",
            )
        }
    })
}
