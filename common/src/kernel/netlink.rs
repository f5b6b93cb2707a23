//! The kernel's routing netlink (rtnetlink(7)) as blocking functions with types of this
//! crate. No other module uses the rtnetlink crates, whose API changes often. They are used
//! to encode and decode messages only: the kernel answers a request before the system call
//! that sends it returns, so asynchronous calls are not needed.

mod address;
mod by_number;
mod change;
mod digest;
mod events;
mod link;
mod neighbour;
mod new_link;
#[cfg(fuzzing)]
mod reply;
mod route;
mod rule;
mod state;
mod text;

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage,
    NetlinkPayload, ParseableParametrized,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc::MSG_TRUNC;

pub use address::{AddressState, Dad, KernelAddress};
pub use by_number::ByNumber;
pub use change::{Change, Made};
pub use events::{Events, Subject};
pub use link::{Link, LinkChange, Offload, Parameter, Parameters, Settings, parse_mac};
pub use new_link::{Kind, NewLink};
#[cfg(fuzzing)]
pub use reply::Reply;
pub use route::{KernelRoute, NewRoute, table_or_main};
pub use rule::{Rules, SourceRule};
pub use state::NetworkState;

use self::digest::understandable;
use crate::error::{Error, Result};
use crate::kernel::netns::NetNs;

/// How often a dump is tried while the kernel marks it as inconsistent because of a change.
const DUMP_ATTEMPTS: usize = 5;
/// The size of the receive buffer in bytes, larger than the longest datagram. The kernel
/// sends a dump in datagrams of 32 KiB, and a single link in one datagram, in which
/// alternative names can take 64 KiB. Source: `netlink_dump` and `rtnl_getlink` of Linux.
const DATAGRAM: usize = 96 << 10;

/// The netlink port of the kernel.
const KERNEL: u32 = 0;
/// The length of a message's header in bytes, and the types of the messages that end an
/// answer. Source: `linux/netlink.h`.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A netlink socket in one network namespace. It stays in the namespace it was
/// opened in, so one thread can work in two namespaces with two of these.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    /// The number of the last message that was sent.
    sequence: u32,
    /// How many messages of an answer are read at most.
    most: usize,
}

