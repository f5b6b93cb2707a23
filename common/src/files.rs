//! Files that appear complete or not at all, and locks on them: the one way to write and
//! the one way to lock.

pub mod file;
pub mod format;
pub mod lock;
