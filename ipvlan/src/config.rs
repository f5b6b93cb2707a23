//! The configuration of an ipvlan network, parsed once into validated values. Module
//! `master` finds the master on the node.

use std::fmt;

use common::attach::requested_mac::requested_mac;
use common::attach::selector::MasterSelector;
use common::cni::args::{CmdArgs, ConfArgs};
use common::cni::result::AddResult;
use common::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chain;

/// The smallest MTU of an Ethernet device, in bytes. Source: `ETH_MIN_MTU` of Linux.
const LEAST_MTU: u32 = 68;

/// How the interfaces of a master reach each other and the outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The pod's own stack resolves neighbours and routes.
    #[default]
    L2,
    /// The master's stack routes for the pod.
    L3,
    /// Like L3, with the master's packet filter and connection tracking.
    L3s,
}

impl Mode {
    const ALL: [Self; 3] = [Self::L2, Self::L3, Self::L3s];

    /// The kernel's number (`IPVLAN_MODE_*`).
    pub fn number(self) -> u16 {
        match self {
            Self::L2 => 0,
            Self::L3 => 1,
            Self::L3s => 2,
        }
    }

    /// The mode with this number, as written in a configuration; the number itself when
    /// it is unknown.
    pub fn describe(number: u16) -> String {
        let mode = Self::ALL.into_iter().find(|mode| mode.number() == number);
        mode.map_or_else(|| number.to_string(), |mode| mode.to_string())
    }

    fn from_text(text: &str) -> Result<Self> {
        match text {
            "" | "l2" => Ok(Self::L2),
            "l3" => Ok(Self::L3),
            "l3s" => Ok(Self::L3s),
            _ => Err(Error::config(format!("unknown ipvlan mode: {text:?}"))),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        })
    }
}

/// Which interfaces of a master reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flag {
    /// All reach each other.
    #[default]
    Bridge,
    /// None reaches another one.
    Private,
    /// They reach each other through the switch outside, if that sends frames back.
    Vepa,
}

impl Flag {
    const ALL: [Self; 3] = [Self::Bridge, Self::Private, Self::Vepa];

    /// The kernel's number (`IPVLAN_F_*`).
    pub fn number(self) -> u16 {
        match self {
            Self::Bridge => 0,
            Self::Private => 1,
            Self::Vepa => 2,
        }
    }

    /// The flag with this number, as written in a configuration; the number itself when
    /// it is unknown.
    pub fn describe(number: u16) -> String {
        let flag = Self::ALL.into_iter().find(|flag| flag.number() == number);
        flag.map_or_else(|| number.to_string(), |flag| flag.to_string())
    }

    fn from_value(value: &Value) -> Result<Self> {
        match value {
            Value::Null => Ok(Self::Bridge),
            Value::String(text) if text.is_empty() => Ok(Self::Bridge),
            _ => {
                let known = |flag: &Self| value.as_str() == Some(&flag.to_string());
                let flag = Self::ALL.into_iter().find(known);
                flag.ok_or_else(|| Error::config(format!("unknown ipvlan flag: {value}")))
            }
        }
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
        })
    }
}

/// Which interface is the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Master {
    /// The interface with this name or alternative name.
    Named(String),
    /// The interface of the node that this selector selects.
    Selected(MasterSelector),
    /// The interface of the default route of its namespace.
    DefaultRoute,
}

/// The keys of this plugin, validated.
#[derive(Debug)]
pub struct NetConf {
    /// The interface that the pod's interface shares.
    pub master: Master,
    /// Whether the master is looked up inside the container.
    pub link_in_container: bool,
    /// Whether a master that is down is set up. Otherwise that is an error.
    pub master_up: bool,
    /// The mode.
    pub mode: Mode,
    /// The flag.
    pub flag: Flag,
    /// The MTU in bytes; the master's when not given.
    pub mtu: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Keys {
    master: String,
    master_selector: Value,
    mode: String,
    flag: Value,
    mtu: i64,
    link_in_container: bool,
    master_up: Option<bool>,
}

impl NetConf {
    /// The configuration of an ADD. `prev_result` is the result of the plugin before this
    /// one in the chain, if there is one.
    ///
    /// # Errors
    /// Code 6 for a malformed document, 7 for an invalid value.
    pub fn for_add(args: &CmdArgs, prev_result: Option<&AddResult>) -> Result<Self> {
        refuse_mac(args)?;
        let mut conf = Self::parse(&args.conf)?;
        if conf.master == Master::DefaultRoute
            && let Some(prev_result) = prev_result
        {
            let sandbox = if conf.link_in_container {
                &args.netns
            } else {
                ""
            };
            conf.master = Master::Named(chain::master(prev_result, sandbox)?);
        }
        Ok(conf)
    }

    /// The configuration of the other commands.
    ///
    /// # Errors
    /// As for [`NetConf::for_add`].
    pub fn parse(conf: &ConfArgs) -> Result<Self> {
        let keys: Keys = conf.document.read("failed to load netconf")?;
        Ok(Self {
            master: master(&keys)?,
            link_in_container: keys.link_in_container,
            master_up: keys.master_up.unwrap_or(true),
            mode: Mode::from_text(&keys.mode)?,
            flag: Flag::from_value(&keys.flag)?,
            mtu: parse_mtu(keys.mtu)?,
        })
    }
}

/// The master that the keys name. A selector finds an interface of the node, so it cannot
/// be combined with a name or with a master inside the container.
fn master(keys: &Keys) -> Result<Master> {
    match (&keys.master_selector, keys.master.as_str()) {
        (Value::Null, "") => Ok(Master::DefaultRoute),
        (Value::Null, name) => Ok(Master::Named(name.to_owned())),
        (_, name) if !name.is_empty() => Err(Error::config(format!(
            "master {name:?} and masterSelector exclude each other"
        ))),
        _ if keys.link_in_container => Err(Error::config(
            "linkInContainer and masterSelector exclude each other",
        )),
        (selector, _) => MasterSelector::parse(selector).map(Master::Selected),
    }
}

fn parse_mtu(mtu: i64) -> Result<Option<u32>> {
    match u32::try_from(mtu) {
        Ok(0) => Ok(None),
        Ok(mtu) if mtu >= LEAST_MTU => Ok(Some(mtu)),
        _ => Err(Error::config(format!("invalid mtu: {mtu}"))
            .with_details(format!("the minimum is {LEAST_MTU} bytes"))),
    }
}

/// Refuses a requested MAC address: an ipvlan interface always has that of its master, so
/// the request cannot be fulfilled.
fn refuse_mac(args: &CmdArgs) -> Result<()> {
    match requested_mac(args)? {
        None => Ok(()),
        Some(mac) => Err(Error::config(format!(
            "cannot set mac {mac}: an ipvlan interface has the MAC of its master"
        ))),
    }
}
