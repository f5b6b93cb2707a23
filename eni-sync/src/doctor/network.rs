//! One network as its configuration describes it and this node has it.

use std::fs;

use common::config::Document;
use common::netlink::{Link, Netlink};
use common::pci::PciAddress;
use common::selector::MasterSelector;
use serde_json::Value;

use crate::doctor::range::{self, Range};
use crate::doctor::source::Source;

/// The plugins that take an interface of the node.
const INTERFACE_PLUGINS: [&str; 2] = ["ipvlan", "host-device"];
const OWN_NAME: &str = "eni-sync";
const MAIN_TABLE: u32 = 254;

/// A network.
#[derive(Debug)]
pub(crate) struct Network {
    /// Its name and where its configuration is from.
    pub(crate) subject: String,
    /// The network's name.
    pub(crate) name: String,
    /// The version as written.
    pub(crate) version: Option<String>,
    /// The plugins in their order.
    pub(crate) plugins: Vec<Value>,
    /// The interface of the node that its attachments use.
    pub(crate) master: Master,
    /// The addresses of its attachments.
    pub(crate) ranges: Result<Vec<Range>, String>,
}

/// The interface that attachments share or get.
#[derive(Debug)]
pub(crate) enum Master {
    /// No plugin has one, or it is not one of the node.
    None,
    /// This one.
    Found(Box<Link>),
    /// There is none, for this reason.
    Missing(String),
}

impl Network {
    /// The network of a configuration that can be read.
    pub(crate) fn of_source(source: Source, netlink: &mut Netlink) -> Result<Self, Source> {
        let document = match source.document {
            Ok(document) => document,
            Err(_) => return Err(source),
        };
        let plugins = match document["plugins"].as_array() {
            Some(plugins) => plugins.clone(),
            None => vec![document.clone()],
        };
        let mut network = Self {
            subject: source.subject,
            name: document["name"].as_str().unwrap_or_default().to_owned(),
            version: document["cniVersion"].as_str().map(str::to_owned),
            plugins,
            master: Master::None,
            ranges: Ok(Vec::new()),
        };
        if let Some(plugin) = network.interface_plugin().cloned().as_ref() {
            network.ranges = ranges(plugin);
            network.master = match find(plugin, netlink) {
                Ok(Some(link)) => Master::Found(Box::new(link)),
                Ok(None) => Master::None,
                Err(why) => Master::Missing(why),
            };
        }
        Ok(network)
    }

    /// The plugin that makes or moves the interface.
    pub(crate) fn interface_plugin(&self) -> Option<&Value> {
        let position = self.position_of_interface()?;
        self.plugins.get(position)
    }

    pub(crate) fn position_of_interface(&self) -> Option<usize> {
        let types = self.plugins.iter().map(type_of);
        types
            .into_iter()
            .position(|t| INTERFACE_PLUGINS.contains(&t))
    }

    pub(crate) fn position_of_eni_sync(&self) -> Option<usize> {
        self.plugins.iter().position(|p| type_of(p) == OWN_NAME)
    }

    /// Whether eni-sync has anything to do with it.
    pub(crate) fn is_ours(&self) -> bool {
        self.position_of_interface().is_some() || self.position_of_eni_sync().is_some()
    }

    /// Whether it is an ipvlan network, whose master stays with the node.
    pub(crate) fn is_ipvlan(&self) -> bool {
        self.interface_plugin().map(type_of) == Some("ipvlan")
    }

    /// Whether the node's stack routes for the pods.
    pub(crate) fn is_l3(&self) -> bool {
        let mode = self.interface_plugin().and_then(|p| p["mode"].as_str());
        self.is_ipvlan() && matches!(mode, Some("l3" | "l3s"))
    }

    /// Whether ADD refuses a master that is down, which it otherwise sets up.
    pub(crate) fn leaves_master_down(&self) -> bool {
        let plugin = self.interface_plugin();
        plugin.is_some_and(|plugin| plugin["masterUp"] == false)
    }

    /// Whether every node hands out the same addresses without knowing of the others.
    pub(crate) fn is_handed_out_by_each_node(&self) -> bool {
        let plugin = self.interface_plugin();
        plugin
            .is_some_and(|p| p["ipam"]["type"] == "host-local" && p["ipam"]["rangesFile"].is_null())
    }

