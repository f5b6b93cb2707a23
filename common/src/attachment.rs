//! One attachment, one record: what DEL, GC and CHECK need to know, written before
//! the kernel is touched. Runtimes send DEL with a stripped configuration, without
//! a namespace, or with a path that is no namespace any more; a record makes DEL
//! independent of all that, and nothing inside the container can change it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::args::{CmdArgs, ConfArgs, ContainerId, IfName};
use crate::config::{Document, Ipam, is_listed};
use crate::error::{Error, Errors, Result};
use crate::file;
use crate::interface::Sandbox;
use crate::ipam::IpamPlugin;
use crate::lenient::read_value;
use crate::netlink::Link;
use crate::netns::{Found, Holders, NetNs, NetNsId, Presence, look};
use crate::recorded::{self, RECORD_LIMIT, read_record};
use crate::result::AddResult;
use crate::say;
use crate::source_routing::Policy;
use crate::turn::Turn;

pub use crate::recorded::Recorded;

/// Where the records of all plugins are, one directory a plugin.
pub(crate) const ROOT: &str = "/var/lib/cni/eni-cni";
/// The number that the kernel draws at every boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The record of one attachment. `D` is what the plugin itself needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment<D> {
    /// The network's name.
    pub network: String,
    /// The container.
    pub container_id: ContainerId,
    /// The interface inside the container.
    pub ifname: IfName,
    /// The version of the configuration.
    pub cni_version: String,
    /// The boot in which the attachment was made.
    pub boot_id: String,
    /// The path of the container's namespace.
    pub netns: String,
    /// Which namespace the path led to.
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
            cni_version: args.conf.version.to_string(),
            boot_id: boot_id()?,
            netns: netns.path().to_owned(),
            netns_id: netns.id()?,
            ipam: args.conf.document.get("ipam").cloned().unwrap_or_default(),
            source_routing: None,
            device,
        })
    }

    /// The file name of the plugin that has reserved the addresses; empty when the
    /// attachment has none of an IPAM plugin.
    pub fn ipam_plugin(&self) -> String {
        let section = read_value::<Ipam>(&self.ipam, "ipam");
        section.map(|ipam| ipam.plugin).unwrap_or_default()
    }

    /// Whether both are records of one attachment.
    pub fn is_same<E>(&self, other: &Attachment<E>) -> bool {
        let key = (&self.network, &self.container_id, &self.ifname);
        key == (&other.network, &other.container_id, &other.ifname)
    }

    /// Whether `path` is where the record belongs. What it names becomes a path again
    /// when it is acted upon, which must not be another one.
    pub(crate) fn is_of(&self, path: &Path) -> bool {
        let names = [path.parent().and_then(Path::file_name), path.file_name()];
        let own = [
            self.network.clone(),
            file_name(&self.container_id, &self.ifname),
        ];
        names == own.each_ref().map(|name| Some(OsStr::new(name)))
    }

    /// Whether the container's namespace is still where it was on ADD.
    ///
    /// # Errors
    /// Code 5 when the boot id cannot be read, 8 when the namespace cannot be looked at.
    pub fn is_alive(&self) -> Result<bool> {
        self.is_alive_in(&boot_id()?)
    }

    /// As [`Self::is_alive`], for who asks about many: `boot` is what [`boot_id`] says.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be looked at.
    pub fn is_alive_in(&self, boot: &str) -> Result<bool> {
        match self.boot_id == boot {
            true => self.netns_id.is_at(&self.netns),
            false => Ok(false),
        }
    }

    /// Whether the container's namespace exists, wherever it is.
    pub fn presence(&self, boot: &str, holders: &Holders) -> Presence {
        match self.boot_id == boot {
            true => self.netns_id.presence(&self.netns, holders),
            false => Presence::Ended,
        }
    }

    /// The error of an ADD for an attachment that exists: its first one stays as it is.
    pub fn is_in_use(&self) -> Error {
        let (ifname, netns) = (self.ifname.as_str(), &self.netns);
        let msg = format!("interface {ifname:?} already exists in netns {netns:?}");
        let details = format!("container {} has got it before", self.container_id);
        Error::internal(msg).with_details(details)
    }

    /// Notes the addresses in `own` that get a rule, where the attachment has source
    /// routing, before the kernel gets them: DEL finds the rules by them.
    ///
    /// # Errors
    /// As for [`Policy::claim`], and code 5 when the record cannot be written.
    pub fn claim(&mut self, records: &Records, link: &Link, own: &mut AddResult) -> Result<()>
    where
        D: Serialize,
    {
        let Some(policy) = &mut self.source_routing else {
            return Ok(());
        };
        policy.claim(link, own)?;
        records.write(self)
    }

    /// Removes the rules of the attachment's source routing, if its container still
    /// has any.
    ///
    /// # Errors
    /// As for [`sandbox_for_del`], and code 999 with the kernel's answer.
    pub fn withdraw_rules(&self, args: &CmdArgs) -> Result<()> {
        let Some(policy) = self.source_routing.as_ref().filter(|p| p.has_rules()) else {
            return Ok(());
        };
        match sandbox_for_del(args, Some(self))? {
            Some(mut sandbox) => policy.withdraw(&mut sandbox.netlink),
            None => Ok(()),
        }
    }

    /// The input of the DEL that ends this attachment, when nobody sends one: what
    /// GC and the recovery of abandoned attachments execute.
    ///
    /// # Errors
    /// Code 1 or 6 when the recorded configuration is not one of ours.
    pub fn del_args(&self, cni_path: &str) -> Result<CmdArgs> {
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
                path: cni_path.to_owned(),
                version: crate::version::negotiate(&self.cni_version)?,
                document: Document::parse(&stdin)?,
                stdin,
            },
        })
    }
}

