//! Pods of the node on which this program is started: named network namespaces, attached to a
//! network and detached from it as by Multus and the runtime.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{Call, Network, Output};
use serde_json::Value;

/// The prefixes of the variables that are passed to plugins: where AWS and the other plugins
/// are.
const PASSED_ON: [&str; 2] = ["AWS_", "CNI_PATH"];
const IFNAME: &str = "net1";

/// A pod and its network.
pub(crate) struct Pod<'a> {
    network: Network,
    name: &'a str,
    netns: String,
}

impl<'a> Pod<'a> {
    /// The pod of this name, with the network of a NetworkAttachmentDefinition in a file.
    pub(crate) fn new(file: &Path, name: &'a str) -> Result<Self, String> {
        let nad =
            fs::read_to_string(file).map_err(|cause| format!("cannot read {file:?}: {cause}"))?;
        let mut network = Network::from_nad(&nad);
        let passed_on = |name: &str| PASSED_ON.iter().any(|start| name.starts_with(start));
        network.environment = env::vars().filter(|(name, _)| passed_on(name)).collect();
        let netns = format!("/run/netns/{name}");
        Ok(Self {
            network,
            name,
            netns,
        })
    }

    /// Creates the namespace and attaches it. Returns the result of the last plugin.
    pub(crate) fn attach(&self) -> Result<Value, String> {
        ip(&["netns", "add", self.name])?;
        let attached = self.add();
        if attached.is_err() {
            self.detach()?;
        }
        attached
    }

    fn add(&self) -> Result<Value, String> {
        ip(&["-n", self.name, "link", "set", "lo", "up"])?;
        let mut result = Value::Null;
        for plugin in &self.network.plugins {
            let output = self.call(plugin, "ADD", &result).run();
            result = output.try_ok().map_err(|_| said(&output))?;
        }
        Ok(result)
    }

    /// Detaches it and ends its namespace.
    pub(crate) fn detach(&self) -> Result<(), String> {
        for plugin in self.network.plugins.iter().rev() {
            let output = self.call(plugin, "DEL", &Value::Null).run();
            output.try_ok().map_err(|_| said(&output))?;
        }
        ip(&["netns", "delete", self.name])
    }

    fn call(&self, plugin: &Value, command: &str, result: &Value) -> Call {
        let call = self.network.call(plugin, command, result);
        let arguments = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", self.name);
        call.attachment(self.name, IFNAME, &self.netns)
            .env("CNI_ARGS", &format!("IgnoreUnknown=1;{arguments}"))
    }
}

/// The error of a plugin.
fn said(output: &Output) -> String {
    match output.try_error() {
        Ok(error) => format!("code {}: {} {}", error.code, error.msg, error.details),
        Err(_) => output.to_string(),
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.map_err(|cause| format!("cannot execute ip: {cause}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {}: {}", arguments.join(" "), said.trim())),
    }
}
