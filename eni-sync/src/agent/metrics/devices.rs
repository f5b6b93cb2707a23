//! Metrics of the resources that are offered to the kubelet.

use common::attach::inventory::Inventory;
use common::error::Result;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::set;
use crate::agent::devices::room;
use crate::agent::devices::shown::{self, Shown};
use crate::ledger::Contents;
use crate::vpc::calls::Names;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResource {
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InHealth {
    resource: String,
    health: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    resource: String,
    outcome: &'static str,
}

/// The metrics of the resources.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    devices: Family<InHealth, Gauge>,
    registered: Family<OfResource, Gauge>,
    registrations: Family<Attempt, Counter>,
    room: Family<OfResource, Gauge>,
}

impl Resources {
    /// Registers the metrics.
    pub(super) fn register(&self, names: &mut Names<'_>) {
        let help = "Devices of a resource of the kubelet";
        names.add("resource_devices", help, &self.devices);
        let help = "Whether the kubelet has taken the resource, and listens";
        names.add("resource_registered", help, &self.registered);
        let help = "Attempts to have the kubelet take a resource";
        names.add("resource_registrations", help, &self.registrations);
        let help = "How many pods the ENIs of a resource have room for";
        names.add("resource_room", help, &self.room);
    }

    /// Creates the metrics of a resource.
    pub(crate) fn begin(&self, name: &str) {
        for outcome in ["success", "failure"] {
            let resource = name.to_owned();
            let labels = Attempt { resource, outcome };
            drop(self.registrations.get_or_create_owned(&labels));
        }
        self.note(&[Shown {
            name: name.to_owned(),
            ..Shown::default()
        }]);
    }

    /// Clears the metric of the room on ENIs.
    pub(super) fn clear(&self) {
        self.room.clear();
    }

    /// Reads the room on the ENIs whose addresses are offered. Only one thread may call this at
    /// a time.
    ///
    /// # Errors
    /// Code 5 or 6 naming the file of offered resources.
    pub(super) fn read(&self, inventory: &Inventory, ledger: &Contents) -> Result<()> {
        for one in shown::read()?
            .into_iter()
            .filter(|one| one.family.is_some())
        {
            let offers = room::offers(&one, inventory, ledger);
            // If the limit of one of them is not known, the sum is not known either.
            let all: Option<usize> = offers.iter().map(|offer| offer.room).sum();
            if let Some(room) = all {
                let resource = one.name;
                set(&self.room.get_or_create(&OfResource { resource }), room);
            }
        }
        Ok(())
    }

    /// Notes what the kubelet is offered.
    pub(crate) fn note(&self, resources: &[Shown]) {
        for one in resources {
            let (healthy, unhealthy) = one.counts();
            for (health, count) in [("healthy", healthy), ("unhealthy", unhealthy)] {
                let resource = one.name.clone();
                let labels = InHealth { resource, health };
                set(&self.devices.get_or_create(&labels), count);
            }
            let resource = one.name.clone();
            let gauge = self.registered.get_or_create(&OfResource { resource });
            set(&gauge, one.registered.into());
        }
    }

    /// Notes an attempt to register a resource with the kubelet.
    pub(crate) fn note_attempt(&self, name: &str, is_taken: bool) {
        let outcome = if is_taken { "success" } else { "failure" };
        let resource = name.to_owned();
        let labels = Attempt { resource, outcome };
        self.registrations.get_or_create(&labels).inc();
    }
}
