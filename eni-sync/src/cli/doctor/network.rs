//! One network by its configuration and the state of this node. The libraries of the plugins
//! check their own configuration.

use common::cni::args::ConfArgs;
use common::cni::lenient::find;
use common::error::{Error, ErrorCode, Result};
use common::kernel::netlink::{Link, Netlink};
use common::{plugin, program};
use host_device::restore::Host;
use host_local_ipam::range::RangeSet;
use ipvlan::config::Mode;
use serde_json::Value;

use crate::cli::doctor::range::{self, Range};
use crate::cli::doctor::source::Source;
use crate::plugin::config::Config;
use crate::plugin::section::{self, Section};

/// The plugins that take an interface of the node.
const INTERFACE_PLUGINS: [&str; 2] = ["ipvlan", "host-device"];
const OWN_NAME: &str = "eni-sync";

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
    /// The errors of the plugins, each with the name of the plugin.
    pub(crate) refusals: Vec<(&'static str, Error)>,
    /// The interface of the node that its attachments use.
    pub(crate) master: Master,
    /// The selector, if the interface is not selected by its name.
    pub(crate) selector: Option<String>,
    /// The mode of an ipvlan network that the plugin accepts.
    pub(crate) mode: Option<Mode>,
    /// The addresses of its attachments.
    pub(crate) ranges: Result<Vec<Range>, String>,
    /// Whether every node hands out the same addresses, independently of the others.
    pub(crate) is_handed_out_by_each_node: bool,
    /// Whether the network has no ranges, and EC2 chooses the addresses.
    pub(crate) is_chosen_by_ec2: bool,
}

/// The interface that attachments share or get.
#[derive(Debug)]
pub(crate) enum Master {
    /// No plugin has a master, or it is not an interface of the node.
    None,
    /// This one.
    Found(Box<Link>),
    /// The plugin finds no interface, for this reason.
    Missing(Error),
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
            refusals: Vec::new(),
            master: Master::None,
            selector: None,
            mode: None,
            ranges: Ok(Vec::new()),
            is_handed_out_by_each_node: false,
            is_chosen_by_ec2: false,
        };
        network.examine_interface(&document, netlink);
        network.examine_eni_sync(&document);
        Ok(network)
    }

    /// Has the plugin that makes or moves the interface, and its IPAM plugin, check the
    /// configuration.
    fn examine_interface(&mut self, list: &Value, netlink: &mut Netlink) {
        let Some(plugin) = self.interface_plugin().cloned() else {
            return;
        };
        let is_ipvlan = self.is_ipvlan();
        let outcome = configuration(&plugin, list).and_then(|conf| {
            self.examine_ipam(&conf);
            match is_ipvlan {
                true => self.examine_ipvlan(&conf, netlink),
                false => examine_host_device(&conf, netlink),
            }
        });
        match outcome {
            Ok(Some(link)) => self.master = Master::Found(Box::new(link)),
            Ok(None) => {}
            Err(error) if error.code == ErrorCode::UNAVAILABLE => {
                self.master = Master::Missing(error);
            }
            Err(error) => {
                let name = if is_ipvlan { "ipvlan" } else { "host-device" };
                self.refusals.push((name, error));
            }
        }
    }

    fn examine_ipvlan(&mut self, conf: &ConfArgs, netlink: &mut Netlink) -> Result<Option<Link>> {
        let (conf, master) = ipvlan::status::examine(conf, netlink)?;
        self.mode = Some(conf.mode);
        if let ipvlan::config::Master::Selected(selector) = &conf.master {
            self.selector = Some(selector.to_string());
        }
        Ok(master)
    }

    fn examine_ipam(&mut self, conf: &ConfArgs) {
        if section::is_meant(conf) {
            self.is_chosen_by_ec2 = true;
            let refused = Section::parse(conf, "").err();
            self.refusals.extend(refused.map(|error| (OWN_NAME, error)));
            return;
        }
        let ipam = conf.document.get("ipam").unwrap_or(&Value::Null);
        if type_of(ipam) != "host-local" {
            self.ranges = range::of_ipam(ipam);
            return;
        }
        match host_local_ipam::status::examine(conf) {
            Ok((config, sets)) => {
                let ranges = sets.iter().flat_map(RangeSet::ranges);
                self.ranges = Ok(ranges.map(Range::of_host_local).collect());
                self.is_handed_out_by_each_node = !config.sources.has_file();
            }
            Err(error) => self.ranges = Err(error.to_string()),
        }
    }

    fn examine_eni_sync(&mut self, list: &Value) {
        let position = self.position_of_eni_sync();
        let Some(plugin) = position.and_then(|position| self.plugins.get(position)) else {
            return;
        };
        let parsed = configuration(plugin, list).and_then(|conf| Config::parse(&conf.document));
        self.refusals
            .extend(parsed.err().map(|error| (OWN_NAME, error)));
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

    /// Whether a plugin of this suite is in the network.
    pub(crate) fn is_ours(&self) -> bool {
        self.position_of_interface().is_some() || self.position_of_eni_sync().is_some()
    }

    /// Whether it is an ipvlan network, whose master stays with the node.
    pub(crate) fn is_ipvlan(&self) -> bool {
        self.interface_plugin().map(type_of) == Some("ipvlan")
    }

    /// Whether the node's stack routes for the pods.
    pub(crate) fn is_l3(&self) -> bool {
        matches!(self.mode, Some(Mode::L3 | Mode::L3s))
    }

    pub(crate) fn master(&self) -> Option<&Link> {
        match &self.master {
            Master::Found(link) => Some(link),
            Master::None | Master::Missing(_) => None,
        }
    }
}

/// The plugin of a configuration, by any of the plugin's names.
pub(crate) fn type_of(plugin: &Value) -> &str {
    program::of_type(text(plugin, "type"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    let object = value.as_object();
    let found = object.and_then(|object| find(object, key));
    found.and_then(Value::as_str).unwrap_or_default()
}

/// The configuration of one plugin as a runtime passes it: with the name and the version of the
/// list. Source: libcni, `buildOneConfig`.
fn configuration(plugin: &Value, list: &Value) -> Result<ConfArgs> {
    let mut keys = plugin.as_object().cloned().unwrap_or_default();
    for key in ["name", "cniVersion"] {
        if let Some(value) = list.get(key) {
            keys.insert(key.to_owned(), value.clone());
        }
    }
    plugin::configuration(Value::Object(keys).to_string().into_bytes(), "")
}

/// The interface that host-device would move, if the configuration selects one.
fn examine_host_device(conf: &ConfArgs, netlink: &mut Netlink) -> Result<Option<Link>> {
    match host_device::find::examine(conf, &mut Host::open()?)? {
        Some(device) if device.has_interface() => netlink.link_by_index(device.index),
        _ => Ok(None),
    }
}
