//! Random numbers, so that many nodes do not do the same at the same time.

pub(crate) use common::random::number;

/// A random number from 0 to 1.
pub(crate) fn chance() -> f64 {
    let bytes = number().to_le_bytes();
    f64::from(u16::from_le_bytes([bytes[0], bytes[1]])) / f64::from(u16::MAX)
}
