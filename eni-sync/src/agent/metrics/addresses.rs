//! Metrics of the addresses of this node, by the ledger.

use std::time::Instant;

use common::attach::inventory::{Eni, Inventory};
use common::error::Result;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::set;
use crate::agent::configuration::Pool;
use crate::ledger::{Content, Contents, Entry, Ledger, Prefix, State};
use crate::registration::prefixes::stock::Stock;
use crate::registration::prefixes::supply::{self, Slots};
use crate::vpc::calls::Names;
use crate::vpc::ec2::Family as AddressFamily;
use crate::vpc::eni;

/// The states with a metric: all except `removed`.
const STATES: [&str; 6] = [
    "claiming",
    "held",
    "releasing",
    "withdrawn",
    "pooled",
    "adopted",
];
/// The states of prefixes with a metric: those in which they are on the ENI.
const PREFIX_STATES: [&str; 3] = ["pooled", "releasing", "adopted"];
/// The value of the label `state` for a file of the ledger that cannot be read.
const UNREADABLE: &str = "unreadable";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEni {
    eni: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    eni: String,
    /// Empty for a file that cannot be read.
    family: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFamily {
    eni: String,
    family: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PrefixInState {
    eni: String,
    family: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPool {
    pool: String,
    family: &'static str,
}

/// The addresses of all ENIs for pods, and of all pools.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    queue: Family<OfEni, Gauge>,
    refused: Family<OfEni, Gauge>,
    states: Family<InState, Gauge>,
    used: Family<OfFamily, Gauge>,
    limit: Family<OfFamily, Gauge>,
    pods_left: Family<OfFamily, Gauge>,
    prefixes: Family<PrefixInState, Gauge>,
    free: Family<OfPool, Gauge>,
}

impl Addresses {
    /// Registers the metrics.
    pub(super) fn register(&self, names: &mut Names<'_>) {
        names.add("queue_depth", "Addresses that wait for EC2", &self.queue);
        let help = "Addresses that EC2 has refused and that pods go on without";
        names.add("refused_addresses", help, &self.refused);
        names.add("addresses", "Addresses in the ledger", &self.states);
        let help = "Addresses and prefixes of an ENI";
        names.add("slots_used", help, &self.used);
        let help = "What the instance type allows an ENI";
        names.add("slots_limit", help, &self.limit);
        let help = "How many more pods the ENI has addresses for";
        names.add("pods_left", help, &self.pods_left);
        names.add("prefixes", "Prefixes in the ledger", &self.prefixes);
        let help = "Addresses of a pool that no pod has";
        names.add("pool_free_addresses", help, &self.free);
    }

    /// Reads the ledger into the metrics, and returns its content. Only one thread may call
    /// this at a time.
    ///
    /// # Errors
    /// Code 5 naming a directory.
    pub(super) fn read(&self, ledger: &Ledger, pools: &[Pool]) -> Result<Contents> {
        self.clear();
        let contents = ledger.contents()?;
        for (id, content) in &contents {
            let wishes = ledger.of_eni(id)?.waiting_wishes()?;
            self.set_addresses(id, &content.entries, wishes);
            let labels = InState {
                eni: id.clone(),
                family: "",
                state: UNREADABLE,
            };
            set(&self.states.get_or_create(&labels), content.damage.len());
        }
        self.set_free(&contents, pools);
        Ok(contents)
    }

    fn clear(&self) {
        self.queue.clear();
        self.refused.clear();
        self.states.clear();
        self.used.clear();
        self.limit.clear();
        self.pods_left.clear();
        self.prefixes.clear();
    }

    /// Notes the slots of each ENI for pods.
    pub(super) fn note_slots(&self, inventory: &Inventory, ledger: &Contents, stock: &Stock) {
        let nothing = Content::default();
        for eni in &inventory.enis {
            if eni::require_managed(eni).is_ok() {
                let known = ledger.get(&eni.id).unwrap_or(&nothing);
                self.set_slots(eni, known, stock);
            }
        }
    }

    fn set_addresses(&self, eni: &str, entries: &[Entry], wishes: usize) {
        let of_eni = OfEni {
            eni: eni.to_owned(),
        };
        let waiting = entries.iter().filter(|entry| is_waiting(entry)).count();
        set(&self.queue.get_or_create(&of_eni), waiting + wishes);
        let refused = entries.iter().filter(|entry| is_refused(entry)).count();
        set(&self.refused.get_or_create(&of_eni), refused);
        for of in AddressFamily::ALL {
            for state in STATES {
                let in_state = entries.iter().filter(|entry| {
                    AddressFamily::of(entry.address) == of && entry.state.name() == state
                });
                let labels = InState {
                    eni: eni.to_owned(),
                    family: name(of),
                    state,
                };
                set(&self.states.get_or_create(&labels), in_state.count());
            }
        }
    }

    /// A pool has a value also while its ENI is missing.
    fn set_free(&self, ledger: &Contents, pools: &[Pool]) {
        if pools.is_empty() {
            return;
        }
        let entries = ledger.values().flat_map(|known| &known.entries);
        let entries: Vec<Entry> = entries.cloned().collect();
        let prefixes = ledger.values().flat_map(|known| &known.prefixes);
        let prefixes: Vec<&Prefix> = prefixes.collect();
        for pool in pools {
            for of in AddressFamily::ALL.into_iter().filter(|of| pool.has(*of)) {
                let labels = OfPool {
                    pool: pool.name.clone(),
                    family: name(of),
                };
                let free = match pool.kept() {
                    Some(_) => Ok(free_in_prefixes(pool, &prefixes, &entries, of)),
                    None => pool.free(&entries, of).map(|free| free.len()),
                };
                // Without an answer the number stays; the agent reports the error.
                if let Ok(free) = free {
                    set(&self.free.get_or_create(&labels), free);
                }
            }
        }
    }

    /// Sets the slots of an ENI. An address that is only claimed uses none, as far as the node
    /// knows.
    fn set_slots(&self, eni: &Eni, known: &Content, stock: &Stock) {
        let Content {
            entries, prefixes, ..
        } = known;
        for of in AddressFamily::ALL {
            let slots = Slots::of(eni, entries, prefixes, of);
            let labels = OfFamily {
                eni: eni.id.clone(),
                family: name(of),
            };
            set(&self.used.get_or_create(&labels), slots.used);
            set(&self.limit.get_or_create(&labels), slots.limit);
            let is_kept = stock.level(eni, of).is_some();
            let as_prefixes = is_kept && stock.may_ask(eni, of, Instant::now());
            if let Some(left) = slots.pods_left(as_prefixes) {
                set(&self.pods_left.get_or_create(&labels), left);
            }
            for state in PREFIX_STATES {
                let labels = PrefixInState {
                    eni: eni.id.clone(),
                    family: name(of),
                    state,
                };
                let of_state = prefixes.iter().filter(|prefix| {
                    let family = AddressFamily::of(prefix.prefix.address());
                    family == of && prefix.entry.state.name() == state
                });
                set(&self.prefixes.get_or_create(&labels), of_state.count());
            }
        }
    }
}

/// How many addresses of the prefixes of a pool no pod has, by the ledger.
fn free_in_prefixes(
    pool: &Pool,
    prefixes: &[&Prefix],
    entries: &[Entry],
    of: AddressFamily,
) -> usize {
    let own = prefixes.iter().filter(|prefix| {
        let is_of_family = AddressFamily::of(prefix.prefix.address()) == of;
        is_of_family && prefix.ranges_file.as_ref() == Some(&pool.ranges_file)
    });
    own.map(|prefix| supply::free(prefix, entries))
        .fold(0, usize::saturating_add)
}

fn name(family: AddressFamily) -> &'static str {
    match family {
        AddressFamily::V4 => "ipv4",
        AddressFamily::V6 => "ipv6",
    }
}

fn is_refused(entry: &Entry) -> bool {
    let refused = |refusal: &Option<_>| refusal.is_some();
    matches!(&entry.state, State::Claiming { refusal, .. } if refused(refusal))
}

fn is_waiting(entry: &Entry) -> bool {
    matches!(entry.state, State::Claiming { refusal: None, .. })
}
