//! The programs that eni-sync replaces, as the requests that they send. What they do
//! besides (starting Python in every pod, listing the pods of the cluster every
//! second) takes no time here.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::client::{Client, Retries, values};
use crate::measure::{Outcome, Outcomes, Schedule};
use crate::world::{Instance, Place, World};

/// The daemonset looks for pods, then sleeps so long.
const DAEMONSET_PAUSE: Duration = Duration::from_secs(1);
/// It turns to the next pod when an assignment takes longer.
const DAEMONSET_PATIENCE: Duration = Duration::from_secs(2);

/// A node on which a replayed program runs.
#[derive(Debug)]
pub struct Replayed {
    pub instance: Instance,
    pub client: Client,
    /// The primary address of each ENI for pods.
    primaries: Vec<String>,
}

impl Replayed {
    pub fn new(world: &World, retries: Retries) -> Self {
        let instance = world.instance();
        let primary = |eni| world.lab.primary(eni).to_string();
        Self {
            client: Client {
                ec2: world.ec2,
                access_key: world.lab.access_key(&instance.id),
                retries,
            },
            primaries: instance.enis.iter().map(primary).collect(),
            instance,
        }
    }

    fn assign(&self, eni: &str, address: &str) -> Outcome {
        let parameters = [
            ("NetworkInterfaceId", eni),
            ("PrivateIpAddress.1", address),
            ("AllowReassignment", "true"),
        ];
        let asked = self.client.ask("AssignPrivateIpAddresses", &parameters);
        asked.map(drop)
    }

    /// AWS' init container: every pod describes the node, the subnet of
    /// each of its ENIs, and assigns. A throttled look is not repeated after the SDK
    /// gave up, and the container reports success all the same.
    pub fn init_container(&self, place: &Place) -> Outcome {
        let known = self.enis_by_subnet(|index| index != "0")?;
        let eni = self.instance.enis[place.network].as_str();
        if !known.values().any(|known| known == eni) {
            return Err("the ENI was not found".to_owned());
        }
        self.assign(eni, &place.address.to_string())
    }

    /// The ENIs of the node by the range of their subnet, one request for each, as both
    /// samples of AWS look for them.
    fn enis_by_subnet(
        &self,
        is_meant: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, String>, String> {
        let id = [("InstanceId.1", self.instance.id.as_str())];
        let found = self.client.ask("DescribeInstances", &id)?;
        let enis = values(&found, "networkInterfaceId");
        let indexes = values(&found, "deviceIndex");
        let subnets = found.split("<networkInterfaceId>").skip(1);
        let mut by_subnet = BTreeMap::new();
        for ((eni, index), text) in enis.into_iter().zip(indexes).zip(subnets) {
            let subnet = values(text, "subnetId").into_iter().next();
            if let Some(subnet) = subnet.filter(|_| is_meant(&index)) {
                let id = [("SubnetId.1", subnet.as_str())];
                let found = self.client.ask("DescribeSubnets", &id)?;
                let range = values(&found, "cidrBlock").into_iter().next();
                by_subnet.insert(range.unwrap_or_default(), eni);
            }
        }
        Ok(by_subnet)
    }

    /// AWS' daemonset: it describes the node twice and its subnets once,
    /// then looks for pods, assigns for one after the other, and never tries again.
    pub fn daemonset(&self, places: &[Place], schedule: &Schedule) -> Outcomes {
        let id = [("InstanceId.1", self.instance.id.as_str())];
        let ready = self
            .enis_by_subnet(|_| true)
            .and_then(|_| self.client.ask("DescribeInstances", &id));
        if let Err(code) = ready {
            let failed = (Err(code), Duration::ZERO);
            return vec![failed; places.len()];
        }
        thread::scope(|scope| {
            let mut done = Vec::new();
            while done.len() < places.len() {
                let visible = schedule.visible(places.len(), Instant::now());
                for place in &places[done.len()..visible] {
                    let (sender, receiver) = mpsc::channel();
                    let due = schedule.due(place.number);
                    done.push(scope.spawn(move || {
                        let eni = self.instance.enis[place.network].as_str();
                        let outcome = self.assign(eni, &place.address.to_string());
                        // Nobody waits any more when it took too long.
                        sender.send(()).ok();
                        (outcome, due.elapsed())
                    }));
                    // Whether it is done or late, the next pod is next.
                    receiver.recv_timeout(DAEMONSET_PATIENCE).ok();
                }
                sleep(DAEMONSET_PAUSE);
            }
            let joined = done.into_iter().map(|thread| thread.join());
            joined.map(|done| done.expect("it ends")).collect()
        })
    }

    /// IBM's aws-ipvlan, ADD: it looks for the ENI by its primary address
    /// and assigns.
    pub fn one_shot_add(&self, place: &Place) -> Outcome {
        let eni = self.eni_by_primary(place)?;
        self.assign(&eni, &place.address.to_string())
    }

    /// The same at DEL.
    pub fn one_shot_del(&self, place: &Place) -> Outcome {
        let eni = self.eni_by_primary(place)?;
        let address = place.address.to_string();
        let parameters = [
            ("NetworkInterfaceId", eni.as_str()),
            ("PrivateIpAddress.1", &address),
        ];
        let asked = self.client.ask("UnassignPrivateIpAddresses", &parameters);
        asked.map(drop)
    }

    fn eni_by_primary(&self, place: &Place) -> Result<String, String> {
        let filter = [
            ("Filter.1.Name", "addresses.private-ip-address"),
            ("Filter.1.Value.1", &self.primaries[place.network]),
        ];
        let found = self.client.ask("DescribeNetworkInterfaces", &filter)?;
        let eni = values(&found, "networkInterfaceId").into_iter().next();
        eni.ok_or("the ENI was not found".to_owned())
    }
}
