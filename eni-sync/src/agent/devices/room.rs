//! Compares what the kubelet is offered of each ENI with the room of the ENI. A pod that is
//! scheduled for more than the room waits on the node.

use common::attach::inventory::Inventory;
use serde::Serialize;

use crate::agent::devices::shown::Shown;
use crate::ledger::Contents;
use crate::registration::prefixes::supply::Slots;

/// The offer to the kubelet for one ENI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Offer {
    pub(crate) eni: String,
    /// How many devices, including unhealthy ones.
    pub(crate) devices: usize,
    /// For how many addresses it has room by the ledger: 0 for an ENI that is not on the node.
    /// `None` for a device that is a whole ENI, and if the limit or the ENIs of the node are
    /// not known.
    pub(crate) room: Option<usize>,
}

impl Offer {
    /// Whether more is offered than there is room for.
    pub(crate) fn is_too_much(&self) -> bool {
        self.room.is_some_and(|room| self.devices > room)
    }
}

/// The offers for each ENI of a resource.
pub(crate) fn offers(shown: &Shown, inventory: &Inventory, ledger: &Contents) -> Vec<Offer> {
    let offer = |(eni, (devices, _)): (&str, (usize, usize))| {
        let own = inventory.enis.iter().find(|own| own.id == eni);
        let room = match (own, shown.family) {
            (Some(own), Some(family)) => {
                let known = ledger.get(eni);
                let (entries, prefixes) = known.map_or((&[][..], &[][..]), |known| {
                    (&known.entries, &known.prefixes)
                });
                Slots::of(own, entries, prefixes, family).for_pods()
            }
            (None, Some(_)) if !inventory.instance_id.is_empty() => Some(0),
            _ => None,
        };
        Offer {
            eni: eni.to_owned(),
            devices,
            room,
        }
    };
    shown.by_eni().into_iter().map(offer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::devices::shown::Device;
    use crate::vpc::ec2::Family;

    #[test]
    fn an_eni_that_has_gone_has_room_for_nothing() {
        let gone = Device {
            eni: "eni-0a1".to_owned(),
            ..Device::default()
        };
        let shown = Shown {
            family: Some(Family::V4),
            devices: vec![gone],
            ..Shown::default()
        };
        let mut inventory = Inventory::default();
        let is_too_much = |inventory: &Inventory| {
            let offers = offers(&shown, inventory, &Contents::new());
            offers.iter().map(Offer::is_too_much).collect::<Vec<_>>()
        };
        assert_eq!(is_too_much(&inventory), [false]);
        inventory.instance_id = "i-0a1".to_owned();
        assert_eq!(is_too_much(&inventory), [true]);
    }
}
