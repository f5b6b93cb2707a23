//! The inventory: a file in which eni-sync describes the node's ENIs for the plugins. Interface
//! names differ between instance types and images; the properties of an ENI in this file do not.
//! Its format is `eni-sync/enis.schema.json`.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::address::Cidr;
use crate::error::{Error, ErrorCode, Result};
use crate::files::file;
use crate::files::format;
use crate::records::ROOT;

/// The directory for data of eni-sync that ends with the boot; only root can read it.
pub const DIRECTORY: &str = "/run/eni-cni";
/// The path of the inventory.
pub const PATH: &str = "/run/eni-cni/enis.json";
/// The maximum size of the inventory in bytes, more than any node needs.
const LIMIT: u64 = 1 << 20;
/// The maximum size of the file of an ENI that is being detached, in bytes.
pub const RECORD_LIMIT: u64 = 1 << 16;

/// The keys of an ENI that the first versions of eni-sync did not write.
const LATER: [&str; 4] = ["networkCardIndex", "network", "tags", "securityGroups"];

/// The tag by which the VPC CNI ignores an ENI. Without it the VPC CNI assigns the ENI's
/// addresses to other pods, and unassigns addresses of the ENI.
pub const NO_MANAGE_TAG: &str = "node.k8s.amazonaws.com/no_manage";

/// The tag whose value is the name that a configuration of eni-sync has for the ENI.
pub const NETWORK_TAG: &str = "eni-cni/network";

/// The ENIs of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// The region, such as `eu-west-1`.
    pub region: String,
    /// The id of this node's instance, such as `i-0123456789abcdef0`.
    pub instance_id: String,
    /// The type of the instance, such as `c5.4xlarge`.
    pub instance_type: String,
    /// One entry for each ENI.
    pub enis: Vec<Eni>,
    /// How many ENIs each network card of the instance can have, by its index; empty when that
    /// is not known from EC2.
    #[serde(default)]
    pub interface_limits: Vec<u32>,
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
    /// The network card of the attachment; 0 on most instances, which have one.
    #[serde(default)]
    pub network_card_index: u32,
    /// The index of the attachment on its network card.
    pub device_index: u32,
    /// The id of the attachment, such as `eni-attach-0123456789abcdef0`; empty in a file of a
    /// version that did not write it down.
    #[serde(default)]
    pub attachment_id: String,
    /// When it was attached, in seconds since 1970 by EC2's clock; 0 if EC2 has not said.
    #[serde(default)]
    pub attach_time: u64,
    /// Whether EC2 may have described the attachment that its former interface had. The time is not
    /// known then, until another attachment is described.
    #[serde(default = "always")]
    pub may_be_former: bool,
    /// The index of its interface before EC2 was asked, or the last one that was known of this
    /// attachment; 0 if there was none.
    #[serde(default)]
    pub interface_index: u32,
    /// The id of its subnet, such as `subnet-0123456789abcdef0`.
    pub subnet_id: String,
    /// The address ranges of its subnet, both families.
    pub subnet_cidrs: Vec<Cidr>,
    /// The id of its VPC.
    pub vpc_id: String,
    /// Whether its tag [`NO_MANAGE_TAG`] is `true`.
    pub no_manage: bool,
    /// Its tag [`NETWORK_TAG`]; empty without one.
    #[serde(default)]
    pub network: String,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// The description that its creator has given it.
    #[serde(default)]
    pub description: String,
    /// The id of its requester: an account, a role with its session, or a service.
    #[serde(default)]
    pub requester_id: String,
    /// Whether a service of AWS manages it.
    #[serde(default)]
    pub requester_managed: bool,
    /// The ids of its security groups.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// Its own addresses: the primary private IPv4 address, and the primary IPv6
    /// address where it has one.
    pub primary_addresses: Vec<IpAddr>,
    /// The prefixes that are delegated to it as a whole.
    pub prefixes: Vec<Cidr>,
    /// How many private IPv4 addresses it can have, the primary included.
    pub ipv4_limit: u32,
    /// How many IPv6 addresses it can have.
    pub ipv6_limit: u32,
}

/// A version that did not write down why a time is not known may have left it out for this reason.
const fn always() -> bool {
    true
}

impl Eni {
    /// Whether it is the primary ENI of the node.
    pub fn is_primary(&self) -> bool {
        is_primary(self.network_card_index, self.device_index)
    }
}

/// The directory with a file for each ENI that eni-sync is attaching, has attached or is
/// detaching.
pub fn begun() -> PathBuf {
    Path::new(ROOT).join("enis")
}

/// The file that exists while eni-sync detaches the ENI with this MAC address from the node.
pub fn leaving(mac: &str) -> PathBuf {
    begun().join(format!("leaving-{mac}.json"))
}

/// Whether eni-sync is detaching the ENI with this MAC address from the node.
///
/// # Errors
/// Code 5 naming the file.
pub fn is_leaving(mac: &str) -> Result<bool> {
    let path = leaving(mac);
    let failed = |cause| Error::io(format!("failed to look for {path:?}"), &cause);
    path.try_exists().map_err(failed)
}

/// As [`is_leaving`], but false when that cannot be determined. For callers that only choose an
/// ENI: [`require_staying`] is called before a pod gets it, and reports the error.
pub fn is_known_to_leave(mac: &str) -> bool {
    is_leaving(mac).unwrap_or(false)
}

