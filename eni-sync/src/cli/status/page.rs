//! The status as a page for a browser, with the problems and the last changes. It has no
//! script, loads nothing, and shows every value as text.

use std::time::SystemTime;

use common::timestamp::rfc3339;

use super::html::{escape, table};
use super::offered::Offered;
use super::table::{ADDRESS_TITLES, rows};
use super::{EniStatus, Status};
use crate::cli::doctor::{Finding, Findings, Level};
use crate::cli::output::duration;
use crate::ledger::Timestamp;
use crate::log::Change;
use crate::provision::overview::EniView;

const STYLE: &str = include_str!("page.css");
const ENI_TITLES: [&str; 7] = [
    "ENI",
    "INTERFACE",
    "SUBNET",
    "FOR PODS",
    "IPV4",
    "IPV6",
    "NOTE",
];
const SLOT_TITLES: [&str; 3] = ["NETWORK CARD", "ENIS", "WHO HAS IT"];
const RESOURCE_TITLES: [&str; 5] = [
    "RESOURCE",
    "HEALTHY",
    "UNHEALTHY",
    "ROOM",
    "KUBELET LISTENS",
];
const CHANGE_TITLES: [&str; 6] = ["TIME", "CHANGE", "ADDRESS", "ENI", "POD", "REASON"];

/// The content of the page apart from the status.
pub(super) struct Seen<'a> {
    /// The problems that the agent itself knows.
    pub(super) wrong: &'a [String],
    pub(super) findings: &'a Findings,
    /// The last changes, the newest first.
    pub(super) changes: &'a [Change],
}

/// The page at the time `now`.
pub(super) fn render(status: &Status, seen: &Seen<'_>, now: Timestamp) -> String {
    let title = match status.instance_id.as_str() {
        "" => "eni-sync".to_owned(),
        instance => format!("eni-sync on {instance}"),
    };
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n<p class=\"soft\">{}</p>\n",
        escape(&about(status)),
        title = escape(&title),
    );
    html.push_str(&wrong(seen));
    html.push_str(&enis(&status.enis));
    html.push_str(&slots(status));
    html.push_str(&addresses(&status.enis, now));
    html.push_str(&resources(status));
    html.push_str(&changes(seen.changes));
    html.push_str(&plugins(status));
    html + "</main>\n</body>\n</html>\n"
}

fn about(status: &Status) -> String {
    let time = rfc3339(SystemTime::now());
    let version = env!("CARGO_PKG_VERSION");
    let age = match status.inventory_age_seconds {
        Some(age) => format!("ENIs as EC2 said {} ago", duration(age)),
        None => "EC2 has not been asked on this node yet".to_owned(),
    };
    let place = match status.instance_id.as_str() {
        "" => String::new(),
        _ => format!("{}, {} \u{b7} ", status.instance_type, status.region),
    };
    format!("{place}version {version} \u{b7} {age} \u{b7} {time}")
}

/// The problems that the agent and the doctor find, the worst first.
fn wrong(seen: &Seen<'_>) -> String {
    let mut items = Vec::new();
    let found = seen.findings.as_deref().unwrap_or_default();
    let mut found: Vec<&Finding> = found.iter().filter(|finding| is_bad(finding)).collect();
    for line in seen.wrong {
        let same = found.iter().find(|finding| is_about(line, finding));
        items.push(match same {
            Some(finding) => item(line, finding),
            None => (Level::Error, format!("<b>{}</b>", escape(line))),
        });
    }
    // The agent's problems are current, the doctor's findings may be some minutes old.
    found.retain(|finding| !seen.wrong.iter().any(|line| is_about(line, finding)));
    for finding in found {
        let what = format!("{}: {}", finding.subject, finding.says);
        items.push(item(&what, finding));
    }
    if let Err(why) = seen.findings {
        let text = format!("The doctor could not look: {}", escape(why));
        items.push((Level::Error, text));
    }
    items.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    let mut html = "<h2>What is wrong</h2>\n".to_owned();
    if items.is_empty() {
        return html + "<p>Nothing that the agent or the doctor knows of.</p>\n";
    }
    html.push_str("<ul>\n");
    for (level, item) in items {
        html.push_str(&format!("<li class=\"{}\">{item}</li>\n", level.name()));
    }
    html + "</ul>\n"
}

fn is_bad(finding: &Finding) -> bool {
    finding.level >= Level::Warning
}

/// Whether a line of the agent and a finding of the doctor are about the same problem: they
/// name the same subject, and one contains the text of the other.
fn is_about(line: &str, finding: &Finding) -> bool {
    let is_named = |name: &str| {
        let mut words = line.split_whitespace();
        name == "node" || words.any(|word| word.trim_matches([':', '"']) == name)
    };
    let first = finding.says.split_once(": ").map_or("", |(first, _)| first);
    let why = line.split_once(": ").map_or(line, |(_, why)| why);
    let is_same = line.contains(&finding.says) || finding.says.contains(why);
    is_same && (is_named(&finding.subject) || is_named(first))
}

