//! Files that are replaced atomically, locks on files, the version of a file's format,
//! and files that consist of 64-bit words. No other module writes or locks files in
//! another way.

pub mod file;
pub mod format;
pub mod lock;
pub mod words;
