//! The metrics of the agent, by their names in Prometheus. Values from the ledger are read when
//! the metrics are scraped; all others are noted where they occur.

mod addresses;
mod devices;
mod enis;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use common::attach::inventory::Inventory;
use common::error::{ErrorCode, Result};
use common::say;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use self::addresses::Addresses;
use self::devices::Resources;
use self::enis::Enis;
use crate::agent::configuration::Configuration;
use crate::installed::{self, Installed};
use crate::ledger::{Ledger, now};
use crate::registration::prefixes::stock::Stock;
use crate::registration::reconcile::Report;
use crate::vpc::calls::{Calls, Names};
use crate::vpc::failure::NOT_PERMITTED;

/// The buckets for the time that a pod waits, in seconds; a plugin gives up after 100.
const ROUTABLE_SECONDS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// The codes of the agent's answers to plugins, the one for success first.
const ANSWERS: [ErrorCode; 8] = [
    ErrorCode(0),
    ErrorCode::IO,
    ErrorCode::DECODING,
    ErrorCode::NETWORK_CONFIG,
    ErrorCode::TRY_AGAIN,
    ErrorCode::UNAVAILABLE,
    NOT_PERMITTED,
    ErrorCode::INTERNAL,
];
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPlugin {
    plugin: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FromOrigin {
    plugin: String,
    origin: &'static str,
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DriftKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ending {
    outcome: &'static str,
}

/// The metrics of one agent.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    addresses: Addresses,
    enis: Enis,
    routable: Histogram,
    answers: Family<Code, Counter>,
    drift: Family<DriftKind, Counter>,
    reconciles: Family<Ending, Counter>,
    reconciled: Gauge<u64, AtomicU64>,
    unregistered: Gauge,
    hidden: Gauge,
    unreadable: Gauge,
    detached: Gauge,
    without_prefixes: Gauge,
    reclaimed: Counter,
    installed: Family<FromOrigin, Gauge>,
    restored: Family<OfPlugin, Counter>,
    pub(crate) resources: Resources,
}

impl Metrics {
    /// The metrics of an agent that makes these calls.
    pub(crate) fn new(calls: &Calls) -> Self {
        let metrics = Self {
            registry: Registry::default(),
            addresses: Addresses::default(),
            enis: Enis::default(),
            routable: Histogram::new(ROUTABLE_SECONDS),
            answers: Family::default(),
            drift: Family::default(),
            reconciles: Family::default(),
            reconciled: Gauge::default(),
            unregistered: Gauge::default(),
            hidden: Gauge::default(),
            unreadable: Gauge::default(),
            detached: Gauge::default(),
            without_prefixes: Gauge::default(),
            reclaimed: Counter::default(),
            installed: Family::default(),
            restored: Family::default(),
            resources: Resources::default(),
        };
        metrics.begin_at_zero();
        metrics.registered(calls)
    }

    /// Creates the counters with the value 0: `rate()` does not see the first event of a
    /// counter that appears with the value 1.
    fn begin_at_zero(&self) {
        for outcome in ["success", "failure"] {
            drop(self.reconciles.get_or_create_owned(&Ending { outcome }));
        }
        for (plugin, _) in installed::names() {
            drop(self.restored.get_or_create_owned(&OfPlugin { plugin }));
        }
        for code in ANSWERS {
            let code = code.0.to_string();
            drop(self.answers.get_or_create_owned(&Code { code }));
        }
        self.note_drift(&Report::default());
    }

    fn registered(self, calls: &Calls) -> Self {
        let mut registry = Registry::with_prefix("eni_sync");
        calls.register(&mut Names(&mut registry));
        self.addresses.register(&mut Names(&mut registry));
        self.enis.register(&mut Names(&mut registry));
        self.register_agent(&mut Names(&mut registry));
        Self { registry, ..self }
    }

    fn register_agent(&self, names: &mut Names<'_>) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let Names(registry) = names;
        registry.register("build", "The version of the agent", version);
        let help = "Answers to plugins by CNI error code";
        names.add("plugin_requests", help, &self.answers);
        names.add("drift", "Addresses that differed from EC2", &self.drift);
        let help = "What watched networks have and the agent cannot register";
        names.add("unregistered", help, &self.unregistered);
        let help = "From a plugin's request to its success";
        names.add_seconds("time_to_routable", help, &self.routable);
        let help = "Comparisons of the ledger with EC2";
        names.add("reconciles", help, &self.reconciles);
        let help = "When a comparison with EC2 last succeeded";
        names.add_seconds("reconcile_last_success_timestamp", help, &self.reconciled);
        let help = "Namespaces of pods that the agent does not see";
        names.add("hidden_namespaces", help, &self.hidden);
        let help = "Namespaces of pods whose addresses cannot be read";
        names.add("unreadable_namespaces", help, &self.unreadable);
        let help = "Attachments whose ENI or master is not there any more";
        names.add("detached_attachments", help, &self.detached);
        let help = "ENIs that EC2 gives no prefixes of a family that the agent is to keep";
        names.add("refused_prefixes", help, &self.without_prefixes);
        let help = "Reservations of containers that ended without a DEL";
        names.add("reclaimed_reservations", help, &self.reclaimed);
        let help = "The plugins in the directory of the node";
        names.add("installed_plugins", help, &self.installed);
        let help = "Plugins that others had replaced or removed and that are back";
        names.add("plugins_restored", help, &self.restored);
        self.resources.register(names);
    }

    /// Notes the answer to a plugin, with the CNI error code or 0, and the time since
    /// its request.
    pub(crate) fn note_answer(&self, code: u32, time: Duration) {
        let code = code.to_string();
        if code == "0" {
            self.routable.observe(time.as_secs_f64());
        }
        self.answers.get_or_create(&Code { code }).inc();
    }

    /// Notes a comparison with EC2.
    pub(crate) fn note_reconcile(&self, outcome: &Result<Report>) {
        let name = match outcome {
            Ok(report) => {
                self.note_drift(report);
                self.reconciled.set(now());
                "success"
            }
            Err(_) => "failure",
        };
        self.reconciles
            .get_or_create(&Ending { outcome: name })
            .inc();
    }

    /// Notes how many namespaces of pods are not visible, and how many could not be read.
    pub(crate) fn note_namespaces(&self, hidden: usize, unreadable: usize) {
        set(&self.hidden, hidden);
        set(&self.unreadable, unreadable);
    }

    /// Notes how many attachments and networks cannot be registered.
    pub(crate) fn note_unregistered(&self, count: usize) {
        set(&self.unregistered, count);
    }

    /// Notes how many attachments have lost their ENI.
    pub(crate) fn note_detached(&self, count: usize) {
        set(&self.detached, count);
    }

    /// Notes how many ENIs get no prefixes of a family.
    pub(crate) fn note_refused_prefixes(&self, count: usize) {
        set(&self.without_prefixes, count);
    }

    /// Notes how many reservations have been released.
    pub(crate) fn note_reclaimed(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.reclaimed.inc_by(count);
    }

    /// Notes which program is installed under each name.
    pub(crate) fn note_installed<'a>(&self, found: impl Iterator<Item = (&'a str, &'a Installed)>) {
        self.installed.clear();
        for (name, installed) in found {
            let labels = FromOrigin {
                plugin: name.to_owned(),
                origin: installed.origin(),
                version: installed.version().to_owned(),
            };
            self.installed.get_or_create(&labels).set(1);
        }
    }

    /// Notes that a plugin was put back.
    pub(crate) fn note_restored(&self, name: &str) {
        let plugin = name.to_owned();
        self.restored.get_or_create(&OfPlugin { plugin }).inc();
    }

    fn note_drift(&self, report: &Report) {
        for (kind, count) in report.counts() {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            self.drift.get_or_create(&DriftKind { kind }).inc_by(count);
        }
    }

    /// The metrics as text, with the current values of the ledger and the stock of prefixes.
    /// Only one thread may call this at a time.
    pub(crate) fn text(
        &self,
        ledger: &Ledger,
        configuration: &Configuration,
        stock: &Stock,
    ) -> String {
        self.read(ledger, configuration, stock);
        let mut out = String::new();
        if let Err(cause) = text::encode(&mut out, &self.registry) {
            // Writing to a string cannot fail.
            say!("metrics are incomplete: {cause}");
        }
        out
    }

    /// Reads the ledger and the inventory, each once for all metrics.
    fn read(&self, ledger: &Ledger, configuration: &Configuration, stock: &Stock) {
        self.resources.clear();
        let contents = self.addresses.read(ledger, &configuration.pools);
        if let Err(error) = &contents {
            say!("metrics without the ledger: {error}");
        }
        let failed = |error| say!("metrics without the ENIs: {error}");
        let inventory = match Inventory::read() {
            Ok(inventory) => inventory.unwrap_or_default(),
            Err(error) => return failed(error),
        };
        if let Err(error) = self.enis.read(&inventory, &configuration.enis) {
            failed(error);
        }
        let Ok(contents) = contents else {
            return;
        };
        self.addresses.note_slots(&inventory, &contents, stock);
        if let Err(error) = self.resources.read(&inventory, &contents) {
            say!("metrics without the room for resources: {error}");
        }
    }
}

fn set(gauge: &Gauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}
