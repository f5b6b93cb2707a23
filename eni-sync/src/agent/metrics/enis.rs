//! Metrics of the ENIs of the node: how many are in each state, and who holds the slots of the
//! instance.

use common::attach::inventory::Inventory;
use common::error::Result;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::set;
use crate::provision::host::Host;
use crate::provision::overview::{Node, Overview};
use crate::provision::wanted::Wanted;
use crate::vpc::calls::Names;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OnCard {
    network_card: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HeldBy {
    network_card: u32,
    holder: &'static str,
}

/// The numbers of ENIs in each state, and the slots by holder.
#[derive(Debug, Default)]
pub(super) struct Enis {
    states: Family<InState, Gauge>,
    used: Family<HeldBy, Gauge>,
    limit: Family<OnCard, Gauge>,
}

impl Enis {
    /// Registers the metrics.
    pub(super) fn register(&self, names: &mut Names<'_>) {
        names.add("enis", "ENIs of the node", &self.states);
        let help = "ENIs on a network card of the instance, by who has them";
        names.add("interface_slots_used", help, &self.used);
        let help = "How many ENIs a network card can have";
        names.add("interface_slots_limit", help, &self.limit);
    }

    /// Reads the current values. Only one thread may call this at a time.
    ///
    /// # Errors
    /// Code 999 when the kernel does not answer.
    pub(super) fn read(&self, inventory: &Inventory, wanted: &[Wanted]) -> Result<()> {
        let node = Node {
            instance_id: &inventory.instance_id,
            limits: &inventory.interface_limits,
            host: &Host::read()?,
        };
        let overview = Overview::of(&inventory.enis, Some(wanted), node);
        for (state, number) in overview.counts() {
            set(&self.states.get_or_create(&InState { state }), number);
        }
        self.used.clear();
        for ((network_card, holder), number) in overview.holders() {
            let holder = holder.name();
            let labels = HeldBy {
                network_card,
                holder,
            };
            set(&self.used.get_or_create(&labels), number);
        }
        self.limit.clear();
        for card in overview.cards {
            let network_card = card.network_card;
            if let Some(limit) = card.limit {
                let gauge = self.limit.get_or_create(&OnCard { network_card });
                gauge.set(i64::from(limit));
            }
        }
        Ok(())
    }
}
