//! Networks as users define them. They are attached and detached as by Multus and libcni.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::call::GO_PLUGINS;
use crate::repository;
use crate::{Call, Node, Output, Pod, go_plugin, our_plugin};

/// Our plugins; every other one is from Debian's package.
const OURS: [&str; 4] = ["eni-sync", "host-device", "host-local", "ipvlan"];

/// A network: a list of plugins that are executed one after the other.
#[derive(Clone, Debug)]
pub struct Network {
    /// The network's name.
    pub name: String,
    /// The version of the specification; empty when the configuration names none.
    pub cni_version: String,
    /// The configuration of each plugin, without the keys that the runtime adds.
    pub plugins: Vec<Value>,
    /// Further variables in the environment of the runtime.
    pub environment: Vec<(String, String)>,
    is_of_go: bool,
}

impl Network {
    /// The network of a published NetworkAttachmentDefinition in `tests/data`.
    pub fn published(file: &str) -> Self {
        let path = repository().join("tests/data").join(file);
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|cause| panic!("cannot read {path:?}: {cause}"));
        Self::from_nad(&text)
    }

    /// The network of a NetworkAttachmentDefinition in YAML. As with Multus, a
    /// configuration without a name gets the name of the definition.
    pub fn from_nad(yaml: &str) -> Self {
        let nad: Value = serde_yaml_ng::from_str(yaml).expect("the definition is YAML");
        let config = nad["spec"]["config"]
            .as_str()
            .expect("spec.config is a text");
        let mut conf: Value = serde_json::from_str(config).expect("spec.config is JSON");
        if conf["name"].as_str().is_none_or(str::is_empty) {
            conf["name"] = nad["metadata"]["name"].clone();
        }
        Self::from_conf(&conf)
    }

    /// The network of a configuration or of a list of them.
    pub fn from_conf(conf: &Value) -> Self {
        let text = |key: &str| conf[key].as_str().unwrap_or_default().to_owned();
        let plugins = match conf["plugins"].as_array() {
            Some(plugins) => plugins.clone(),
            None => vec![conf.clone()],
        };
        Self {
            name: text("name"),
            cni_version: text("cniVersion"),
            plugins,
            environment: Vec::new(),
            is_of_go: false,
        }
    }

    /// This network with the Go plugins, also as delegates.
    pub fn of_go(mut self) -> Self {
        let path = ("CNI_PATH".to_owned(), GO_PLUGINS.to_owned());
        self.environment.push(path);
        self.is_of_go = true;
        self
    }

    /// This network as a list with another plugin at the end, in version 1.1.0, which is
    /// required for GC.
    pub fn chained_with(mut self, plugin: Value) -> Self {
        self.cni_version = "1.1.0".to_owned();
        for plugin in &mut self.plugins {
            if let Some(keys) = plugin.as_object_mut() {
                keys.shift_remove("cniVersion");
                keys.shift_remove("name");
            }
        }
        self.plugins.push(plugin);
        self
    }

    /// The network as a configuration list.
    pub fn list(&self) -> Value {
        json!({ "cniVersion": self.cni_version, "name": self.name, "plugins": self.plugins })
    }

    /// Attaches a pod: every plugin's ADD in order, each with the result of the one before.
    /// Returns the last result, or the first failure, after which DEL is executed as by a
    /// runtime.
    pub fn try_attach(&self, node: &Node, pod: &Pod, ifname: &str) -> Result<Value, Box<Output>> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            let call = self.call(plugin, "ADD", &result);
            let output = node.run(&call.pod(pod, ifname));
            if output.status != Some(0) {
                self.detach(node, pod, ifname, &Value::Null);
                return Err(Box::new(output));
            }
            result = output.ok();
        }
        Ok(result)
    }

    /// Attaches a pod, which must succeed.
    #[track_caller]
    pub fn attach(&self, node: &Node, pod: &Pod, ifname: &str) -> Value {
        self.try_attach(node, pod, ifname)
            .unwrap_or_else(|output| panic!("ADD failed\n{output}"))
    }

    /// Detaches a pod: every plugin's DEL in reverse order, which must succeed.
    #[track_caller]
    pub fn detach(&self, node: &Node, pod: &Pod, ifname: &str, result: &Value) {
        for plugin in self.plugins.iter().rev() {
            let call = self.call(plugin, "DEL", result);
            node.run(&call.pod(pod, ifname)).ok();
        }
    }

    /// Every plugin's CHECK in order; returns the first failure.
    pub fn check(
        &self,
        node: &Node,
        pod: &Pod,
        ifname: &str,
        result: &Value,
    ) -> Result<(), Box<Output>> {
        for plugin in &self.plugins {
            let call = self.call(plugin, "CHECK", result);
            let output = node.run(&call.pod(pod, ifname));
            if output.status != Some(0) {
                return Err(Box::new(output));
            }
        }
        Ok(())
    }

    /// Executes GC of every plugin of this network. `valid` are the valid attachments: pods
    /// and names of their interfaces.
    #[track_caller]
    pub fn gc(&self, node: &Node, valid: &[(&Pod, &str)]) {
        let valid: Vec<Value> = valid
            .iter()
            .map(|(pod, ifname)| json!({ "containerID": pod.id, "ifname": ifname }))
            .collect();
        for plugin in &self.plugins {
            let mut plugin = plugin.clone();
            plugin["cni.dev/valid-attachments"] = json!(valid);
            node.run(&self.call(&plugin, "GC", &Value::Null)).ok();
        }
    }

    /// The program of a plugin: from `CNI_PATH` of the runtime's environment, otherwise ours
    /// or the one of Debian's package.
    fn program(&self, name: &str) -> PathBuf {
        let environment = self.environment.iter();
        let mut paths = environment.filter(|(name, _)| name == "CNI_PATH");
        let directories = paths.next().map_or("", |(_, path)| path);
        let installed = directories
            .split(':')
            .map(|path| Path::new(path).join(name));
        match installed.into_iter().find(|path| path.is_file()) {
            Some(installed) => installed,
            None if OURS.contains(&name) && !self.is_of_go => our_plugin(name),
            None => go_plugin(name),
        }
    }

    /// A call of one plugin of this network, with the keys that libcni adds to its
    /// configuration. DEL and CHECK have a `prevResult` since 0.4.0.
    pub fn call(&self, plugin: &Value, command: &str, prev_result: &Value) -> Call {
        let mut conf = plugin.clone();
        conf["name"] = json!(self.name);
        conf["cniVersion"] = json!(self.cni_version);
        let is_old = self.cni_version.is_empty() || self.cni_version.as_str() < "0.4.0";
        if !prev_result.is_null() && (command == "ADD" || !is_old) {
            conf["prevResult"] = prev_result.clone();
        }
        let name = plugin["type"].as_str().expect("a plugin has a type");
        let call = Call::new(self.program(name), command).conf(&conf);
        let environment = self.environment.iter();
        environment.fold(call, |call, (name, value)| call.env(name, value))
    }
}
