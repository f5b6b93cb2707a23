//! Checks requests against the service models of EC2 and STS. `model.txt` is generated from
//! botocore's models, and a test compares them. Parameters that the lab itself does not read are
//! checked too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use super::query::{Api, Query};

/// Parameters of an action: the type, and whether it is required.
type Parameters = BTreeMap<&'static str, (&'static str, bool)>;

static ACTIONS: LazyLock<BTreeMap<&str, Parameters>> = LazyLock::new(|| {
    let mut actions: BTreeMap<&str, Parameters> = BTreeMap::new();
    let lines = include_str!("model.txt").lines();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        if let (Some(action), Some(name), Some(kind)) = (words.next(), words.next(), words.next()) {
            let is_needed = words.next().is_some();
            let parameters = actions.entry(action).or_default();
            parameters.insert(name, (kind, is_needed));
        }
    }
    actions
});

/// How a request differs from the model, one sentence each.
pub(super) fn faults(action: &str, query: &Query) -> Vec<String> {
    let Some(parameters) = ACTIONS.get(action) else {
        return vec![format!("{action}: there is no such action")];
    };
    let mut found = Vec::new();
    if query.text("Version") != Some(Api::of(action).version()) {
        found.push(format!(
            "{action}: the version is {:?}",
            query.text("Version")
        ));
    }
    let mut given = BTreeSet::new();
    for (name, value) in query.parameters() {
        let (pattern, is_in_order) = pattern(name, query);
        match parameters.get(pattern.as_str()) {
            Some((kind, _)) if is_of(kind, value) && is_in_order => {}
            Some((kind, _)) => found.push(format!("{action}: {name}={value}, which is a {kind}")),
            None => found.push(format!("{action}: there is no parameter {name}")),
        }
        given.insert(pattern);
    }
    let needed = parameters.iter().filter(|(_, (_, is_needed))| *is_needed);
    let missing = needed.filter(|(name, _)| !given.contains(**name));
    found.extend(missing.map(|(name, _)| format!("{action}: {name} is missing")));
    found
}

/// The name with `N` in place of numbers, and whether these are the numbers of a list that
/// begins with 1 and has no gap.
fn pattern(name: &str, query: &Query) -> (String, bool) {
    let (mut pattern, mut path, mut is_in_order) = (Vec::new(), String::new(), true);
    for part in name.split('.') {
        match part.parse::<u32>() {
            Ok(number) => {
                is_in_order &=
                    number == 1 || query.has_below(&format!("{path}{}", number.saturating_sub(1)));
                pattern.push("N");
            }
            Err(_) => pattern.push(part),
        }
        path.push_str(part);
        path.push('.');
    }
    (pattern.join("."), is_in_order)
}

fn is_of(kind: &str, value: &str) -> bool {
    match kind {
        "integer" | "long" => value.parse::<i64>().is_ok(),
        "boolean" => ["true", "false"].contains(&value),
        _ => true,
    }
}
