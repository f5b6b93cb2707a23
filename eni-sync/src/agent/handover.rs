//! Which agent of a node serves its plugins, when there is more than one. During an update
//! the next one starts while the one before still serves, and takes the path of the socket
//! when it has shown that it can do the work. None ends because of another one: whoever has
//! started it would start it anew, and the two would take the path from each other for ever.
//!
//! Two at once do no harm. What they do is in the ledger, and is done under its locks: one
//! process changes the entries of an ENI at a time, and one asks AWS to change the ENI, as
//! plugins do that have no agent. A plugin that is connected is served by the agent that it
//! is connected to.

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

/// How long an agent that starts waits for one that is just starting as well.
const PATIENCE: Duration = Duration::from_secs(1);

/// What an agent is on its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    /// It does all that an agent does but serve plugins: another one does that still.
    #[default]
    Coming,
    /// It serves plugins.
    Serving,
    /// Another one serves plugins. This one rests, and serves again when no other does.
    Relieved,
}

/// The agent's place at the path of the socket.
#[derive(Debug)]
pub(crate) struct Post {
    path: PathBuf,
    role: Role,
    listener: Option<Listener>,
    woken: UnixStream,
    /// Held while this agent is the one that comes.
    lock: Option<Lock>,
}

impl Post {
    /// The place of an agent that starts. It serves at once where no other does. Whoever
    /// drops the other value ends the wait for the next plugin.
    ///
    /// # Errors
    /// Code 7 when the path is too long; 5 naming it.
    pub(crate) fn new(path: &Path) -> Result<(Self, UnixStream)> {
        socket::prepare(path)?;
        let failed = |cause| Error::io("failed to make a pair of sockets", &cause);
        let (waker, woken) = UnixStream::pair().map_err(failed)?;
        let mut post = Self {
            path: path.to_owned(),
            role: Role::Coming,
            listener: None,
            woken,
            lock: socket::lock(path, PATIENCE)?,
        };
        match socket::is_listened_on(path) {
            true => {
                info!("an agent serves already at {path:?}: this one takes over when it is ready");
            }
            false => post.take()?,
        }
        Ok((post, waker))
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The agent's socket, if it has had one.
    pub(crate) fn bound(&self) -> Option<Bound> {
        let listener = self.listener.as_ref();
        listener.map(|listener| listener.bound().clone())
    }

    /// Finds out what the agent is from now on. One that comes takes the path when it is
    /// ready, and one that was relieved when nobody has it.
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
            // A plugin that has seen this agent knows its way when it has gone. What there is to
            // be said of it, the first look says.
            environment::leave();
            self.listener = Some(Listener::open(&self.path)?);
            self.role = Role::Serving;
        }
        Ok(())
    }

    /// The next plugin that connects within `time`. One that has been relieved may have
    /// some in its queue.
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

/// Whether an agent waits to relieve the one that serves at this path.
///
/// # Errors
/// Code 5 naming the lock.
pub(crate) fn is_another_coming(path: &Path) -> Result<bool> {
    socket::lock(path, Duration::ZERO).map(|lock| lock.is_none())
}
