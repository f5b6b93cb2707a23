//! The key `networks`: the networks that the agent watches, listed or found by itself.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};

use super::Watched;

/// The value for all networks of the node's attachments.
const AUTO: &str = "auto";

/// The networks whose reservations are registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Networks {
    /// The networks in the list.
    Listed(Vec<Watched>),
    /// The networks of all attachments of this node that are on an ENI for pods.
    Auto,
}

impl Default for Networks {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

impl Networks {
    /// The networks in the list.
    pub(crate) fn listed(&self) -> &[Watched] {
        match self {
            Self::Listed(networks) => networks,
            Self::Auto => &[],
        }
    }

    /// Whether no network is to be watched.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::Listed(networks) if networks.is_empty())
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.listed().iter().map(|network| network.name.as_str());
        match self {
            Self::Auto => write!(f, "{AUTO}"),
            Self::Listed(_) => write!(f, "{}", Vec::from_iter(names).join(", ")),
        }
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListOrAuto)
    }
}

/// Reads either form. A derived untagged enum would not name the wrong key of a list.
struct ListOrAuto;

impl<'de> Visitor<'de> for ListOrAuto {
    type Value = Networks;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{AUTO:?} or a list of networks")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Networks, E> {
        match text == AUTO {
            true => Ok(Networks::Auto),
            false => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Networks, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Networks::Listed)
    }
}
