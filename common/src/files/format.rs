//! The version of the format of a file that one process leaves for another. A file of a newer
//! version of these programs is not read as far as it happens to be understood: what it says
//! besides would be lost when it is written again.

use serde::Deserialize;

/// The key that a document of another format than the first one has.
pub const KEY: &str = "formatVersion";
/// The newest format that these programs read and write. Documents of it have no key: the
/// versions that have begun with it wrote none.
pub const FORMAT: u64 = 1;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marked {
    #[serde(default)]
    format_version: Option<u64>,
}

/// Why a document cannot be read, where it is of a newer format than this version knows.
pub fn newer(document: &[u8]) -> Option<String> {
    // Nearly all documents have no such key, and are not parsed twice.
    let is_marked = document
        .windows(KEY.len())
        .any(|part| part == KEY.as_bytes());
    let marked = is_marked.then(|| serde_json::from_slice::<Marked>(document).ok())??;
    let format = marked.format_version.filter(|format| *format > FORMAT)?;
    Some(format!(
        "it is of format {format}, and version {} reads format {FORMAT}: install the version that \
         has written it, or a newer one",
        env!("CARGO_PKG_VERSION")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_newer_format_is_refused_and_named() {
        for known in [
            "{}",
            r#"{"formatVersion": 1}"#,
            r#"{"a": "formatVersion"}"#,
            "x",
        ] {
            assert_eq!(newer(known.as_bytes()), None, "{known}");
        }
        let why = newer(br#"{"a": 1, "formatVersion": 2}"#).unwrap();
        assert!(why.starts_with("it is of format 2, and version "), "{why}");
    }
}
