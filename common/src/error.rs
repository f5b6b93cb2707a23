//! The one error type of the suite: a CNI error object. Everything that can go
//! wrong becomes one of these, so that the runtime always gets a code, what we
//! were doing, and what the system answered.

use std::fmt;
use std::io;

use serde::Serialize;

use crate::text::printable;

/// A result whose error can be printed as the CNI error document.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A CNI error code. A delegated plugin may answer with any number, so this is
/// not an enum. Source: CNI specification, "Error", and `types.go` of libcni.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorCode(
    /// The number as printed.
    pub u32,
);

impl ErrorCode {
    /// The version of the configuration is not supported.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A `CNI_*` environment variable is missing or invalid.
    pub const ENVIRONMENT: Self = Self(4);
    /// A file could not be read or written.
    pub const IO: Self = Self(5);
    /// A document could not be decoded.
    pub const DECODING: Self = Self(6);
    /// The network configuration is invalid on this node.
    pub const NETWORK_CONFIG: Self = Self(7);
    /// `CNI_NETNS` is not usable as the container's network namespace.
    pub const NETNS: Self = Self(8);
    /// A transient condition; the runtime should try again.
    pub const TRY_AGAIN: Self = Self(11);
    /// STATUS: the plugin cannot serve an ADD now.
    pub const UNAVAILABLE: Self = Self(50);
    /// Every other error, as in libcni.
    pub const INTERNAL: Self = Self(999);
}

/// A CNI error: `msg` says what we were doing and to what, `details` what the
/// system answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The CNI error code.
    pub code: ErrorCode,
    /// What was being done, and to what.
    pub msg: String,
    /// What the system answered; empty when there is nothing to add.
    pub details: String,
    errno: Option<i32>,
}

impl Error {
    /// An error with `code` and `msg`, without details.
    pub fn new(code: ErrorCode, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
            errno: None,
        }
    }

    /// An error about the network configuration (code 7).
    pub fn config(msg: impl Into<String>) -> Self {
        Self::new(ErrorCode::NETWORK_CONFIG, msg)
    }

    /// An error of the kernel or of another program (code 999).
    pub fn internal(msg: impl Into<String>) -> Self {
        Self::new(ErrorCode::INTERNAL, msg)
    }

    /// An input or output error (code 5): `msg` names the file and the intent.
    pub fn io(msg: impl Into<String>, cause: &io::Error) -> Self {
        Self::new(ErrorCode::IO, msg).because(cause)
    }

    /// The same error with the system's answer as details and its error number.
    #[must_use]
    pub fn because(mut self, cause: &io::Error) -> Self {
        self.details = cause.to_string();
        self.errno = cause.raw_os_error();
        self
    }

    /// The same error under another code.
    #[must_use]
    pub fn with_code(mut self, code: ErrorCode) -> Self {
        self.code = code;
        self
    }

    /// The same error with `details`.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The same error as it is read from its document: without the system's error number.
    #[must_use]
    pub fn as_read(mut self) -> Self {
        self.errno = None;
        self
    }

    /// The same error, marked as one about a thing that does not exist ([`Error::is_not_found`]).
    /// For callers that have found this without an error of the system.
    #[must_use]
    pub fn not_found(mut self) -> Self {
        self.errno = Some(nix::libc::ENODEV);
        self
    }

    /// The system's error number, where the system was the cause.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// Whether the thing does not exist: by the system's error number, or by
    /// [`Error::not_found`].
    pub fn is_not_found(&self) -> bool {
        use nix::libc::{ENODEV, ENOENT, ENXIO, ESRCH};
        matches!(self.errno, Some(ENOENT | ENODEV | ENXIO | ESRCH))
    }

    /// Whether the system reported that the thing exists already.
    pub fn is_exists(&self) -> bool {
        self.errno == Some(nix::libc::EEXIST)
    }

    /// Whether the system reported that an address is in use.
    pub fn is_address_in_use(&self) -> bool {
        self.errno == Some(nix::libc::EADDRINUSE)
    }

    /// The error document of the specification, as one JSON text. `version` is
    /// the version of the configuration that caused the error.
    pub fn to_json(&self, version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a> {
            cni_version: &'a str,
            code: ErrorCode,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        crate::json::to_text(&Document {
            cni_version: version,
            code: self.code,
            msg: &self.msg,
            details: &self.details,
        })
    }
}

/// One line for a terminal or a log, with control characters escaped.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.msg))?;
        if !self.details.is_empty() {
            write!(f, ": {}", printable(&self.details))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Collects the errors of several steps, each of which is done even if the one before has failed,
/// and reports them as one error. Every teardown works in this way.
#[derive(Debug, Default)]
pub struct Errors(Vec<Error>);

impl Errors {
    /// Returns the value of `outcome`, or keeps its error and returns `None`.
    pub fn keep<T>(&mut self, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.push(error);
                None
            }
        }
    }

    /// Whether there is no error.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Success when there is no error; a single error unchanged; otherwise one error with the
    /// code of the first and the messages of all.
    ///
    /// # Errors
    /// The errors that [`Errors::keep`] has kept.
    pub fn into_result(mut self) -> Result<()> {
        if self.0.len() <= 1 {
            return self.0.pop().map_or(Ok(()), Err);
        }
        let all: Vec<String> = self.0.iter().map(Error::to_string).collect();
        let first = self.0.first().map_or(ErrorCode::INTERNAL, |e| e.code);
        Err(Error::new(first, all.join("; ")))
    }
}

impl IntoIterator for Errors {
    type Item = Error;
    type IntoIter = std::vec::IntoIter<Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
