//! The thread that speaks with the kubelet: it keeps each of the resources registered, and notes
//! how they are. Nothing of this keeps the agent from its work; what does not succeed is tried
//! again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::say;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::agent::devices::endpoint::Endpoint;
use crate::agent::devices::look::Look;
use crate::agent::devices::shown::Shown;
use crate::agent::news::LastLook;
use crate::agent::shared::Agent;

/// How long to wait when nothing is due; nothing depends on it.
const IDLE: Duration = Duration::from_secs(3600);

/// Serves the resources and keeps them registered, until the look ends.
pub(crate) async fn run(agent: &Arc<Agent>, mut looks: watch::Receiver<Look>) {
    let mut endpoints: Vec<Endpoint> = agent
        .configuration
        .resources
        .iter()
        .cloned()
        .map(|resource| Endpoint::new(agent, resource))
        .collect();
    let mut said = LastLook::default();
    loop {
        let look = looks.borrow_and_update().clone();
        let mut all = Vec::new();
        for (endpoint, shown) in endpoints.iter_mut().zip(&look.resources) {
            endpoint.offer(shown);
            endpoint.tend(agent, &look).await;
            all.push(endpoint.shown(shown));
        }
        note(agent, &all, &mut said);
        let due = endpoints.iter().filter_map(|endpoint| endpoint.again).min();
        let wait = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
        // When it is over without a look, something is due.
        if matches!(timeout(wait, looks.changed()).await, Ok(Err(_))) {
            return;
        }
    }
}

/// Notes how the resources are, and says what is new.
fn note(agent: &Agent, all: &[Shown], said: &mut LastLook) {
    match agent.resources.note(all) {
        Ok(true) => agent.metrics.resources.note(all),
        Ok(false) => {}
        Err(error) => say!("{error}"),
    }
    let problems = agent.resources.findings().into_iter();
    let problems: BTreeSet<String> = problems.collect();
    for finding in said.replace(problems.into_iter().collect()) {
        say!("{finding}");
    }
}
