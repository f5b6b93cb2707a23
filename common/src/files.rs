//! Files that are replaced atomically, or overwritten where there is no room, locks on files, the
//! version of a file's format, and files that consist of 64-bit words. No other module writes or
//! locks files in another way.

pub mod file;
pub mod format;
pub mod in_place;
pub mod lock;
pub mod words;
