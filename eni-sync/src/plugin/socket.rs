//! What the plugin and the agent of a node say to each other: one request and one
//! answer on a Unix socket that only root can open. The agent says first that it takes
//! the request. Where no agent does so in time, the plugin does the work itself.

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
/// Whatever is larger is not a request and no answer.
const LIMIT: u64 = 1 << 20;
/// How long a plugin waits until the agent takes its request. An agent that is stopped, or
/// has too much to do, does not; what it may do later all the same is in the ledger.
const TAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long an answer may be on its way: the agent has that much less time than the plugin.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// The agent takes a request by white space in front of its answer.
const TAKEN: &[u8] = b"\n";
const SOCKET_MODE: u32 = 0o600;
/// What the name of a socket has at its end until it is in its place.
const NEW: &str = ".new";
/// The same of the file that agents lock.
const LOCK: &str = ".lock";
/// How long an agent waits for another one's answer, of which nothing depends.
const PING_DEADLINE: Duration = Duration::from_secs(1);

/// What a plugin asks of the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub(crate) enum Ask {
    /// Register the addresses of an attachment.
    Register {
        /// The addresses by MAC address.
        wanted: Wanted,
        /// The attachment.
        request: Box<Request>,
        /// For how many milliseconds the plugin waits; nothing of an earlier version.
        #[serde(default)]
        patience: Option<u64>,
    },
    /// Give an attachment addresses whose network names none. An agent of an earlier version
    /// does not know this, and closes the connection: the plugin does it itself then.
    Choose {
        /// What it needs.
        choice: Box<Choice>,
        /// The attachment.
        request: Box<Request>,
        /// For how many milliseconds the plugin waits.
        patience: u64,
    },
    /// Say whether an attachment could be served. An agent of an earlier version does not know
    /// this, and closes the connection.
    Status,
    /// Look into the ledger: something there will be due.
    Look,
    /// Answer, and do nothing else.
    Ping,
}

/// What the agent answers.
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
    /// The agent does not see the container's namespace; the plugin, which does, has to
    /// do it itself.
    Unseen,
}

/// Has the agent register the addresses of an attachment. Nothing, when there is no
/// agent that could.
pub(crate) fn register(
    wanted: &Wanted,
    request: &Request,
    deadline: Deadline,
) -> Option<Result<()>> {
    let ask = Ask::Register {
        wanted: wanted.clone(),
        request: Box::new(request.clone()),
        patience: Some(patience(deadline)),
    };
    ask_agent(&ask, deadline, |answer| match answer {
        Answer::Done => Some(()),
        _ => None,
    })
}

/// Has the agent give an attachment addresses. Nothing, when there is no agent that could.
pub(crate) fn choose(
    choice: &Choice,
    request: &Request,
    deadline: Deadline,
) -> Option<Result<Vec<Cidr>>> {
    let ask = Ask::Choose {
        choice: Box::new(choice.clone()),
        request: Box::new(request.clone()),
        patience: patience(deadline),
    };
    ask_agent(&ask, deadline, |answer| match answer {
        Answer::Chosen { addresses } => Some(addresses),
        _ => None,
    })
}

/// Whether the agent could serve an attachment. Nothing, when there is no agent that says.
pub(crate) fn status(deadline: Deadline) -> Option<Result<()>> {
    ask_agent(&Ask::Status, deadline, |answer| match answer {
        Answer::Done => Some(()),
        _ => None,
    })
}

/// For how many milliseconds an agent can work on an answer that is to be here in time.
fn patience(deadline: Deadline) -> u64 {
    let patience = deadline.left().saturating_sub(ANSWER_TIME).as_millis();
    u64::try_from(patience).unwrap_or(u64::MAX)
}

/// What the agent answers, where there is one that does; nothing where the plugin has to do
/// the work itself.
fn ask_agent<T>(
    ask: &Ask,
    deadline: Deadline,
    meant: impl FnOnce(Answer) -> Option<T>,
) -> Option<Result<T>> {
    let stream = connect_to_root()?;
    let taken = send(&stream, ask).and_then(|()| await_taken(&stream, deadline));
    // It may be gone, or not listen, or have too much to do.
    let taken = taken.ok()?;
    match receive(&stream, taken) {
        Ok(Answer::Refused(refusal)) => Some(Err(refusal.error())),
        Ok(answer) => meant(answer).map(Ok),
        // It went away before it answered. What it has done is in the ledger.
        Err(cause) if cause.kind() != io::ErrorKind::WouldBlock => None,
        Err(cause) => {
            let missed = Deadline::missed("the agent of eni-sync, which does not answer");
            Some(Err(missed.because(&cause)))
        }
    }
}

