//! Access to the state of the lab over HTTP, below `/lab/` on EC2's address, for people
//! and for programs in other languages. Nothing here is part of EC2.

use hyper::{Method, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::event::Event;
use super::fault::{Armed, Fault};
use super::server::{Body, response};
use super::state::State;

/// An entry in a list of faults.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    action: String,
    /// The first call that fails; 1 is the next one.
    #[serde(default = "one")]
    nth: u64,
    /// How many calls fail.
    #[serde(default = "one")]
    times: u64,
    fault: Fault,
}

fn one() -> u64 {
    1
}

/// Answers a request below `/lab/`.
pub(super) fn answer(shared: &Shared, method: &Method, path: &str, body: &[u8]) -> Response<Body> {
    let state = shared.lock();
    let document = match (method, path) {
        (&Method::GET, "/lab/state") => Ok(world(&state)),
        (&Method::GET, "/lab/calls") => Ok(json!(state.calls)),
        (&Method::GET, "/lab/events") => Ok(state.events.iter().map(event).collect()),
        (&Method::POST, "/lab/faults") => {
            drop(state);
            arm(shared, body)
        }
        _ => {
            let known = "GET /lab/state, /lab/calls and /lab/events, POST /lab/faults";
            return response(404, "text/plain", format!("There is {known}.\n"));
        }
    };
    match document {
        Ok(document) => response(200, "application/json", format!("{document:#}\n")),
        Err(message) => response(400, "text/plain", message),
    }
}

fn arm(shared: &Shared, body: &[u8]) -> Result<Value, String> {
    let script: Vec<Entry> = serde_json::from_slice(body)
        .map_err(|cause| format!("this is not a valid list of faults: {cause}\n"))?;
    let armed = script.len();
    shared.update(|state| {
        state.faults.extend(script.into_iter().map(|entry| Armed {
            action: entry.action,
            skip: entry.nth.saturating_sub(1),
            times: entry.times,
            fault: entry.fault,
        }));
    });
    Ok(json!({"armed": armed}))
}

/// Every interface with its addresses.
fn world(state: &State) -> Value {
    let enis = state.world.enis.values().map(|eni| {
        json!({
            "eni": eni.id.as_str(),
            "mac": eni.mac,
            "subnet": eni.subnet.as_str(),
            "instance": eni.instance().map(|i| i.as_str()),
            "networkCardIndex": eni.attachment.as_ref().map(|a| a.network_card),
            "deviceIndex": eni.attachment.as_ref().map(|a| a.device_index),
            "tags": eni.tags,
            "primary": eni.primary,
            "addresses": eni.addresses,
            "prefixes": eni.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    json!({"enis": enis.collect::<Value>()})
}

fn event(event: &Event) -> Value {
    match event {
        Event::Called {
            action,
            node,
            eni,
            addresses,
            outcome,
            ..
        } => json!({
            "event": "called",
            "action": action,
            "node": node.as_ref().map(|n| n.as_str()),
            "eni": eni.as_ref().map(|e| e.as_str()),
            "addresses": addresses,
            "outcome": outcome,
        }),
        Event::Assigned { address, eni, .. } => {
            json!({"event": "assigned", "address": address, "eni": eni.as_str()})
        }
        Event::Reassigned {
            address, from, to, ..
        } => {
            json!({"event": "reassigned", "address": address, "from": from.as_str(), "to": to.as_str()})
        }
        Event::Moved {
            address, from, to, ..
        } => {
            json!({"event": "moved", "address": address, "from": from.as_str(), "to": to.as_str()})
        }
        Event::Unassigned { address, eni, .. } => {
            json!({"event": "unassigned", "address": address, "eni": eni.as_str()})
        }
        Event::PrimaryTouched { address, eni, .. } => {
            json!({"event": "primary-touched", "address": address, "eni": eni.as_str()})
        }
    }
}
