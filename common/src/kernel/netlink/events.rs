//! Notifications of the kernel about changes, to wait for a change without polling. They
//! have a separate socket, so that unread notifications do not delay the answers to
//! requests.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::libc::ENOBUFS;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};

/// The kind of objects whose changes the kernel reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Links (`RTMGRP_LINK`).
    Links,
    /// IPv6 addresses (`RTMGRP_IPV6_IFADDR`).
    Ipv6Addresses,
    /// The numbers of other namespaces (`RTNLGRP_NSID`).
    Namespaces,
}

impl Subject {
    fn group(self) -> u32 {
        match self {
            Self::Links => 0x1,
            Self::Ipv6Addresses => 0x100,
            Self::Namespaces => 0x800_0000,
        }
    }
}

/// Receives every change in a namespace since this value was created.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
}

impl Events {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// Code 999 when the socket cannot be created.
    pub fn open(subject: Subject) -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, subject.group()))?;
            socket.set_non_blocking(true)?;
            Ok(Self { socket })
        };
        open().map_err(|cause: io::Error| {
            Error::internal("failed to listen for changes").because(&cause)
        })
    }

    /// A descriptor that is readable when an object has changed, for callers that also wait
    /// for other descriptors.
    pub fn changed(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Waits for the next change; false when there was none until `deadline`.
    ///
    /// # Errors
    /// Code 999 when the kernel refuses.
    pub fn wait(&self, deadline: Instant) -> Result<bool> {
        let failed =
            |cause: io::Error| Error::internal("failed to wait for a change").because(&cause);
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut descriptors = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut descriptors, timeout).map_err(|errno| failed(errno.into()))? == 0 {
            return Ok(false);
        }
        loop {
            match self.socket.recv_from_full() {
                Ok(_) => {}
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                // There were more changes than the socket can hold.
                Err(cause) if cause.raw_os_error() == Some(ENOBUFS) => return Ok(true),
                Err(cause) => return Err(failed(cause)),
            }
        }
    }
}
