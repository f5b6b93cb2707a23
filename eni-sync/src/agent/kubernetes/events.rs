//! Events for pods that run without an address in the VPC: `kubectl describe pod` shows why a
//! pod cannot be reached. An Event that cannot be created is dropped, because the log has the
//! same text.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use common::error::{ErrorCode, Result};
use common::say;
use common::text::printable;
use common::timestamp::rfc3339;
use serde_json::{Value, json};

use super::api::{self, Change};
use super::{is_path_segment, node_name};
use crate::agent::news::News;
use crate::registration::without::Without;

/// How many pods may wait for their Event. A node has fewer.
const QUEUE: usize = 512;
/// How often the API server is asked for one Event, and the first pause in between.
const ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The size limit of a message in Kubernetes, in bytes.
const LONGEST_MESSAGE: usize = 1024;
/// How many bytes of the pod's name are used: names of Events have at most 253 bytes.
const LONGEST_NAME: usize = 236;
/// The reason of the Event, as alerts and filters name it.
const REASON: &str = "AddressNotInVPC";
/// The component that reports the Event.
const COMPONENT: &str = "eni-cni.io/eni-sync";

/// The queue of pods that are to get an Event; `None` if Events are not configured.
#[derive(Debug, Default)]
pub(crate) struct Events(Option<SyncSender<Without>>);

impl Events {
    /// Both ends of the queue, if Events are configured.
    pub(in crate::agent) fn new(wanted: bool) -> (Self, Option<Receiver<Without>>) {
        let (sender, receiver) = wanted.then(|| sync_channel(QUEUE)).unzip();
        (Self(sender), receiver)
    }

    /// Queues an Event for a pod, if Events are configured and the pod is known.
    pub(in crate::agent) fn tell(&self, without: Without) {
        let Some(sender) = self.0.as_ref().filter(|_| !without.owner.pod.is_empty()) else {
            return;
        };
        match sender.try_send(without) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(without)) => {
                say!("{} gets no Event: {QUEUE} others wait", without.owner);
            }
        }
    }
}

/// Creates the Events, for ever.
pub(super) fn run(receiver: &Receiver<Without>) {
    let mut news = News::default();
    for without in receiver {
        if let Err(error) = create_with_retries(&without) {
            for finding in news.among(vec![format!("no Event is made: {error}")]) {
                say!("{finding}");
            }
        }
    }
}

fn create_with_retries(without: &Without) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        match create(without) {
            Err(error) if error.code == ErrorCode::TRY_AGAIN => thread::sleep(pause),
            outcome => return outcome,
        }
        pause *= 2;
    }
    create(without)
}

/// Creates the Event of a pod, unless the pod is not on this node any more.
fn create(without: &Without) -> Result<()> {
    let Some((namespace, name)) = without.owner.pod.split_once('/') else {
        return Ok(());
    };
    if !is_path_segment(namespace) || !is_path_segment(name) {
        return Ok(());
    }
    let node = node_name()?;
    let namespaced = format!("/api/v1/namespaces/{namespace}");
    let Some(pod) = api::get(&format!("{namespaced}/pods/{name}"))? else {
        return Ok(());
    };
    if pod["spec"]["nodeName"] != node.as_str() {
        return Ok(());
    }
    let event = event(&pod, &node, without);
    let change = Change {
        method: "POST",
        content_type: "application/json",
        body: &event,
    };
    api::change(&format!("{namespaced}/events"), change).map(drop)
}

/// The Event of a pod.
fn event(pod: &Value, node: &str, without: &Without) -> Value {
    let now = rfc3339(SystemTime::now());
    let (metadata, text) = (&pod["metadata"], without.to_string());
    let message = printable(&text);
    let name = metadata["name"].as_str().unwrap_or_default();
    // The name depends on the content, so that an agent that finds the same after a restart, or
    // whose answer was lost, creates no second Event.
    let mut hasher = DefaultHasher::new();
    (metadata["uid"].as_str(), without.reason()).hash(&mut hasher);
    let event = &name[..name.floor_char_boundary(LONGEST_NAME)];
    let event = format!("{event}.{:016x}", hasher.finish());
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": event,
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": name,
            "uid": metadata["uid"],
        },
        "type": "Warning",
        "reason": REASON,
        "message": &message[..message.floor_char_boundary(LONGEST_MESSAGE)],
        "source": { "component": COMPONENT, "host": node },
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}
