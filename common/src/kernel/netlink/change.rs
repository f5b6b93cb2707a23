//! Changes, several of which are sent to the kernel at once.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use super::Netlink;
use crate::error::{Error, Result};
use crate::say;

/// How many changes are sent together. If the kernel refuses all of them, the answers must fit
/// into the buffer of the socket.
const TOGETHER: usize = 64;

/// A change to be made in a namespace.
#[derive(Clone, Debug)]
pub struct Change {
    request: Request,
    flags: u16,
    /// The start of its error message.
    failed: String,
    /// Whether its error is returned. Otherwise it is only logged.
    is_required: bool,
}

/// The outcome of a request to make something.
#[derive(Debug)]
pub enum Made<T> {
    /// It was made.
    Done(T),
    /// It was not made: the kernel has refused it, or has not received the request.
    Nothing(Error),
    /// It was made at least in part, or that is unknown: the kernel has received the request,
    /// and its answer was lost.
    Perhaps(Error),
}

impl<T> Made<T> {
    /// Calls `next` with what was made. It still exists when `next` fails, so that is
    /// [`Made::Perhaps`].
    pub fn and_then<U>(self, next: impl FnOnce(T) -> Result<U>) -> Made<U> {
        match self {
            Self::Done(made) => match next(made) {
                Ok(value) => Made::Done(value),
                Err(error) => Made::Perhaps(error),
            },
            Self::Nothing(error) => Made::Nothing(error),
            Self::Perhaps(error) => Made::Perhaps(error),
        }
    }
}

/// A message to the kernel.
#[derive(Clone, Debug)]
enum Request {
    Message(Box<RouteNetlinkMessage>),
    /// A type, and bytes that the kernel has sent earlier.
    Bytes(u16, Vec<u8>),
}

impl Change {
    pub(super) fn new(message: RouteNetlinkMessage, flags: u16, failed: String) -> Self {
        Self {
            request: Request::Message(Box::new(message)),
            flags,
            failed,
            is_required: true,
        }
    }

    pub(super) fn of_bytes(kind: u16, bytes: Vec<u8>, flags: u16, failed: String) -> Self {
        Self {
            request: Request::Bytes(kind, bytes),
            flags,
            failed,
            is_required: true,
        }
    }

    /// The same change, whose error is only logged.
    #[must_use]
    pub(super) fn best_effort(mut self) -> Self {
        self.is_required = false;
        self
    }
}

impl Netlink {
    /// Makes these changes in their order. A refused change does not prevent the next ones in
    /// the same request, so this is for callers that undo all changes after an error.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer to the first one that it refused.
    pub fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let mut together = changes.chunks(TOGETHER);
        together.try_for_each(|part| self.apply_together(part))
    }

    /// Makes one change, and distinguishes a refusal from an answer that was lost.
    pub(super) fn make(&mut self, change: Change) -> Made<()> {
        let changes = [change];
        let outcome = match self.send_together(&changes) {
            Ok(first) => self.outcome_of(&changes, first),
            Err(error) => return Made::Nothing(error),
        };
        match outcome {
            Ok(Ok(())) => Made::Done(()),
            Ok(Err(refused)) => Made::Nothing(refused),
            Err(lost) => Made::Perhaps(lost),
        }
    }

    fn apply_together(&mut self, changes: &[Change]) -> Result<()> {
        let first = self.send_together(changes)?;
        self.outcome_of(changes, first)?
    }

    /// Sends these changes with one system call, and returns the sequence number of the first
    /// message. The kernel always reports a refusal. So an acknowledgement is requested for
    /// the last change only: it shows that the others were processed, too.
    fn send_together(&mut self, changes: &[Change]) -> Result<u32> {
        let mut request = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for (place, change) in changes.iter().enumerate() {
            let is_last = place + 1 == changes.len();
            let acknowledge = if is_last { NLM_F_ACK } else { 0 };
            let flags = change.flags | acknowledge;
            match &change.request {
                Request::Message(message) => {
                    self.append(&mut request, message.as_ref().clone(), flags);
                }
                Request::Bytes(kind, bytes) => {
                    self.append_bytes(&mut request, (*kind, bytes), flags);
                }
            }
        }
        self.send(&request)
            .map_err(|cause| failed(changes, 0, &cause))?;
        Ok(first)
    }

    /// Receives the kernel's answers to these changes, of which `first` is the first sequence
    /// number.
    ///
    /// # Errors
    /// When the answer was lost.
    fn outcome_of(&mut self, changes: &[Change], first: u32) -> Result<Result<()>> {
        let mut outcome = Ok(());
        loop {
            let answers = self.receive().map_err(|cause| failed(changes, 0, &cause))?;
            for answer in answers {
                let NetlinkPayload::Error(error) = answer.payload else {
                    continue;
                };
                let place = answer.header.sequence_number.wrapping_sub(first) as usize;
                if error.code.is_some() && place < changes.len() {
                    let is_required = changes.get(place).is_none_or(|c| c.is_required);
                    match failed(changes, place, &error.to_io()) {
                        error if !is_required => say!("{error}"),
                        error if outcome.is_ok() => outcome = Err(error),
                        _ => {}
                    }
                }
                if place + 1 == changes.len() {
                    return Ok(outcome);
                }
            }
        }
    }
}

fn failed(changes: &[Change], place: usize, cause: &io::Error) -> Error {
    let text = changes.get(place).map(|change| change.failed.clone());
    Error::internal(text.unwrap_or_default()).because(cause)
}
