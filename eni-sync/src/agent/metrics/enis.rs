//! The ENIs of the node as metrics: how many are wanted, and what the others are.

use common::attach::inventory::{Eni, Inventory};
use common::error::Result;
use common::kernel::netlink::Netlink;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::set;
use crate::provision::wanted::Wanted;
use crate::vpc::calls::Names;
use crate::vpc::eni;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    state: &'static str,
}

/// How many ENIs there are in each state.
#[derive(Debug, Default)]
pub(super) struct Enis(Family<InState, Gauge>);

impl Enis {
    /// Makes them known.
    pub(super) fn register(&self, names: &mut Names<'_>) {
        names.add("enis", "ENIs of the node", &self.0);
    }

    /// Reads what there is now.
    ///
    /// # Errors
    /// Code 5 or 6 naming the inventory, 999 when the kernel does not list its links.
    pub(super) fn read(&self, wanted: &[Wanted]) -> Result<()> {
        let inventory = Inventory::read()?.unwrap_or_default();
        let links = Netlink::open()?.links()?;
        let is_for_pods = |eni: &&Eni| eni::require_managed(eni).is_ok();
        let for_pods: Vec<&Eni> = inventory.enis.iter().filter(is_for_pods).collect();
        let is_down = |eni: &&&Eni| links.iter().any(|link| link.mac == eni.mac && !link.up);
        let secondary = inventory
            .enis
            .iter()
            .filter(|eni| !eni.is_primary())
            .count();
        let count: u32 = wanted.iter().map(|wanted| wanted.count).sum();
        let numbers = [
            ("wanted", usize::try_from(count).unwrap_or(usize::MAX)),
            ("attached", for_pods.len()),
            ("down", for_pods.iter().filter(is_down).count()),
            ("foreign", secondary - for_pods.len()),
        ];
        for (state, number) in numbers {
            set(&self.0.get_or_create(&InState { state }), number);
        }
        Ok(())
    }
}
