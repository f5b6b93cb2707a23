//! Where an assertion plays: a node as the recipe wants it, a pod, and for a main plugin
//! a delegate that is a script. What a plugin has done is judged from outside, by what
//! `ip` and the directory `/var/lib/cni` show.

use std::path::Path;

use harness::{Call, CniError, FakeIpam, Namespace, Node, Output, Pod};
use serde_json::{Value, json};

use crate::assertion::ensure;
use crate::plugin::Plugin;

/// The interface that is attached, unless an assertion says otherwise.
pub(crate) const IFNAME: &str = "net1";

/// Everything that an attachment can change, to be compared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    node: Vec<Value>,
    pod: Vec<Value>,
    files: Vec<String>,
    reserved: Vec<String>,
}

impl State {
    /// How many links the node had.
    pub(crate) fn links_of_node(&self) -> usize {
        self.node.len()
    }
}

/// A node, a pod and a delegate.
pub(crate) struct Scene<'a> {
    pub(crate) plugin: &'a Plugin,
    pub(crate) node: Node,
    pub(crate) pod: Pod,
    pub(crate) ipam: FakeIpam,
}

impl<'a> Scene<'a> {
    /// A node that is prepared for the plugin, and the pod `c1`.
    pub(crate) fn new(plugin: &'a Plugin) -> Self {
        let node = Node::new();
        for arguments in &plugin.recipe.node {
            let words: Vec<&str> = arguments.split_whitespace().collect();
            node.netns.ip(&words);
        }
        Self::on(node, plugin)
    }

    /// A node as it is, and the pod `c1`.
    pub(crate) fn on(node: Node, plugin: &'a Plugin) -> Self {
        let ipam = FakeIpam::new();
        ipam.answer(&answer(plugin.version()));
        Self {
            plugin,
            node,
            pod: Pod::new("c1"),
            ipam,
        }
    }

    /// The configuration of the network `net` in the newest version that the plugin
    /// speaks.
    pub(crate) fn conf(&self) -> Value {
        let mut conf = json!({"cniVersion": self.plugin.version(), "name": "net", "type": "any"});
        if self.plugin.recipe.is_main() {
            conf["type"] = json!(self.plugin.name);
            conf["ipam"] = json!({"type": "fake-ipam"});
        }
        with(&conf, &self.plugin.recipe.conf)
    }

    /// The configuration of the nth attachment of a node, from 0.
    pub(crate) fn nth_conf(&self, nth: usize) -> Value {
        let others = &self.plugin.recipe.others;
        let other = nth.checked_sub(1).and_then(|nth| others.get(nth));
        with(&self.conf(), other.unwrap_or(&json!({})))
    }

    /// The configuration in a version, whose shape the delegate then answers in.
    pub(crate) fn conf_of_version(&self, version: &str) -> Value {
        self.ipam.answer(&answer(version));
        with(&self.conf(), &json!({"cniVersion": version}))
    }

    /// A call about the pod's interface.
    pub(crate) fn call(&self, command: &str, conf: &Value) -> Call {
        self.bare_call(command).pod(&self.pod, IFNAME).conf(conf)
    }

    /// A call about nothing, as GC and STATUS are.
    pub(crate) fn bare_call(&self, command: &str) -> Call {
        let cni_path = match (self.plugin.recipe.is_main(), self.plugin.program.parent()) {
            (false, Some(directory)) => directory.display().to_string(),
            _ => self.ipam.cni_path(),
        };
        Call::bare(&self.plugin.program, command).env("CNI_PATH", &cni_path)
    }

    /// ADD, which must succeed, and its result.
    pub(crate) fn add(&self, conf: &Value) -> Result<Value, String> {
        self.succeeds(&self.call("ADD", conf))
    }

    /// DEL, which must succeed.
    pub(crate) fn del(&self, conf: &Value) -> Result<(), String> {
        self.succeeds(&self.call("DEL", conf)).map(drop)
    }

    /// ADD, and the configuration with its result.
    pub(crate) fn attached(&self, conf: &Value) -> Result<Value, String> {
        Ok(with(conf, &json!({"prevResult": self.add(conf)?})))
    }

    /// Starts the plugin on the node, which must succeed, and returns its result.
    pub(crate) fn succeeds(&self, call: &Call) -> Result<Value, String> {
        let output = self.node.run(call);
        output
            .try_ok()
            .map_err(|cause| unlike("success", &cause, &output))
    }

    /// Starts the plugin on the node, which must fail, and returns its error.
    pub(crate) fn fails(&self, call: &Call) -> Result<CniError, String> {
        let output = self.node.run(call);
        output
            .try_error()
            .map_err(|cause| unlike("an error document", &cause, &output))
    }

    /// Starts the plugin on the node, which must fail with this code.
    pub(crate) fn fails_with(&self, code: u64, call: &Call) -> Result<CniError, String> {
        let error = self.fails(call)?;
        ensure!(
            error.code == code,
            "expected code {code}, came {error:?} for {}",
            summary(call)
        );
        Ok(error)
    }

