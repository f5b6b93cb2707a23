//! The versions of the CNI specification: which ones are supported, how a version is
//! chosen, and the answer to VERSION.

use std::fmt;

use crate::error::{Error, ErrorCode, Result};

/// A version of the specification that these plugins support, in order of age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// The version of a configuration that names none.
    V0_1_0,
    /// Results have `ip4` and `ip6`, like 0.1.0.
    V0_2_0,
    /// Results have `interfaces` and `ips`.
    V0_3_0,
    /// Like 0.3.0.
    V0_3_1,
    /// Adds CHECK, and `prevResult` for DEL.
    V0_4_0,
    /// Drops `version` from `ips`.
    V1_0_0,
    /// Adds STATUS and GC.
    V1_1_0,
}

impl CniVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest version, in which results are built before they are printed.
    pub const LATEST: Self = Self::V1_1_0;

    /// The version as written in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The supported version with exactly this text; an empty text means 0.1.0, as in
    /// libcni.
    pub fn from_text(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::V0_1_0);
        }
        Self::ALL.into_iter().find(|v| v.as_str() == text)
    }

    /// The versions whose results have the same shape as this one's.
    pub fn family(self) -> &'static [Self] {
        match self {
            Self::V0_1_0 | Self::V0_2_0 => &[Self::V0_1_0, Self::V0_2_0],
            Self::V0_3_0 | Self::V0_3_1 | Self::V0_4_0 => {
                &[Self::V0_3_0, Self::V0_3_1, Self::V0_4_0]
            }
            Self::V1_0_0 | Self::V1_1_0 => &[Self::V1_0_0, Self::V1_1_0],
        }
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The version a configuration asks for.
///
/// # Errors
/// Code 1 when it is not supported, with the texts of libcni's `skel`.
pub fn negotiate(text: &str) -> Result<CniVersion> {
    CniVersion::from_text(text).ok_or_else(|| {
        let supported: Vec<String> = CniVersion::ALL.iter().map(|v| format!("\"{v}\"")).collect();
        Error::new(ErrorCode::INCOMPATIBLE_VERSION, "incompatible CNI versions").with_details(
            format!(
                "config is {text:?}, plugin supports [{}]",
                supported.join(" ")
            ),
        )
    })
}

/// The version a configuration asks for, when the command exists only since
/// `first` (CHECK since 0.4.0, STATUS and GC since 1.1.0).
///
/// # Errors
/// Code 1 when the version is older than `first` or not supported, code 6 when the text
/// is not a version.
pub fn negotiate_since(text: &str, command: &str, first: CniVersion) -> Result<CniVersion> {
    let incompatible = |whose: &str| {
        Error::new(
            ErrorCode::INCOMPATIBLE_VERSION,
            format!("{whose} version does not allow {command}"),
        )
    };
    let asked = numbers(if text.is_empty() { "0.1.0" } else { text })?;
    if asked < numbers(first.as_str())? {
        return Err(incompatible("config"));
    }
    if asked > numbers(CniVersion::LATEST.as_str())? {
        return Err(incompatible("plugin").with_details(format!("config is {text:?}")));
    }
    negotiate(text)
}

/// The answer to VERSION, with the line end of libcni.
pub fn reply() -> String {
    let supported: Vec<String> = CniVersion::ALL.iter().map(|v| format!("\"{v}\"")).collect();
    format!(
        "{{\"cniVersion\":\"{}\",\"supportedVersions\":[{}]}}\n",
        CniVersion::LATEST,
        supported.join(",")
    )
}

/// Major, minor and patch level of `text`.
fn numbers(text: &str) -> Result<[u32; 3]> {
    let invalid = || {
        Error::new(
            ErrorCode::DECODING,
            format!("failed to parse config version {text:?}"),
        )
    };
    let mut parsed = [0; 3];
    let mut parts = text.split('.');
    for (index, number) in parsed.iter_mut().enumerate() {
        match parts.next() {
            Some(part) => *number = part.parse().map_err(|_| invalid())?,
            None if index > 0 => {}
            None => return Err(invalid()),
        }
    }
    match parts.next() {
        Some(_) => Err(invalid()),
        None => Ok(parsed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_version_is_matched_exactly() {
        assert_eq!(CniVersion::from_text(""), Some(CniVersion::V0_1_0));
        assert_eq!(CniVersion::from_text("1.0.0"), Some(CniVersion::V1_0_0));
        assert_eq!(CniVersion::from_text("1.0"), None);
        assert_eq!(CniVersion::from_text("01.0.0"), None);
    }

    #[test]
    fn an_unknown_version_is_code_1_and_lists_the_supported_ones() {
        let error = negotiate("1.2.0").unwrap_err();
        assert_eq!(error.code, ErrorCode::INCOMPATIBLE_VERSION);
        assert_eq!(
            error.details,
            "config is \"1.2.0\", plugin supports [\"0.1.0\" \"0.2.0\" \"0.3.0\" \"0.3.1\" \"0.4.0\" \"1.0.0\" \"1.1.0\"]"
        );
    }

    #[test]
    fn a_command_needs_the_version_that_introduced_it() {
        let check = |text| negotiate_since(text, "CHECK", CniVersion::V0_4_0);
        assert_eq!(check("0.4.0").unwrap(), CniVersion::V0_4_0);
        assert_eq!(
            check("").unwrap_err().msg,
            "config version does not allow CHECK"
        );
        assert_eq!(
            check("9.9.9").unwrap_err().msg,
            "plugin version does not allow CHECK"
        );
        assert_eq!(check("0.5.0").unwrap_err().msg, "incompatible CNI versions");
        assert_eq!(check("new").unwrap_err().code, ErrorCode::DECODING);
        assert_eq!(check("1.0.0.0").unwrap_err().code, ErrorCode::DECODING);
    }

    #[test]
    fn the_reply_to_version_is_that_of_libcni_byte_for_byte() {
        assert_eq!(
            reply(),
            "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"
        );
    }
}