impl Netlink {
    /// A socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// Code 999 when the socket cannot be created.
    pub fn open() -> Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)
            .map_err(|cause| Error::internal("failed to open a netlink socket").because(&cause))?;
        Ok(Self {
            socket,
            sequence: 0,
            most: usize::MAX,
        })
    }

    /// A socket in `netns`.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be entered, 999 when the socket cannot be
    /// created.
    pub fn open_in(netns: &NetNs) -> Result<Self> {
        let netlink = netns.run(Self::open)?;
        netns.learn_cookie(&netlink.socket);
        Ok(netlink)
    }

    /// The id of the namespace `other` in the namespace of this socket (`nsid`), if it has
    /// one. The kernel assigns an id when a link of this namespace refers to the other one.
    ///
    /// # Errors
    /// Code 999 when the kernel refuses.
    pub fn namespace_id(&mut self, other: &NetNs) -> Result<Option<i32>> {
        self.number(other, None).map_err(|cause| {
            let msg = format!("failed to ask for the number of netns {:?}", other.path());
            Error::internal(msg).because(&cause)
        })
    }

    /// The number of the namespace `other` in the namespace of this socket, or in the one that has
    /// the number `of` there.
    fn number(&mut self, other: &NetNs, of: Option<i32>) -> io::Result<Option<i32>> {
        let mut message = NsidMessage::default();
        let descriptor = other.as_fd().as_raw_fd().unsigned_abs();
        message.attributes.push(NsidAttribute::Fd(descriptor));
        message.attributes.extend(of.map(NsidAttribute::TargetNsid));
        let replies = self.request(RouteNetlinkMessage::GetNsId(message), 0)?;
        let numbers = replies.into_iter().flat_map(|reply| match reply {
            RouteNetlinkMessage::NewNsId(message) => message.attributes,
            _ => Vec::new(),
        });
        let mut assigned = numbers.filter_map(|attribute| match attribute {
            NsidAttribute::Id(id) if id >= 0 => Some(id),
            _ => None,
        });
        Ok(assigned.next())
    }

    /// The ids (`nsid`) of all namespaces that have one in the namespace of this socket:
    /// those that its links refer to or were moved to.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub fn namespace_ids(&mut self) -> Result<Vec<i32>> {
        let replies = self
            .dump(&RouteNetlinkMessage::GetNsId(NsidMessage::default()))
            .map_err(|cause| Error::internal("failed to list the namespaces").because(&cause))?;
        let attributes = replies.into_iter().flat_map(|reply| match reply {
            RouteNetlinkMessage::NewNsId(message) => message.attributes,
            _ => Vec::new(),
        });
        let id = |attribute| match attribute {
            NsidAttribute::Id(id) if id >= 0 => Some(id),
            _ => None,
        };
        Ok(attributes.filter_map(id).collect())
    }

    /// All objects of a kind: the messages of the answer to a dump request.
    fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut attempt = 1;
        loop {
            match self.request(message.clone(), NLM_F_DUMP) {
                Err(cause)
                    if cause.kind() == io::ErrorKind::Interrupted && attempt < DUMP_ATTEMPTS =>
                {
                    attempt += 1
                }
                outcome => return outcome,
            }
        }
    }

    /// Sends a request, and returns all messages of its answer.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = Vec::new();
        self.append(&mut request, message, flags);
        self.send(&request)?;
        let mut replies = Vec::new();
        let mut is_torn = false;
        loop {
            for reply in self.receive()? {
                if reply.header.sequence_number != self.sequence {
                    continue;
                }
                let is_part = reply.header.flags & NLM_F_MULTIPART != 0;
                is_torn |= reply.header.flags & NLM_F_DUMP_INTR != 0;
                match reply.payload {
                    NetlinkPayload::InnerMessage(inner) => {
                        replies.push(inner);
                        if replies.len() > self.most {
                            let most = self.most;
                            return Err(io::Error::other(format!("there are more than {most}")));
                        }
                        if is_part {
                            continue;
                        }
                    }
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => {}
                    _ => continue,
                }
                return match is_torn {
                    true => Err(io::ErrorKind::Interrupted.into()),
                    false => Ok(replies),
                };
            }
        }
    }

    /// Appends `message` to `request`, with the next sequence number.
    fn append(&mut self, request: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let begin = request.len();
        request.resize(begin + message.buffer_len(), 0);
        message.serialize(&mut request[begin..]);
    }

    /// As [`Self::append`], for a message that is given by its type and its bytes.
    fn append_bytes(&mut self, request: &mut Vec<u8>, (kind, bytes): (u16, &[u8]), flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + bytes.len()).unwrap_or(u32::MAX);
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend(KERNEL.to_ne_bytes());
        request.extend(bytes);
        request.resize(request.len().next_multiple_of(4), 0);
    }

    /// As [`Self::dump`], without parsing: the bytes behind the header of each message of
    /// the type `kind`.
    fn dump_bytes(&mut self, message: &RouteNetlinkMessage, kind: u16) -> io::Result<Vec<Vec<u8>>> {
        let mut attempt = 1;
        loop {
            match self.request_bytes(message.clone(), kind) {
                Err(cause)
                    if cause.kind() == io::ErrorKind::Interrupted && attempt < DUMP_ATTEMPTS =>
                {
                    attempt += 1
                }
                outcome => return outcome,
            }
        }
    }

    fn request_bytes(
        &mut self,
        message: RouteNetlinkMessage,
        kind: u16,
    ) -> io::Result<Vec<Vec<u8>>> {
        let mut request = Vec::new();
        self.append(&mut request, message, NLM_F_DUMP);
        self.send(&request)?;
        let (mut found, mut is_torn) = (Vec::new(), false);
        loop {
            let datagram = self.receive_datagram()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
                let body = message.payload();
                let length = message.length() as usize;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if message.sequence_number() != self.sequence {
                    continue;
                }
                is_torn |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let code = body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                        return match code {
                            0.. if is_torn => Err(io::ErrorKind::Interrupted.into()),
                            0.. => Ok(found),
                            _ => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    received if received == kind => found.push(body.to_vec()),
                    _ => {}
                }
            }
        }
    }

    fn send(&self, request: &[u8]) -> io::Result<()> {
        uninterrupted(|| self.socket.send(request, 0)).map(drop)
    }

    /// The messages of the kernel's next datagram. When this fails, an answer is lost, and
    /// it is unknown whether the kernel has done what was requested. Such an error has no
    /// errno, because an errno would be taken for the kernel's answer.
    fn receive(&self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        messages_of(&self.receive_datagram()?)
    }

    fn receive_datagram(&self) -> io::Result<Vec<u8>> {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        let receive = || self.socket.recv_from(&mut datagram, MSG_TRUNC);
        let (length, sender) = uninterrupted(receive).map_err(io::Error::other)?;
        // Processes with CAP_NET_ADMIN in the namespace can send messages to this socket,
        // too.
        if sender.port_number() != KERNEL {
            return Ok(Vec::new());
        }
        if length > datagram.len() {
            return Err(io::Error::other("an answer of the kernel is too long"));
        }
        Ok(datagram)
    }
}

/// Repeats a system call that a signal has interrupted.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Parses a message of this type from the bytes behind its header.
fn parsed(kind: u16, bytes: &[u8]) -> Option<RouteNetlinkMessage> {
    RouteNetlinkMessage::parse_with_param(bytes, kind).ok()
}

/// The messages of a datagram. A message of a dump that cannot be parsed is left out: it is
/// about an object of a kind that is not used here.
fn messages_of(datagram: &[u8]) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
    let datagram = understandable(datagram);
    let mut messages = Vec::new();
    let mut rest = datagram.as_slice();
    while !rest.is_empty() {
        let header = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
        let is_part = header.flags() & NLM_F_MULTIPART != 0;
        match NetlinkMessage::deserialize(rest) {
            Err(_) if is_part => {}
            message => messages.push(message.map_err(io::Error::other)?),
        }
        // Messages begin at multiples of four bytes, the first one at zero.
        let length = header.length() as usize;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}