    /// What there is now.
    pub(crate) fn state(&self) -> State {
        let recipe = &self.plugin.recipe;
        let is_lasting = |link: &Value| recipe.lasting_links.iter().any(|l| link["ifname"] == **l);
        let mut node = self.node.netns.description();
        node.retain(|link| !is_lasting(link));
        // An alias that is left behind is one defect, which assertion 45 finds.
        node.iter_mut()
            .for_each(|link| link["ifalias"] = Value::Null);
        State {
            node,
            pod: self.pod.netns.description(),
            files: self.files(),
            reserved: self.ipam.reserved(),
        }
    }

    /// The files that the plugin keeps below `/var/lib/cni`, but for those that may
    /// outlive every attachment.
    pub(crate) fn files(&self) -> Vec<String> {
        let store = self.plugin.recipe.store.as_ref();
        let is_mark = |file: &str| {
            let name = file.rsplit('/').next().unwrap_or(file);
            store.is_some_and(|store| store.marks.iter().any(|mark| matches(mark, name)))
        };
        let mut files = self.node.files();
        files.retain(|file| !is_mark(file));
        files
    }

    /// Whether everything is as it was before.
    pub(crate) fn is_as(&self, before: &State, when: &str) -> Result<(), String> {
        self.difference(before).map_or(Ok(()), |difference| {
            Err(format!(
                "{when}, expected everything as before, but {difference}"
            ))
        })
    }

    fn difference(&self, before: &State) -> Option<String> {
        let now = self.state();
        let texts = |texts: &[String]| texts.iter().map(|text| json!(text)).collect();
        let parts: [(&str, Vec<Value>, Vec<Value>); 4] = [
            ("node has the links", before.node.clone(), now.node),
            ("pod has the links", before.pod.clone(), now.pod),
            (
                "node has the files",
                texts(&before.files),
                texts(&now.files),
            ),
            (
                "delegate has reserved",
                texts(&before.reserved),
                texts(&now.reserved),
            ),
        ];
        let different = parts.into_iter().find(|(_, before, now)| before != now);
        different.map(|(what, before, now)| {
            let [gone, new] = [(&before, &now), (&now, &before)].map(|(these, those)| {
                let only: Vec<&Value> = these.iter().filter(|one| !those.contains(one)).collect();
                json!(only)
            });
            format!("the {what} {new} in place of {gone}")
        })
    }

    /// What the host sees at a path that the plugin sees below `/var/lib/cni`.
    pub(crate) fn on_disk(&self, path: &Path) -> std::path::PathBuf {
        let relative = path.strip_prefix("/var/lib/cni").unwrap_or(path);
        self.node.state().join(relative)
    }

    /// A network namespace besides the pod's, in which the interface's name is taken by
    /// something else.
    pub(crate) fn take_name(&self, namespace: &Namespace) {
        namespace.ip(&[
            "link", "add", IFNAME, "type", "veth", "peer", "name", "other",
        ]);
    }
}

/// What a delegate answers to ADD, in the shape of a version.
pub(crate) fn answer(version: &str) -> Value {
    let ip = json!({"address": "10.9.0.5/24", "gateway": "10.9.0.1"});
    match version {
        "" | "0.1.0" | "0.2.0" => json!({
            "cniVersion": version, "ip4": {"ip": ip["address"], "gateway": ip["gateway"]}
        }),
        "0.3.0" | "0.3.1" | "0.4.0" => json!({
            "cniVersion": version, "ips": [with(&ip, &json!({"version": "4"}))]
        }),
        _ => json!({"cniVersion": version, "ips": [ip]}),
    }
}

/// `conf` with `keys` in place of its own; `null` removes one.
pub(crate) fn with(conf: &Value, keys: &Value) -> Value {
    let mut conf = conf.clone();
    for (key, value) in keys.as_object().into_iter().flatten() {
        match (value, conf.as_object_mut()) {
            (Value::Null, Some(conf)) => drop(conf.shift_remove(key)),
            _ => conf[key] = value.clone(),
        }
    }
    conf
}

/// Whether every key of `expected` has its value in `came`, at any depth.
pub(crate) fn contains(came: &Value, expected: &Value) -> bool {
    match expected {
        Value::Object(keys) => keys.iter().all(|(key, value)| contains(&came[key], value)),
        _ => came == expected,
    }
}

/// Whether a name is of a pattern in which one `*` stands for any text.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => name
            .strip_prefix(start)
            .is_some_and(|rest| rest.ends_with(end)),
    }
}

/// What was expected and what a call has come to.
pub(crate) fn unlike(expected: &str, cause: &str, output: &Output) -> String {
    format!(
        "expected {expected}, but {cause}: {}; status {:?}, stdout {:?}, stderr {:?}",
        summary(&output.call),
        output.status,
        shortened(&output.stdout),
        shortened(&output.stderr)
    )
}

/// What a call was about.
fn summary(call: &Call) -> String {
    let variable = |name: &str| call.variable(name);
    format!(
        "{} {}/{} netns {:?} with {}",
        variable("CNI_COMMAND"),
        variable("CNI_CONTAINERID"),
        variable("CNI_IFNAME"),
        variable("CNI_NETNS"),
        shortened(&String::from_utf8_lossy(call.input()))
    )
}

/// A text that fits into a report.
fn shortened(text: &str) -> String {
    const ENOUGH: usize = 400;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(ENOUGH) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    }
}
