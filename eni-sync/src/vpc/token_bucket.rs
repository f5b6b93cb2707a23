//! How many changes a node may ask of EC2: a token bucket. When the account is throttled, the
//! rate is halved, to one a second at most; it recovers slowly. Pure: the caller gives the time
//! and the random number.
//!
//! The SDK's adaptive retries are not used for it. Their limiter is also shared by a process
//! and region, but it starts with the first refusal, makes descriptions wait because changes
//! were refused, does not know what is urgent, and takes ten tokens for a throttled retry,
//! while a node earns one in two seconds.

use std::time::{Duration, Instant};

/// Changes a second of a node, when nothing is throttled. Source: EC2 gives every
/// account about five of each action, and this node is not the only one.
const HIGHEST_RATE: f64 = 5.0;
/// The part of it for each ENI. An ENI has one change in flight and could make four times as many;
/// then twenty nodes that start together would use up the account's budget with small batches,
/// and their last pods would wait.
const RATE_OF_ENI: f64 = 0.75;
/// The highest rate after a throttle: a node that needs more shares the account with others,
/// and waiting changes become one batch.
const THROTTLED_RATE: f64 = 1.0;
/// The lowest rate, however often the node is throttled.
const LOWEST_RATE: f64 = 0.2;
/// By how much the rate grows in a second.
const RECOVERY: f64 = 0.05;
/// The capacity of the bucket: the tokens of this many seconds.
const BURST_SECONDS: f64 = 4.0;
/// Refusals within this time after another belong to the same congestion.
const SAME_CONGESTION: Duration = Duration::from_secs(1);

/// How urgent a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A pod waits for it.
    Registration,
    /// No pod waits for it: it leaves half of the capacity to registrations.
    Release,
}

/// The tokens of a node.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    rate: f64,
    highest: f64,
    filled_at: Instant,
    throttled_at: Option<Instant>,
}