/// The records of one plugin.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
}

impl Records {
    /// The records of the plugin with this name.
    pub fn of(plugin: &str) -> Self {
        Self {
            directory: Path::new(ROOT).join(plugin),
        }
    }

    /// Writes a record, replacing the one of the same attachment.
    ///
    /// # Errors
    /// Code 5 naming the file, 7 when the record is too long to be read again; the old
    /// record is still there then.
    pub fn write<D: Serialize>(&self, record: &Attachment<D>) -> Result<()> {
        let path = self.path(&record.network, &record.container_id, &record.ifname);
        let failed = |cause: io::Error| Error::io(format!("failed to write {path:?}"), &cause);
        let text = serde_json::to_vec(record).map_err(|cause| failed(cause.into()))?;
        if text.len() > RECORD_LIMIT {
            let msg = format!("cannot record the attachment in {} bytes", text.len());
            let details = format!(
                "a record has at most {RECORD_LIMIT}: shorten the `ipam` section, or take a \
                 device with fewer addresses and routes"
            );
            return Err(Error::config(msg).with_details(details));
        }
        match recorded::write(&path, &text, &record.boot_id) {
            // It is the first record of its network.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                file::create_directory(&self.directory.join(&record.network)).map_err(failed)?;
                recorded::write(&path, &text, &record.boot_id).map_err(failed)
            }
            outcome => outcome.map_err(failed),
        }
    }

    /// The record of the attachment that a call is about, for who can do without one that is
    /// damaged.
    ///
    /// # Errors
    /// Code 5 when the file exists and the disk does not give it.
    pub fn look_up<D: DeserializeOwned>(&self, args: &CmdArgs) -> Result<Recorded<D>> {
        read_record(&self.path(&args.conf.network, &args.container_id, &args.ifname))
    }

    /// The record of the attachment that a call is about.
    ///
    /// # Errors
    /// Code 5 when the file exists and cannot be read.
    pub fn read<D: DeserializeOwned>(&self, args: &CmdArgs) -> Result<Option<Attachment<D>>> {
        self.read_of(&args.conf.network, &args.container_id, &args.ifname)
    }

    /// As [`Self::read`], for who has no call.
    ///
    /// # Errors
    /// Code 5 when the file exists and cannot be read.
    pub fn read_of<D: DeserializeOwned>(
        &self,
        network: &str,
        container_id: &ContainerId,
        ifname: &IfName,
    ) -> Result<Option<Attachment<D>>> {
        read_record(&self.path(network, container_id, ifname))?.whole()
    }

    /// The record of an attachment whose DEL has none, under another network's name: the
    /// network was renamed. A container has one interface of a name, but a record counts only
    /// where the namespace is that of the DEL, or has ended, and where the device is the one
    /// that `is_meant`; another one is reported and left alone.
    ///
    /// # Errors
    /// Code 5 naming what cannot be read.
    pub fn read_renamed<D: DeserializeOwned>(
        &self,
        args: &CmdArgs,
        is_meant: impl Fn(&Attachment<D>) -> bool,
    ) -> Result<Option<Attachment<D>>> {
        let file = file_name(&args.container_id, &args.ifname);
        for network in list(&self.directory)? {
            let Some(record) = read_record::<D>(&network.join(&file))?.whole()? else {
                continue;
            };
            let at = |path: &str| look(path, record.netns_id);
            let is_alive = record.boot_id == boot_id()? && at(&record.netns)? == Found::Same;
            let is_here = !is_alive || at(&args.netns)? == Found::Same;
            if is_here && is_meant(&record) {
                return Ok(Some(record));
            }
            say!(
                "interface {} of container {} is of network {:?}, and left as it is",
                record.ifname,
                record.container_id,
                record.network
            );
        }
        Ok(None)
    }

    /// Removes the record of the attachment that a call is about, if it has one.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub fn remove(&self, args: &CmdArgs) -> Result<()> {
        let path = self.path(&args.conf.network, &args.container_id, &args.ifname);
        match file::remove(&path) {
            // No ADD has made that, and none can succeed as long as it is there.
            Err(cause) if cause.kind() == io::ErrorKind::IsADirectory => Ok(()),
            Err(cause) => Err(Error::io(format!("failed to remove {path:?}"), &cause)),
            Ok(()) => Ok(()),
        }
    }

    /// The records of `network` that can be read; `errors` gets the others.
    fn read_network<D: DeserializeOwned>(
        &self,
        network: &str,
        errors: &mut Errors,
    ) -> Vec<Attachment<D>> {
        let paths = errors.keep(list(&self.directory.join(network)));
        let paths = paths.into_iter().flatten().filter(|path| is_record(path));
        let read = |path: PathBuf| errors.keep(read_record(&path).and_then(Recorded::whole));
        paths.filter_map(read).flatten().collect()
    }

    /// The first record of the plugin that is `wanted`; the others are not read. One
    /// that cannot be read is reported and not found.
    ///
    /// # Errors
    /// Code 5 naming the directory that cannot be read.
    pub fn find<D: DeserializeOwned>(
        &self,
        wanted: impl Fn(&Attachment<D>) -> Result<bool>,
    ) -> Result<Option<Attachment<D>>> {
        for network in list(&self.directory)? {
            for path in list(&network)?.into_iter().filter(|path| is_record(path)) {
                if let Some(record) =
                    reported(read_record(&path).and_then(Recorded::whole)).flatten()
                    && wanted(&record)?
                {
                    return Ok(Some(record));
                }
            }
        }
        Ok(None)
    }

    /// Whether the interface that a DEL without a record is about is that of an attachment
    /// which has one: the DEL is late, and its path leads to another container by now.
    ///
    /// # Errors
    /// Code 5 naming what cannot be read, 8 when the namespace cannot be examined.
    pub fn has_other<D: DeserializeOwned>(&self, args: &CmdArgs, netns: &NetNs) -> Result<bool> {
        let (boot, id) = (boot_id()?, netns.id()?);
        let other = self.find::<D>(|record| {
            let is_here = record.netns_id.is_same(&id) && record.boot_id == boot;
            Ok(is_here && record.ifname == args.ifname)
        })?;
        Ok(other.is_some())
    }

    /// Every record of the plugin that can be read. The others are reported: one of them
    /// must not stand in the way of every attachment of the node.
    ///
    /// # Errors
    /// Code 5 naming the directory that cannot be read.
    pub fn all<D: DeserializeOwned>(&self) -> Result<Vec<Attachment<D>>> {
        let mut errors = Errors::default();
        let records = self.all_readable(&mut errors)?;
        reported(errors.into_result());
        Ok(records)
    }

    /// As [`Self::all`], for who must know what is in all of them: `errors` gets what cannot
    /// be read.
    ///
    /// # Errors
    /// Code 5 naming the directory that cannot be read.
    pub fn all_readable<D: DeserializeOwned>(
        &self,
        errors: &mut Errors,
    ) -> Result<Vec<Attachment<D>>> {
        let mut records = Vec::new();
        for network in list(&self.directory)? {
            if let Some(name) = network.file_name().and_then(|name| name.to_str()) {
                records.extend(self.read_network(name, errors));
            }
        }
        Ok(records)
    }

    /// Serves GC: detaches, with `detach`, every attachment of the network that is not
    /// listed as valid, and passes the command on to the IPAM plugin. What fails does
    /// not stop the rest. Without a list, nothing is removed.
    ///
    /// # Errors
    /// Code 7 for a malformed list, else all that went wrong, together.
    pub fn collect_garbage<D: DeserializeOwned>(
        &self,
        conf: &ConfArgs,
        detach: impl Fn(&CmdArgs, &Attachment<D>) -> Result<()>,
    ) -> Result<()> {
        let Some(valid) = conf.document.valid_attachments()? else {
            return Ok(());
        };
        let _turn = Turn::to_collect(&conf.network)?;
        let mut errors = Errors::default();
        let records = self.read_network::<D>(&conf.network, &mut errors);
        let is_garbage =
            |r: &Attachment<D>| !is_listed(&valid, r.container_id.as_str(), r.ifname.as_str());
        for record in records.into_iter().filter(is_garbage) {
            let args = record.del_args(&conf.path);
            errors.keep(args.and_then(|args| self.collect(&args, &detach)));
        }
        errors.keep(IpamPlugin::forward_gc(conf));
        errors.into_result()
    }

    /// Detaches what is still attached when its turn has come.
    fn collect<D: DeserializeOwned>(
        &self,
        args: &CmdArgs,
        detach: impl Fn(&CmdArgs, &Attachment<D>) -> Result<()>,
    ) -> Result<()> {
        let _turn = Turn::to_detach(args)?;
        match self.read(args)? {
            Some(record) => detach(args, &record),
            None => Ok(()),
        }
    }

    fn path(&self, network: &str, container_id: &ContainerId, ifname: &IfName) -> PathBuf {
        self.directory
            .join(network)
            .join(file_name(container_id, ifname))
    }
}

