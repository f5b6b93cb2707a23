//! Checks of the addresses on the ENIs: whether the ledger knows them, and whether a pod needs
//! them.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use common::kernel::netns::Holders;

use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::ranges::named;
use crate::ledger::{About, Entry, State, now};
use crate::registration::detached::{Loss, Losses};
use crate::registration::rules::{self, Drift};
use crate::vpc::ec2::Description;
use crate::vpc::eni;

pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let ledger = match &facts.ledger {
        Ok(ledger) => ledger,
        Err(error) => {
            let finding = Finding::error("ledger", "node", error.to_string());
            return vec![
                finding.advise("until it can be read, eni-sync registers and releases nothing"),
            ];
        }
    };
    findings.extend(namespaces(facts));
    for (eni, damage) in &facts.damaged {
        let finding = Finding::error("ledger", eni, damage.error.to_string());
        findings.push(finding.advise(consequence(damage.about)));
    }
    findings.extend(detached(facts, ledger));
    let for_pods = |eni: &&Description| eni::require_releasable(eni).is_ok();
    for own in facts.own.iter().filter(for_pods) {
        let entries = ledger.get(&own.id).map_or(&[][..], Vec::as_slice);
        findings.push(owners(own, entries));
        findings.push(drift(own, entries));
        findings.push(ended(facts, own, entries));
        findings.extend(on_node(facts, own));
        findings.extend(refusals(own, entries));
    }
    findings
}

/// The consequence of a file of the ledger that cannot be read, and what to do.
fn consequence(about: About) -> &'static str {
    match about {
        About::Address(_) => {
            "its address is neither registered nor released; remove the file when no pod has it"
        }
        About::Prefix(_) => {
            "its prefix is neither used for pods nor given back; remove the file when no pod has \
             an address of it"
        }
        About::NoPrefix => "nothing is done because of it; remove the file",
        About::Asked => {
            "EC2 is asked for no more prefixes of this family; remove the file a minute after the \
             last request: what EC2 has given is adopted like what others have assigned"
        }
        About::Unheard => {
            "EC2 is asked for no more addresses for networks without addresses; remove the file a \
             minute after the last request: what EC2 has given is adopted like what others have \
             assigned"
        }
    }
}

/// The namespaces of pods that cannot be read.
fn namespaces(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "namespaces";
    let living = match &facts.living {
        Ok(living) => living,
        Err(error) => {
            let finding = Finding::error(CHECK, "node", error.to_string());
            return vec![finding.advise("nothing is released until all pods can be looked into")];
        }
    };
    let hidden = living.hidden().map(|why| {
        Finding::warning(CHECK, "node", why.to_string())
            .advise("what its pod may have is not released until it is visible")
    });
    let unreadable = living.unreadable().map(|why| {
        Finding::warning(CHECK, "node", why.to_string()).advise(
            "look at its pod, which changes its own network; what the ledger has for it stays",
        )
    });
    let found: Vec<Finding> = hidden.chain(unreadable).collect();
    match found.is_empty() {
        true => vec![Finding::ok(
            CHECK,
            "node",
            "the namespace of every pod is visible",
        )],
        false => found,
    }
}

/// Pods whose ENI has been detached from the instance, or whose ipvlan master was removed or made
/// anew.
fn detached(facts: &Facts, ledger: &BTreeMap<String, Vec<Entry>>) -> Vec<Finding> {
    const CHECK: &str = "detached";
    let losses = Losses::among(ledger.iter(), facts.inventory.as_ref());
    let finding = |loss: Loss| match loss.eni {
        Some(eni) => Finding::error(CHECK, &eni, loss.says).advise(
            "delete the pod, so that a new one gets an interface; see who detached the ENI",
        ),
        None => Finding::error(CHECK, "node", loss.says)
            .advise("delete the pod, so that a new one gets an interface"),
    };
    let unknown = losses.unknown.map(|error| {
        Finding::error(CHECK, "node", error.to_string())
            .advise("whether pods have lost their master is not known until it can be read")
    });
    losses
        .found
        .into_iter()
        .map(finding)
        .chain(unknown)
        .collect()
}

