//! The script of faults: which call of which action goes wrong, and how.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::id::InstanceId;

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// This error; nothing is done.
    Error {
        /// The HTTP status.
        status: u16,
        /// The error's code.
        code: String,
        /// The error's message.
        message: String,
    },
    /// `RequestLimitExceeded`; nothing is done.
    Throttle,
    /// The call is carried out, then the connection is closed without an answer.
    DropAfterCommit,
    /// The connection is closed without an answer; nothing is done.
    DropBeforeCommit,
    /// The call takes that much longer; in JSON, milliseconds.
    #[serde(deserialize_with = "milliseconds")]
    Delay(Duration),
    /// No answer until the client gives up; nothing is done.
    Hang,
    /// The call is carried out, then no answer until the client gives up.
    HangAfterCommit,
    /// That instance is terminated, then the call goes on.
    #[serde(deserialize_with = "instance")]
    TerminateInstance(InstanceId),
    /// The VPC CNI of that instance attaches an interface, then the call goes on.
    #[serde(deserialize_with = "instance")]
    VpcCniAttaches(InstanceId),
    /// The call is carried out, but its answer, with status 200, is no XML.
    Garbage,
    /// The call is carried out, but its answer never ends.
    Endless,
    /// The credentials are said to have expired; nothing is done.
    ExpiredCredentials,
}

/// A fault that waits for its call.
#[derive(Debug)]
pub(super) struct Armed {
    pub(super) action: String,
    /// Calls of the action that pass before.
    pub(super) skip: u64,
    /// Calls that it still hits.
    pub(super) times: u64,
    pub(super) fault: Fault,
}

/// The fault of the next call of an action.
pub(super) fn next(script: &mut Vec<Armed>, action: &str) -> Option<Fault> {
    script.retain(|armed| armed.times > 0);
    let mut hit = None;
    for armed in script.iter_mut().filter(|armed| armed.action == action) {
        if armed.skip > 0 {
            armed.skip -= 1;
        } else if hit.is_none() {
            armed.times -= 1;
            hit = Some(armed.fault.clone());
        }
    }
    hit
}

/// When the calls of an action wait for `Lab::release_held`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Before they are carried out.
    BeforeCommit,
    /// After they are carried out, before they are answered.
    AfterCommit,
}

fn milliseconds<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    u64::deserialize(value).map(Duration::from_millis)
}

fn instance<'de, D: Deserializer<'de>>(value: D) -> Result<InstanceId, D::Error> {
    String::deserialize(value).map(|id| InstanceId::from(id.as_str()))
}
