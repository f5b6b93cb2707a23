//! The doctor's output as text: the problems, network by network.

use std::io::{self, IsTerminal};

use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::{Finding, Level};
use crate::cli::output;

/// The findings and their networks.
pub(super) struct Report<'a> {
    pub(super) findings: &'a [Finding],
    /// The networks that were checked, as findings name them.
    pub(super) networks: Vec<&'a str>,
}

/// How a report is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Whether checks that have passed are shown.
    pub(super) is_whole: bool,
    /// Whether levels have colours.
    pub(super) has_colours: bool,
}

impl Manner {
    /// The whole report, for a file.
    pub(super) fn whole() -> Self {
        Self {
            is_whole: true,
            has_colours: false,
        }
    }

    /// With colours on a terminal, unless `NO_COLOR` is set. Source: no-color.org.
    pub(super) fn new(is_whole: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            is_whole,
            has_colours: io::stdout().is_terminal() && !refused,
        }
    }
}

impl<'a> Report<'a> {
    /// The report about these facts.
    pub(super) fn of(facts: &'a Facts, findings: &'a [Finding]) -> Self {
        let networks = facts.networks.iter().map(|found| found.subject.as_str());
        let unreadable = facts.unreadable.iter().map(|found| found.subject.as_str());
        Self {
            findings,
            networks: networks.chain(unreadable).collect(),
        }
    }

    /// How many findings are of a level.
    pub(super) fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|f| f.level == level).count()
    }

    /// The findings as text: those of the node first, then those of each network.
    pub(super) fn render(&self, manner: Manner) -> String {
        let mut text = String::new();
        let is_of_network = |finding: &&Finding| self.networks.contains(&finding.subject.as_str());
        let of_node = self
            .findings
            .iter()
            .filter(|finding| !is_of_network(finding));
        text += &group("the node", of_node, manner);
        for network in &self.networks {
            let of_network = self.findings.iter().filter(|f| f.subject == *network);
            text += &group(network, of_network, manner);
        }
        let [errors, warnings] = [Level::Error, Level::Warning].map(|level| self.count(level));
        let checks = self.findings.len();
        let networks = self.networks.len();
        if errors + warnings == 0 && !manner.is_whole {
            text += "nothing is wrong\n\n";
        }
        text + &format!(
            "checks: {checks}, networks: {networks}, errors: {errors}, warnings: {warnings}\n"
        )
    }
}

/// A heading with its findings; empty if none is to be shown.
fn group<'a>(heading: &str, findings: impl Iterator<Item = &'a Finding>, manner: Manner) -> String {
    let is_shown = |finding: &&Finding| manner.is_whole || finding.level >= Level::Warning;
    let mut rows = Vec::new();
    for finding in findings.filter(is_shown) {
        let says = match finding.subject == heading {
            true => finding.says.clone(),
            false => format!("{}: {}", finding.subject, finding.says),
        };
        let level = format!("  {}", finding.level.name());
        rows.push(vec![level, finding.check.to_owned(), says]);
        if !finding.advice.is_empty() {
            let advice = format!("  {}", finding.advice);
            rows.push(vec![String::new(), String::new(), advice]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let heading = output::table(&[vec![heading.to_owned()]]);
    let table = output::table(&rows);
    match manner.has_colours {
        true => format!("{}{}\n", bold(&heading), coloured(&table)),
        false => format!("{heading}{table}\n"),
    }
}

fn bold(line: &str) -> String {
    format!("\u{1b}[1m{}\u{1b}[0m\n", line.trim_end())
}

/// Colours the level at the start of each line that has one. The widths of the columns do not
/// change.
fn coloured(table: &str) -> String {
    let line = |line: &str| {
        let words = [(Level::Error, 31), (Level::Warning, 33), (Level::Ok, 32)];
        for (level, colour) in words {
            let start = format!("  {} ", level.name());
            if let Some(rest) = line.strip_prefix(&start) {
                return format!("  \u{1b}[{colour}m{}\u{1b}[0m {rest}\n", level.name());
            }
        }
        format!("{line}\n")
    };
    table.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("imds", "i-1", "answers"),
            Finding::warning("slots", "eni-1", "almost full").advise("wait"),
            Finding::error("keys", "mgmt (x)", "a key").advise("remove it"),
        ]
    }

    fn render(is_whole: bool, has_colours: bool) -> String {
        let findings = findings();
        let report = Report {
            findings: &findings,
            networks: vec!["mgmt (x)", "other (x)"],
        };
        report.render(Manner {
            is_whole,
            has_colours,
        })
    }

    #[test]
    fn what_is_wrong_is_shown_below_its_network() {
        assert_eq!(
            render(false, false),
            "the node\n  warning  slots  eni-1: almost full\n                    wait\n\n\
             mgmt (x)\n  error  keys  a key\n                 remove it\n\n\
             checks: 3, networks: 2, errors: 1, warnings: 1\n"
        );
    }

    #[test]
    fn all_that_was_looked_at_is_shown_when_somebody_asks() {
        let text = render(true, false);
        assert!(text.contains("  ok       imds   i-1: answers\n"), "{text}");
    }

    #[test]
    fn colours_change_no_column() {
        let coloured = render(false, true);
        assert!(
            coloured.contains("\u{1b}[31merror\u{1b}[0m  keys  a key\n"),
            "{coloured:?}"
        );
        let mut plain = coloured;
        for code in [
            "\u{1b}[0m",
            "\u{1b}[1m",
            "\u{1b}[31m",
            "\u{1b}[33m",
            "\u{1b}[32m",
        ] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, render(false, false));
    }
}
