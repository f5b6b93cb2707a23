//! Events for pods that run without an address in the VPC: `kubectl describe pod` shows why
//! nobody reaches it. An Event that cannot be made is given up: the log has the same.

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

/// How many pods wait for their Event at most. A node has fewer.
const QUEUE: usize = 512;
/// How often the API server is asked for one Event, and the first pause in between.
const ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// What Kubernetes takes of a message, in bytes.
const LONGEST_MESSAGE: usize = 1024;
/// What is taken of the name of the pod: names of Events have at most 253 bytes.
const LONGEST_NAME: usize = 236;
/// What the Event is about, as alerts and filters name it.
const REASON: &str = "AddressNotInVPC";
/// Who has made it.
const COMPONENT: &str = "eni-cni.io/eni-sync";

/// Where pods are named that are to get an Event.
#[derive(Debug, Default)]
pub(crate) struct Events(Option<SyncSender<Without>>);

impl Events {
    /// Where pods are named, and where they come out to get their Event, if Events are wanted.
    pub(in crate::agent) fn new(wanted: bool) -> (Self, Option<Receiver<Without>>) {
        let (sender, receiver) = wanted.then(|| sync_channel(QUEUE)).unzip();
        (Self(sender), receiver)
    }

    /// Has an Event made for a pod, where Events are made and the pod is known.
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

/// Makes the Events, for ever.
pub(super) fn run(receiver: &Receiver<Without>) {
    let mut news = News::default();
    for without in receiver {
        if let Err(error) = create_patiently(&without) {
            for finding in news.among(vec![format!("no Event is made: {error}")]) {
                say!("{finding}");
            }
        }
    }
}

fn create_patiently(without: &Without) -> Result<()> {
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

/// Makes the Event of a pod. One that is not on this node any more needs none.
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

/// What Kubernetes is told of a pod.
fn event(pod: &Value, node: &str, without: &Without) -> Value {
    let now = rfc3339(SystemTime::now());
    let (metadata, text) = (&pod["metadata"], without.to_string());
    let message = printable(&text);
    let name = metadata["name"].as_str().unwrap_or_default();
    // An agent that finds the same after its start, or whose request was done without an
    // answer, makes no second one.
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
