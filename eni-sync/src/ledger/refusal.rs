//! Why EC2 did not assign an address, as the ledger keeps it.

use common::error::{Error, ErrorCode};
use serde::{Deserialize, Serialize};

/// How many bytes of a message, and of its details, are kept: what EC2, or a proxy before it,
/// answers can be of any length.
const MSG_LIMIT: usize = 1 << 10;
const DETAILS_LIMIT: usize = 1 << 12;

/// Why EC2 did not assign an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// The code of the error.
    pub(crate) code: u32,
    /// Its message.
    pub(crate) msg: String,
    /// Its details.
    pub(crate) details: String,
}

impl Refusal {
    /// Whether both are the same refusal. The details do not count: EC2 may repeat the request
    /// in them, or encode it differently.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.code, &self.msg) == (other.code, &other.msg)
    }

    /// The refusal for the process that waits, made of an error.
    pub(crate) fn of(error: &Error) -> Self {
        Self {
            code: error.code.0,
            msg: shortened(&error.msg, MSG_LIMIT),
            details: shortened(&error.details, DETAILS_LIMIT),
        }
    }

    /// The error that the refusal was made of.
    pub(crate) fn error(&self) -> Error {
        Error::new(ErrorCode(self.code), self.msg.as_str()).with_details(self.details.as_str())
    }
}

/// The start of a text, of this many bytes at most.
fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let start = text.get(..text.floor_char_boundary(limit));
    format!("{}…", start.unwrap_or_default())
}
