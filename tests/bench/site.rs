//! A node with one pod that is attached and detached again and again.

use std::path::PathBuf;

use harness::{Call, Node, Pod};
use serde_json::{Value, json};

use crate::process::{Cost, run};
use crate::samples::{Party, Step, attachment};
use crate::store::call;

/// The name of the interface in the pod.
pub const IFNAME: &str = "net1";
/// The container id of the pod.
pub const POD: &str = "pod";
const NETWORK: &str = "n";

/// A node, a pod, and a network of a party's plugin.
#[derive(Debug)]
pub struct Site {
    node: Node,
    pod: Pod,
    party: Party,
    conf: Value,
    /// What ADD has answered, which runtimes give to DEL.
    result: Value,
}

impl Site {
    /// A node on which the party's plugin makes the attachment that `conf` describes.
    pub fn new(party: Party, node: Node, conf: &Value) -> Self {
        let mut conf = conf.clone();
        conf["cniVersion"] = json!("1.0.0");
        conf["name"] = json!(NETWORK);
        let mut site = Self {
            node,
            pod: Pod::new(POD),
            party,
            conf,
            result: Value::Null,
        };
        let printed = site.inside(|site| run(&site.call("ADD")).1);
        site.result = serde_json::from_str(&printed).expect("ADD prints JSON");
        site.inside(|site| run(&site.call("DEL")));
        site
    }

    /// A call about the pod.
    pub fn call(&self, command: &str) -> Call {
        let mut conf = self.conf.clone();
        if command != "ADD" && !self.result.is_null() {
            conf["prevResult"] = self.result.clone();
        }
        call(self.party, self.plugin(), command)
            .pod(&self.pod, IFNAME)
            .conf(&conf)
    }

    /// What attaching and detaching the pod costs.
    pub fn attach(&self) -> Vec<(Step, Cost)> {
        self.inside(|site| {
            let (add, _) = run(&site.call("ADD"));
            let (del, _) = run(&site.call("DEL"));
            attachment(add, del)
        })
    }

    /// Where our plugin records its attachment of a container.
    pub fn record(&self, container_id: &str) -> PathBuf {
        let records = self.node.state().join("eni-cni").join(self.plugin());
        let name = format!("{container_id}:{IFNAME}.json");
        records.join(NETWORK).join(name)
    }

    fn plugin(&self) -> &str {
        self.conf["type"].as_str().expect("a plugin has a type")
    }

    /// Does `work` on the node.
    pub fn inside<T: Send>(&self, work: impl FnOnce(&Self) -> T + Send) -> T {
        self.node.inside(|| work(self))
    }
}

/// A site for each party.
#[derive(Debug)]
pub struct Sites {
    ours: Site,
    go: Site,
}

impl Sites {
    pub fn new(node: impl Fn() -> Node, conf: &Value) -> Self {
        let site = |party| Site::new(party, node(), conf);
        Self {
            ours: site(Party::Ours),
            go: site(Party::Go),
        }
    }

    pub fn of(&self, party: Party) -> &Site {
        match party {
            Party::Go => &self.go,
            Party::Ours | Party::Reference | Party::Alone => &self.ours,
        }
    }

    /// Executes a call under a counter.
    pub fn count(&self, party: Party, command: &str, counter: fn(&Call) -> f64) -> f64 {
        self.of(party).inside(|site| counter(&site.call(command)))
    }
}
