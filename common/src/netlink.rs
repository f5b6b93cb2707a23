//! The kernel's routing netlink as blocking verbs with types of our own. This is
//! the only module that knows the rtnetlink crate: it breaks its API often.

mod address;
mod events;
mod link;
mod route;
mod rule;

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use futures_util::StreamExt;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use tokio::runtime::{Builder, Runtime};

pub use address::{AddressState, Dad, KernelAddress};
pub use events::{Events, Subject};
pub use link::{Link, LinkChange, NewIpvlan, parse_mac};
pub use route::KernelRoute;
pub use rule::{Rules, SourceRule};

use crate::error::{Error, Result};
use crate::netns::NetNs;

/// How often a dump is repeated that the kernel marks as torn by a change.
const DUMP_ATTEMPTS: usize = 5;

/// A netlink socket in one network namespace. It stays in the namespace it was
/// opened in, so one thread can work in two namespaces with two of these.
#[derive(Debug)]
pub struct Netlink {
    runtime: Runtime,
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// A socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// Code 999 when the socket cannot be created.
    pub fn open() -> Result<Self> {
        let failed =
            |cause: io::Error| Error::internal("failed to open a netlink socket").because(&cause);
        let runtime = Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(failed)?;
        let entered = runtime.enter();
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(failed)?;
        drop(entered);
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// A socket in `netns`.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be entered, 999 when the socket cannot be
    /// created.
    pub fn open_in(netns: &NetNs) -> Result<Self> {
        netns.run(Self::open)
    }

    /// The number by which this socket's namespace knows `other`, assigned now if
    /// it has none yet. Links that reach into another namespace name it so.
    ///
    /// # Errors
    /// Code 999 when the kernel refuses.
    pub fn namespace_id(&mut self, other: &NetNs) -> Result<i32> {
        let what = || format!("failed to number netns {:?}", other.path());
        let assign = nsid_message(other, Some(NsidAttribute::Id(-1)));
        match self.acknowledged(
            RouteNetlinkMessage::NewNsId(assign),
            NLM_F_CREATE | NLM_F_EXCL,
        ) {
            Err(cause) if cause.raw_os_error() != Some(nix::libc::EEXIST) => {
                return Err(Error::internal(what()).because(&cause));
            }
            _ => {}
        }
        let asked = RouteNetlinkMessage::GetNsId(nsid_message(other, None));
        let replies = self
            .request(asked, 0)
            .map_err(|cause| Error::internal(what()).because(&cause))?;
        let id = replies.into_iter().find_map(|reply| match reply {
            RouteNetlinkMessage::NewNsId(message) => {
                message.attributes.into_iter().find_map(|a| match a {
                    NsidAttribute::Id(id) if id >= 0 => Some(id),
                    _ => None,
                })
            }
            _ => None,
        });
        id.ok_or_else(|| Error::internal(what()).with_details("the kernel gave no number"))
    }

    /// Sends a change and waits for the kernel's acknowledgement.
    fn acknowledged(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.request(message, NLM_F_ACK | flags).map(drop)
    }

    /// Everything the kernel has of a kind.
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

    /// One request and all messages of its answer.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let closed = || io::Error::other("the netlink socket is closed");
        let Self { runtime, handle } = self;
        runtime.block_on(async {
            let mut stream = handle.request(request).map_err(|_| closed())?;
            let mut replies = Vec::new();
            let mut interrupted = false;
            while let Some(reply) = stream.next().await {
                interrupted |= reply.header.flags & NLM_F_DUMP_INTR != 0;
                match reply.payload {
                    NetlinkPayload::InnerMessage(inner) => replies.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    _ => {}
                }
            }
            if interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Ok(replies)
        })
    }
}

fn nsid_message(netns: &NetNs, id: Option<NsidAttribute>) -> NsidMessage {
    let mut message = NsidMessage::default();
    message
        .attributes
        .push(NsidAttribute::Fd(netns.as_fd().as_raw_fd().unsigned_abs()));
    message.attributes.extend(id);
    message
}