/// `:` can occur in neither part, so no two attachments share a file.
fn file_name(container_id: &ContainerId, ifname: &IfName) -> String {
    format!("{container_id}:{ifname}.json")
}

/// The container's side on DEL, or nothing when it is gone. With a record it is the
/// namespace of the ADD or none: the path may be empty, or lead to another namespace
/// by now, where an interface of the same name is somebody else's.
///
/// # Errors
/// Code 5 or 8 when the namespace cannot be examined, 999 when it cannot be worked in.
pub fn sandbox_for_del<D>(
    args: &CmdArgs,
    record: Option<&Attachment<D>>,
) -> Result<Option<Sandbox>> {
    let Some(record) = record else {
        return Sandbox::open_for_del(&args.netns);
    };
    if boot_id()? != record.boot_id {
        return Ok(None);
    }
    let mut errors = Errors::default();
    let mut paths = vec![&args.netns, &record.netns];
    paths.dedup();
    for path in paths {
        if let Some(sandbox) = errors.keep(open_if_same(path, record.netns_id)).flatten() {
            return Ok(Some(sandbox));
        }
    }
    errors.into_result().map(|()| None)
}

/// The container's side, if `path` leads to the namespace `id` at this moment.
fn open_if_same(path: &str, id: NetNsId) -> Result<Option<Sandbox>> {
    if look(path, id)? != Found::Same {
        return Ok(None);
    }
    match Sandbox::open(path) {
        Ok(sandbox) if sandbox.netns.id()?.is_same(&id) => Ok(Some(sandbox)),
        Ok(_) => Ok(None),
        // It may have ended just now. Otherwise this is not the time to forget it.
        Err(error) => match look(path, id)? {
            Found::Same => Err(error),
            Found::Other | Found::Missing | Found::Hidden => Ok(None),
        },
    }
}

