//! What the agent counts and measures, by the names that Prometheus knows it by. What
//! the ledger says is read when somebody asks; all else is noted where it happens.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use common::attach::inventory::{Eni, Inventory};
use common::error::Result;
use common::say;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::installed::{self, Installed};
use crate::ledger::{Entry, Ledger, State, now};
use crate::registration::reconcile::Report;
use crate::vpc::calls::{Calls, Names};
use crate::vpc::ec2::Family as AddressFamily;
use crate::vpc::eni;

/// Of a pod's waiting, in seconds; a plugin gives up after 100.
const ROUTABLE_SECONDS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// The states that a metric has: all but that of what EC2 has removed.
const STATES: [&str; 6] = [
    "claiming",
    "held",
    "releasing",
    "withdrawn",
    "pooled",
    "adopted",
];
/// In place of a state, of a file of the ledger that is not an entry.
const UNREADABLE: &str = "unreadable";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEni {
    eni: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    eni: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFamily {
    eni: String,
    family: &'static str,
}

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
    queue: Family<OfEni, Gauge>,
    refused: Family<OfEni, Gauge>,
    addresses: Family<InState, Gauge>,
    used: Family<OfFamily, Gauge>,
    limit: Family<OfFamily, Gauge>,
    routable: Histogram,
    answers: Family<Code, Counter>,
    drift: Family<DriftKind, Counter>,
    reconciles: Family<Ending, Counter>,
    reconciled: Gauge<u64, AtomicU64>,
    hidden: Gauge,
    unreadable: Gauge,
    detached: Gauge,
    reclaimed: Counter,
    installed: Family<FromOrigin, Gauge>,
    restored: Family<OfPlugin, Counter>,
}

impl Metrics {
    /// The metrics of an agent that makes these calls.
    pub(crate) fn new(calls: &Calls) -> Self {
        let metrics = Self {
            registry: Registry::default(),
            queue: Family::default(),
            refused: Family::default(),
            addresses: Family::default(),
            used: Family::default(),
            limit: Family::default(),
            routable: Histogram::new(ROUTABLE_SECONDS),
            answers: Family::default(),
            drift: Family::default(),
            reconciles: Family::default(),
            reconciled: Gauge::default(),
            hidden: Gauge::default(),
            unreadable: Gauge::default(),
            detached: Gauge::default(),
            reclaimed: Counter::default(),
            installed: Family::default(),
            restored: Family::default(),
        };
        metrics.begin_at_zero();
        metrics.registered(calls)
    }

    /// A counter that is not there until it counts hides its first event from a rate.
    fn begin_at_zero(&self) {
        for outcome in ["success", "failure"] {
            drop(self.reconciles.get_or_create_owned(&Ending { outcome }));
        }
        for (plugin, _) in installed::names() {
            drop(self.restored.get_or_create_owned(&OfPlugin { plugin }));
        }
        let code = "0".to_owned();
        drop(self.answers.get_or_create_owned(&Code { code }));
        self.note_drift(&Report::default());
    }

    fn registered(self, calls: &Calls) -> Self {
        let mut registry = Registry::with_prefix("eni_sync");
        calls.register(&mut Names(&mut registry));
        self.register_addresses(&mut Names(&mut registry));
        self.register_agent(&mut Names(&mut registry));
        Self { registry, ..self }
    }

    fn register_addresses(&self, names: &mut Names<'_>) {
        names.add("queue_depth", "Addresses that wait for EC2", &self.queue);
        let help = "Addresses that EC2 has refused and that pods go on without";
        names.add("refused_addresses", help, &self.refused);
        names.add("addresses", "Addresses in the ledger", &self.addresses);
        let help = "Addresses and prefixes of an ENI";
        names.add("slots_used", help, &self.used);
        let help = "What the instance type allows an ENI";
        names.add("slots_limit", help, &self.limit);
        names.add("drift", "Addresses that differed from EC2", &self.drift);
    }

