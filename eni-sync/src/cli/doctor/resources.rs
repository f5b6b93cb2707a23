//! Checks of the resources that the agent offers the kubelet, as it has written them down.

use crate::agent::devices::shown::{PATH, Shown};
use crate::cli::doctor::facts::Facts;
use crate::cli::doctor::finding::Finding;

const CHECK: &str = "resource";

/// What is written down by an agent that has ended says nothing any more.
pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    if !matches!(facts.agent, Ok(Some(()))) {
        return Vec::new();
    }
    match &facts.resources {
        Ok(resources) => resources.iter().map(of_one).collect(),
        Err(error) => vec![
            Finding::warning(CHECK, PATH, error.to_string())
                .advise("remove the file, and start the agent again, which writes it anew"),
        ],
    }
}

fn of_one(resource: &Shown) -> Finding {
    let (healthy, unhealthy) = resource.counts();
    let says = format!("{healthy} healthy devices, {unhealthy} unhealthy");
    let name = resource.name.as_str();
    let problems = resource.problems.join("; ");
    match (problems.as_str(), resource.registered) {
        ("", true) => Finding::ok(CHECK, name, says),
        ("", false) => {
            Finding::warning(CHECK, name, format!("{says}; the kubelet does not listen")).advise(
                "see the log of the kubelet: it has taken the resource and not asked for it",
            )
        }
        (why, _) => Finding::warning(CHECK, name, format!("{says}; {why}"))
            .advise("docs/device-plugin.md says what to do about each of these"),
    }
}
