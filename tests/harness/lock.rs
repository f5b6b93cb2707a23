//! Whether processes wait for a lock, according to `/proc`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether a process waits for a lock on this file or on a part of it: it has the file
/// open, but no lock on it.
pub fn is_waited_for(lock: &Path) -> bool {
    let lock = fs::metadata(lock).expect("the lock exists");
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let files = processes.map(|process| process.path().join("fd"));
    // Processes and their files can appear and disappear meanwhile.
    let mut files = files.flat_map(|files| fs::read_dir(files).into_iter().flatten().flatten());
    files.any(|file| {
        let path = file.path();
        let is_lock = fs::metadata(&path)
            .is_ok_and(|file| (file.dev(), file.ino()) == (lock.dev(), lock.ino()));
        is_lock && !is_locked(&path).unwrap_or(true)
    })
}

/// Whether an open file, given by its path below /proc, has a lock; `None` when it was
/// closed meanwhile.
fn is_locked(file: &Path) -> Option<bool> {
    let process = file.parent()?.parent()?;
    let about = fs::read_to_string(process.join("fdinfo").join(file.file_name()?)).ok()?;
    Some(about.lines().any(|line| line.starts_with("lock:")))
}