    fn register_agent(&self, names: &mut Names<'_>) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let Names(registry) = names;
        registry.register("build", "The version of the agent", version);
        let help = "Answers to plugins by CNI error code";
        names.add("plugin_requests", help, &self.answers);
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
        let help = "Attachments whose ENI is not attached to the instance any more";
        names.add("detached_attachments", help, &self.detached);
        let help = "Reservations of containers that ended without a DEL";
        names.add("reclaimed_reservations", help, &self.reclaimed);
        let help = "The plugins in the directory of the node";
        names.add("installed_plugins", help, &self.installed);
        let help = "Plugins that others had replaced or removed and that are back";
        names.add("plugins_restored", help, &self.restored);
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

    /// Notes how many namespaces of pods could not be seen, and how many not be read.
    pub(crate) fn note_namespaces(&self, hidden: usize, unreadable: usize) {
        set(&self.hidden, hidden);
        set(&self.unreadable, unreadable);
    }

    /// Notes how many attachments have lost their ENI.
    pub(crate) fn note_detached(&self, count: usize) {
        set(&self.detached, count);
    }

    /// Notes how many reservations have been released.
    pub(crate) fn note_reclaimed(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.reclaimed.inc_by(count);
    }

    /// Notes what is installed under each name.
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

    /// Notes that a plugin is back.
    pub(crate) fn note_restored(&self, name: &str) {
        let plugin = name.to_owned();
        self.restored.get_or_create(&OfPlugin { plugin }).inc();
    }

    fn note_drift(&self, report: &Report) {
        let Report {
            adopted,
            lost,
            abandoned,
            gone,
            missing,
            settling: _,
        } = *report;
        for (kind, count) in [
            ("adopted", adopted),
            ("lost", lost),
            ("abandoned", abandoned),
            ("gone", gone),
            ("missing", missing),
        ] {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            self.drift.get_or_create(&DriftKind { kind }).inc_by(count);
        }
    }

    /// The metrics as text, with what the ledger says now. For one thread at a time.
    pub(crate) fn text(&self, ledger: &Ledger) -> String {
        if let Err(error) = self.read(ledger) {
            say!("metrics without the ledger: {error}");
        }
        let mut out = String::new();
        if let Err(cause) = text::encode(&mut out, &self.registry) {
            // A string takes whatever is written; only a defect could come here.
            say!("metrics are incomplete: {cause}");
        }
        out
    }

    fn read(&self, ledger: &Ledger) -> Result<()> {
        self.queue.clear();
        self.refused.clear();
        self.addresses.clear();
        self.used.clear();
        self.limit.clear();
        for eni in ledger.enis()? {
            let entries = eni.read()?;
            self.set_addresses(eni.id(), &entries);
            let labels = InState {
                eni: eni.id().to_owned(),
                state: UNREADABLE,
            };
            set(
                &self.addresses.get_or_create(&labels),
                eni.unreadable()?.len(),
            );
        }
        let inventory = Inventory::read()?.unwrap_or_default();
        for eni in &inventory.enis {
            if eni::require_managed(eni).is_ok() {
                self.set_slots(eni, &ledger.of_eni(&eni.id)?.read()?);
            }
        }
        Ok(())
    }

    fn set_addresses(&self, eni: &str, entries: &[Entry]) {
        let eni = eni.to_owned();
        let waiting = entries.iter().filter(|entry| is_waiting(entry)).count();
        set(
            &self.queue.get_or_create(&OfEni { eni: eni.clone() }),
            waiting,
        );
        let refused = entries.iter().filter(|entry| is_refused(entry)).count();
        set(
            &self.refused.get_or_create(&OfEni { eni: eni.clone() }),
            refused,
        );
        for state in STATES {
            let in_state = entries.iter().filter(|entry| entry.state.name() == state);
            let eni = eni.clone();
            let gauge = self.addresses.get_or_create(&InState { eni, state });
            set(&gauge, in_state.count());
        }
    }

    /// What is only wanted takes no slot, as far as the node knows.
    fn set_slots(&self, eni: &Eni, entries: &[Entry]) {
        let registered = entries
            .iter()
            .filter(|entry| entry.is_on_eni())
            .map(|entry| entry.address);
        let prefixes = eni.prefixes.iter().map(|prefix| prefix.address());
        let all = registered
            .chain(prefixes)
            .chain(eni.primary_addresses.iter().copied());
        let all: Vec<AddressFamily> = all.map(AddressFamily::of).collect();
        for (family, of, limit) in [
            ("ipv4", AddressFamily::V4, eni.ipv4_limit),
            ("ipv6", AddressFamily::V6, eni.ipv6_limit),
        ] {
            let eni = eni.id.clone();
            let labels = OfFamily { eni, family };
            let used = all.iter().filter(|family| **family == of).count();
            set(&self.used.get_or_create(&labels), used);
            self.limit.get_or_create(&labels).set(limit.into());
        }
    }
}

fn is_refused(entry: &Entry) -> bool {
    let refused = |refusal: &Option<_>| refusal.is_some();
    matches!(&entry.state, State::Claiming { refusal, .. } if refused(refusal))
}

fn is_waiting(entry: &Entry) -> bool {
    matches!(entry.state, State::Claiming { refusal: None, .. })
}

fn set(gauge: &Gauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}
