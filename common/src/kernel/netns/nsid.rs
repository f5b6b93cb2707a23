//! The number by which the node's network namespace knows another one: the nsid of ip-netns(8).
//! The kernel keeps it until the other namespace has ended, whatever keeps that alive, and may give
//! it to another one then.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::libc::{NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, RTM_GETNSID, RTM_NEWNSID};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use serde::{Deserialize, Serialize};

use super::{NetNs, OWN};

/// The attributes with a number and with a descriptor of a namespace. Source: net_namespace.h of
/// Linux.
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// What the kernel answers for a namespace without a number, and takes for any number. Source:
/// `NETNSA_NSID_NOT_ASSIGNED` of Linux.
const UNASSIGNED: i32 = -1;
/// The length of `struct nlmsghdr` in bytes.
const HEADER: usize = 16;
/// The length of `struct rtgenmsg` in bytes, with padding.
const GENERAL: usize = 4;
/// The length of `struct rtattr` in bytes, and that of an attribute with a number.
const ATTRIBUTE_HEADER: usize = 4;
const ATTRIBUTE: u16 = 8;
/// Longer than any answer in bytes.
const ANSWER: usize = 256;

/// The number of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nsid {
    /// The inode of the namespace that has given it: the node's.
    pub given_by: u64,
    /// The number.
    pub number: i32,
}

impl Nsid {
    /// The number of a namespace, if it has one.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn find(netns: &NetNs) -> io::Result<Option<Self>> {
        let number = Kernel::connect()?.number_of(netns)?;
        Self::given(number)
    }

    /// The same. The kernel is told to give it one if it has none.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn of(netns: &NetNs) -> io::Result<Option<Self>> {
        let mut kernel = Kernel::connect()?;
        let mut number = kernel.number_of(netns)?;
        if number.is_none() {
            kernel.give_number(netns)?;
            number = kernel.number_of(netns)?;
        }
        Self::given(number)
    }

    fn given(number: Option<i32>) -> io::Result<Option<Self>> {
        let given_by = own_inode()?;
        Ok(number.map(|number| Self { given_by, number }))
    }

    /// Whether a namespace has this number. `None` when that cannot be known: another namespace has
    /// given it than that of this process, or a kernel before 5.0 does not tell.
    ///
    /// # Errors
    /// The reason why the kernel cannot be asked now, such as too many open files.
    pub(super) fn is_taken(self) -> io::Result<Option<bool>> {
        if own_inode()? != self.given_by {
            return Ok(None);
        }
        let asked = [(NETNSA_NSID, self.number)];
        match Kernel::connect()?.ask(RTM_GETNSID, &asked) {
            Ok(number) => Ok(number.map(|number| number == self.number)),
            Err(cause) if is(&cause, Errno::ENOENT) => Ok(Some(false)),
            // Such a kernel requires another attribute.
            Err(cause) if is(&cause, Errno::EINVAL) || is(&cause, Errno::EOPNOTSUPP) => Ok(None),
            Err(cause) => Err(cause),
        }
    }
}

fn is(cause: &io::Error, errno: Errno) -> bool {
    cause.raw_os_error() == Some(errno as i32)
}

fn own_inode() -> io::Result<u64> {
    Ok(fs::metadata(OWN)?.ino())
}

/// A socket for these few questions, so that host-local needs no library for netlink.
struct Kernel(OwnedFd);

impl Kernel {
    fn connect() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        );
        Ok(Self(socket?))
    }

    fn number_of(&mut self, netns: &NetNs) -> io::Result<Option<i32>> {
        let asked = [(NETNSA_FD, netns.as_fd().as_raw_fd())];
        let number = self.ask(RTM_GETNSID, &asked)?;
        Ok(number.filter(|number| *number != UNASSIGNED))
    }

    fn give_number(&mut self, netns: &NetNs) -> io::Result<()> {
        let fd = netns.as_fd().as_raw_fd();
        let wanted = [(NETNSA_FD, fd), (NETNSA_NSID, UNASSIGNED)];
        match self.ask(RTM_NEWNSID, &wanted) {
            // Another process was faster.
            Err(cause) if is(&cause, Errno::EEXIST) => Ok(()),
            outcome => outcome.map(|_| ()),
        }
    }

    /// The number in the answer to a message of this type with these attributes; `None` when it has
    /// none.
    fn ask(&mut self, kind: u16, attributes: &[(u16, i32)]) -> io::Result<Option<i32>> {
        send(
            self.0.as_raw_fd(),
            &message(kind, attributes),
            MsgFlags::empty(),
        )?;
        let mut answer = [0; ANSWER];
        // The kernel has answered when it has taken the message.
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
        number_in(answer.get(..length).unwrap_or_default())
    }
}

