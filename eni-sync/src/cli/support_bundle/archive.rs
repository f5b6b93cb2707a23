//! A compressed tar archive of limited size, written while it is made.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use crate::ledger::now;

/// How many bytes of files an archive may have. Ten times as many as a full node has.
const LIMIT: usize = 32 << 20;

/// An archive that is being written.
pub(super) struct Archive<W: Write> {
    tar: Builder<GzEncoder<W>>,
    left: usize,
    omitted: Vec<String>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(file: W) -> Self {
        Self {
            tar: Builder::new(GzEncoder::new(file, Compression::default())),
            left: LIMIT,
            omitted: Vec::new(),
        }
    }

    /// Adds a file. If the archive has no room for it, only its name is noted.
    ///
    /// # Errors
    /// Those of the writer.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        if content.len() > self.left {
            self.omitted.push(name.to_owned());
            return Ok(());
        }
        self.left -= content.len();
        self.append(name, content)
    }

    fn append(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now());
        let name = format!("eni-sync/{name}");
        self.tar.append_data(&mut header, name, content)
    }

    /// Completes the archive with the errors, and with the names of the files that had no room.
    ///
    /// # Errors
    /// Those of the writer.
    pub(super) fn finish(mut self, errors: &str) -> io::Result<W> {
        self.append("errors.txt", errors.as_bytes())?;
        if !self.omitted.is_empty() {
            let names = format!("{}\n", self.omitted.join("\n"));
            self.append("omitted.txt", names.as_bytes())?;
        }
        self.tar.into_inner()?.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_a_limit_and_names_what_it_does_not_have() {
        let mut archive = Archive::new(Vec::new());
        archive.add("large", &vec![0; LIMIT - 1]).unwrap();
        archive.add("more", b"xx").unwrap();
        archive.add("last", b"x").unwrap();
        let bytes = archive.finish("e").unwrap();
        let mut read = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let names = read.entries().unwrap().map(|entry| {
            let path = entry.unwrap().path().unwrap().into_owned();
            path.display().to_string()
        });
        let expected = ["large", "last", "errors.txt", "omitted.txt"];
        let expected = expected.map(|name| format!("eni-sync/{name}"));
        assert_eq!(names.collect::<Vec<_>>(), expected);
    }
}
