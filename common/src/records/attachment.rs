//! The record of an attachment: the data that DEL, GC and CHECK need, written before the
//! kernel is changed. Runtimes send DEL with a stripped configuration, without a
//! namespace, or with a path that is not a namespace any more; a record makes DEL
//! independent of all that, and nothing inside the container can change it.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::EXTENSION;
use super::policy::Policy;
use crate::cni::args::{CmdArgs, ConfArgs, Delegates, pod};
use crate::cni::config::{Document, Ipam};
use crate::cni::identifier::ContainerId;
use crate::cni::lenient::read_value;
use crate::error::{Error, Result};
use crate::files::file;
use crate::ifname::IfName;
use crate::kernel::netns::{Holders, NetNs, NetNsId, Presence};

/// The variable by which eni-sync's agent says which attachment a DEL may end, by
/// [`Attachment::identity`]: while the agent has ended others, its container may have been started
/// again, and have a new one.
pub const ONLY: &str = "ENI_CNI_ONLY_ATTACHMENT";

/// The file with the boot id, a random UUID that the kernel makes at every boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The record of one attachment. `D` is the part of the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment<D> {
    /// The network's name.
    pub network: String,
    /// The container.
    pub container_id: ContainerId,
    /// The interface inside the container.
    pub ifname: IfName,
    /// `namespace/name` of the pod; empty when the runtime does not pass it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// The version of the configuration.
    pub cni_version: String,
    /// The id of the boot in which the attachment was made.
    pub boot_id: String,
    /// The path of the container's namespace.
    pub netns: String,
    /// The namespace that the path led to at ADD.
    pub netns_id: NetNsId,
    /// The `ipam` section of the configuration; `null` when there was none.
    pub ipam: Value,
    /// The rules and the table of source routing, when the configuration asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_routing: Option<Policy>,
    /// The plugin's own part.
    pub device: D,
}

impl<D> Attachment<D> {
    /// The record of the attachment that an ADD is about to make.
    ///
    /// # Errors
    /// Code 5 when the boot id cannot be read, 8 when the namespace cannot be examined.
    pub fn new(args: &CmdArgs, netns: &NetNs, device: D) -> Result<Self> {
        Ok(Self {
            network: args.conf.network.clone(),
            container_id: args.container_id.clone(),
            ifname: args.ifname.clone(),
            pod: pod(&args.cni_args).unwrap_or_default(),
            cni_version: args.conf.version.to_string(),
            boot_id: boot_id()?,
            netns: netns.path().to_owned(),
            netns_id: netns.id_to_record()?,
            ipam: args.conf.document.get("ipam").cloned().unwrap_or_default(),
            source_routing: None,
            device,
        })
    }

    /// The file name of the IPAM plugin that has reserved the addresses; empty without an
    /// IPAM plugin.
    pub fn ipam_plugin(&self) -> String {
        let section = read_value::<Ipam>(&self.ipam, "ipam");
        section.map(|ipam| ipam.plugin).unwrap_or_default()
    }

    /// Whether both are records of one attachment.
    pub fn is_same<E>(&self, other: &Attachment<E>) -> bool {
        let key = (&self.network, &self.container_id, &self.ifname);
        key == (&other.network, &other.container_id, &other.ifname)
    }

    /// Whether `path` is the path of this record. Its names are used to build the path
    /// again, for example to remove the record, and that must be the same file.
    pub(crate) fn is_of(&self, path: &Path) -> bool {
        let names = [path.parent().and_then(Path::file_name), path.file_name()];
        let own = [
            self.network.clone(),
            file_name(&self.container_id, &self.ifname),
        ];
        names == own.each_ref().map(|name| Some(OsStr::new(name)))
    }

    /// Whether the recorded path still leads to the container's namespace.
    ///
    /// # Errors
    /// Code 5 when the boot id cannot be read, 8 when the namespace cannot be examined.
    pub fn is_alive(&self) -> Result<bool> {
        self.is_alive_in(&boot_id()?)
    }

    /// As [`Self::is_alive`], for callers that ask about many records: `boot` is the
    /// value of [`boot_id`].
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be examined.
    pub fn is_alive_in(&self, boot: &str) -> Result<bool> {
        match self.boot_id == boot {
            true => self.netns_id.is_at(&self.netns),
            false => Ok(false),
        }
    }

    /// Whether the container's namespace exists, under the recorded path or any other.
    pub fn presence(&self, boot: &str, holders: &Holders) -> Presence {
        match self.boot_id == boot {
            true => self.netns_id.presence(&self.netns, holders),
            false => Presence::Ended,
        }
    }

    /// The error of a second ADD for an attachment that exists. The attachment is not
    /// changed.
    pub fn already_exists(&self) -> Error {
        let (ifname, netns) = (self.ifname.as_str(), &self.netns);
        let msg = format!("interface {ifname:?} already exists in netns {netns:?}");
        let details = format!("container {} has it already", self.container_id);
        Error::internal(msg).with_details(details)
    }

    /// The input of a DEL that ends this attachment, for GC and for the recovery of
    /// attachments whose DEL the runtime does not send.
    ///
    /// # Errors
    /// Code 1 when the recorded version is not supported, 6 when the configuration cannot
    /// be read.
    pub fn del_args(&self, delegates: &Delegates) -> Result<CmdArgs> {
        let mut conf = serde_json::Map::new();
        conf.insert("cniVersion".into(), self.cni_version.clone().into());
        conf.insert("name".into(), self.network.clone().into());
        conf.insert("ipam".into(), self.ipam.clone());
        let stdin = Value::Object(conf).to_string().into_bytes();
        Ok(CmdArgs {
            container_id: self.container_id.clone(),
            ifname: self.ifname.clone(),
            netns: self.netns.clone(),
            cni_args: String::new(),
            conf: ConfArgs {
                network: self.network.clone(),
                delegates: delegates.clone(),
                version: crate::cni::version::negotiate(&self.cni_version)?,
                document: Document::parse(&stdin)?,
                stdin,
            },
        })
    }
}

impl<D> Attachment<D> {
    /// What tells this attachment from an earlier or a later one of the same container and
    /// interface: the boot and the namespace, as text.
    pub fn identity(&self) -> String {
        let NetNsId {
            inode,
            made,
            cookie,
            ..
        } = self.netns_id;
        let (made, cookie) = (made.unwrap_or_default(), cookie.unwrap_or_default());
        format!("{} {inode} {made} {cookie}", self.boot_id)
    }
}

/// The identity of the only attachment that this DEL may end, if its caller has set one.
pub fn only_identity() -> Option<String> {
    std::env::var(ONLY).ok()
}

/// The name of a record's file. `:` can occur in neither part, so no two attachments
/// share a file.
pub(super) fn file_name(container_id: &ContainerId, ifname: &IfName) -> String {
    format!("{container_id}:{ifname}{EXTENSION}")
}

/// The id of the current boot, which no process outlives.
///
/// # Errors
/// Code 5 when `/proc` is not mounted.
pub fn boot_id() -> Result<String> {
    static CURRENT: OnceLock<String> = OnceLock::new();
    if let Some(current) = CURRENT.get() {
        return Ok(current.clone());
    }
    let current = file::read_parameter(Path::new(BOOT_ID))
        .map_err(|cause| Error::io(format!("failed to read {BOOT_ID}"), &cause))?;
    Ok(CURRENT.get_or_init(|| current).clone())
}
