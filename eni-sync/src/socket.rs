//! What the plugin and the agent of a node say to each other: one request and one
//! answer on a Unix socket that only root can open. Where no agent answers, the plugin
//! does the work itself.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use common::error::{Error, ErrorCode, Result};
use common::file;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ledger::Refusal;
use crate::request::Request;
use crate::wanted::Wanted;

/// Where the agent listens.
pub(crate) const PATH: &str = "/run/eni-cni/agent.sock";
/// The longest path of a socket, in bytes. Source: unix(7), `sun_path`.
const LONGEST_PATH: usize = 107;
/// Whatever is larger is no request and no answer.
const LIMIT: u64 = 1 << 20;
/// How long a plugin waits for its answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);
/// How long the agent waits for a request that has begun.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
const SOCKET_MODE: u32 = 0o600;

/// What a plugin asks of the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub(crate) enum Ask {
    /// Register the addresses of an attachment.
    Register {
        /// The addresses by MAC address.
        wanted: Wanted,
        /// The attachment.
        request: Request,
    },
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
    /// It cannot be done.
    Refused(Refusal),
    /// The agent does not see the container's namespace; the plugin, which does, has to
    /// do it itself.
    Unseen,
}

/// Has the agent register the addresses of an attachment. Nothing, when there is no
/// agent that could.
pub(crate) fn register(wanted: &Wanted, request: &Request) -> Option<Result<()>> {
    let ask = Ask::Register {
        wanted: wanted.clone(),
        request: request.clone(),
    };
    let stream = connect()?;
    match exchange(&stream, &ask) {
        Ok(Answer::Done) => Some(Ok(())),
        Ok(Answer::Refused(refusal)) => Some(Err(refusal.error())),
        Ok(Answer::Unseen) => None,
        // It went away before it answered. What it has done is in the ledger.
        Err(cause) if cause.kind() != io::ErrorKind::WouldBlock => None,
        Err(cause) => {
            let msg = "the agent of eni-sync does not answer";
            Some(Err(Error::new(ErrorCode::TRY_AGAIN, msg).because(&cause)))
        }
    }
}

/// Tells the agent, if there is one, that the ledger has changed.
pub(crate) fn announce() {
    if let Some(stream) = connect() {
        // An agent that does not listen finds out by itself.
        send(&stream, &Ask::Look).ok();
    }
}

/// Whether an agent answers, or nothing when there is no socket.
///
/// # Errors
/// Those of the socket, whose agent may have died.
pub(crate) fn ping() -> io::Result<Option<()>> {
    let stream = match UnixStream::connect(PATH) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        stream => stream?,
    };
    send(&stream, &Ask::Ping)?;
    stream.set_read_timeout(Some(REQUEST_DEADLINE))?;
    receive::<Answer>(&stream).map(|_| Some(()))
}

/// The agent's side of the socket, if a process of root is there.
fn connect() -> Option<UnixStream> {
    let stream = UnixStream::connect(PATH).ok()?;
    is_of_root(&stream).then_some(stream)
}

fn exchange(stream: &UnixStream, ask: &Ask) -> io::Result<Answer> {
    send(stream, ask)?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    receive(stream)
}

/// Reads the request on a connection.
///
/// # Errors
/// Those of the socket; `InvalidData` when it is no request.
pub(crate) fn read(stream: &UnixStream) -> io::Result<Ask> {
    stream.set_read_timeout(Some(REQUEST_DEADLINE))?;
    receive(stream)
}

/// Writes a request or an answer, which is all that this side says.
///
/// # Errors
/// Those of the socket.
pub(crate) fn send<T: Serialize>(mut stream: &UnixStream, document: &T) -> io::Result<()> {
    stream.write_all(&serde_json::to_vec(document)?)?;
    stream.shutdown(Shutdown::Write)
}

fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<T> {
    let mut text = Vec::new();
    stream.take(LIMIT).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Whether the process at the other end is root's.
pub(crate) fn is_of_root(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}

/// The agent's end. A socket that nobody listens on any more is replaced.
///
/// # Errors
/// Code 7 when the path is too long, or another agent listens there; 5 naming the path.
pub(crate) fn listen(path: &Path) -> Result<UnixListener> {
    let failed = |cause: &io::Error| Error::io(format!("failed to listen on {path:?}"), cause);
    if path.as_os_str().len() > LONGEST_PATH {
        let msg = format!("the path of the socket is too long: {path:?}");
        return Err(Error::config(msg).with_details("a socket's path has 107 bytes at most"));
    }
    if UnixStream::connect(path).is_ok() {
        let msg = format!("another agent listens on {path:?}");
        return Err(Error::config(msg));
    }
    if let Some(directory) = path.parent() {
        file::create_directory(directory).map_err(|cause| failed(&cause))?;
    }
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(failed(&cause)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|cause| failed(&cause))?;
    // Until now the directory, which only root can enter, has kept others away.
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(|c| failed(&c))?;
    Ok(listener)
}