    pub(crate) fn master(&self) -> Option<&Link> {
        match &self.master {
            Master::Found(link) => Some(link),
            Master::None | Master::Missing(_) => None,
        }
    }
}

/// The type of a plugin.
pub(crate) fn type_of(plugin: &Value) -> &str {
    plugin["type"].as_str().unwrap_or_default()
}

fn ranges(plugin: &Value) -> Result<Vec<Range>, String> {
    let ipam = &plugin["ipam"];
    let file = match ipam["rangesFile"].as_str() {
        None => None,
        Some(path) => {
            let failed = |why: &dyn std::fmt::Display| format!("rangesFile {path:?}: {why}");
            let text = fs::read(path).map_err(|cause| failed(&cause))?;
            let file: Value = serde_json::from_slice(&text).map_err(|cause| failed(&cause))?;
            Some(file)
        }
    };
    range::of_ipam(ipam, file.as_ref())
}

/// The interface that a plugin means, if it is one of the node and can be known.
fn find(plugin: &Value, netlink: &mut Netlink) -> Result<Option<Link>, String> {
    match type_of(plugin) {
        "ipvlan" => find_master(plugin, netlink),
        _ => find_device(plugin, netlink),
    }
}

fn find_master(plugin: &Value, netlink: &mut Netlink) -> Result<Option<Link>, String> {
    if plugin["linkInContainer"] == true {
        return Ok(None);
    }
    let selector = &plugin["masterSelector"];
    if !selector.is_null() {
        let found = MasterSelector::parse(selector).and_then(|selector| selector.find(netlink));
        return found.map(Some).map_err(|error| error.to_string());
    }
    match plugin["master"].as_str().filter(|name| !name.is_empty()) {
        Some(name) => by_name(name, netlink).map(Some),
        None => by_default_route(netlink).map(Some),
    }
}

fn by_name(name: &str, netlink: &mut Netlink) -> Result<Link, String> {
    let link = netlink
        .link_by_name(name)
        .map_err(|error| error.to_string())?;
    link.ok_or_else(|| format!("there is no interface {name:?}"))
}

/// The interface that ipvlan takes when none is named.
fn by_default_route(netlink: &mut Netlink) -> Result<Link, String> {
    let routes = netlink.routes().map_err(|error| error.to_string())?;
    let mut routes = routes.iter();
    let default = routes.find(|route| route.dst.is_default() && route.table == MAIN_TABLE);
    let index = default
        .and_then(|route| route.next_hops.first())
        .map(|hop| hop.0);
    let link = match index {
        Some(index) => netlink
            .link_by_index(index)
            .map_err(|error| error.to_string())?,
        None => None,
    };
    link.ok_or_else(|| "no master is named, and there is no default route".to_owned())
}

/// The device that host-device takes. `kernelpath` and what the runtime chooses are
/// not looked for.
fn find_device(plugin: &Value, netlink: &mut Netlink) -> Result<Option<Link>, String> {
    if let Some(name) = plugin["device"].as_str().filter(|name| !name.is_empty()) {
        return by_name(name, netlink).map(Some);
    }
    let links = netlink.links().map_err(|error| error.to_string())?;
    let mut links = links.into_iter();
    if let Some(mac) = plugin["hwaddr"].as_str().filter(|mac| !mac.is_empty()) {
        let wanted = mac.to_lowercase();
        let found = links.find(|link| link.mac == wanted);
        let missing = || format!("no interface has the MAC address {mac}");
        return found.map(Some).ok_or_else(missing);
    }
    if let Some(text) = plugin["pciBusID"].as_str() {
        let wanted = PciAddress::new(text);
        let found = links.find(|link| wanted.is_some() && PciAddress::of_link(link) == wanted);
        let missing = || format!("no interface is at the PCI address {text}");
        return found.map(Some).ok_or_else(missing);
    }
    Ok(None)
}

/// The plugin's configuration as eni-sync would read it.
///
/// # Errors
/// What a runtime would be told.
pub(crate) fn document(plugin: &Value) -> Result<Document, String> {
    Document::parse(plugin.to_string().as_bytes()).map_err(|error| error.to_string())
}
