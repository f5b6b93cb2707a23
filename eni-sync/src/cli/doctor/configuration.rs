//! Checks of network configurations: whether they can be read, and the interface of the node
//! that they name.

use common::attach::inventory::{Eni, NO_MANAGE_TAG};
use common::cni::version::CniVersion;
use common::kernel::netlink::Link;

use crate::agent::configuration::Networks;
use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::network::{Master, Network, type_of};
use crate::vpc::eni;

/// The keys of eni-sync in a list of plugins, and those that runtimes and users may add to any
/// plugin.
const KEYS: [&str; 14] = [
    "args",
    "capabilities",
    "cniVersion",
    "cooldownSeconds",
    "disableCheck",
    "dns",
    "logFile",
    "logLevel",
    "name",
    "prevResult",
    "runtimeConfig",
    "strict",
    "takeover",
    "type",
];

pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    let unreadable = facts.unreadable.iter().map(|source| {
        let why = source.document.as_ref().err().cloned();
        Finding::error("readable", &source.subject, why.unwrap_or_default())
            .advise("correct it, or give what is missing")
    });
    let mut findings: Vec<Finding> = unreadable.collect();
    for network in &facts.networks {
        if !network.is_ours() {
            let says = "no ipvlan, host-device or eni-sync in it: not checked";
            findings.push(Finding::info("plugins", &network.subject, says));
            continue;
        }
        findings.push(version(network));
        findings.push(order(facts, network));
        findings.extend(keys(network));
        findings.extend(unknown_keys(network));
        findings.extend(master(facts, network));
    }
    findings
}

fn version(network: &Network) -> Finding {
    const CHECK: &str = "cni-version";
    let subject = &network.subject;
    match network.version.as_deref() {
        None | Some("") => Finding::warning(
            CHECK,
            subject,
            "cniVersion is missing, which means 0.1.0: results without interfaces, no CHECK",
        )
        .advise("write \"cniVersion\": \"1.0.0\""),
        Some(text) if CniVersion::from_text(text).is_none() => {
            let says = format!("cniVersion {text:?} is not supported");
            let newest = CniVersion::LATEST;
            Finding::error(CHECK, subject, says)
                .advise(format!("write a version from 0.1.0 to {newest}"))
        }
        Some(text) => Finding::ok(CHECK, subject, text),
    }
}

fn order(facts: &Facts, network: &Network) -> Finding {
    const CHECK: &str = "plugin-order";
    let subject = &network.subject;
    let types: Vec<&str> = network.plugins.iter().map(type_of).collect();
    let says = types.join(", ");
    match (
        network.position_of_interface(),
        network.position_of_eni_sync(),
    ) {
        (_, None) if network.is_chosen_by_ec2 => {
            let says = format!("{says}: EC2 chooses its addresses");
            Finding::ok(CHECK, subject, says)
        }
        (_, None) if is_watched(facts, network) => {
            let says = format!("{says}: the agent watches its reservations");
            Finding::ok(CHECK, subject, says)
        }
        (_, None) => {
            let says = format!("{says}: eni-sync is not in the chain");
            Finding::warning(CHECK, subject, says).advise(
                "its addresses work beyond the node only if the agent's configuration names it: \
                 see --agent-config",
            )
        }
        (None, Some(_)) => Finding::error(CHECK, subject, says)
            .advise("eni-sync needs a plugin before it that makes an interface"),
        (Some(interface), Some(own)) if own < interface => {
            Finding::error(CHECK, subject, format!("{says}: eni-sync comes too early"))
                .advise("put eni-sync after the plugin that makes the interface")
        }
        _ => Finding::ok(CHECK, subject, says),
    }
}

fn is_watched(facts: &Facts, network: &Network) -> bool {
    let watched = facts
        .watched
        .as_ref()
        .and_then(|watched| watched.as_ref().ok());
    watched.is_some_and(|watched| match watched {
        Networks::Auto => true,
        Networks::Listed(listed) => listed.iter().any(|listed| listed.name == network.name),
    })
}

