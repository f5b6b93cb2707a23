//! What the commands print to stdout, which is data and may be read by a program that
//! stops reading when it has seen enough. Everything else goes to stderr.

use std::io::{self, ErrorKind, Write};

use common::error::{Error, Result};

/// Prints a text. A reader that has gone is no error: it has what it wanted.
///
/// # Errors
/// Code 5 when the text cannot be written.
pub(crate) fn print(text: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(cause) if cause.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("failed to write to stdout", &cause))
        }
        _ => Ok(()),
    }
}
