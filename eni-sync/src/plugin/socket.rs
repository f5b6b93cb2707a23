//! The protocol between the plugins and the agent of a node: one request and one answer on a
//! Unix socket that only root can open. Before its answer, the agent confirms that it has taken
//! the request. If no agent does so in time, the plugin does the work itself.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::address::Cidr;
use common::attach::inventory;
use common::error::{Error, ErrorCode, Result};
use common::files::file::{self, LONGEST_SOCKET_PATH};
use common::files::lock::Lock;
use common::say;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, sockopt::PeerCredentials,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::deadline::Deadline;
use crate::ledger::Refusal;
use crate::limits::PLUGIN_DEADLINE;
use crate::registration::desired::Wanted;
use crate::registration::request::{Choice, Request};

/// Where the agent listens.
pub(crate) const PATH: &str = "/run/eni-cni/agent.sock";
/// The size limit of a request and of an answer in bytes.
const LIMIT: u64 = 1 << 20;
/// How long a plugin waits until the agent takes its request. An agent that is stopped or
/// overloaded does not; if it carries out the request later, that is in the ledger.
const TAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long the way of an answer may take: the agent has that much less time than the plugin.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// The agent takes a request by white space in front of its answer.
const TAKEN: &[u8] = b"\n";
const SOCKET_MODE: u32 = 0o600;
/// The suffix of a new socket until it is renamed to its path.
const NEW: &str = ".new";
/// The suffix of the file that agents lock.
const LOCK: &str = ".lock";
/// How long an agent waits for the answer of another one; the result does not matter.
const PING_DEADLINE: Duration = Duration::from_secs(1);

/// A request of a plugin.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub(crate) enum Ask {
    /// Register the addresses of an attachment.
    Register {
        /// The addresses by MAC address.
        wanted: Wanted,
        /// The attachment.
        request: Box<Request>,
        /// For how many milliseconds the plugin waits; `None` from an earlier version.
        #[serde(default)]
        patience: Option<u64>,
    },
    /// Give addresses to an attachment of a network without ranges. An agent of an earlier
    /// version does not know this request and closes the connection; the plugin then does it
    /// itself.
    Choose {
        /// What it needs.
        choice: Box<Choice>,
        /// The attachment.
        request: Box<Request>,
        /// For how many milliseconds the plugin waits.
        patience: u64,
    },
    /// Tell whether an attachment could be served. An agent of an earlier version does not know
    /// this request and closes the connection.
    Status,
    /// Look into the ledger: an address there will be due.
    Look,
    /// Answer, and do nothing else.
    Ping,
}

/// An answer of the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub(crate) enum Answer {
    /// It is done.
    Done,
    /// These are the addresses of the attachment.
    Chosen {
        /// Each with the prefix length of the subnet.
        addresses: Vec<Cidr>,
    },
    /// It cannot be done.
    Refused(Refusal),
    /// The agent does not see the container's namespace. The plugin does, and has to do the
    /// work itself.
    Unseen,
}

/// Has the agent register the addresses of an attachment. `None` when no agent does.
pub(crate) fn register(
    wanted: &Wanted,
    request: &Request,
    deadline: Deadline,
) -> Option<Result<()>> {
    let ask = Ask::Register {
        wanted: wanted.clone(),
        request: Box::new(request.clone()),
        patience: Some(milliseconds_for_agent(deadline)),
    };
    ask_agent(&ask, deadline, |answer| match answer {
        Answer::Done => Some(()),
        _ => None,
    })
}

/// Has the agent give an attachment addresses. `None` when no agent does.
pub(crate) fn choose(
    choice: &Choice,
    request: &Request,
    deadline: Deadline,
) -> Option<Result<Vec<Cidr>>> {
    let ask = Ask::Choose {
        choice: Box::new(choice.clone()),
        request: Box::new(request.clone()),
        patience: milliseconds_for_agent(deadline),
    };
    ask_agent(&ask, deadline, |answer| match answer {
        Answer::Chosen { addresses } => Some(addresses),
        _ => None,
    })
}

/// Whether the agent could serve an attachment. `None` when no agent answers.
pub(crate) fn status(deadline: Deadline) -> Option<Result<()>> {
    ask_agent(&Ask::Status, deadline, |answer| match answer {
        Answer::Done => Some(()),
        _ => None,
    })
}