/// A message in the layout of rtnetlink(7), with attributes that are numbers.
fn message(kind: u16, attributes: &[(u16, i32)]) -> Vec<u8> {
    let length = HEADER + GENERAL + attributes.len() * usize::from(ATTRIBUTE);
    let flags = match kind {
        RTM_GETNSID => NLM_F_REQUEST,
        _ => NLM_F_REQUEST | NLM_F_ACK,
    };
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or_default().to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(u16::try_from(flags).unwrap_or_default().to_ne_bytes());
    // The number of the message, the sender, and the general part: any family.
    bytes.resize(HEADER + GENERAL, 0);
    for (name, value) in attributes {
        bytes.extend(ATTRIBUTE.to_ne_bytes());
        bytes.extend(name.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
    }
    bytes
}

/// The number of a namespace in an answer, or the error.
fn number_in(answer: &[u8]) -> io::Result<Option<i32>> {
    let damaged = || io::Error::other("the kernel's answer is too short");
    let (header, body) = answer.split_at_checked(HEADER).ok_or_else(damaged)?;
    let kind = header.get(4..6).and_then(|kind| kind.try_into().ok());
    if kind.map(u16::from_ne_bytes).map(i32::from) == Some(NLMSG_ERROR) {
        return match number_at(body, 0).ok_or_else(damaged)? {
            0 => Ok(None),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        };
    }
    let attributes = body.get(GENERAL..).ok_or_else(damaged)?;
    let found = attributes
        .chunks_exact(ATTRIBUTE.into())
        .find(|attribute| attribute.get(2..ATTRIBUTE_HEADER) == Some(&NETNSA_NSID.to_ne_bytes()));
    Ok(found.and_then(|attribute| number_at(attribute, ATTRIBUTE_HEADER)))
}

/// The number at this place in bytes.
fn number_at(bytes: &[u8], place: usize) -> Option<i32> {
    let number = bytes.get(place..place.checked_add(mem::size_of::<i32>())?)?;
    Some(i32::from_ne_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever may be the user: to ask takes no privilege.
    #[test]
    fn the_kernel_says_which_numbers_are_free() {
        let own = NetNs::own().unwrap();
        let known = Nsid::find(&own).unwrap();
        let is_taken = |nsid: Nsid| nsid.is_taken().unwrap();
        assert_eq!(known.map(is_taken), known.map(|_| Some(true)));
        let free = Nsid {
            given_by: own_inode().unwrap(),
            number: i32::MAX,
        };
        assert_eq!(is_taken(free), Some(false));
    }

    #[test]
    fn a_number_that_another_namespace_has_given_says_nothing() {
        let foreign = Nsid {
            given_by: 1,
            number: 0,
        };
        assert_eq!(foreign.is_taken().unwrap(), None);
    }

    #[test]
    fn an_answer_that_is_too_short_or_is_an_error_is_no_number() {
        let answer = message(RTM_NEWNSID, &[(NETNSA_FD, 9), (NETNSA_NSID, 7)]);
        assert_eq!(number_in(&answer).unwrap(), Some(7));
        assert_eq!(number_in(&message(RTM_NEWNSID, &[])).unwrap(), None);
        for length in [0, HEADER - 1, HEADER + GENERAL - 1] {
            assert!(number_in(&answer[..length]).is_err(), "{length}");
        }
        let error = u16::try_from(NLMSG_ERROR).unwrap();
        let mut answer = message(error, &[]);
        answer[HEADER..].copy_from_slice(&(-2i32).to_ne_bytes());
        assert!(is(&number_in(&answer).unwrap_err(), Errno::ENOENT));
    }
}
