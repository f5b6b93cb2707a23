//! Choices that are the same in every run.

/// A sequence of numbers that is the same in every run.
pub(in crate::peers) struct Random(u64);

impl Random {
    /// The sequence with this number.
    pub(in crate::peers) fn sequence(number: usize) -> Self {
        Self((number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    pub(in crate::peers) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(in crate::peers) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(in crate::peers) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let index = usize::try_from(self.below(from.len() as u64)).expect("it is small");
        from[index].clone()
    }
}