impl Bucket {
    /// The full bucket of a node with one ENI.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            tokens: RATE_OF_ENI * BURST_SECONDS,
            rate: RATE_OF_ENI,
            highest: RATE_OF_ENI,
            filled_at: now,
            throttled_at: None,
        }
    }

    /// Adapts the bucket to the number of ENIs of the node. A higher rate fills it only with
    /// time.
    pub(crate) fn fit(&mut self, enis: usize) {
        let enis = u32::try_from(enis).unwrap_or(u32::MAX).max(1);
        let highest = (RATE_OF_ENI * f64::from(enis)).min(HIGHEST_RATE);
        if self.rate >= self.highest.min(highest) {
            self.rate = highest;
        }
        self.highest = highest;
    }

    /// Takes a token, or returns the time after which to try again.
    pub(crate) fn take(&mut self, urgency: Urgency, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        let left = match urgency {
            Urgency::Registration => 0.0,
            Urgency::Release => (self.capacity() / 2.0).min(self.capacity() - 1.0),
        };
        let missing = 1.0 + left - self.tokens;
        if missing > 0.0 {
            // A little more than needed: rounding must not ask for a wait of nothing.
            return Err(Duration::from_secs_f64(missing / self.rate) + Duration::from_millis(1));
        }
        self.tokens -= 1.0;
        Ok(())
    }

    /// Notes that EC2 has refused a change. `chance`, from 0 to 1, keeps the nodes that
    /// were refused at the same time from coming back at the same time.
    pub(crate) fn throttle(&mut self, chance: f64, now: Instant) {
        self.fill(now);
        let is_new = self
            .throttled_at
            .is_none_or(|last| now.saturating_duration_since(last) >= SAME_CONGESTION);
        if is_new {
            self.rate = (self.rate / 2.0).clamp(LOWEST_RATE, THROTTLED_RATE);
            self.throttled_at = Some(now);
        }
        self.tokens = self.tokens.min(-chance);
    }

    /// Changes a second at present.
    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }

    fn capacity(&self) -> f64 {
        (self.rate * BURST_SECONDS).max(1.0)
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.filled_at = now.max(self.filled_at);
        self.rate = (self.rate + RECOVERY * passed).min(self.highest);
        self.tokens = (self.tokens + self.rate * passed).min(self.capacity());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRATION: Urgency = Urgency::Registration;

    /// How many tokens of a kind there are at once.
    fn taken(bucket: &mut Bucket, urgency: Urgency, now: Instant) -> usize {
        (0..100)
            .take_while(|_| bucket.take(urgency, now).is_ok())
            .count()
    }

    #[test]
    fn a_node_makes_three_changes_at_once_and_then_three_in_four_seconds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert_eq!(taken(&mut bucket, REGISTRATION, start), 3);
        let soon = start + Duration::from_secs(4);
        assert_eq!(taken(&mut bucket, REGISTRATION, soon), 3);
        let hour = start + Duration::from_secs(3600);
        assert_eq!(taken(&mut bucket, REGISTRATION, hour), 3);
    }

    #[test]
    fn more_enis_allow_more_changes_up_to_the_nodes_share() {
        let start = Instant::now();
        for (enis, expected) in [(0, 3), (1, 3), (2, 6), (14, 20)] {
            let mut bucket = Bucket::new(start);
            bucket.fit(enis);
            let hour = start + Duration::from_secs(3600);
            assert_eq!(taken(&mut bucket, REGISTRATION, hour), expected, "{enis}");
        }
    }

    #[test]
    fn a_node_that_is_throttled_does_not_forget_it_when_it_counts_its_enis() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        bucket.throttle(0.0, start);
        bucket.fit(4);
        assert_eq!(bucket.rate(), RATE_OF_ENI / 2.0);
    }

    #[test]
    fn the_wait_is_until_there_is_a_token() {
        let mut now = Instant::now();
        let mut bucket = Bucket::new(now);
        taken(&mut bucket, REGISTRATION, now);
        let wait = bucket.take(REGISTRATION, now).unwrap_err();
        now += wait;
        bucket.take(REGISTRATION, now).unwrap();
        assert!(wait <= Duration::from_millis(1335), "{wait:?}");
    }

    #[test]
    fn releases_leave_half_to_registrations() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert_eq!(taken(&mut bucket, Urgency::Release, start), 1);
        assert_eq!(taken(&mut bucket, REGISTRATION, start), 2);
    }

    #[test]
    fn a_node_at_the_lowest_rate_still_releases() {
        let mut now = Instant::now();
        let mut bucket = Bucket::new(now);
        for _ in 0..10 {
            now += SAME_CONGESTION;
            bucket.throttle(1.0, now);
        }
        let wait = bucket.take(Urgency::Release, now).unwrap_err();
        assert!(wait <= Duration::from_secs(11), "{wait:?}");
        bucket.take(Urgency::Release, now + wait).unwrap();
    }

    #[test]
    fn refusals_of_one_congestion_lower_the_rate_once_and_empty_the_bucket() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        for _ in 0..5 {
            bucket.throttle(0.5, start);
        }
        assert_eq!(bucket.rate(), RATE_OF_ENI / 2.0);
        let wait = bucket.take(REGISTRATION, start).unwrap_err();
        assert_eq!(wait.as_millis(), 4001);
    }

    #[test]
    fn the_rate_comes_back_slowly() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        bucket.throttle(0.0, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        taken(&mut bucket, REGISTRATION, at(4));
        assert!((bucket.rate() - 0.575).abs() < 0.01, "{}", bucket.rate());
        taken(&mut bucket, REGISTRATION, at(90));
        assert_eq!(bucket.rate(), RATE_OF_ENI);
    }

    /// Twenty nodes that want all they can get share an account's bucket.
    #[test]
    fn nodes_that_are_throttled_together_leave_few_calls_refused() {
        let start = Instant::now();
        let mut nodes = vec![Bucket::new(start); 20];
        let (mut account, mut served, mut refused) = (100.0_f64, 0, 0);
        for tick in 0..6000_u32 {
            let now = start + Duration::from_millis(10) * tick;
            account = (account + 0.05).min(100.0);
            for (number, node) in (0_u32..).zip(&mut nodes) {
                if node.take(REGISTRATION, now).is_err() {
                    continue;
                }
                if account >= 1.0 {
                    account -= 1.0;
                    served += 1;
                } else {
                    refused += 1;
                    node.throttle(f64::from((number * 7 + tick) % 10) / 10.0, now);
                }
            }
        }
        // A minute gives 400 calls; no more are refused than are served.
        assert!(served >= 390, "{served} served, {refused} refused");
        assert!(refused <= served, "{served} served, {refused} refused");
    }
}
