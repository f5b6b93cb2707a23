//! Files that appear complete or not at all, and locks on them: the one way to write and
//! the one way to lock; and the words of an index.

pub mod file;
pub mod format;
pub mod lock;
pub mod words;
