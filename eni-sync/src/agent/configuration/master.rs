//! The interface of the node whose ENI a network or a pool uses: by its name, or by a property
//! that is the same on all nodes.

use std::fmt;

use common::attach::selector::MasterSelector;
use common::error::{Error, Result};
use common::kernel::netlink::{Link, Netlink};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::Value;

/// A `masterSelector`, with the same keys as in the plugins' configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector(MasterSelector);

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let section = Value::deserialize(deserializer)?;
        let selector = MasterSelector::parse(&section);
        selector.map(Self).map_err(D::Error::custom)
    }
}

/// How a configuration selects the interface.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Master<'a> {
    Named(&'a str),
    Selected(&'a Selector),
}

impl<'a> Master<'a> {
    /// The one that is given.
    ///
    /// # Errors
    /// A text when neither or both are given.
    pub(super) fn one_of(
        name: Option<&'a String>,
        selector: Option<&'a Selector>,
    ) -> Result<Self, String> {
        match (name, selector) {
            (Some(name), None) => Ok(Self::Named(name)),
            (None, Some(selector)) => Ok(Self::Selected(selector)),
            (None, None) => Err("needs master or masterSelector".to_owned()),
            (Some(_), Some(_)) => Err("has both master and masterSelector".to_owned()),
        }
    }

    /// The MAC address of the interface.
    ///
    /// # Errors
    /// Code 7 when the node has no such interface.
    pub(crate) fn mac(self) -> Result<String> {
        self.link().map(|link| link.hardware_mac().to_owned())
    }

    /// The interface.
    ///
    /// # Errors
    /// Code 7 when the node has no such interface.
    pub(crate) fn link(self) -> Result<Link> {
        let mut netlink = Netlink::open()?;
        match self {
            Self::Named(name) => netlink
                .link_by_name(name)?
                .ok_or_else(|| Error::config(format!("there is no interface {name:?}"))),
            Self::Selected(Selector(selector)) => selector.find(&mut netlink),
        }
    }
}

/// As it is written in a configuration.
impl fmt::Display for Master<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "master {name}"),
            Self::Selected(Selector(selector)) => write!(f, "masterSelector {selector}"),
        }
    }
}
