//! Decides which agent of a node serves its plugins when there are several. During an update
//! the new agent starts while the old one still serves, and takes over the path of the socket
//! when it has shown that it can do the work. No agent ends because of another one: its service
//! manager would restart it, and the two would take the path from each other for ever.
//!
//! Two agents at once do no harm. Their state is in the ledger, and they work under its locks:
//! one process changes the entries of an ENI at a time, and one asks AWS to change the ENI, as
//! for plugins without an agent. A connected plugin is served by the agent that it is connected
//! to.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::error::{Error, Result};
use common::files::lock::Lock;
use tracing::info;

use crate::plugin::socket::{self, Bound, Listener};
use crate::vpc::environment;

/// How long a starting agent waits for another one that is just starting.
const START_DEADLINE: Duration = Duration::from_secs(1);

/// The role of an agent on its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is starting: it does everything except serving plugins, which another agent still
    /// does.
    #[default]
    Coming,
    /// It serves plugins.
    Serving,
    /// Another agent serves plugins now. This one does nothing, and serves again when no other
    /// agent does.
    Relieved,
}

/// The agent's claim to the path of the socket.
#[derive(Debug)]
pub(crate) struct Handover {
    path: PathBuf,
    role: Role,
    listener: Option<Listener>,
    woken: UnixStream,
    /// Held while this agent is about to take over.
    lock: Option<Lock>,
}

impl Handover {
    /// The state of a starting agent. It serves at once if no other agent does. Dropping the
    /// second value ends the wait for the next plugin.
    ///
    /// # Errors
    /// Code 7 when the path is too long; 5 naming the path.
    pub(crate) fn new(path: &Path) -> Result<(Self, UnixStream)> {
        socket::prepare(path)?;
        let failed = |cause| Error::io("failed to make a pair of sockets", &cause);
        let (waker, woken) = UnixStream::pair().map_err(failed)?;
        let mut handover = Self {
            path: path.to_owned(),
            role: Role::Coming,
            listener: None,
            woken,
            lock: socket::lock(path, START_DEADLINE)?,
        };
        match socket::is_listened_on(path) {
            true => {
                info!("an agent serves already at {path:?}: this one takes over when it is ready");
            }
            false => handover.take()?,
        }
        Ok((handover, waker))
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The agent's socket, if it has had one.
    pub(crate) fn bound(&self) -> Option<Bound> {
        let listener = self.listener.as_ref();
        listener.map(|listener| listener.bound().clone())
    }

    /// Updates the role of the agent. A starting agent takes the path when it is ready, and a
    /// relieved one when no agent listens there.
    ///
    /// # Errors
    /// Code 5 naming the path.
    pub(crate) fn look(&mut self, is_ready: bool) -> Result<()> {
        if self.listener.as_ref().is_some_and(Listener::is_in_place) {
            return Ok(());
        }
        let may_relieve = self.role == Role::Coming && is_ready;
        if may_relieve || !socket::is_listened_on(&self.path) {
            self.take()?;
        } else if self.role == Role::Serving {
            self.role = Role::Relieved;
            info!(
                "another agent serves at {:?}: this one rests until it is ended",
                self.path
            );
        }
        Ok(())
    }

    /// Takes the path, unless another agent is about to.
    fn take(&mut self) -> Result<()> {
        let lock = match self.lock.take() {
            Some(lock) => Some(lock),
            None => socket::lock(&self.path, Duration::ZERO)?,
        };
        if lock.is_some() {
            socket::prepare(&self.path)?;
            // Written before the socket is opened, so that plugins have the settings even if
            // this agent ends at once. The messages are left to the first look.
            environment::leave();
            self.listener = Some(Listener::open(&self.path)?);
            self.role = Role::Serving;
        }
        Ok(())
    }

    /// The next plugin that connects within `time`. A relieved agent may still have connections
    /// in its queue.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn accept(&self, time: Duration) -> io::Result<Option<UnixStream>> {
        match &self.listener {
            Some(listener) => listener.accept(time, &self.woken),
            None => socket::wait(time, &[self.woken.as_fd()]).map(|()| None),
        }
    }
}

/// Whether another agent is about to take over the path.
///
/// # Errors
/// Code 5 naming the lock.
pub(crate) fn is_another_coming(path: &Path) -> Result<bool> {
    socket::lock(path, Duration::ZERO).map(|lock| lock.is_none())
}
