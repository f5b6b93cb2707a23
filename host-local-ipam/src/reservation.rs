//! Reservation files. The name of a file is the address. Its content is read and written
//! here, in the format that the Go plugin has used since 2018, and read in the one before
//! that.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use common::address::parse_address;
use common::cni::args::CmdArgs;
use common::cni::identifier::{ContainerId, is_identifier};
use common::error::{Error, ErrorCode, Result};
use common::files::file::{is_missing, read_regular};
use common::ifname::IfName;
use common::say;

use crate::container::{Container, Machine};

/// The separator between container id and interface name. There is none at the end of the
/// file.
const SEPARATOR: &str = "\r\n";
/// The maximum size of a file in bytes, larger than any container id: that is in a variable, which
/// has 128 KiB at most. Source: execve(2), `MAX_ARG_STRLEN`.
const CONTENT_LIMIT: u64 = 256 * 1024;

/// A reserved address, and its file.
#[derive(Clone, Debug)]
pub struct Reservation {
    /// The address.
    pub address: IpAddr,
    /// The holder of the address.
    pub holder: Holder,
    /// The file.
    pub path: PathBuf,
}

/// The holder of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An attachment.
    Owner(Owner),
    /// The file is empty, so there is no holder: a Go plugin was killed between creating
    /// the file and writing it. It does both under the lock, so the file is not being
    /// written while this process has the lock.
    Nobody,
    /// There is a holder, but the file does not name it, for this reason.
    Unknown(String),
    /// The file could not be read, so it may name any attachment. The error names it.
    Unreadable(Error),
}

/// An attachment, as reservation files name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The container.
    pub container_id: String,
    /// The interface; empty in files of old plugins that wrote only the container.
    pub ifname: String,
}

/// The attachment that gets addresses, and its container.
#[derive(Debug)]
pub struct Applicant {
    /// The content for the reservation files.
    pub owner: Owner,
    /// Their attribute.
    pub container: Container,
}

impl Owner {
    /// The attachment in `args`.
    pub fn of(args: &CmdArgs) -> Self {
        Self {
            container_id: args.container_id.to_string(),
            ifname: args.ifname.to_string(),
        }
    }

    fn without_ifname(&self) -> Self {
        Self {
            ifname: String::new(),
            ..self.clone()
        }
    }

    /// The content of its reservation files.
    pub fn content(&self) -> String {
        [&self.container_id, SEPARATOR, &self.ifname].concat()
    }
}

impl Holder {
    fn parse(content: &[u8]) -> Self {
        if content.is_empty() {
            return Self::Nobody;
        }
        let text = String::from_utf8_lossy(content);
        let text = text.trim();
        let (container_id, ifname) = text.split_once(SEPARATOR).unwrap_or((text, ""));
        if !is_identifier(container_id) {
            return Self::Unknown("the content is not a container id".into());
        }
        Self::Owner(Owner {
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
        })
    }
}

impl Reservation {
    /// The container that it was made for: from the attribute of its file, otherwise from
    /// the record of the attachment on this machine. `None` when both are missing.
    ///
    /// # Errors
    /// Code 5 naming the file that the system fails to read.
    pub fn container(&self, now: &Machine) -> Result<Option<Container>> {
        if let Some(container) = Container::read(&self.path)? {
            return Ok(Some(container));
        }
        let Some((network, container_id, ifname)) = self.attachment() else {
            return Ok(None);
        };
        Container::recorded(network, &container_id, &ifname, now)
    }

    /// The network, container and interface that the file names.
    fn attachment(&self) -> Option<(&str, ContainerId, IfName)> {
        let Holder::Owner(owner) = &self.holder else {
            return None;
        };
        let network = self.path.parent()?.file_name()?.to_str()?;
        let container_id = ContainerId::new(&owner.container_id).ok()?;
        Some((network, container_id, IfName::new(&owner.ifname).ok()?))
    }

    /// Reads the file with this name; `None` when the name is not an address or the file is
    /// missing. A path that is not a regular file counts as reserved, with an unknown
    /// holder: a symbolic link is not followed, and a FIFO does not block. So does a file that
    /// cannot be read at the moment, because of too many open files or a failing disk; but it
    /// may be a reservation of any attachment.
    pub fn read(directory: &Path, name: &str) -> Option<Self> {
        let address = parse_address(name).ok()?;
        let path = directory.join(name);
        let holder = match read_regular(&path, CONTENT_LIMIT) {
            Ok(content) => Holder::parse(&content),
            Err(cause) if is_missing(&cause) => return None,
            Err(cause) if is_of_another_kind(&path, &cause) => Holder::Unknown(cause.to_string()),
            Err(cause) => Holder::Unreadable(unreadable(&path, &cause)),
        };
        Some(Self {
            address,
            holder,
            path,
        })
    }

