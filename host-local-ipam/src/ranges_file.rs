//! `rangesFile`: the ranges of this node, in a file that the node's bootstrap or an agent
//! writes. It is read for every command, so a change applies at once. eni-sync writes the
//! file for its pools with the functions here, and takes out what leaves the node.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use common::address::parse_address;
use common::cni::lenient::read_value;
use common::error::{Error, Result};
use common::files::file;
use common::files::format;
use nix::libc;

use crate::range::RangeSpec;
use crate::raw_range::{NO_RANGES, RawRange, specs};

/// The key for the path of a file with the ranges of this node.
pub const RANGES_FILE: &str = "rangesFile";
/// The maximum size in bytes. Thousands of ranges are far smaller, so a larger file is
/// another one.
const SIZE_LIMIT: u64 = 1 << 20;

/// The document; other keys are for the program that writes it.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct RawFile {
    ranges: Vec<Vec<RawRange>>,
}

/// The range sets in the file at `path`, at least one, read but not validated.
///
/// # Errors
/// The reason, without the file's name; the caller adds it and sets the code.
pub fn read(path: &Path) -> Result<Vec<Vec<RangeSpec>>> {
    let content = content(path).map_err(|cause| Error::io("failed to read the file", &cause))?;
    if content.trim_ascii().is_empty() {
        return Err(Error::config("the file is empty"));
    }
    if let Some(why) = format::newer(&content) {
        return Err(Error::config("the file is of a newer version").with_details(why));
    }
    let document: Value = serde_json::from_slice(&content).map_err(|cause| {
        Error::config("the file is not a JSON document").with_details(cause.to_string())
    })?;
    if !document.is_object() {
        // It could be any file, so the message does not show its content.
        return Err(Error::config("the file is not a JSON object"));
    }
    let file: RawFile = read_value(&document, "failed to load the ranges")?;
    if file.ranges.is_empty() {
        return Err(Error::config(NO_RANGES));
    }
    specs(&file.ranges)
}

/// Writes the file, unless it has the same content already. Where a set has no range, none is
/// written: a pod gets an address of each set, or waits.
///
/// # Errors
/// Code 5 naming the file, also when it would be too large to be read. The old file stays then.
pub fn write(path: &Path, mut ranges: Vec<Vec<RawRange>>) -> Result<()> {
    if ranges.iter().any(Vec::is_empty) {
        ranges.clear();
    }
    let failed = |cause| Error::io(format!("failed to write {path:?}"), &cause);
    let text = serde_json::to_vec(&RawFile { ranges }).map_err(|cause| failed(cause.into()))?;
    file::require_readable(&text, SIZE_LIMIT).map_err(failed)?;
    if content(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        file::create_directory(directory).map_err(failed)?;
    }
    file::replace(path, &text).map_err(failed)
}

/// Removes the ranges whose first address `is_gone` accepts from the file. A file that is
/// missing or has no ranges that can be read hands out nothing, and stays as it is.
///
/// # Errors
/// Code 5 naming the file.
pub fn remove(path: &Path, is_gone: impl Fn(IpAddr) -> bool) -> Result<()> {
    let text = match content(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(|cause| Error::io(format!("failed to read {path:?}"), &cause))?,
    };
    let document = serde_json::from_slice::<Value>(&text).unwrap_or_default();
    let Ok(RawFile { mut ranges }) = read_value(&document, "failed to load the ranges") else {
        return Ok(());
    };
    let is_left = |range: &RawRange| !parse_address(&range.range_start).is_ok_and(&is_gone);
    let count = |ranges: &[Vec<RawRange>]| ranges.iter().map(Vec::len).sum::<usize>();
    let before = count(&ranges);
    for set in &mut ranges {
        set.retain(is_left);
    }
    if count(&ranges) == before {
        return Ok(());
    }
    write(path, ranges)
}

/// The content of a regular file. Symbolic links are followed, because every file in a
/// mounted ConfigMap is one. The kernel follows them in one step: a path that was
/// resolved before could be missing after an update of the mount.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    // Without O_NONBLOCK, opening a FIFO would block.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return invalid("not a regular file");
    }
    let mut content = Vec::new();
    file.take(SIZE_LIMIT + 1).read_to_end(&mut content)?;
    if content.len() as u64 > SIZE_LIMIT {
        return invalid("the file is too large");
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_its_readers_would_refuse_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ranges.json");
        let range = |n: u16| {
            let [high, low] = n.to_be_bytes();
            let subnet = "10.0.0.0/8".parse().unwrap();
            let address = IpAddr::from([10, high, low, 9]);
            RawRange::between(subnet, address, address)
        };
        write(&path, vec![vec![range(1)]]).unwrap();
        let old = content(&path).unwrap();
        let error = write(&path, vec![(0..20_000).map(range).collect()]).unwrap_err();
        assert!(error.msg.contains("ranges.json"), "{error}");
        assert_eq!(content(&path).unwrap(), old);
    }
}