/// Addresses that are on the ENI without a known owner.
fn owners(own: &Description, entries: &[Entry]) -> Finding {
    const CHECK: &str = "owners";
    let is_unknown = |address: &&IpAddr| {
        let entry = entries.iter().find(|entry| entry.address == **address);
        entry.is_none_or(|entry| entry.state == State::Adopted)
    };
    let unknown: Vec<IpAddr> = own.secondary.iter().filter(is_unknown).copied().collect();
    match unknown.is_empty() {
        true => Finding::ok(CHECK, &own.id, "every address on it is known"),
        false => {
            let says = format!("the owner of {} is not known", named(&unknown));
            Finding::warning(CHECK, &own.id, says).advise(format!(
                "if no program needs it, free its slot: eni-sync release --address {} --force",
                unknown.first().map(IpAddr::to_string).unwrap_or_default()
            ))
        }
    }
}

/// Addresses that are held in the ledger and not on the ENI.
fn drift(own: &Description, entries: &[Entry]) -> Finding {
    const CHECK: &str = "registered";
    let lost = rules::compare(entries, &HashSet::new(), own, now())
        .into_iter()
        .filter_map(|drift| match drift {
            Drift::Lost(entry) => Some(entry.address),
            _ => None,
        });
    let lost: Vec<IpAddr> = lost.collect();
    match lost.is_empty() {
        true => Finding::ok(CHECK, &own.id, "every address of a pod is on it"),
        false => Finding::error(
            CHECK,
            &own.id,
            format!("pods have {}, but the ENI does not", named(&lost)),
        )
        .advise("eni-sync sync --once assigns it again"),
    }
}

/// Addresses that are held for attachments that have ended.
fn ended(facts: &Facts, own: &Description, entries: &[Entry]) -> Finding {
    const CHECK: &str = "attachments";
    let holders = Holders::default();
    let is_ended = |entry: &&Entry| {
        let lives = facts
            .living
            .as_ref()
            .is_ok_and(|living| living.has(entry.address));
        // An attachment in doubt counts as existing.
        entry.state == State::Held && !lives && !entry.may_have_living_owner(&holders)
    };
    let ended = entries.iter().filter(is_ended);
    let ended: Vec<IpAddr> = ended.map(|entry| entry.address).collect();
    match ended.is_empty() {
        true => Finding::ok(CHECK, &own.id, "every address of an attachment is in use"),
        false => Finding::warning(
            CHECK,
            &own.id,
            format!("{} is held for attachments that have ended", named(&ended)),
        )
        .advise("the agent releases it after 5 minutes; at once: eni-sync release"),
    }
}

/// Addresses for pods that the node itself has, and that are therefore never released.
fn on_node(facts: &Facts, own: &Description) -> Vec<Finding> {
    let living = facts.living.as_ref().ok();
    let finding = |address: &IpAddr| {
        let name = living?.on_node(*address)?;
        let says = format!("{address} is on interface {name:?} of the node itself, and stays");
        let advice = format!("if it is for pods: ip address del {address} dev {name}");
        Some(Finding::warning("node-address", &own.id, says).advise(advice))
    };
    own.secondary.iter().filter_map(finding).collect()
}

/// Addresses that EC2 has refused to attachments.
fn refusals(own: &Description, entries: &[Entry]) -> Vec<Finding> {
    let refusal = |entry: &Entry| match &entry.state {
        State::Claiming {
            refusal: Some(refusal),
            ..
        } => Some((entry.address, refusal.error())),
        _ => None,
    };
    let refused = entries.iter().filter_map(refusal);
    let finding = |(address, error): (IpAddr, _)| {
        Finding::error("refused", &own.id, format!("{address}: {error}"))
            .advise("the agent goes on trying; the pod has no address beyond its node until then")
    };
    refused.map(finding).collect()
}
