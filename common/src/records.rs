//! The records of a plugin's attachments on the disk: one file for each attachment.

mod attachment;
mod policy;
mod record_file;
mod recorded;
mod survey;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use self::attachment::file_name;
use self::record_file::{RECORD_LIMIT, read_record};
use crate::cni::args::CmdArgs;
use crate::cni::identifier::ContainerId;
use crate::error::{Error, Errors, Result};
use crate::files::file;
use crate::files::in_place;
use crate::ifname::IfName;
use crate::kernel::netns::{Found, NetNs, look};
use crate::say;

pub use attachment::{Attachment, ONLY, boot_id, only_identity};
pub use policy::Policy;
pub use record_file::Recorded;
pub use recorded::{netns_id, recorded};
pub use survey::Survey;

/// The directory for data that must survive a reboot: the records of each plugin, in a
/// directory with its name, and the data of eni-sync.
pub const ROOT: &str = "/var/lib/cni/eni-cni";

/// The extension of record files.
const EXTENSION: &str = ".json";

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

    /// The directory of the records, and that of each network in it.
    ///
    /// # Errors
    /// Code 5 naming the directory that cannot be read.
    pub fn directories(&self) -> Result<Vec<PathBuf>> {
        let mut directories = vec![self.directory.clone()];
        directories.extend(list(&self.directory)?);
        Ok(directories)
    }

    /// Writes a record, replacing the one of the same attachment.
    ///
    /// # Errors
    /// Code 5 naming the file, 7 when the record is too long to be read again; the old
    /// record is still there then.
    pub fn write<D: Serialize>(&self, record: &Attachment<D>) -> Result<()> {
        let path = self.path(&record.network, &record.container_id, &record.ifname);
        let failed = |cause| unwritten(&path, &cause);
        let text = text_of(record, &path)?;
        match record_file::write(&path, &text, &record.boot_id) {
            // The directory is missing before the first record of a network.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                file::create_directory(&self.directory.join(&record.network)).map_err(failed)?;
                record_file::write(&path, &text, &record.boot_id).map_err(failed)
            }
            outcome => outcome.map_err(failed),
        }
    }

    /// As [`Self::write`], for a DEL: where the disk has no room for a new file, the record,
    /// which exists, is overwritten.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn write_at_end<D: Serialize>(&self, record: &Attachment<D>) -> Result<()> {
        let path = self.path(&record.network, &record.container_id, &record.ifname);
        let text = text_of(record, &path)?;
        let replaced = record_file::write(&path, &text, &record.boot_id);
        let written = in_place::or_overwrite(replaced, &path, &text);
        written.map_err(|cause| unwritten(&path, &cause))
    }

    /// The record of the attachment in `args`, for callers that can continue when the record
    /// is unreadable.
    ///
    /// # Errors
    /// Code 5 when the file system fails to read the file.
    pub fn look_up<D: DeserializeOwned>(&self, args: &CmdArgs) -> Result<Recorded<D>> {
        read_record(&self.path(&args.conf.network, &args.container_id, &args.ifname))
    }

    /// The record of the attachment in `args`.
    ///
    /// # Errors
    /// Code 5 when the file exists and cannot be read.
    pub fn read<D: DeserializeOwned>(&self, args: &CmdArgs) -> Result<Option<Attachment<D>>> {
        self.read_of(&args.conf.network, &args.container_id, &args.ifname)
    }

    /// As [`Self::read`], for callers without [`CmdArgs`].
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

    /// Looks for the record of an attachment under other networks, for a DEL without a
    /// record: the network may have been renamed. A record of this container and interface is
    /// returned only if its namespace is that of the DEL or has ended, and if `is_meant`
    /// confirms it. Any other one is logged and not changed.
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
                "interface {} of container {} belongs to network {:?}, and is not changed",
                record.ifname,
                record.container_id,
                record.network
            );
        }
        Ok(None)
    }

    /// Removes the record of the attachment in `args`, if there is one.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub fn remove(&self, args: &CmdArgs) -> Result<()> {
        let path = self.path(&args.conf.network, &args.container_id, &args.ifname);
        match file::remove(&path) {
            // A directory is not a record: ADD does not make one, and no ADD can succeed
            // while it is there.
            Err(cause) if cause.kind() == io::ErrorKind::IsADirectory => Ok(()),
            Err(cause) => Err(Error::io(format!("failed to remove {path:?}"), &cause)),
            Ok(()) => Ok(()),
        }
    }

    /// The records of `network` that can be read. The errors of the others are added to
    /// `errors`.
    pub(crate) fn read_network<D: DeserializeOwned>(
        &self,
        network: &str,
        errors: &mut Errors,
    ) -> Vec<Attachment<D>> {
        let paths = errors.keep(list(&self.directory.join(network)));
        let paths = paths.into_iter().flatten().filter(|path| is_record(path));
        let read = |path: PathBuf| errors.keep(read_record(&path).and_then(Recorded::whole));
        paths.filter_map(read).flatten().collect()
    }

    /// The first record of the plugin for which `wanted` is true; the records after it are
    /// not read. One that cannot be read is logged and skipped.
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

    /// Whether another attachment has a record for the interface in `args`, whose DEL has no
    /// record. Then the DEL is late, and its path leads to another container now.
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

    /// Every record of the plugin that can be read. The errors of the others are logged: an
    /// unreadable record must not block all attachments of the node.
    ///
    /// # Errors
    /// Code 5 naming the directory that cannot be read.
    pub fn all<D: DeserializeOwned>(&self) -> Result<Vec<Attachment<D>>> {
        let mut errors = Errors::default();
        let records = self.all_readable(&mut errors)?;
        reported(errors.into_result());
        Ok(records)
    }

    /// As [`Self::all`], for callers that must know whether a record is unreadable: its error
    /// is added to `errors`.
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

    fn path(&self, network: &str, container_id: &ContainerId, ifname: &IfName) -> PathBuf {
        self.directory
            .join(network)
            .join(file_name(container_id, ifname))
    }
}

/// The content of the file of a record.
fn text_of<D: Serialize>(record: &Attachment<D>, path: &Path) -> Result<Vec<u8>> {
    let text = serde_json::to_vec(record).map_err(|cause| unwritten(path, &cause.into()))?;
    if text.len() <= RECORD_LIMIT {
        return Ok(text);
    }
    let msg = format!("cannot record the attachment in {} bytes", text.len());
    let details = format!(
        "a record has at most {RECORD_LIMIT}: shorten the `ipam` section, or take a device with \
         fewer addresses and routes"
    );
    Err(Error::config(msg).with_details(details))
}

fn unwritten(path: &Path, cause: &io::Error) -> Error {
    Error::io(format!("failed to write {path:?}"), cause)
}

/// Whether this is the name of a record, and not that of a temporary file.
fn is_record(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().ends_with(EXTENSION.as_bytes())
}

/// The value; `None` after the error was logged.
fn reported<T>(outcome: Result<T>) -> Option<T> {
    outcome.map_err(|error| say!("{error}")).ok()
}

/// The entries of `directory`; none when it is missing or not a directory.
fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    match file::list(directory) {
        Err(cause) if file::is_missing(&cause) => Ok(Vec::new()),
        found => found.map_err(|cause| Error::io(format!("failed to list {directory:?}"), &cause)),
    }
}