/// Makes sure that a pod may get the interface `name` with this MAC address, or one on top of
/// it. The caller must have the turn to choose a master or to move devices.
///
/// # Errors
/// Code 11 when its ENI is being detached from the node, or when that is unknown, 5; both name the
/// file.
pub fn require_staying(name: &str, mac: &str) -> Result<()> {
    if mac.is_empty() || !is_leaving(mac)? {
        return Ok(());
    }
    let path = leaving(mac);
    let (msg, details) = match damage(&path) {
        None => (
            format!("the ENI of {name:?} is being detached from this node"),
            format!(
                "eni-sync detach detaches an ENI that its configuration does not name, and has \
                 written {path:?}"
            ),
        ),
        Some(why) => (
            format!("the ENI of {name:?} may be being detached from this node"),
            format!("{path:?} cannot be read: {why}; eni-sync doctor says what to do"),
        ),
    };
    Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details))
}

/// The keys of the file of an ENI that is being detached, without which eni-sync does not go on with
/// that.
const KEYS: [&str; 5] = ["network", "networkCard", "request", "since", "leaving"];

/// Why the file of an ENI that is being detached cannot be read, as far as that is known without
/// knowing what is in its keys. A file that is gone by now is not damaged.
fn damage(path: &Path) -> Option<String> {
    let bytes = match file::read_regular(path, RECORD_LIMIT) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return None,
        Err(cause) => return Some(cause.to_string()),
    };
    format::newer(&bytes).or_else(
        || match serde_json::from_slice::<Map<String, Value>>(&bytes) {
            Ok(keys) => {
                let missing = KEYS.iter().find(|key| !keys.contains_key(**key))?;
                Some(format!("it has no {missing:?}"))
            }
            Err(cause) => Some(cause.to_string()),
        },
    )
}

/// Whether the ENI at this place is the primary one of its instance. Each network card has a
/// device index 0. Source: EC2 API reference, "NetworkInterfaceAttachment": the primary network
/// interface must be assigned to network card index 0.
pub fn is_primary(network_card_index: u32, device_index: u32) -> bool {
    (network_card_index, device_index) == (0, 0)
}

impl Inventory {
    /// The inventory of this node; `None` when eni-sync has not written one.
    ///
    /// # Errors
    /// Code 5 when the file cannot be read, 6 when it is not an inventory; both name it.
    pub fn read() -> Result<Option<Self>> {
        read_bytes()?.map(|bytes| Self::parse(&bytes)).transpose()
    }

    /// As [`Inventory::read`], for callers that need every key of this version. A key that is
    /// missing because an earlier version has written the file must not mean that an ENI does
    /// not have the property.
    ///
    /// # Errors
    /// As for [`Inventory::read`], and code 7 for a file of an earlier version.
    pub fn read_whole() -> Result<Option<Self>> {
        let Some(bytes) = read_bytes()? else {
            return Ok(None);
        };
        let inventory = Self::parse(&bytes)?;
        match later(&bytes) {
            None => Ok(Some(inventory)),
            Some(key) => {
                let msg = format!("{PATH} of an earlier version has no {key} of ENIs");
                let details = "the agent of this version writes it again when it starts; without \
                               an agent, eni-sync sync --once does";
                Err(Error::config(msg).with_details(details))
            }
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        if let Some(why) = format::newer(bytes) {
            let msg = format!("{PATH} is an inventory of a newer version");
            return Err(Error::new(ErrorCode::DECODING, msg).with_details(why));
        }
        serde_json::from_slice(bytes).map_err(|cause| {
            let msg = format!("{PATH} is not an inventory of ENIs");
            Error::new(ErrorCode::DECODING, msg).with_details(cause.to_string())
        })
    }

    /// Replaces the inventory of this node.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub fn write(&self) -> Result<()> {
        let failed = |cause: io::Error| Error::io(format!("failed to write {PATH}"), &cause);
        let text = serde_json::to_vec(self).map_err(|cause| failed(cause.into()))?;
        file::require_readable(&text, LIMIT).map_err(failed)?;
        file::create_private_directory(Path::new(DIRECTORY)).map_err(failed)?;
        file::replace(Path::new(PATH), &text).map_err(failed)
    }

    /// The ENI with this MAC address, in lower case with colons.
    pub fn by_mac(&self, mac: &str) -> Option<&Eni> {
        self.enis.iter().find(|eni| eni.mac == mac)
    }
}

fn read_bytes() -> Result<Option<Vec<u8>>> {
    match file::read_regular(Path::new(PATH), LIMIT) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::io(format!("failed to read {PATH}"), &cause)),
    }
}

/// The first key of [`LATER`] that is missing from an ENI in the file.
fn later(bytes: &[u8]) -> Option<&'static str> {
    let document: Value = serde_json::from_slice(bytes).ok()?;
    let mut enis = document.get("enis")?.as_array()?.iter();
    enis.find_map(|eni| LATER.into_iter().find(|key| eni.get(key).is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_an_earlier_version_did_not_write_is_reported() {
        let whole = r#"{"networkCardIndex": 0, "network": "", "tags": {}, "securityGroups": []}"#;
        let document = |enis: &str| format!("{{\"enis\": [{enis}]}}").into_bytes();
        assert_eq!(later(&document("")), None);
        assert_eq!(later(&document(whole)), None);
        let without_tags = whole.replace("tags", "labels");
        let both = document(&format!("{whole}, {without_tags}"));
        assert_eq!(later(&both), Some("tags"));
    }
}
