//! The name of a network interface.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};

/// The kernel's limit `IFNAMSIZ` is 16 bytes with the zero byte at the end.
const IFNAME_MAX: usize = 15;

/// The name of a network interface that the kernel accepts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

impl IfName {
    /// A validated interface name.
    ///
    /// # Errors
    /// Code 4 with the texts of libcni.
    pub fn new(text: &str) -> Result<Self> {
        let wrong = |msg: &str| Err(invalid(msg));
        if text.is_empty() {
            return wrong("interface name is empty");
        }
        if text.len() > IFNAME_MAX {
            let limit = "interface name should be less than 16 characters";
            return Err(invalid("interface name is too long").with_details(limit));
        }
        if text == "." || text == ".." {
            return wrong("interface name is . or ..");
        }
        if text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
            return wrong("interface name contains / or : or whitespace characters");
        }
        if text.contains(char::is_control) {
            return wrong("interface name contains control characters");
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for IfName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(&text)
    }
}

impl From<IfName> for String {
    fn from(value: IfName) -> Self {
        value.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn invalid(msg: &str) -> Error {
    Error::new(ErrorCode::ENVIRONMENT, msg)
}
