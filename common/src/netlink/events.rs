//! Notifications of the kernel, on a socket of their own: requests and their
//! answers are not delayed by what nobody reads.

use std::io;
use std::pin::Pin;
use std::time::Instant;

use futures_util::{Stream, StreamExt};
use rtnetlink::MulticastGroup;
use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Result};
use crate::netns::NetNs;

/// The changes of IPv6 addresses in one namespace, since this was opened.
pub struct AddressEvents {
    runtime: Runtime,
    events: Pin<Box<dyn Stream<Item = ()> + Send>>,
}

impl AddressEvents {
    /// Subscribes in `netns`.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be entered, 999 when the socket cannot be
    /// created.
    pub fn open_in(netns: &NetNs) -> Result<Self> {
        netns.run(Self::open)
    }

    fn open() -> Result<Self> {
        let failed = |cause: io::Error| {
            Error::internal("failed to subscribe to changes of addresses").because(&cause)
        };
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(failed)?;
        let entered = runtime.enter();
        let groups = [MulticastGroup::Ipv6Ifaddr];
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(failed)?;
        drop(entered);
        runtime.spawn(connection);
        let events = Box::pin(messages.map(drop));
        Ok(Self { runtime, events })
    }

    /// Waits for a change; false when there was none until `deadline`.
    pub fn wait(&mut self, deadline: Instant) -> bool {
        let Self { runtime, events } = self;
        runtime.block_on(async {
            let next = tokio::time::timeout_at(deadline.into(), events.next());
            matches!(next.await, Ok(Some(())))
        })
    }
}
