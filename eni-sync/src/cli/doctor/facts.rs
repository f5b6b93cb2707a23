//! Everything that the checks use, collected once and without changing anything. A failure to
//! collect a fact is a fact, too.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::attach::inventory::{Eni, Inventory};
use common::error::{Error, Result};
use common::kernel::netlink::Netlink;

use crate::agent::configuration::{Configuration, Networks, Pool};
use crate::agent::devices::shown::{self, Shown};
use crate::agent::reserved;
use crate::cli::doctor::network::Network;
use crate::cli::doctor::source::Source;
use crate::installed::{self, Found};
use crate::ledger::{Damage, Entry, Ledger, Prefix};
use crate::plugin::socket;
use crate::provision;
use crate::provision::host::Host;
use crate::provision::overview::{Node, Overview};
use crate::provision::wanted::Wanted;
use crate::registration::in_use::{self, Living};
use crate::registration::prefixes::stock::Level;
use crate::vpc::clients::Aws;
use crate::vpc::ec2::{Description, Ec2, Family, Limits, OwnEni, Reservation};
use crate::vpc::eni;
use crate::vpc::environment;
use crate::vpc::failure::{Failure, Kind};
use crate::vpc::imds::Identity;
use crate::vpc::inventory::{self, Interfaces};

/// Addresses for documentation (RFC 5737, RFC 3849), which are in no subnet: EC2 can only
/// refuse to assign or unassign them.
const NOWHERE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The facts.
pub(crate) struct Facts {
    pub(crate) access: Access,
    /// The ENIs as EC2 describes them now, else as they are in the written inventory.
    pub(crate) inventory: Option<Inventory>,
    /// How old the written inventory is, if there is one.
    pub(crate) written: Result<Option<Duration>>,
    /// The written inventory.
    pub(crate) noted: Option<Inventory>,
    /// The networks in the agent's configuration, if there is one.
    pub(crate) watched: Option<Result<Networks>>,
    /// The interfaces that the agent's configuration names, as texts; an error for each that
    /// the node does not have.
    pub(crate) masters: Vec<Result<String>>,
    /// The ENIs in the agent's configuration; `None` if it is not known.
    pub(crate) wanted: Option<Vec<Wanted>>,
    /// The limits of the instance type, if EC2 has said them.
    pub(crate) limits: Limits,
    /// The directory of the plugins, and the plugins in it.
    pub(crate) plugin_directory: PathBuf,
    pub(crate) installed: Vec<Found>,
    /// EC2's current descriptions of the node's ENIs.
    pub(crate) own: Vec<Description>,
    /// EC2's current descriptions of all ENIs in their subnets.
    pub(crate) neighbours: Vec<Description>,
    /// The CIDR reservations of the subnets, where the role permits to read them.
    pub(crate) reservations: BTreeMap<String, Vec<Reservation>>,
    pub(crate) agent: io::Result<Option<()>>,
    pub(crate) ledger: Result<BTreeMap<String, Vec<Entry>>>,
    /// The prefixes of each ENI in the ledger, as far as they can be read.
    pub(crate) prefixes: BTreeMap<String, Vec<Prefix>>,
    /// The addresses that host-local has reserved, as far as they can be read.
    pub(crate) reserved: Vec<IpAddr>,
    /// The agent's configuration, if there is one that can be read.
    configuration: Option<Configuration>,
    /// The resources that the agent offers to the kubelet.
    pub(crate) resources: Result<Vec<Shown>>,
    /// The files of the ledger that cannot be read, each with its ENI.
    pub(crate) damaged: Vec<(String, Damage)>,
    /// Why records of ENIs that are attached or detached cannot be read.
    pub(crate) unread_records: Vec<String>,
    /// The addresses in use, and the namespaces that could not be read.
    pub(crate) living: Result<Living>,
    pub(crate) host: Host,
    pub(crate) networks: Vec<Network>,
    /// The configurations that cannot be read.
    pub(crate) unreadable: Vec<Source>,
}

/// The access to AWS.
pub(crate) struct Access {
    pub(crate) identity: Result<Identity>,
    /// The value of `AWS_REGION`.
    pub(crate) region_variable: Option<String>,
    pub(crate) credentials: Option<Result<()>>,
    pub(crate) questions: Vec<Question>,
}

