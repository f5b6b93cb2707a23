//! Ranges as they are written in configurations and ranges files.

use std::net::IpAddr;

use common::address::{Cidr, parse_address};
use common::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exclude;
use crate::range::RangeSpec;

/// The message of the Go plugin when there is no range set.
pub const NO_RANGES: &str = "no IP ranges specified";

/// A range as it is written. Addresses are texts here, so that an invalid one is reported
/// with the text of the Go plugin and not with that of the JSON reader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RawRange {
    /// The network, such as `10.0.4.0/24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// The first address; empty for the network's first host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub range_start: String,
    /// The last address; empty for the network's last host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub range_end: String,
    /// The gateway; empty for the network's first host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// A list of addresses and networks that are not assigned.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub exclude: Value,
}

impl RawRange {
    /// The addresses of `subnet` from `first` to `last`.
    pub fn between(subnet: Cidr, first: IpAddr, last: IpAddr) -> Self {
        Self {
            subnet: Some(subnet.to_string()),
            range_start: first.to_string(),
            range_end: last.to_string(),
            ..Self::default()
        }
    }

    /// Parses the texts.
    ///
    /// # Errors
    /// Code 7 with a text of the Go plugin, or one that names the key `exclude`.
    fn spec(&self) -> Result<RangeSpec> {
        let subnet = self.subnet.as_deref().map(str::parse::<Cidr>).transpose();
        Ok(RangeSpec {
            subnet: subnet.map_err(Error::config)?,
            range_start: optional_address(&self.range_start)?,
            range_end: optional_address(&self.range_end)?,
            gateway: optional_address(&self.gateway)?,
            exclude: exclude::parse(&self.exclude).map_err(Error::config)?,
        })
    }
}

fn optional_address(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    parse_address(text).map(Some).map_err(Error::config)
}

/// Parses the ranges of `sets`.
///
/// # Errors
/// Code 7 with a text of the Go plugin, or one that names the key `exclude`.
pub fn specs<'a>(sets: impl IntoIterator<Item = &'a Vec<RawRange>>) -> Result<Vec<Vec<RangeSpec>>> {
    let sets = sets.into_iter();
    sets.map(|set| set.iter().map(RawRange::spec).collect())
        .collect()
}