    /// The error for a file that must not be removed, because it is not a reservation.
    pub fn not_a_reservation(&self, why: &str) -> Error {
        let msg = format!("{:?} is not a reservation", self.path);
        Error::new(ErrorCode::IO, msg).with_details(why)
    }

    /// Whether the file names the attachment, or only its container.
    pub fn may_be_of(&self, owner: &Owner) -> bool {
        self.is_held_by(owner) || self.is_held_by(&owner.without_ifname())
    }

    fn is_held_by(&self, owner: &Owner) -> bool {
        matches!(&self.holder, Holder::Owner(holder) if holder == owner)
    }
}

/// Whether it is certain that the path is not a reservation, although opening it has failed: it
/// was read and is too large, or it is not a regular file.
fn is_of_another_kind(path: &Path, cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::InvalidData
        || fs::symlink_metadata(path).is_ok_and(|found| !found.is_file())
}

fn unreadable(path: &Path, cause: &io::Error) -> Error {
    let details = format!(
        "{cause}; its address stays reserved. If repeating the command does not help, remove the \
         file when no container has the address"
    );
    Error::io(format!("failed to read {path:?}"), cause).with_details(details)
}

/// The reservations of an attachment: those that name it; if there are none, those that
/// name only its container.
pub fn owned_by(mut all: Vec<Reservation>, owner: &Owner) -> Vec<Reservation> {
    let is_named = all.iter().any(|reservation| reservation.is_held_by(owner));
    let owner = match is_named {
        true => owner.clone(),
        false => owner.without_ifname(),
    };
    all.retain(|reservation| reservation.is_held_by(&owner));
    all
}

/// How many holders an error names at most.
const NAMED: usize = 3;

/// The holders of `addresses`, which are taken, as text: the names of the first few and the
/// number of the others. `None` without addresses.
pub fn describe_holders(
    directory: &Path,
    mut addresses: impl Iterator<Item = IpAddr>,
) -> Option<String> {
    let first = addresses.by_ref().take(NAMED);
    let named: Vec<String> = first
        .map(|address| describe_holder(directory, address))
        .collect();
    let more = match addresses.count() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let named = (!named.is_empty()).then(|| named.join(", "))?;
    Some(format!("reserved in {directory:?}: {named}{more}"))
}

/// Logs, once in each boot, the reservations that may be of an earlier boot: the Go plugin
/// has made them, or the file system has no attributes. They are kept, because a container
/// may use the addresses.
pub fn log_unproven(directory: &Path, unproven: &[&Reservation]) {
    let addresses = unproven.iter().map(|reservation| reservation.address);
    if let Some(holders) = describe_holders(directory, addresses) {
        say!("nothing shows whether these are of an earlier boot, so they are kept: {holders}");
    }
}

fn describe_holder(directory: &Path, address: IpAddr) -> String {
    let reservation = Reservation::read(directory, &address.to_string());
    match reservation.map(|reservation| reservation.holder) {
        Some(Holder::Owner(owner)) if owner.ifname.is_empty() => {
            format!("{address} by container {}", owner.container_id)
        }
        Some(Holder::Owner(owner)) => {
            format!(
                "{address} by container {} as {}",
                owner.container_id, owner.ifname
            )
        }
        Some(Holder::Unreadable(_)) => format!("{address} by a file that cannot be read"),
        Some(Holder::Nobody | Holder::Unknown(_)) | None => {
            format!("{address} by a file of another form")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(container_id: &str, ifname: &str) -> Owner {
        Owner {
            container_id: container_id.into(),
            ifname: ifname.into(),
        }
    }

    #[test]
    fn a_file_names_container_and_interface_or_only_the_container() {
        let parse = |text: &str| Holder::parse(text.as_bytes());
        assert_eq!(owner("c1", "net1").content(), "c1\r\nnet1");
        assert_eq!(parse("c1\r\nnet1"), Holder::Owner(owner("c1", "net1")));
        assert_eq!(parse(" c1\r\nnet1\n"), Holder::Owner(owner("c1", "net1")));
        assert_eq!(parse("c1\r\n"), Holder::Owner(owner("c1", "")));
        assert_eq!(parse("c1"), Holder::Owner(owner("c1", "")));
        assert_eq!(parse(""), Holder::Nobody);
        for unknown in [" ", "\0\0", "c1\nnet1", "../c\r\nnet1"] {
            assert!(matches!(parse(unknown), Holder::Unknown(_)), "{unknown:?}");
        }
    }
}