/// A request to EC2 and its outcome.
pub(crate) struct Question {
    pub(crate) action: &'static str,
    /// Whether eni-sync needs the permission; the other requests are only for the doctor.
    pub(crate) is_needed: bool,
    /// Whether the request is made only to find out whether it is permitted, and cannot
    /// succeed.
    pub(crate) is_probe: bool,
    pub(crate) failure: Option<Failure>,
}

impl Facts {
    /// Collects everything; `agent` is the path of the agent's configuration and `plugins` the
    /// directory of the plugins, if they are known. With `probe`, also finds out whether
    /// addresses may be changed.
    ///
    /// # Errors
    /// Code 999 when neither the kernel nor AWS can be asked.
    pub(crate) fn collect(
        sources: Vec<Source>,
        agent: Option<&Path>,
        plugins: Option<&Path>,
        probe: bool,
    ) -> Result<Self> {
        let mut netlink = Netlink::open()?;
        let plugin_directory = plugins.map_or_else(|| plugin_directory(agent), Path::to_owned);
        let (networks, unreadable) = resolve(sources, &mut netlink);
        let configuration = agent.and_then(|path| Configuration::read(path).ok());
        let stores = configuration.clone().unwrap_or_default();
        let mut facts = Self {
            access: Access {
                identity: Err(common::error::Error::internal("not asked")),
                region_variable: environment::region(),
                credentials: None,
                questions: Vec::new(),
            },
            written: Ok(None),
            noted: None,
            watched: agent.map(watched),
            masters: agent.map(masters).unwrap_or_default(),
            wanted: agent.and_then(wanted),
            limits: Limits::default(),
            installed: installed::in_directory(&plugin_directory),
            plugin_directory,
            inventory: None,
            own: Vec::new(),
            neighbours: Vec::new(),
            reservations: BTreeMap::new(),
            agent: socket::ping(),
            ledger: read_ledger(),
            prefixes: read_prefixes().unwrap_or_default(),
            reserved: reserved::addresses(&stores).unwrap_or_default(),
            configuration,
            resources: shown::read(),
            damaged: read_damaged().unwrap_or_default(),
            unread_records: provision::unreadable(),
            living: in_use::of_node(&Ledger::of_node()),
            host: Host::read()?,
            networks,
            unreadable,
        };
        match Inventory::read() {
            Ok(written) => {
                facts.written = Ok(written.as_ref().and_then(|_| inventory::written_ago()));
                facts.noted.clone_from(&written);
                facts.inventory = written;
            }
            Err(error) => facts.written = Err(error),
        }
        facts.ask_aws(probe)?;
        Ok(facts)
    }

    fn ask_aws(&mut self, probe: bool) -> Result<()> {
        let aws = Aws::open();
        self.access.identity = aws.imds()?.identity();
        let Ok(identity) = self.access.identity.clone() else {
            return Ok(());
        };
        let credentials = aws.require_credentials(&identity.region);
        let has_credentials = credentials.is_ok();
        self.access.credentials = Some(credentials);
        if has_credentials {
            self.ask_ec2(aws.ec2(&identity.region)?, identity, probe);
        }
        Ok(())
    }

    fn ask_ec2(&mut self, ec2: &Ec2, identity: Identity, probe: bool) {
        let (id, interfaces) = (identity.instance_id.clone(), Interfaces::read());
        let found = self.ask("DescribeNetworkInterfaces", || ec2.enis_of_instance(&id));
        let limits = self.ask("DescribeInstanceTypes", || {
            ec2.limits(&identity.instance_type)
        });
        let subnets = inventory::subnets(found.as_deref().unwrap_or_default());
        let cidrs = self.ask("DescribeSubnets", || ec2.subnet_cidrs(&subnets));
        self.ask("DescribeInstances", || ec2.instance_state(&id));
        let (Some(found), Some(cidrs)) = (found, cidrs) else {
            return;
        };
        self.limits = limits.unwrap_or_default();
        let inventory = inventory::compose(identity, (&found, &interfaces), &self.limits, &cidrs);
        let for_pods = found
            .iter()
            .filter(|eni| eni::require_releasable(eni).is_ok());
        let for_pods: Vec<Description> = for_pods.cloned().collect();
        let subnets = inventory::subnets(&for_pods);
        if !subnets.is_empty() {
            // The action is known to be permitted. If the call fails, fewer checks are made.
            self.neighbours = ec2.enis_of_subnets(&subnets).unwrap_or_default();
        }
        for subnet in &subnets {
            let reserved = ec2.reservations(subnet);
            self.note("GetSubnetCidrReservations", false, reserved.as_ref().err());
            if let Ok(reserved) = reserved {
                self.reservations.insert(subnet.clone(), reserved);
            }
        }
        if let Some(eni) = for_pods.first().filter(|_| probe) {
            self.probe(ec2, eni);
        }
        self.own = found;
        self.inventory = Some(inventory);
    }

