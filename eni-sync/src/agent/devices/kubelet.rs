//! The thread that communicates with the kubelet: it keeps each resource registered, and notes
//! its state. Its failures do not stop the agent's other work, and are retried.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::say;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::agent::devices::endpoint::Endpoint;
use crate::agent::devices::look::Look;
use crate::agent::news::LastLook;
use crate::agent::shared::Agent;

/// The longest wait when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// Serves the resources and keeps them registered, until the sender of the looks ends.
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
            endpoint.maintain(agent, &look).await;
            all.push(endpoint.shown(shown));
        }
        if agent.resources.note(&all) {
            agent.metrics.resources.note(&all);
        }
        let unwritten = agent.resources.write_down(look.is_serving, Instant::now());
        log_new_problems(agent, &mut said);
        let due = endpoints.iter().filter_map(|endpoint| endpoint.again);
        let due = due.chain(unwritten).min();
        let wait = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
        // A timeout means that something is due.
        if matches!(timeout(wait, looks.changed()).await, Ok(Err(_))) {
            return;
        }
    }
}

/// Logs the problems that are new.
fn log_new_problems(agent: &Agent, said: &mut LastLook) {
    let problems: BTreeSet<String> = agent.resources.problems().into_iter().collect();
    for problem in said.replace(problems.into_iter().collect()) {
        say!("{problem}");
    }
}
