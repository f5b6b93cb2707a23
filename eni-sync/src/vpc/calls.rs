//! The metrics of the calls to EC2.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::vpc::failure::{DENIALS, Failure, Kind};

/// The buckets for how long EC2 takes to answer, in seconds. One attempt may take 10.
const CALL_SECONDS: [f64; 9] = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8];
/// The buckets for the number of addresses in a call. No ENI has more than 64.
const BATCH: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// The changes of EC2 that the agent makes.
const CHANGES: [&str; 4] = [
    "AssignPrivateIpAddresses",
    "AssignIpv6Addresses",
    "UnassignPrivateIpAddresses",
    "UnassignIpv6Addresses",
];
/// What the agent looks up at EC2.
const LOOKS: [&str; 4] = [
    "DescribeInstanceTypes",
    "DescribeInstances",
    "DescribeNetworkInterfaces",
    "DescribeSubnets",
];
/// The buckets for how long changes wait for the budget, in seconds. A call is given up after
/// 45.
const WAIT_SECONDS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// The code of a call that succeeded.
const OK: &str = "OK";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    action: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Action {
    action: &'static str,
}

type Histograms = Family<Action, Histogram, fn() -> Histogram>;
type Number = Gauge<f64, AtomicU64>;

/// The metrics of the calls of one agent.
#[derive(Debug)]
pub(crate) struct Calls {
    requests: Family<Call, Counter>,
    duration: Histograms,
    throttles: Family<Action, Counter>,
    batch: Histograms,
    /// Changes a second that the node allows itself.
    pub(crate) budget: Number,
    /// Seconds that changes wait for the budget.
    pub(crate) budget_wait: Histogram,
    /// Addresses taken from another ENI.
    pub(crate) takeovers: Counter,
}

/// Registers metrics by their names in Prometheus.
pub(crate) struct Names<'a>(pub(crate) &'a mut Registry);

impl Names<'_> {
    pub(crate) fn add(&mut self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        self.0.register(name, help, metric.clone());
    }

    pub(crate) fn add_seconds(&mut self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        let Self(registry) = self;
        registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    }
}

impl Default for Calls {
    fn default() -> Self {
        let calls = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(CALL_SECONDS)),
            throttles: Family::default(),
            batch: Family::new_with_constructor(|| Histogram::new(BATCH)),
            budget: Number::default(),
            budget_wait: Histogram::new(WAIT_SECONDS),
            takeovers: Counter::default(),
        };
        calls.begin_at_zero();
        calls
    }
}

impl Calls {
    /// Creates the counters with the value 0: `rate()` does not see the first event of a
    /// counter that appears with the value 1.
    fn begin_at_zero(&self) {
        for action in CHANGES.into_iter().chain(LOOKS) {
            for code in [OK].into_iter().chain(DENIALS) {
                let code = code.to_owned();
                drop(self.requests.get_or_create_owned(&Call { action, code }));
            }
            drop(self.throttles.get_or_create_owned(&Action { action }));
        }
        for action in CHANGES {
            drop(self.duration.get_or_create_owned(&Action { action }));
            drop(self.batch.get_or_create_owned(&Action { action }));
        }
    }

    /// Registers the metrics.
    pub(crate) fn register(&self, names: &mut Names<'_>) {
        names.add("requests", "Attempts of calls to EC2", &self.requests);
        let help = "Attempts that EC2 refused for their number";
        names.add("throttles", help, &self.throttles);
        let help = "How long EC2 took to answer";
        names.add_seconds("request_duration", help, &self.duration);
        let help = "Addresses in a call that changes them";
        names.add("batch_size", help, &self.batch);
        let help = "Changes that the node allows itself";
        names.add("budget_calls_per_second", help, &self.budget);
        let help = "How long changes waited for the budget";
        names.add_seconds("budget_wait", help, &self.budget_wait);
        let help = "Addresses taken from another ENI";
        names.add("takeovers", help, &self.takeovers);
    }

    /// Notes one attempt of a call.
    pub(crate) fn note_call(
        &self,
        action: &'static str,
        failure: Option<&Failure>,
        time: Duration,
    ) {
        let code = failure
            .map_or(OK, |failure| failure.code.as_str())
            .to_owned();
        self.requests.get_or_create(&Call { action, code }).inc();
        let action = Action { action };
        self.duration
            .get_or_create(&action)
            .observe(time.as_secs_f64());
        if failure.is_some_and(|failure| failure.kind == Kind::Throttled) {
            self.throttles.get_or_create(&action).inc();
        }
    }

    /// Notes how many addresses or prefixes a call has.
    pub(crate) fn note_batch(&self, action: &'static str, size: usize) {
        // An ENI has some dozens.
        let size = u32::try_from(size).map_or(f64::MAX, f64::from);
        self.batch.get_or_create(&Action { action }).observe(size);
    }
}
