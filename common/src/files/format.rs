//! The version of the format of a file that one process writes for another. A file of a newer
//! format is refused, and not read as far as its keys are known: its other content would be
//! lost when it is written again.

use serde::Deserialize;

/// The key that has the number of the format; documents of the first format do not have it.
pub const KEY: &str = "formatVersion";
/// The newest format that these programs read. A document is written in the lowest format in
/// which it can be expressed, so that earlier versions read whatever they can understand. Those of
/// format 1 have no key, because the first versions of the programs did not write one.
pub const FORMAT: u64 = 2;
/// The format of a prefix whose addresses a ranges file has: an earlier version would give them
/// to networks without addresses as well.
pub const OF_LISTED_PREFIX: u64 = 2;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marked {
    #[serde(default)]
    format_version: Option<u64>,
}

/// The reason why a document cannot be read, if its format is newer than [`FORMAT`].
pub fn newer(document: &[u8]) -> Option<String> {
    // Nearly all documents do not have the key, and are not parsed twice.
    let is_marked = document
        .windows(KEY.len())
        .any(|part| part == KEY.as_bytes());
    let marked = is_marked.then(|| serde_json::from_slice::<Marked>(document).ok())??;
    let format = marked.format_version.filter(|format| *format > FORMAT)?;
    Some(format!(
        "it is of format {format}, and version {} reads formats up to {FORMAT}: install the version \
         that has written it, or a newer one",
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
            r#"{"formatVersion": 2}"#,
            r#"{"a": "formatVersion"}"#,
            "x",
        ] {
            assert_eq!(newer(known.as_bytes()), None, "{known}");
        }
        let why = newer(br#"{"a": 1, "formatVersion": 3}"#).unwrap();
        assert!(why.starts_with("it is of format 3, and version "), "{why}");
    }
}
