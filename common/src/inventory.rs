//! The node's ENIs, as eni-sync writes them down for the plugins. Interface names
//! differ between instance types and images; what this file says of an ENI does not.
//! Its format is `eni-sync/enis.schema.json`.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::address::Cidr;
use crate::error::{Error, ErrorCode, Result};
use crate::file;

/// Where eni-sync writes the inventory.
pub const PATH: &str = "/run/eni-cni/enis.json";
/// No node has so many ENIs.
const LIMIT: u64 = 1 << 20;

/// The ENIs of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// One entry an ENI.
    pub enis: Vec<Eni>,
}

/// An elastic network interface that is attached to this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Eni {
    /// Its id, such as `eni-0123456789abcdef0`.
    pub id: String,
    /// Its MAC address, in lower case with colons.
    pub mac: String,
    /// The name of its interface when the inventory was written.
    pub interface: String,
    /// The index of the attachment; 0 is the node's primary ENI.
    pub device_index: u32,
    /// The id of its subnet, such as `subnet-0123456789abcdef0`.
    pub subnet_id: String,
    /// The address ranges of its subnet, both families.
    pub subnet_cidrs: Vec<Cidr>,
    /// The id of its VPC.
    pub vpc_id: String,
    /// How many private IPv4 addresses it can have, the primary included.
    pub ipv4_limit: u32,
    /// How many IPv6 addresses it can have.
    pub ipv6_limit: u32,
}

impl Inventory {
    /// The inventory of this node, or nothing when eni-sync has not written one.
    ///
    /// # Errors
    /// Code 5 when the file cannot be read, 6 when it is no inventory; both name it.
    pub fn read() -> Result<Option<Self>> {
        let bytes = match file::read_regular(Path::new(PATH), LIMIT) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(Error::io(format!("failed to read {PATH}"), &cause)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|cause| {
            let msg = format!("{PATH} is no inventory of ENIs");
            Error::new(ErrorCode::DECODING, msg).with_details(cause.to_string())
        })
    }
}
