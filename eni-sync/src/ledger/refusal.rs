//! Why an address could not be had, as the ledger keeps it.

use common::error::{Error, ErrorCode};
use serde::{Deserialize, Serialize};

/// Why an address could not be had.
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
    /// Whether both say the same. In details EC2 may repeat the request, or encode it anew.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.code, &self.msg) == (other.code, &other.msg)
    }

    /// What to tell the process that waits.
    pub(crate) fn of(error: &Error) -> Self {
        Self {
            code: error.code.0,
            msg: error.msg.clone(),
            details: error.details.clone(),
        }
    }

    /// The error as it was.
    pub(crate) fn error(&self) -> Error {
        Error::new(ErrorCode(self.code), self.msg.as_str()).with_details(self.details.as_str())
    }
}
