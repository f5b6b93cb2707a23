//! Random numbers, for choices that should be hard to predict and should differ between
//! nodes. They are not suitable for secrets.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A random number.
pub fn number() -> u64 {
    // The keys of a new hasher are random.
    RandomState::new().build_hasher().finish()
}