    /// Makes requests that EC2 cannot carry out, to find out whether they are permitted.
    fn probe(&mut self, ec2: &Ec2, eni: &Description) {
        let instance = eni.instance_id.as_deref().unwrap_or_default();
        let own = OwnEni::new(ec2, &eni.id, instance).seen_now();
        for address in NOWHERE {
            let [assign, unassign] = match Family::of(address) {
                Family::V4 => ["AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"],
                Family::V6 => ["AssignIpv6Addresses", "UnassignIpv6Addresses"],
            };
            for (action, answer) in [
                (assign, ec2.assign(&eni.id, &[address])),
                (unassign, own.unassign(&[address])),
            ] {
                self.access.questions.push(Question {
                    action,
                    is_needed: true,
                    is_probe: true,
                    failure: answer.err(),
                });
            }
        }
    }

    /// Makes a request that eni-sync needs, unless an earlier failure shows that all requests
    /// fail.
    fn ask<T>(
        &mut self,
        action: &'static str,
        question: impl FnOnce() -> std::result::Result<T, Failure>,
    ) -> Option<T> {
        let failures = self
            .access
            .questions
            .iter()
            .filter_map(|q| q.failure.as_ref());
        let is_hopeless = |f: &Failure| {
            matches!(
                f.kind,
                Kind::Credentials | Kind::Throttled | Kind::Unanswered
            )
        };
        if failures.into_iter().any(is_hopeless) {
            return None;
        }
        let answer = question();
        self.note(action, true, answer.as_ref().err());
        answer.ok()
    }

    /// Notes the outcome of a request, once for each action.
    fn note(&mut self, action: &'static str, is_needed: bool, failure: Option<&Failure>) {
        if self.access.questions.iter().any(|q| q.action == action) {
            return;
        }
        self.access.questions.push(Question {
            action,
            is_needed,
            is_probe: false,
            failure: failure.cloned(),
        });
    }

    /// The node's ENIs.
    pub(crate) fn enis(&self) -> &[Eni] {
        self.inventory
            .as_ref()
            .map_or(&[], |inventory| &inventory.enis)
    }

    /// The ENI that a network's attachments use.
    pub(crate) fn eni_of(&self, network: &Network) -> Option<&Eni> {
        self.inventory
            .as_ref()?
            .by_mac(network.master()?.hardware_mac())
    }

    /// The name of a pool of prefixes whose interface is not found: any prefix may be of it.
    pub(crate) fn missing_pool(&self) -> Option<&str> {
        let mut pools = self.configuration.as_ref()?.pools.iter();
        let is_missing = |pool: &&Pool| {
            let mac = || pool.master().and_then(|master| master.mac());
            pool.kept().is_some() && mac().is_err()
        };
        pools.find(is_missing).map(|pool| pool.name.as_str())
    }

    /// How many free IPv4 prefixes the agent keeps on an ENI, for networks without addresses or
    /// else for a pool; `None` if it keeps none.
    pub(crate) fn level(&self, eni: &Eni) -> Option<Level> {
        let configuration = self.configuration.as_ref()?;
        let of_name = configuration.prefixes_by_name(eni);
        let of_all = || {
            let prefixes = configuration.prefixes.as_ref()?;
            // Another check reports a missing interface.
            let only = prefixes.master().ok()?.map(|master| master.mac());
            let is_meant = only.is_none_or(|mac| mac.is_ok_and(|mac| mac == eni.mac));
            is_meant.then(|| prefixes.kept())
        };
        let of_pool = || {
            let mac = |pool: &Pool| pool.master().and_then(|master| master.mac());
            let mut pools = configuration.pools.iter();
            let pool = pools.find(|p| p.kept().is_some() && mac(p).is_ok_and(|m| m == eni.mac));
            pool?.kept()?.level(Family::V4)
        };
        let level = of_name
            .or_else(of_all)
            .and_then(|kept| kept.level(Family::V4));
        level.or_else(of_pool)
    }

