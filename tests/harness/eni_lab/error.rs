//! EC2's errors.

use std::fmt;

/// An error that EC2 returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ec2Error {
    /// The HTTP status.
    pub status: u16,
    /// The code, which is meant for programs.
    pub code: String,
    /// The message, which is meant for people.
    pub message: String,
}

impl Ec2Error {
    pub(super) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
        }
    }

    /// A client error, status 400.
    pub(super) fn bad(code: &str, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    /// `InvalidParameterValue`, EC2's code for most invalid values.
    pub(super) fn value(message: impl Into<String>) -> Self {
        Self::bad("InvalidParameterValue", message)
    }

    /// An object that does not exist, or whose id is malformed; `what` names its kind in the
    /// message.
    pub(super) fn not_found(code: &str, what: &str, id: &str) -> Self {
        let is_id = id.rsplit_once('-').is_some_and(|(_, number)| {
            let is_hex = number.chars().all(|c| c.is_ascii_hexdigit());
            is_hex && [8, 17].contains(&number.len())
        });
        match code.strip_suffix(".NotFound").filter(|_| !is_id) {
            Some(code) => Self::bad(
                &format!("{code}.Malformed"),
                format!("Invalid id: \"{id}\""),
            ),
            None => Self::bad(code, format!("The {what} ID '{id}' does not exist")),
        }
    }

    pub(super) fn throttled() -> Self {
        Self::new(503, "RequestLimitExceeded", "Request limit exceeded.")
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            403,
            "UnauthorizedOperation",
            "You are not authorized to perform this operation.",
        )
    }
}

impl fmt::Display for Ec2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}
