//! Checks of the ENIs in the agent's configuration, and of the slots of the instance.

use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::Finding;
use crate::provision::holder::Holder;
use crate::provision::overview::{Card, EniView, Kind, Overview};

pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    if facts.own.is_empty() {
        return Vec::new();
    }
    let overview = facts.overview();
    let mut findings: Vec<Finding> = overview.kinds.iter().map(wanted).collect();
    findings.extend(unwanted(&overview));
    findings.extend(overview.cards.iter().map(slots));
    findings
}

fn wanted(kind: &Kind) -> Finding {
    const CHECK: &str = "enis-wanted";
    let says = format!("{} of {} are attached", kind.attached, kind.count);
    match kind.attached == kind.count {
        true => Finding::ok(CHECK, &kind.name, says),
        false => Finding::error(CHECK, &kind.name, says)
            .advise("eni-sync attach --config FILE attaches them, or says what is in the way"),
    }
}

fn unwanted(overview: &Overview) -> Vec<Finding> {
    const CHECK: &str = "enis-unwanted";
    let is_unwanted = |eni: &&EniView| eni.holder == Holder::Unwanted;
    let unwanted = overview.enis.iter().filter(is_unwanted);
    let finding = |eni: &EniView| {
        Finding::info(CHECK, &eni.id, "it is more than the configuration names")
            .advise("eni-sync detach --config FILE deletes it, unless it carries pods")
    };
    unwanted.map(finding).collect()
}

/// The holders of the slots of a network card.
fn slots(card: &Card) -> Finding {
    const CHECK: &str = "interface-slots";
    let subject = format!("network card {}", card.network_card);
    match card.is_full() {
        true => {
            Finding::info(CHECK, &subject, card.says()).advise("no other ENI can be attached to it")
        }
        false => Finding::ok(CHECK, &subject, card.says()),
    }
}
