//! A plugin that is examined, and the recipe by which it can be called: a configuration
//! and what it needs on a node.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use harness::Call;
use serde::Deserialize;
use serde_json::Value;

/// Every version of the specification.
pub(crate) const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

const KNOWN: [(&str, &str); 6] = [
    ("host-local", include_str!("plugins/host-local.json")),
    ("static", include_str!("plugins/static.json")),
    ("host-device", include_str!("plugins/host-device.json")),
    ("ipvlan", include_str!("plugins/ipvlan.json")),
    ("macvlan", include_str!("plugins/macvlan.json")),
    ("bridge", include_str!("plugins/bridge.json")),
];

/// What a plugin does.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// It gives a container an interface.
    Main,
    /// It manages addresses.
    Ipam,
}

/// How a plugin is called, and what is to be seen when it has worked.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Recipe {
    /// What the plugin does.
    pub(crate) kind: Kind,
    /// The configuration without name, version and, of a main plugin, `ipam`.
    pub(crate) conf: Value,
    /// The arguments of `ip` that prepare a node.
    #[serde(default)]
    pub(crate) node: Vec<String>,
    /// What the configurations of a second and a third attachment have instead.
    #[serde(default)]
    pub(crate) others: Vec<Value>,
    /// The links of the node after ADD, where `*` stands for any text.
    #[serde(default)]
    pub(crate) node_links: Vec<String>,
    /// Links of the node that outlive their last attachment.
    #[serde(default)]
    pub(crate) lasting_links: Vec<String>,
    /// What `ip` says of the container's interface, as far as it is the plugin's doing.
    #[serde(default)]
    pub(crate) link: Value,
    /// The interface of the node that the container's one belongs to.
    pub(crate) parent: Option<Parent>,
    /// The interface of the node that is moved.
    pub(crate) device: Option<Device>,
    /// Where reservations are kept.
    pub(crate) store: Option<Store>,
}

/// The interface of the node that a container's one belongs to.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Parent {
    /// The key of the configuration that names it.
    pub(crate) key: String,
    /// Its name, which is also what `node` makes.
    pub(crate) name: String,
    /// Whether it is that of the default route when it is not named.
    #[serde(default)]
    pub(crate) default_route: bool,
}

/// The interface of the node that is moved.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Device {
    /// Its name, which is also what `node` makes.
    pub(crate) name: String,
    /// Its hardware address.
    pub(crate) hwaddr: String,
}

/// Where an IPAM plugin keeps reservations.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Store {
    /// The directory of the network `net`.
    pub(crate) directory: PathBuf,
    /// The names of files that may stay without any reservation, where `*` stands for
    /// any text.
    #[serde(default)]
    pub(crate) marks: Vec<String>,
    /// The name of an entry that takes the place of a reservation without being one.
    pub(crate) broken: String,
    /// The configuration of a network with a single address.
    pub(crate) single: Value,
}

impl Recipe {
    /// The recipe of a plugin that the suite knows.
    pub(crate) fn known(name: &str) -> Option<Result<Self, String>> {
        let (_, text) = KNOWN.iter().find(|(known, _)| *known == name)?;
        Some(Self::parse(text))
    }

    /// The names of the plugins that the suite knows.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, _)| *name)
    }

    /// The recipe in a file.
    pub(crate) fn of_file(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
        Self::parse(&text).map_err(|cause| format!("{}: {cause}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|cause| cause.to_string())
    }

    pub(crate) fn is_main(&self) -> bool {
        self.kind == Kind::Main
    }
}

/// A plugin that is examined.
pub(crate) struct Plugin {
    /// Its name, which is the configuration's `type`.
    pub(crate) name: String,
    /// The binary.
    pub(crate) program: PathBuf,
    /// Another implementation that shares its files.
    pub(crate) peer: Option<PathBuf>,
    /// How it is called.
    pub(crate) recipe: Recipe,
    /// How long it may take to give up what does not answer; zero to leave that out.
    pub(crate) patience: Duration,
    /// How often a call is repeated that says to try again.
    pub(crate) repeat: u32,
    /// A network card of this machine that may be moved.
    pub(crate) card: Option<String>,
    versions: Vec<String>,
    notes: Mutex<Vec<String>>,
}

impl Plugin {
    /// The plugin `program`, which is asked for the versions that it speaks.
    pub(crate) fn new(name: &str, program: PathBuf, recipe: Recipe) -> Self {
        let asked = Call::bare(&program, "VERSION").env("CNI_PATH", "/nowhere");
        let answer = asked.run().try_ok().unwrap_or_default();
        let listed = answer["supportedVersions"].as_array().cloned();
        let is_listed = |version: &&str| listed.iter().flatten().any(|listed| listed == *version);
        let versions = VERSIONS.iter().filter(|v| is_listed(v));
        Self {
            name: name.to_owned(),
            program,
            peer: None,
            recipe,
            patience: Duration::ZERO,
            repeat: 0,
            card: None,
            versions: versions.map(|&version| version.to_owned()).collect(),
            notes: Mutex::default(),
        }
    }

    /// Whether the plugin says that it speaks this version.
    pub(crate) fn speaks(&self, version: &str) -> bool {
        self.versions.iter().any(|spoken| spoken == version)
    }

    /// The versions that it says it speaks, oldest first.
    pub(crate) fn versions(&self) -> &[String] {
        &self.versions
    }

    /// The newest of them, by which it is examined.
    pub(crate) fn version(&self) -> &str {
        self.versions.last().map_or("1.0.0", String::as_str)
    }

    /// Remembers a figure that is printed and not judged.
    pub(crate) fn note(&self, text: String) {
        if let Ok(mut notes) = self.notes.lock() {
            notes.push(text);
        }
    }

    /// The figures so far.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes
            .lock()
            .map(|notes| notes.clone())
            .unwrap_or_default()
    }
}