/// For how many milliseconds an agent may work on an answer that has to be here by the
/// deadline.
fn milliseconds_for_agent(deadline: Deadline) -> u64 {
    let time = deadline.left().saturating_sub(ANSWER_TIME).as_millis();
    u64::try_from(time).unwrap_or(u64::MAX)
}

/// The answer of the agent; `None` if the plugin has to do the work itself.
fn ask_agent<T>(
    ask: &Ask,
    deadline: Deadline,
    meant: impl FnOnce(Answer) -> Option<T>,
) -> Option<Result<T>> {
    let stream = connect_to_root()?;
    let taken = send(&stream, ask).and_then(|()| await_taken(&stream, deadline));
    // The agent may be gone, stopped or overloaded.
    let taken = taken.ok()?;
    match receive(&stream, taken) {
        Ok(Answer::Refused(refusal)) => Some(Err(refusal.error())),
        Ok(answer) => meant(answer).map(Ok),
        // The agent ended before it answered. What it has done is in the ledger.
        Err(cause) if cause.kind() != io::ErrorKind::WouldBlock => None,
        Err(cause) => {
            let missed = Deadline::missed("the agent of eni-sync, which does not answer");
            Some(Err(missed.because(&cause)))
        }
    }
}

/// Tells the agent, if there is one, that the ledger has changed. Returns whether there is one.
/// An agent that does not receive this finds out by itself.
pub(crate) fn announce() -> bool {
    connect_to_root().is_some_and(|stream| send(&stream, &Ask::Look).is_ok())
}

/// Asks whether an agent answers; `None` when there is no socket.
///
/// # Errors
/// Those of the socket; the agent may have died.
pub(crate) fn ping() -> io::Result<Option<()>> {
    let stream = match connect(Path::new(PATH)) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        stream => stream?,
    };
    send(&stream, &Ask::Ping)?;
    let taken = await_taken(&stream, Deadline::after(TAKE_DEADLINE))?;
    receive::<Answer>(&stream, taken).map(|_| Some(()))
}

/// A connection to the agent, if the process that listens is root's.
fn connect_to_root() -> Option<UnixStream> {
    let stream = connect(Path::new(PATH)).ok()?;
    is_of_root(&stream).then_some(stream)
}

/// A connection, if it can be made at once: when no process accepts connections and the queue
/// is full, the kernel would block without end.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(TAKE_DEADLINE))?;
    Ok(stream)
}

/// Waits until the agent takes the request, and returns the byte by which it did. An agent of
/// an earlier version does not confirm; then it is the first byte of its answer.
fn await_taken(mut stream: &UnixStream, deadline: Deadline) -> io::Result<[u8; 1]> {
    let mut taken = [0];
    // A timeout of 0 would mean no limit.
    let left_of = |time| deadline.left_of(time).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left_of(TAKE_DEADLINE)))?;
    stream.read_exact(&mut taken)?;
    stream.set_read_timeout(Some(left_of(Duration::MAX)))?;
    Ok(taken)
}

/// Confirms that the request on this connection is taken.
///
/// # Errors
/// Those of the socket.
pub(crate) fn take(mut stream: &UnixStream) -> io::Result<()> {
    stream.write_all(TAKEN)
}

/// Reads the request on a connection.
///
/// # Errors
/// Those of the socket; `InvalidData` when it is not a request.
pub(crate) fn read(stream: &UnixStream) -> io::Result<Ask> {
    stream.set_read_timeout(Some(PLUGIN_DEADLINE))?;
    stream.set_write_timeout(Some(PLUGIN_DEADLINE))?;
    receive(stream, [])
}

/// Writes a request or an answer, and ends the sending side.
///
/// # Errors
/// Those of the socket.
pub(crate) fn send<T: Serialize>(mut stream: &UnixStream, document: &T) -> io::Result<()> {
    stream.write_all(&serde_json::to_vec(document)?)?;
    stream.shutdown(Shutdown::Write)
}

/// Reads a document of which the bytes in `begun` have been read before.
fn receive<T: DeserializeOwned>(stream: &UnixStream, begun: impl Into<Vec<u8>>) -> io::Result<T> {
    let mut text = begun.into();
    stream.take(LIMIT).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Whether the process at the other end runs as root.
pub(crate) fn is_of_root(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}

/// The agent's end of the socket at a path.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    bound: Bound,
}

/// The identity of a bound socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    path: PathBuf,
    /// The device and inode numbers of its file. No other file can get them while the listener
    /// exists.
    file: (u64, u64),
}

