//! Files on the command line, one of which may be stdin.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// The name that stands for stdin.
const STDIN: &str = "-";

/// The text of a file, or of stdin.
///
/// # Errors
/// When it cannot be read, or is not text.
pub(crate) fn text(path: &Path) -> io::Result<String> {
    if path.as_os_str() != STDIN {
        return fs::read_to_string(path);
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(text)
}