/// A problem with this text and the doctor's advice.
fn item(what: &str, finding: &Finding) -> (Level, String) {
    let mut text = format!("<b>{}</b>", escape(what));
    if !finding.advice.is_empty() {
        text.push_str(&format!("<p>{}</p>", escape(&finding.advice)));
    }
    let check = format!("{}, {}", finding.level.name(), finding.check);
    text.push_str(&format!("<p class=\"soft\">{}</p>", escape(&check)));
    (finding.level, text)
}

fn enis(enis: &[EniStatus]) -> String {
    let rows: Vec<Vec<String>> = enis.iter().map(eni).collect();
    section("ENIs", &ENI_TITLES, &rows, "No ENI is known yet.")
}

fn eni(eni: &EniStatus) -> Vec<String> {
    let Some(known) = &eni.known else {
        return vec![eni.id.clone(), "not attached".to_owned()];
    };
    let cidrs = known.subnet_cidrs.iter().map(ToString::to_string);
    let cidrs: Vec<String> = cidrs.collect();
    let managed = if known.managed { "yes" } else { "no" };
    vec![
        eni.id.clone(),
        known.interface.clone(),
        format!("{} {}", known.subnet_id, cidrs.join(" ")),
        managed.to_owned(),
        format!("{} of {}", known.ipv4.used, known.ipv4.limit),
        format!("{} of {}", known.ipv6.used, known.ipv6.limit),
        known
            .seen
            .iter()
            .flat_map(EniView::wrong)
            .collect::<Vec<_>>()
            .join("; "),
    ]
}

/// The kinds of ENIs in the configuration, and the slots of the instance with their holders.
fn slots(status: &Status) -> String {
    let kinds = status.wanted.as_deref().unwrap_or_default().iter();
    let kinds: Vec<Vec<String>> = kinds
        .map(|kind| {
            vec![
                kind.name.clone(),
                format!("{} of {}", kind.attached, kind.count),
            ]
        })
        .collect();
    let mut html = match kinds.is_empty() {
        true => String::new(),
        false => section(
            "ENIs of the configuration",
            &["NAME", "ATTACHED"],
            &kinds,
            "",
        ),
    };
    let rows = status.slots.iter().flat_map(|card| {
        let of = card
            .limit
            .map_or_else(String::new, |limit| format!(" of {limit}"));
        let first = [card.network_card.to_string(), format!("{}{of}", card.used)];
        let row = move |who: &String| first.iter().chain([who]).cloned().collect();
        card.holders.iter().map(row)
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        html.push_str(&section("Slots of the instance", &SLOT_TITLES, &rows, ""));
    }
    html
}

fn addresses(enis: &[EniStatus], now: Timestamp) -> String {
    let mut html = String::new();
    for eni in enis
        .iter()
        .filter(|eni| !eni.addresses.is_empty() || !eni.prefixes.is_empty())
    {
        let rows = rows(eni, now);
        // The first row consists of the titles.
        let rows = rows.get(1..).unwrap_or_default();
        let title = format!("Addresses of {}", eni.id);
        html.push_str(&section(&title, &ADDRESS_TITLES, rows, ""));
    }
    match html.is_empty() {
        true => "<h2>Addresses</h2>\n<p>No pod has an address.</p>\n".to_owned(),
        false => html,
    }
}

/// The resources for the kubelet, if the agent offers any.
fn resources(status: &Status) -> String {
    if status.resources.is_empty() {
        return String::new();
    }
    let room = |resource: &Offered| {
        let each = resource.enis.iter().filter_map(|offer| {
            let room = offer.room?;
            Some(format!("{} of {room} on {}", offer.devices, offer.eni))
        });
        each.collect::<Vec<_>>().join(", ")
    };
    let row = |resource: &Offered| {
        let listens = if resource.registered { "yes" } else { "no" };
        vec![
            resource.name.clone(),
            resource.healthy.to_string(),
            resource.unhealthy.to_string(),
            room(resource),
            listens.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = status.resources.iter().map(row).collect();
    section("Resources of the kubelet", &RESOURCE_TITLES, &rows, "")
}

fn changes(changes: &[Change]) -> String {
    let field = |change: &Change, name: &str| {
        let fields = change.fields.iter();
        let mut found = fields.filter(|(found, _)| *found == name);
        found.next().map(|(_, value)| value.clone())
    };
    let row = |change: &Change| {
        let mut row = vec![change.time.clone(), change.what.clone()];
        let names = ["address", "eni", "pod", "reason"];
        row.extend(names.map(|name| field(change, name).unwrap_or_default()));
        row
    };
    let rows: Vec<Vec<String>> = changes.iter().map(row).collect();
    let none = "The agent has changed nothing since it was started.";
    section("Last changes", &CHANGE_TITLES, &rows, none)
}

fn plugins(status: &Status) -> String {
    let installed = status.plugins.installed.iter();
    let rows: Vec<Vec<String>> = installed
        .map(|(name, installed)| vec![name.clone(), installed.to_string()])
        .collect();
    let title = format!("Plugins in {}", status.plugins.directory.display());
    section(&title, &["NAME", "WHAT IT IS"], &rows, "There are none.")
}

fn section(title: &str, titles: &[&str], rows: &[Vec<String>], none: &str) -> String {
    let heading = format!("<h2>{}</h2>\n", escape(title));
    match rows.is_empty() {
        true => format!("{heading}<p>{}</p>\n", escape(none)),
        false => heading + &table(titles, rows),
    }
}
