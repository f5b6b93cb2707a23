//! Random numbers, for what others should not foresee and many nodes should not do in the
//! same way at the same time. They keep no secret.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A random number.
pub fn number() -> u64 {
    // The keys of a new hasher are random.
    RandomState::new().build_hasher().finish()
}
