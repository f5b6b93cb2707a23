//! A kubelet as a device plugin sees it: by the official messages and gRPC's own library, in
//! Python.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use harness::python_with;
use serde_json::{Value, json};

use crate::eni_sync::fixture::{AwsNode, DEADLINE};

/// gRPC's library and its compiler, from PyPI.
const VERSION: &str = "1.85.1";
/// The directory of the device plugins, as the agent sees it.
pub(crate) const DIRECTORY: &str = "/run/device-plugins";

/// A kubelet that runs until this value is dropped.
pub(crate) struct Kubelet {
    process: Child,
    input: ChildStdin,
    events: Receiver<Value>,
    /// Those that nobody has waited for yet.
    pending: RefCell<Vec<Value>>,
}

/// The directory of the device plugins, as the tests see it.
pub(crate) fn directory(node: &AwsNode) -> PathBuf {
    node.run_directory().join("device-plugins")
}

impl Kubelet {
    /// Starts a kubelet on a node.
    pub(crate) fn start(node: &AwsNode) -> Self {
        Self::start_with(node, &[])
    }

    /// Starts one that takes nothing.
    pub(crate) fn refusing(node: &AwsNode, why: &str) -> Self {
        Self::start_with(node, &[why])
    }

    /// Starts one that does not listen after the first registration.
    pub(crate) fn deaf(node: &AwsNode) -> Self {
        Self::start_with(node, &["deaf"])
    }

    fn start_with(node: &AwsNode, arguments: &[&str]) -> Self {
        let packages = [
            format!("grpcio=={VERSION}"),
            format!("grpcio-tools=={VERSION}"),
        ];
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("eni_sync/device_plugin");
        let mut process = Command::new(python_with("grpcio", VERSION, &packages))
            .arg(here.join("kubelet.py"))
            .arg(directory(node))
            .arg(here.join("api.proto"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the kubelet can be started");
        let input = process.stdin.take().expect("it is piped");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).expect("an event is JSON");
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let kubelet = Self {
            process,
            input,
            events,
            pending: RefCell::default(),
        };
        kubelet.await_event("ready");
        kubelet
    }

    /// The next event of this kind. Those before it can still be waited for, but for lists of
    /// the same resource.
    #[track_caller]
    pub(crate) fn await_event(&self, kind: &str) -> Value {
        self.await_some(&format!("an event {kind:?}"), |event| {
            event["event"] == kind
        })
    }

    /// The next list of a resource in which so many devices are healthy and unhealthy.
    #[track_caller]
    pub(crate) fn await_list(&self, resource: &str, healthy: usize, unhealthy: usize) -> Value {
        let what = format!("{healthy} healthy and {unhealthy} unhealthy devices of {resource}");
        self.await_some(&what, |event| {
            let devices = event["devices"].as_array().into_iter().flatten();
            let is = |health: &str| devices.clone().filter(|d| d["health"] == health).count();
            let counts = (is("Healthy"), is("Unhealthy"));
            event["event"] == "list"
                && event["resource"] == resource
                && counts == (healthy, unhealthy)
        })
    }

    #[track_caller]
    fn await_some(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        let mut pending = self.pending.borrow_mut();
        loop {
            if let Some(place) = pending.iter().position(&is_it) {
                let event = pending.remove(place);
                let mut before = pending.split_off(place);
                std::mem::swap(&mut *pending, &mut before);
                let is_older = |old: &Value| {
                    let same = |key: &str| old[key] == event[key];
                    same("event") && same("resource")
                };
                before.retain(|old| !is_older(old));
                pending.splice(0..0, before);
                return event;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => pending.push(event),
                Err(cause) => panic!("there was no {what} ({cause}), but {pending:#?}"),
            }
        }
    }

    /// Has the kubelet call a method of a plugin that it has taken.
    #[track_caller]
    pub(crate) fn call(&mut self, call: &str, resource: &str, arguments: &Value) -> Value {
        let mut command = arguments.clone();
        command["call"] = json!(call);
        command["resource"] = json!(resource);
        writeln!(self.input, "{command}").expect("the kubelet listens");
        self.await_event("answer")
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        // Killed as in a crash: its socket stays.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
