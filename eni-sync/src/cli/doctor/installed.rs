//! Checks of the plugins in the directory of the node: whether a network gets the plugin that
//! its configuration needs.

use common::program::own_name;
use serde_json::Value;

use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::network::{Network, type_of};
use crate::installed::{Found, Installed};

const CHECK: &str = "plugin-installed";
/// The keys that only this suite's plugins have. The Go plugins ignore them without an error.
/// `[]` stands for every element of a list.
const OWN_KEYS: [&str; 12] = [
    "masterSelector",
    "flag",
    "masterUp",
    "sourceRouting",
    "enableDad",
    "acceptRa",
    "driver",
    "keepAddresses",
    "allowInUse",
    "exclude",
    "ranges[][].exclude",
    "rangesFile",
];

pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    let files = facts
        .installed
        .iter()
        .filter_map(|found| file(facts, found));
    let networks = facts.networks.iter();
    let networks = networks.flat_map(|network| of_network(facts, network));
    files.chain(networks).collect()
}

/// The program under the name of a plugin. A missing one matters only to the networks that need
/// it.
fn file(facts: &Facts, found: &Found) -> Option<Finding> {
    let path = facts.plugin_directory.join(&found.name);
    let subject = path.display().to_string();
    Some(match &found.installed {
        Ok(Installed::Missing) => return None,
        Ok(Installed::Ours(version)) => Finding::ok(CHECK, &subject, format!("version {version}")),
        Ok(other) => {
            let own = own_name(found.plugin);
            Finding::warning(CHECK, &subject, format!("is {other}")).advise(format!(
                "networks whose type is {own:?} do not use it; eni-sync install puts this \
                 suite's plugin back, and so does an agent that may"
            ))
        }
        Err(cause) => Finding::error(CHECK, &subject, format!("cannot be read: {cause}"))
            .advise("install the plugins again"),
    })
}

/// Whether the plugins of a network are of this suite, if the network needs that.
fn of_network(facts: &Facts, network: &Network) -> Vec<Finding> {
    let ipams = network.plugins.iter().map(|plugin| &plugin["ipam"]);
    let sections = network.plugins.iter().chain(ipams);
    sections
        .filter_map(|section| of_section(facts, network, section))
        .collect()
}

fn of_section(facts: &Facts, network: &Network, section: &Value) -> Option<Finding> {
    let name = section["type"].as_str()?;
    let found = facts.installed.iter().find(|found| found.name == name)?;
    let installed = found.installed.as_ref().ok()?;
    let own = own_name(type_of(section));
    let directory = facts.plugin_directory.display();
    if name == own && !installed.is_ours() {
        let says = format!("{directory}/{name} is {installed}");
        let advice = "install the plugins on this node: eni-sync install";
        return Some(Finding::error(CHECK, &network.subject, says).advise(advice));
    }
    let key = OWN_KEYS.iter().find(|key| has(section, key))?;
    let is_others = matches!(installed, Installed::Go | Installed::Other);
    is_others.then(|| {
        let says = format!("{directory}/{name} is {installed}, which does not know {key}");
        Finding::error(CHECK, &network.subject, says).advise(format!("write \"type\": {own:?}"))
    })
}

/// Whether a section has a key, also inside lists.
fn has(section: &Value, key: &str) -> bool {
    match key.split_once("[]") {
        None => match key.split_once('.') {
            None => section.get(key).is_some(),
            Some((first, rest)) => section.get(first).is_some_and(|value| has(value, rest)),
        },
        Some((list, rest)) => {
            let list = match list {
                "" => Some(section),
                list => section.get(list),
            };
            let elements = list.and_then(Value::as_array).into_iter().flatten();
            let rest = rest.strip_prefix('.').unwrap_or(rest);
            elements.into_iter().any(|element| has(element, rest))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_found_in_lists_of_lists() {
        let key = "ranges[][].exclude";
        assert!(has(
            &json!({ "ranges": [[{}], [{}, { "exclude": [] }]] }),
            key
        ));
        for other in [
            json!({}),
            json!({ "ranges": 7 }),
            json!({ "ranges": [[{ "x": 1 }]] }),
        ] {
            assert!(!has(&other, key), "{other}");
        }
        assert!(has(&json!({ "flag": "vepa" }), "flag"));
    }
}
