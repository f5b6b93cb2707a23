//! Removes the taint that keeps pods away from a node until its agent is ready. The taint is
//! set when the node is created; without it there is nothing to do.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::attach::inventory::Inventory;
use common::error::{Error, ErrorCode, Result};
use common::say;
use serde_json::{Value, json};
use tracing::info;

use super::api::{self, Change};
use super::node_name;
use crate::agent::news::LastLook;
use crate::agent::shared::Agent;
use crate::provision;
use crate::random;

/// The key of the taint.
const TAINT: &str = "eni-cni.io/not-ready";
/// How often it is checked whether the node is ready; that needs no request.
const LOOK: Duration = Duration::from_secs(1);
/// The pauses after a request that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The intervals at which it is checked whether the taint is set again.
const FIRST_INTERVAL: Duration = Duration::from_secs(2);
const LONGEST_INTERVAL: Duration = Duration::from_secs(600);

/// Removes the taint whenever the node is ready for pods: the controller of nodes may set it
/// again while a node is new.
pub(super) fn run(agent: &Arc<Agent>) {
    let (mut reasons, mut errors) = (LastLook::default(), LastLook::default());
    let (mut pause, mut interval) = (FIRST_PAUSE, FIRST_INTERVAL);
    loop {
        while let Err(why) = ready(agent) {
            for why in reasons.replace(vec![why]) {
                info!("a taint {TAINT} stays until the node is ready: {why}");
            }
            thread::sleep(LOOK);
        }
        reasons.replace(Vec::new());
        match remove() {
            Ok(was_there) => {
                errors.replace(Vec::new());
                pause = FIRST_PAUSE;
                interval = if was_there {
                    FIRST_INTERVAL
                } else {
                    LONGEST_INTERVAL.min(interval * 2)
                };
                // Not all nodes at the same time.
                thread::sleep(interval.mul_f64((1.0 + random::chance()) / 2.0));
            }
            Err(error) => {
                for error in errors.replace(vec![error.to_string()]) {
                    say!("a taint {TAINT} of this node stays: {error}; trying again");
                }
                thread::sleep(pause);
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
    }
}

/// Checks that the node is ready for pods: the agent has compared the ledger with EC2, and
/// every configured ENI is attached.
fn ready(agent: &Agent) -> std::result::Result<(), String> {
    let longest = agent.configuration.longest_interval();
    agent.health.alive()?;
    agent.health.ready(longest, Instant::now())?;
    let text = |error: Error| error.to_string();
    let inventory = Inventory::read().map_err(text)?.unwrap_or_default();
    match provision::is_complete(&inventory, &agent.configuration.enis).map_err(text)? {
        true => Ok(()),
        false => Err("ENIs of its configuration are not attached yet".to_owned()),
    }
}

/// Removes the taint, and returns whether the node had it. If another client changes the taints
/// of the node at the same moment, the request is refused, and tried again with the new taints.
fn remove() -> Result<bool> {
    let name = node_name()?;
    let path = format!("/api/v1/nodes/{name}");
    let gone = || {
        let msg = format!("Kubernetes has no node {name:?}");
        Error::new(ErrorCode::TRY_AGAIN, msg)
    };
    let node = api::get(&path)?.ok_or_else(gone)?;
    let taints = &node["spec"]["taints"];
    let all = || taints.as_array().into_iter().flatten();
    let others: Vec<&Value> = all().filter(|taint| taint["key"] != TAINT).collect();
    if others.len() == all().count() {
        return Ok(false);
    }
    let patch = json!([
        { "op": "test", "path": "/spec/taints", "value": taints },
        { "op": "replace", "path": "/spec/taints", "value": others },
    ]);
    let change = Change {
        method: "PATCH",
        content_type: "application/json-patch+json",
        body: &patch,
    };
    api::change(&path, change)?.ok_or_else(gone)?;
    info!(
        node = name,
        taint = TAINT,
        "the taint {TAINT} is removed: pods may come"
    );
    Ok(true)
}
