//! Checks of the ENIs that the agent's configuration names, and of the slots of the instance.

use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::Finding;
use crate::provision::place;
use crate::vpc::ec2::Description;

pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    if facts.own.is_empty() {
        return Vec::new();
    }
    let mut findings = wanted(facts);
    for (card, most) in (0..).zip(&facts.limits.interfaces) {
        findings.push(slots(facts, card, *most));
    }
    findings
}

fn wanted(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "enis-wanted";
    let finding = |wanted: &crate::provision::wanted::Wanted| {
        let (name, count) = (&wanted.name, wanted.count);
        let missing = place::missing(&facts.own, wanted);
        let says = format!("{} of {count} are attached", count - missing);
        match missing {
            0 => Finding::ok(CHECK, name, says),
            _ => Finding::error(CHECK, name, says)
                .advise("eni-sync attach --config FILE attaches them, or says what is in the way"),
        }
    };
    facts.wanted.iter().map(finding).collect()
}

/// Who has the slots of a network card.
fn slots(facts: &Facts, card: u32, most: u32) -> Finding {
    const CHECK: &str = "interface-slots";
    let is_on_card = |eni: &&Description| eni.network_card == card;
    let holders: Vec<String> = facts
        .own
        .iter()
        .filter(is_on_card)
        .map(place::holder)
        .collect();
    let subject = format!("network card {card}");
    let says = format!("{} of {most} ENIs: {}", holders.len(), holders.join(", "));
    let is_full = u32::try_from(holders.len()).is_ok_and(|taken| taken >= most);
    match is_full {
        true => Finding::info(CHECK, &subject, says).advise("no other ENI can be attached to it"),
        false => Finding::ok(CHECK, &subject, says),
    }
}
