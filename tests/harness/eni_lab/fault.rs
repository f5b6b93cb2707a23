//! Scripted faults: which calls of which action fail, and how.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::id::InstanceId;

/// A way in which a call fails.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// This error; the call is not carried out.
    Error {
        /// The HTTP status.
        status: u16,
        /// The error's code.
        code: String,
        /// The error's message.
        message: String,
    },
    /// `RequestLimitExceeded`; the call is not carried out.
    Throttle,
    /// The call is carried out, then the connection is closed without a response.
    DropAfterCommit,
    /// The connection is closed without a response; the call is not carried out.
    DropBeforeCommit,
    /// The call takes longer by this time; in JSON, milliseconds.
    #[serde(deserialize_with = "milliseconds")]
    Delay(Duration),
    /// No response until the client gives up; the call is not carried out.
    Hang,
    /// The call is carried out, then there is no response until the client gives up.
    HangAfterCommit,
    /// This instance is terminated before the call is carried out.
    #[serde(deserialize_with = "instance")]
    TerminateInstance(InstanceId),
    /// The VPC CNI of this instance attaches an interface before the call is carried out.
    #[serde(deserialize_with = "instance")]
    VpcCniAttaches(InstanceId),
    /// The call is carried out, but the response, with status 200, is not XML.
    Garbage,
    /// The call is carried out, but the response never ends.
    Endless,
    /// An error says that the credentials have expired; the call is not carried out.
    ExpiredCredentials,
}

/// A fault that has not been used up.
#[derive(Debug)]
pub(super) struct Armed {
    pub(super) action: String,
    /// The number of calls of the action that succeed first.
    pub(super) skip: u64,
    /// The number of calls that still fail.
    pub(super) times: u64,
    pub(super) fault: Fault,
}

/// Takes the fault for the next call of an action.
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

/// The point at which the calls of an action wait for `Lab::release_held`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Before they are carried out.
    BeforeCommit,
    /// After they are carried out, before the response.
    AfterCommit,
}

fn milliseconds<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    u64::deserialize(value).map(Duration::from_millis)
}

fn instance<'de, D: Deserializer<'de>>(value: D) -> Result<InstanceId, D::Error> {
    String::deserialize(value).map(|id| InstanceId::from(id.as_str()))
}