    /// The overview of the node's ENIs, by EC2's current descriptions.
    pub(crate) fn overview(&self) -> Overview {
        let instance = self.inventory.as_ref();
        let node = Node {
            instance_id: instance.map_or("", |inventory| &inventory.instance_id),
            limits: &self.limits.interfaces,
            host: &self.host,
        };
        Overview::of(&self.own, self.wanted.as_deref(), node)
    }

    /// EC2's current description of an ENI of the node.
    pub(crate) fn own(&self, id: &str) -> Option<&Description> {
        self.own.iter().find(|eni| eni.id == id)
    }
}

/// The networks of the sources, and the sources that cannot be read.
fn resolve(sources: Vec<Source>, netlink: &mut Netlink) -> (Vec<Network>, Vec<Source>) {
    let (mut networks, mut unreadable) = (Vec::new(), Vec::new());
    for source in sources {
        match Network::of_source(source, netlink) {
            Ok(network) => networks.push(network),
            Err(source) => unreadable.push(source),
        }
    }
    (networks, unreadable)
}

/// The directory in the agent's configuration, or the default one. Errors of the configuration
/// are another finding.
fn plugin_directory(agent: Option<&Path>) -> PathBuf {
    let configuration = agent.and_then(|path| Configuration::read(path).ok());
    let configuration = configuration.unwrap_or_default();
    configuration.plugin_directory().to_owned()
}

/// The interfaces that networks, pools and prefixes of the agent name, as texts.
fn masters(agent: &Path) -> Vec<Result<String>> {
    let Ok(configuration) = Configuration::read(agent) else {
        return Vec::new();
    };
    let listed = configuration.networks.listed().iter();
    let networks = listed.map(|n| (format!("network {}", n.name), n.master()));
    let pools = configuration.pools.iter();
    let pools = pools.map(|pool| (format!("pool {}", pool.name), pool.master()));
    let prefixes = configuration.prefixes.iter();
    let prefixes = prefixes.filter_map(|p| Some(("prefixes".to_owned(), p.master().transpose()?)));
    let all = networks.chain(pools).chain(prefixes);
    all.map(|(what, master)| {
        let found = master.and_then(|master| Ok((master, master.link()?)));
        found
            .map(|(master, link)| format!("{what}: {} ({}) by {master}", link.name, link.mac))
            .map_err(|error| Error::config(format!("{what}: {error}")))
    })
    .collect()
}

/// The ENIs of a configuration, if it can be read; another check reports why it cannot.
fn wanted(path: &Path) -> Option<Vec<Wanted>> {
    let configuration = Configuration::read(path).ok()?;
    Some(configuration.enis)
}

fn watched(path: &Path) -> Result<Networks> {
    Configuration::read(path).map(|configuration| configuration.networks)
}

/// The files of the ledger that cannot be read. A missing ledger is another fact.
fn read_damaged() -> Result<Vec<(String, Damage)>> {
    let mut damaged = Vec::new();
    for eni in Ledger::of_node().enis()? {
        let of_eni = eni.damage()?.into_iter();
        damaged.extend(of_eni.map(|damage| (eni.id().to_owned(), damage)));
    }
    Ok(damaged)
}

fn read_prefixes() -> Result<BTreeMap<String, Vec<Prefix>>> {
    let enis = Ledger::of_node().enis()?;
    let read = enis
        .iter()
        .map(|eni| Ok((eni.id().to_owned(), eni.read_prefixes()?)));
    read.collect()
}

fn read_ledger() -> Result<BTreeMap<String, Vec<Entry>>> {
    let enis = Ledger::of_node().enis()?;
    let read = enis
        .iter()
        .map(|eni| Ok((eni.id().to_owned(), eni.read()?)));
    read.collect()
}
