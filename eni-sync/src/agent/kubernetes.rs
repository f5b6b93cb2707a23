//! The agent's use of the Kubernetes API, if its configuration and its service account allow
//! it: Events for pods that run without an address in the VPC, and the removal of the taint
//! that keeps pods away from a node that is not ready.

mod api;
pub(crate) mod events;
mod taint;

use std::env;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use common::error::{Error, Result};

use crate::agent::shared::Agent;
use crate::registration::without::Without;

/// The variable with the node's name in Kubernetes; the manifest sets it from `spec.nodeName`.
const NODE: &str = "NODE_NAME";

/// Starts a thread for each configured function. `to_tell` receives the pods that are to get an
/// Event.
///
/// # Errors
/// Code 999 naming a thread that cannot be started.
pub(super) fn start(agent: &Arc<Agent>, to_tell: Option<Receiver<Without>>) -> Result<()> {
    if let Some(to_tell) = to_tell {
        agent.start_lasting("events", move |_| events::run(&to_tell))?;
    }
    match agent.configuration.kubernetes.startup_taint {
        true => agent.start_lasting("taint", taint::run),
        false => Ok(()),
    }
}

/// The name that the node has in Kubernetes.
///
/// # Errors
/// Code 7 when the variable is missing or invalid.
fn node_name() -> Result<String> {
    let name = env::var(NODE).unwrap_or_default();
    match is_path_segment(&name) {
        true => Ok(name),
        false => Err(Error::config(format!(
            "{NODE} {name:?} is not the name of a node: set it from spec.nodeName"
        ))),
    }
}

/// Whether a name is a valid Kubernetes name, which cannot change the path of a request.
fn is_path_segment(name: &str) -> bool {
    let is_allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-.".contains(&c);
    let is_edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.iter().copied().all(is_allowed) && is_edge(bytes.first()) && is_edge(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_is_not_a_path_segment() {
        for name in ["a", "ip-10-0-1-5.eu-west-1.compute.internal", "web-0"] {
            assert!(is_path_segment(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a?b", "a%2fb", "A", "a b", "-a", "a."] {
            assert!(!is_path_segment(name), "{name}");
        }
    }
}