/// What a delegate reads on DEL: our stdin byte for byte, unless the `ipam` section
/// is not the one that ADD used. Then ADD's counts, because the reservation is where
/// that section says, and a stripped section says nothing at all.
pub fn del_stdin<D>(args: &CmdArgs, record: Option<&Attachment<D>>) -> Vec<u8> {
    match record {
        Some(record)
            if !record.ipam.is_null() && args.conf.document.get("ipam") != Some(&record.ipam) =>
        {
            args.conf.document.with("ipam", &record.ipam)
        }
        _ => args.conf.stdin.clone(),
    }
}

/// The number of the running boot.
///
/// # Errors
/// Code 5 when `/proc` is not mounted.
pub fn boot_id() -> Result<String> {
    file::read_parameter(Path::new(BOOT_ID))
        .map_err(|cause| Error::io(format!("failed to read {BOOT_ID}"), &cause))
}

/// Whether this is the name of a record, and not that of an unfinished one.
fn is_record(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "json")
}

/// What was read, or nothing after the error was told.
fn reported<T>(outcome: Result<T>) -> Option<T> {
    outcome.map_err(|error| say!("{error}")).ok()
}

/// What is in `directory`. A file in its place, which is none of ours, has nothing in it.
fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |cause: io::Error| Error::io(format!("failed to list {directory:?}"), &cause);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(cause) if file::is_missing(&cause) => return Ok(Vec::new()),
        Err(cause) => return Err(failed(cause)),
    };
    entries
        .map(|entry| entry.map(|e| e.path()).map_err(failed))
        .collect()
}
