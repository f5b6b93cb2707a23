//! Random numbers, for what many nodes should not do in the same way at the same time.
//! They keep no secret.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A random number.
pub(crate) fn number() -> u64 {
    // The keys of a new hasher are random.
    RandomState::new().build_hasher().finish()
}

/// A random number from 0 to 1.
pub(crate) fn chance() -> f64 {
    let bytes = number().to_le_bytes();
    f64::from(u16::from_le_bytes([bytes[0], bytes[1]])) / f64::from(u16::MAX)
}