impl Bound {
    /// Whether this socket is still the one at its path.
    pub(crate) fn is_in_place(&self) -> bool {
        identity(&self.path).is_ok_and(|found| found == self.file)
    }
}

impl Listener {
    /// Binds a socket beside the path and renames it to the path, replacing another one: at any
    /// moment there is a socket that a plugin can connect to. The caller must have the lock of
    /// the path.
    ///
    /// # Errors
    /// Code 5 naming the path.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |cause| Error::io(format!("failed to listen on {path:?}"), &cause);
        let new = beside(path, NEW);
        Self::make(path, &new).map_err(|cause| {
            if let Err(second) = file::remove(&new) {
                say!("failed to remove {new:?}: {second}");
            }
            failed(cause)
        })
    }

    fn make(path: &Path, new: &Path) -> io::Result<Self> {
        // An agent that was killed here before has left this file.
        file::remove(new)?;
        let listener = UnixListener::bind(new)?;
        listener.set_nonblocking(true)?;
        // Until now the directory, which only root can enter, has protected it.
        fs::set_permissions(new, Permissions::from_mode(SOCKET_MODE))?;
        let file = identity(new)?;
        fs::rename(new, path)?;
        let path = path.to_owned();
        Ok(Self {
            listener,
            bound: Bound { path, file },
        })
    }

    /// The next connection, if one comes within `time`. The wait ends early when the other end
    /// of `woken` is closed.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn accept(
        &self,
        time: Duration,
        woken: &UnixStream,
    ) -> io::Result<Option<UnixStream>> {
        wait(time, &[self.listener.as_fd(), woken.as_fd()])?;
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// A copy of the socket, for a caller that accepts connections in another way.
    ///
    /// # Errors
    /// When no descriptor is free.
    pub(crate) fn socket(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// The identity of the socket, for code without the listener.
    pub(crate) fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Whether this socket is still the one at its path.
    pub(crate) fn is_in_place(&self) -> bool {
        self.bound.is_in_place()
    }
}

/// Waits until there is something to be read, for `time` at most.
///
/// # Errors
/// Those of `poll(2)`.
pub(crate) fn wait(time: Duration, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    let files = files.iter();
    let files = files.map(|file| PollFd::new(*file, PollFlags::POLLIN));
    let mut files: Vec<PollFd<'_>> = files.collect();
    match poll(&mut files, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// A path with a suffix.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Creates the directory of a socket.
///
/// # Errors
/// Code 7 when the path is too long; 5 naming the path.
pub(crate) fn prepare(path: &Path) -> Result<()> {
    if beside(path, NEW).as_os_str().len() > LONGEST_SOCKET_PATH {
        let msg = format!("the path of the socket is too long: {path:?}");
        let details =
            format!("a socket's path has {LONGEST_SOCKET_PATH} bytes at most, {NEW:?} included");
        return Err(Error::config(msg).with_details(details));
    }
    let failed = |cause| Error::io(format!("failed to listen on {path:?}"), &cause);
    path.parent().map_or(Ok(()), create).map_err(failed)
}

/// The lock of the path: only its holder binds a socket there. `None` if another agent has it,
/// which is about to bind.
///
/// # Errors
/// Code 5 naming the file.
pub(crate) fn lock(path: &Path, deadline: Duration) -> Result<Option<Lock>> {
    match Lock::take(&beside(path, LOCK), deadline) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.code == ErrorCode::TRY_AGAIN => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an agent listens there, also if it is overloaded or stopped.
pub(crate) fn is_listened_on(path: &Path) -> bool {
    match connect(path) {
        Ok(stream) => {
            let asked = send(&stream, &Ask::Ping).and_then(|()| await_answer(&stream));
            // It listens also if it does not answer.
            asked.ok();
            true
        }
        Err(cause) => cause.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Whether any process, agent or not, listens on a socket there.
pub(crate) fn has_listener(path: &Path) -> bool {
    match connect(path) {
        Ok(_) => true,
        // Its queue is full.
        Err(cause) => cause.kind() == io::ErrorKind::WouldBlock,
    }
}

fn await_answer(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PING_DEADLINE))?;
    receive::<Answer>(stream, []).map(drop)
}

/// Creates the directory of a socket. The agent's own directory is made accessible to root
/// only, even if it exists; another directory may be for other programs too.
fn create(directory: &Path) -> io::Result<()> {
    match directory == Path::new(inventory::DIRECTORY) {
        true => file::create_private_directory(directory),
        false => file::create_directory(directory),
    }
}
