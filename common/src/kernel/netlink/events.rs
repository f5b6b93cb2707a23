//! Changes as the kernel announces them, to wait for one without polling. The socket
//! is one of its own: answers to requests are not delayed by what nobody reads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::libc::ENOBUFS;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};

/// What the kernel announces changes of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Links (`RTMGRP_LINK`).
    Links,
    /// IPv6 addresses (`RTMGRP_IPV6_IFADDR`).
    Ipv6Addresses,
}

impl Subject {
    fn group(self) -> u32 {
        match self {
            Self::Links => 0x1,
            Self::Ipv6Addresses => 0x100,
        }
    }
}

/// Notices every change in a namespace from its creation on.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
}

impl Events {
    /// Begins to listen in the namespace of the calling thread.
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

    /// What is readable when something has changed, for who waits for other things as well.
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
                // More has changed than the kernel keeps messages of.
                Err(cause) if cause.raw_os_error() == Some(ENOBUFS) => return Ok(true),
                Err(cause) => return Err(failed(cause)),
            }
        }
    }
}