/// Errors of the plugins about their keys, with the plugins' messages.
fn keys(network: &Network) -> Vec<Finding> {
    const CHECK: &str = "keys";
    if network.refusals.is_empty() {
        let says = "no plugin refuses any";
        return vec![Finding::ok(CHECK, &network.subject, says)];
    }
    let refusals = network.refusals.iter();
    let findings = refusals.map(|(plugin, error)| {
        let finding = Finding::error(CHECK, &network.subject, format!("{plugin}: {error}"));
        finding.advise("every ADD fails with this message")
    });
    findings.collect()
}

/// Keys that eni-sync does not have: a misspelt key has no effect and causes no error.
fn unknown_keys(network: &Network) -> Option<Finding> {
    let plugin = network.plugins.get(network.position_of_eni_sync()?)?;
    let keys = plugin.as_object()?.keys().map(String::as_str);
    let is_unknown = |key: &&str| !KEYS.contains(key) && !key.starts_with("cni.dev/");
    let unknown: Vec<&str> = keys.filter(is_unknown).collect();
    if unknown.is_empty() {
        return None;
    }
    let says = format!("eni-sync does not know {}", unknown.join(", "));
    let known = "its keys are strict, cooldownSeconds, takeover, logFile and logLevel";
    Some(Finding::warning("unknown-keys", &network.subject, says).advise(known))
}

fn master(facts: &Facts, network: &Network) -> Vec<Finding> {
    const CHECK: &str = "master";
    let subject = &network.subject;
    let link = match &network.master {
        Master::None => return Vec::new(),
        Master::Found(link) => link,
        Master::Missing(error) if network.is_ipvlan() => {
            let advice = "name an interface of the node, or use masterSelector";
            return vec![Finding::error(CHECK, subject, error.to_string()).advise(advice)];
        }
        Master::Missing(error) => {
            let finding = Finding::warning(CHECK, subject, error.to_string());
            return vec![finding.advise("a pod may have the device now")];
        }
    };
    let by = network.selector.as_ref();
    let by = by.map_or_else(String::new, |s| format!(" by masterSelector {s}"));
    let says = format!("{} ({}){by}", link.name, link.mac);
    let mut findings = vec![Finding::ok(CHECK, subject, says)];
    // An ENI for pods that is down has a finding of its own.
    let is_for_pods = facts.eni_of(network).map(eni::require_managed);
    if network.is_ipvlan() && (link.up || !matches!(is_for_pods, Some(Ok(())))) {
        findings.push(master_up(subject, link));
    }
    // Without an inventory, nothing is known of any ENI.
    if facts.inventory.is_some() {
        findings.extend(of_eni(subject, &link.name, facts.eni_of(network)));
    }
    findings
}

fn master_up(subject: &str, link: &Link) -> Finding {
    const CHECK: &str = "master-up";
    let name = &link.name;
    match link.up {
        true => Finding::ok(CHECK, subject, format!("{name} is up")),
        false => Finding::warning(CHECK, subject, format!("{name} is down"))
            .advise("the first ADD sets it up"),
    }
}

fn of_eni(subject: &str, link: &str, eni: Option<&Eni>) -> Vec<Finding> {
    let Some(eni) = eni else {
        let says = format!("{link} does not have the MAC address of an ENI");
        let finding = Finding::error("master-eni", subject, says);
        return vec![finding.advise("the VPC delivers nothing to it: choose an ENI's interface")];
    };
    let is_eni = Finding::ok("master-eni", subject, format!("{link} is {}", eni.id));
    if eni.is_primary() {
        let says = format!(
            "{} is the node's primary ENI, whose addresses are the VPC CNI's",
            eni.id
        );
        let finding = Finding::error("master-primary", subject, says);
        return vec![is_eni, finding.advise("attach another ENI for pods")];
    }
    let says = format!("{} has device index {}", eni.id, eni.device_index);
    let secondary = Finding::ok("master-primary", subject, says);
    let tag = match eni.no_manage {
        true => Finding::ok("no-manage", subject, format!("{} is tagged", eni.id)),
        false => {
            let says = format!("{} is not tagged {NO_MANAGE_TAG}=true", eni.id);
            Finding::error("no-manage", subject, says).advise(format!(
                "tag it, before the VPC CNI gives its addresses to other pods: aws ec2 create-tags \
                 --resources {} --tags Key={NO_MANAGE_TAG},Value=true",
                eni.id
            ))
        }
    };
    vec![is_eni, secondary, tag]
}
