//! The pauses between the attempts of a call, and how long the call is repeated at all. Pure:
//! the caller gives the random number.

use std::time::Duration;

/// The pauses between the attempts of a call, each twice as long as the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pauses {
    first: Duration,
    longest: Duration,
    /// Whether at least half of each pause is kept. Otherwise all of it is random.
    is_half_certain: bool,
    /// How long all attempts may take together.
    pub(crate) time: Duration,
}

impl Pauses {
    /// For calls that a pod may wait for.
    pub(crate) const OF_PODS: Self = Self {
        first: Duration::from_millis(500),
        longest: Duration::from_secs(8),
        is_half_certain: false,
        time: Duration::from_secs(45),
    };

    /// For throttled calls of a node that creates its ENIs: 200 nodes that start together with
    /// two ENIs each use the budget of a minute, so a throttled node has to wait for seconds.
    /// With the pauses for pods, more calls would be refused than are needed.
    pub(crate) const OF_NODES: Self = Self {
        first: Duration::from_secs(4),
        longest: Duration::from_secs(64),
        is_half_certain: true,
        time: Duration::from_secs(300),
    };

    /// The pause after this number of attempts, at least one. `chance`, from 0 to 1, keeps
    /// nodes that were refused at the same time from coming back at the same time.
    pub(crate) fn after(&self, attempts: u32, chance: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
        let pause = self.longest.min(self.first.saturating_mul(doubled));
        pause.mul_f64(match self.is_half_certain {
            true => (1.0 + chance) / 2.0,
            false => chance,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use super::*;
    use crate::random;

    fn seconds(pauses: &Pauses, chance: f64) -> Vec<f64> {
        let attempts = [1, 2, 3, 4, 5, 6, 100];
        let pauses = attempts.map(|attempts| pauses.after(attempts, chance));
        pauses.map(|pause| pause.as_secs_f64()).into()
    }

    #[test]
    fn each_pause_is_twice_as_long_up_to_the_longest() {
        let pods = [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0];
        assert_eq!(seconds(&Pauses::OF_PODS, 1.0), pods);
        assert_eq!(seconds(&Pauses::OF_PODS, 0.0), [0.0; 7]);
        let nodes = [4.0, 8.0, 16.0, 32.0, 64.0, 64.0, 64.0];
        assert_eq!(seconds(&Pauses::OF_NODES, 1.0), nodes);
        assert_eq!(
            seconds(&Pauses::OF_NODES, 0.0),
            nodes.map(|pause| pause / 2.0)
        );
    }

    /// Nodes that create two ENIs each, with EC2's budget of 100 calls and 5 more a second: when
    /// the last node is done, in seconds, and how many calls were refused.
    fn create_together(pauses: &Pauses, nodes: u32) -> (u64, u32) {
        let (mut account, mut filled, mut refused) = (100.0_f64, 0_u64, 0);
        // Milliseconds, and the ENIs that are missing.
        let first = (0..nodes).map(|_| Reverse((0, 2, 0)));
        let mut calls: BinaryHeap<_> = first.collect();
        while let Some(Reverse((at, missing, attempts))) = calls.pop() {
            let passed = Duration::from_millis(at - filled).as_secs_f64();
            account = (account + 5.0 * passed).min(100.0);
            filled = at;
            if account >= 1.0 {
                account -= 1.0;
                if missing > 1 {
                    calls.push(Reverse((at + 1050, missing - 1, 0)));
                }
                continue;
            }
            refused += 1;
            let pause = pauses.after(attempts + 1, random::chance());
            let pause = u64::try_from(pause.as_millis()).unwrap();
            calls.push(Reverse((at + 350 + pause, missing, attempts + 1)));
        }
        (filled / 1000, refused)
    }

    #[test]
    fn two_hundred_nodes_get_their_enis_in_time_and_few_calls_are_refused() {
        let (seconds, refused) = create_together(&Pauses::OF_NODES, 200);
        assert!((60..200).contains(&seconds), "{seconds} s");
        // 400 calls are needed.
        assert!(refused < 1000, "{refused} refused");
        let (_, refused) = create_together(&Pauses::OF_PODS, 200);
        assert!(refused > 1000, "{refused} refused with the pauses of pods");
    }
}