/// Tells the agent, if there is one, that the ledger has changed; whether there is one. An agent
/// that does not listen finds out by itself.
pub(crate) fn announce() -> bool {
    connect_to_root().is_some_and(|stream| send(&stream, &Ask::Look).is_ok())
}

/// Whether an agent answers, or nothing when there is no socket.
///
/// # Errors
/// Those of the socket, whose agent may have died.
pub(crate) fn ping() -> io::Result<Option<()>> {
    let stream = match connect(Path::new(PATH)) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        stream => stream?,
    };
    send(&stream, &Ask::Ping)?;
    let taken = await_taken(&stream, Deadline::after(TAKE_DEADLINE))?;
    receive::<Answer>(&stream, taken).map(|_| Some(()))
}

/// The agent's side of the socket, if a process of root is there.
fn connect_to_root() -> Option<UnixStream> {
    let stream = connect(Path::new(PATH)).ok()?;
    is_of_root(&stream).then_some(stream)
}

/// A connection, if there can be one at once. Where nobody accepts connections any more
/// and their queue is full, the kernel would wait without end.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(TAKE_DEADLINE))?;
    Ok(stream)
}

/// Waits until the agent takes the request, and returns what it has said by that: the
/// first byte of its answer, if it is an agent that does not say so.
fn await_taken(mut stream: &UnixStream, deadline: Deadline) -> io::Result<[u8; 1]> {
    let mut taken = [0];
    // A time of nothing would be no limit.
    let left_of = |time| deadline.left_of(time).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left_of(TAKE_DEADLINE)))?;
    stream.read_exact(&mut taken)?;
    stream.set_read_timeout(Some(left_of(Duration::MAX)))?;
    Ok(taken)
}

/// Says that the request on this connection is taken.
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

/// Writes a request or an answer, which is all that this side says.
///
/// # Errors
/// Those of the socket.
pub(crate) fn send<T: Serialize>(mut stream: &UnixStream, document: &T) -> io::Result<()> {
    stream.write_all(&serde_json::to_vec(document)?)?;
    stream.shutdown(Shutdown::Write)
}

/// Reads the rest of a document, of which some has been read.
fn receive<T: DeserializeOwned>(stream: &UnixStream, begun: impl Into<Vec<u8>>) -> io::Result<T> {
    let mut text = begun.into();
    stream.take(LIMIT).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Whether the process at the other end is root's.
pub(crate) fn is_of_root(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}

/// The agent's end of the socket at a path.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    bound: Bound,
}

/// Where a listener was bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    path: PathBuf,
    /// The device and the number of the file that was made with it. No other file can get
    /// them while the listener is there.
    file: (u64, u64),
}

impl Bound {
    /// Whether this socket is still the one at its path.
    pub(crate) fn is_in_place(&self) -> bool {
        identity(&self.path).is_ok_and(|found| found == self.file)
    }
}

impl Listener {
    /// Makes a socket beside the path and gives it the path then, whoever has had it: at any
    /// moment there is one that a plugin can connect to. Only for the one that has the lock
    /// of the path.
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
        // One that was killed in the middle has left it.
        file::remove(new)?;
        let listener = UnixListener::bind(new)?;
        listener.set_nonblocking(true)?;
        // Until now the directory, which only root can enter, has kept others away.
        fs::set_permissions(new, Permissions::from_mode(SOCKET_MODE))?;
        let file = identity(new)?;
        fs::rename(new, path)?;
        let path = path.to_owned();
        Ok(Self {
            listener,
            bound: Bound { path, file },
        })
    }

    /// The next plugin, if one comes within `time`, or before somebody ends the wait by
    /// closing the other end of `woken`.
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

    /// The socket itself, for who accepts connections in another way.
    ///
    /// # Errors
    /// When there are no descriptors.
    pub(crate) fn socket(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Where it was bound, for who does not have the listener.
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

/// A path with something added to its name.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Makes what the socket at a path needs: its directory.
///
/// # Errors
/// Code 7 when the path is too long; 5 naming it.
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

/// The lock of the path, whose holder alone puts a socket there; nothing while another agent
/// has it, which is about to do that.
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

/// Whether an agent listens there, also one that has too much to do or is stopped.
pub(crate) fn is_listened_on(path: &Path) -> bool {
    match connect(path) {
        Ok(stream) => {
            let asked = send(&stream, &Ask::Ping).and_then(|()| await_answer(&stream));
            // Without an answer it listens all the same.
            asked.ok();
            true
        }
        Err(cause) => cause.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Whether anybody has a socket there that listens, who need not be an agent.
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

/// Makes the directory of a socket. Whoever has made ours, it is root's alone from now on;
/// another one may be for others too.
fn create(directory: &Path) -> io::Result<()> {
    match directory == Path::new(inventory::DIRECTORY) {
        true => file::create_private_directory(directory),
        false => file::create_directory(directory),
    }
}
