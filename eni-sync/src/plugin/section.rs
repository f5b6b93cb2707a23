//! The `ipam` section of a network whose addresses EC2 chooses.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use common::address::{Cidr, parse_address};
use common::cni::args::ConfArgs;
use common::cni::lenient::{find, read_value};
use common::cni::result::Route;
use common::error::{Error, Result};
use host_local_ipam::config::requested_addresses;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::ledger::{DEFAULT_COOLDOWN, LONGEST_COOLDOWN, Takeover};
use crate::vpc::ec2::Family;

/// The name of this plugin, in the `ipam` section and in a list of plugins.
const NAME: &str = "eni-sync";
const KEY_TYPE: &str = "type";
const KEY_FAMILIES: &str = "families";
const KEY_ADDRESSES: &str = "addresses";
const KEY_TAKEOVER: &str = "takeover";
const KEY_ROUTES: &str = "routes";
const KEY_GATEWAY: &str = "gateway";
const KEY_COOLDOWN: &str = "cooldownSeconds";
const KEYS: [&str; 7] = [
    KEY_TYPE,
    KEY_FAMILIES,
    KEY_ADDRESSES,
    KEY_TAKEOVER,
    KEY_ROUTES,
    KEY_GATEWAY,
    KEY_COOLDOWN,
];
/// The start of the message when the runtime's request for addresses cannot be read.
const UNREADABLE: &str = "failed to load the configuration of eni-sync";

/// The keys of the section, and the addresses that the runtime requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// The families of which a pod gets addresses; if none are named, those of the subnet.
    pub(crate) families: Option<Vec<Family>>,
    /// The requested addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// From which ENIs one of them may be taken.
    pub(crate) takeover: Takeover,
    /// The routes for the result.
    pub(crate) routes: Vec<Route>,
    /// Whether the result names the subnet's router as gateway.
    pub(crate) gateway: bool,
    /// How long an address stays on its ENI after its attachment has ended.
    pub(crate) cooldown: Duration,
}

/// Whether a configuration is that of an interface plugin which uses this one for IPAM.
pub(crate) fn is_meant(conf: &ConfArgs) -> bool {
    let is_named = |value: Option<&Value>| value.and_then(Value::as_str) == Some(NAME);
    let ipam = conf.document.get("ipam").and_then(Value::as_object);
    is_named(ipam.and_then(|section| find(section, KEY_TYPE)))
        && !is_named(conf.document.get(KEY_TYPE))
}

impl Section {
    /// The keys of the section; `cni_args` is empty when the command has none.
    ///
    /// # Errors
    /// Code 7 with the key and the value; 6 and 4 for the runtime's request.
    pub(crate) fn parse(conf: &ConfArgs, cni_args: &str) -> Result<Self> {
        let nothing = Map::new();
        let section = conf.document.get("ipam").and_then(Value::as_object);
        let section = section.unwrap_or(&nothing);
        require_known(section)?;
        let get = |key: &str| find(section, key).filter(|value| !value.is_null());
        let mut addresses = get(KEY_ADDRESSES).map_or(Ok(Vec::new()), addresses)?;
        for address in requested_addresses(conf, cni_args, UNREADABLE)? {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let section = Self {
            families: get(KEY_FAMILIES).map(families).transpose()?,
            addresses,
            takeover: get(KEY_TAKEOVER).map_or(Ok(Takeover::default()), |value| {
                let possible = "it is never, dead-owner or always";
                Takeover::deserialize(value).map_err(|_| invalid(KEY_TAKEOVER, value, possible))
            })?,
            routes: get(KEY_ROUTES).map_or(Ok(Vec::new()), routes)?,
            gateway: get(KEY_GATEWAY).map_or(Ok(true), |value| {
                let possible = "it is true or false: the gateway is the subnet's router";
                let gateway = value.as_bool();
                gateway.ok_or_else(|| invalid(KEY_GATEWAY, value, possible))
            })?,
            cooldown: get(KEY_COOLDOWN).map_or(Ok(DEFAULT_COOLDOWN), cooldown)?,
        };
        section.require_families()
    }

    /// Checks that each requested address is of one of the families.
    fn require_families(self) -> Result<Self> {
        let families = self.families.as_deref().unwrap_or(&Family::ALL);
        let mut addresses = self.addresses.iter();
        let other = addresses.find(|address| !families.contains(&Family::of(**address)));
        match other {
            None => Ok(self),
            Some(address) => {
                let family = Family::of(*address).name();
                let msg = format!("{address} is asked for, and families lacks {family}");
                Err(Error::config(msg))
            }
        }
    }
}

/// Refuses unknown keys: a key that is ignored may be a typing error.
fn require_known(section: &Map<String, Value>) -> Result<()> {
    let is_known = |key: &str| KEYS.iter().any(|known| known.eq_ignore_ascii_case(key));
    match section.keys().find(|key| !is_known(key)) {
        None => Ok(()),
        Some(key) => {
            let msg = format!("unknown key {key:?} in ipam");
            Err(Error::config(msg).with_details(format!("eni-sync has {}", KEYS.join(", "))))
        }
    }
}

fn families(value: &Value) -> Result<Vec<Family>> {
    let families = Vec::<Family>::deserialize(value).unwrap_or_default();
    let is_twice = families.len() > 1 && families.first() == families.last();
    if families.is_empty() || families.len() > Family::ALL.len() || is_twice {
        let possible = r#"it is a list of "ipv4" and "ipv6", each once"#;
        return Err(invalid(KEY_FAMILIES, value, possible));
    }
    Ok(families)
}

fn addresses(value: &Value) -> Result<Vec<IpAddr>> {
    let parse = |text: &Value| {
        let text = text.as_str()?;
        let cidr = text.parse::<Cidr>().map(Cidr::address);
        cidr.or_else(|_| parse_address(text)).ok()
    };
    let texts = value.as_array().map(|texts| texts.iter().map(parse));
    let addresses: Option<Vec<IpAddr>> = texts.and_then(Iterator::collect);
    let is_once = |addresses: &Vec<IpAddr>| {
        let different: HashSet<&IpAddr> = addresses.iter().collect();
        different.len() == addresses.len()
    };
    let addresses = addresses.filter(is_once);
    addresses.ok_or_else(|| invalid(KEY_ADDRESSES, value, "it is a list of addresses, each once"))
}

fn routes(value: &Value) -> Result<Vec<Route>> {
    read_value(value, "").map_err(|cause| invalid(KEY_ROUTES, value, &cause.details))
}

fn cooldown(value: &Value) -> Result<Duration> {
    let seconds = value
        .as_u64()
        .filter(|seconds| *seconds <= LONGEST_COOLDOWN);
    let cooldown = seconds.map(Duration::from_secs);
    cooldown.ok_or_else(|| invalid(KEY_COOLDOWN, value, "it is 0 to 86400 seconds"))
}

fn invalid(key: &str, value: &Value, possible: &str) -> Error {
    Error::config(format!("invalid ipam.{key} {value}")).with_details(possible)
}
