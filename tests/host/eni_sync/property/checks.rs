//! What must be true after each step, and what when it is quiet again.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use harness::eni_lab::{EniId, Event};
use harness::vpc::eventually;
use serde_json::Value;

use super::super::prefixes::contains;
use super::site::{CHOSEN, HIGH, LISTED, Living, NETWORKS, Network, PREFIXES, Site};
use super::story::{FOREIGN, Story};

/// How long the agent may need to see what others have changed.
const LAP: Duration = Duration::from_secs(60);

impl Story {
    /// What must be true at every moment.
    pub(super) fn check(&self) {
        for site in &self.sites {
            for living in &site.pods {
                self.check_pod(site, living);
            }
            self.check_ranges_files(site);
            self.check_givers(site);
        }
        let mut addresses = BTreeSet::new();
        for address in self.sites.iter().flat_map(Site::in_use) {
            assert!(addresses.insert(address), "two pods have {address}");
        }
        let owner = self.vpc.owner(FOREIGN);
        assert_eq!(owner.as_ref(), Some(&self.sites[0].enis[1].0), "{FOREIGN}");
        let violations = self.vpc.lab.invariant_violations();
        assert!(violations.is_empty(), "{violations:#?}");
        self.check_events();
    }

    /// Its addresses are on its ENI, and the ledger knows that they are its own.
    fn check_pod(&self, site: &Site, living: &Living) {
        let (eni, _) = &site.enis[living.eni];
        let ledger = site.aws.ledger_of(eni);
        let id = &living.pod.id;
        for address in &living.addresses {
            let owner = self.vpc.owner(address);
            assert_eq!(owner.as_ref(), Some(eni), "{address} of {id}: {ledger:?}");
            let is_known = living.network != Network::Unchained;
            if is_known && !site.lost.contains(address) {
                let state = ledger.get(address).map(String::as_str);
                assert_eq!(state, Some("held"), "{address} of {id}");
            }
        }
    }

    /// host-local is given only what is on the ENI. Where GC or an operator has removed something,
    /// the agent, if there is one, takes it out of the file in its next lap.
    fn check_ranges_files(&self, site: &Site) {
        let missing = || -> BTreeSet<IpAddr> {
            let of = |network: Network| {
                let (file, eni) = (network.file().unwrap(), &site.enis[network.eni()].0);
                let actual = BTreeSet::from_iter(self.vpc.lab.addresses(eni));
                let prefixes = self.vpc.lab.prefixes(eni);
                let mut listed = listed(site, file);
                listed.retain(|address| {
                    let mut prefixes = prefixes.iter();
                    let text = address.to_string();
                    !actual.contains(address) && !prefixes.any(|p| contains(p, &text))
                });
                listed
            };
            let missing = [Network::Pooled, Network::Listed].map(of);
            missing.into_iter().flatten().collect()
        };
        if site.agent.is_some() && !missing().is_empty() {
            let deadline = Instant::now() + LAP;
            while !missing().is_empty() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(missing(), BTreeSet::new(), "listed and not on the ENI");
        }
    }

    /// No address is in the file of host-local and in a prefix of networks without addresses.
    fn check_givers(&self, site: &Site) {
        let eni = &site.enis[CHOSEN].0;
        let both = || {
            let for_all = prefixes_for_all(site, eni);
            let mut listed = listed(site, LISTED);
            listed.retain(|address| for_all.iter().any(|p| contains(p, &address.to_string())));
            listed
        };
        // Between the two looks EC2 may have chosen it again.
        assert!(both().is_empty() || both().is_empty(), "two give them");
    }

    /// Addresses have left only the ENIs of these nodes, and the one whose node is dead.
    fn check_events(&self) {
        let own = self.sites.iter().flat_map(|site| &site.enis);
        let mut may_lose: Vec<&EniId> = own.map(|(eni, _)| eni).collect();
        may_lose.extend(self.is_terminated.then_some(&self.stranger.1));
        for event in self.vpc.lab.events() {
            if let Event::Unassigned { address, eni, .. } = event {
                assert!(may_lose.contains(&&eni), "{address} has left {eni}");
            }
        }
    }

    /// When all pods have ended and nothing goes wrong any more, only what a pool has is
    /// on the ENIs, and what nobody knows.
    pub(super) fn settle(&mut self) {
        self.let_all_be_well();
        for at in 0..self.sites.len() {
            self.stop_agent(at);
            while let Some(living) = self.sites[at].pods.pop() {
                self.detach(at, living);
            }
        }
        // What was only wanted is looked for twice before it is forgotten.
        for _ in 0..3 {
            for site in &self.sites {
                site.let_time_pass(120);
                for call in NETWORKS.iter().flat_map(|network| site.gc_calls(*network)) {
                    site.aws.run(&call).ok();
                }
                let output = site.aws.command(&["sync", "--once"]);
                assert_eq!(output.status, Some(0), "{output}");
            }
        }
        for site in &mut self.sites {
            assert_quiet(site, usize::MAX);
            site.start_agent();
        }
        for site in &self.sites {
            // The agent may be in the middle of filling its pool.
            let is_quiet = || {
                unneeded(site).is_empty() && pooled(site).len() <= HIGH && known(site) == kept(site)
            };
            eventually(is_quiet);
            assert_quiet(site, HIGH);
            self.assert_prefixes(site);
        }
        self.check();
    }
}

impl Story {
    /// The agent knows every prefix that is on its ENI, and gives back what nobody needs.
    fn assert_prefixes(&self, site: &Site) {
        let eni = &site.enis[CHOSEN].0;
        let actual = || BTreeSet::from_iter(self.vpc.lab.prefixes(eni));
        let count = |is_v6: bool| actual().iter().filter(|p| p.contains(':') == is_v6).count();
        // Host-local and the networks without addresses have their own IPv4 prefixes.
        let is_kept = || count(false) == 2 * PREFIXES && count(true) == PREFIXES;
        let known = || pooled_prefixes(site, eni);
        let is_quiet = || is_kept() && known() == actual();
        assert!(eventually(is_quiet), "{:?} {:?}", known(), actual());
    }
}

impl Site {
    pub(super) fn in_use(&self) -> impl Iterator<Item = &str> {
        let addresses = self.pods.iter().flat_map(|living| &living.addresses);
        addresses.map(String::as_str)
    }
}

/// The addresses that host-local may hand out by a file.
fn listed(site: &Site, file: &str) -> BTreeSet<IpAddr> {
    let Ok(text) = fs::read(site.aws.run_directory().join(file)) else {
        return BTreeSet::new();
    };
    let file: Value = serde_json::from_slice(&text).unwrap();
    let number = |address: &Value| match address.as_str().unwrap().parse().unwrap() {
        IpAddr::V4(v4) => u32::from(v4),
        IpAddr::V6(v6) => panic!("the pool has no {v6}"),
    };
    let sets = file["ranges"].as_array().unwrap();
    let ranges = sets.iter().flat_map(|set| set.as_array().unwrap());
    let numbers = ranges.flat_map(|r| number(&r["rangeStart"])..=number(&r["rangeEnd"]));
    numbers.map(|number| IpAddr::V4(number.into())).collect()
}

/// The addresses of the node's ledgers that are in a state.
fn in_state(site: &Site, state: &str) -> BTreeSet<String> {
    let ledgers = site.enis.iter().map(|(eni, _)| site.aws.ledger_of(eni));
    let entries = ledgers.flatten().filter(|(_, found)| found == state);
    entries.map(|(address, _)| address).collect()
}

fn pooled(site: &Site) -> BTreeSet<String> {
    in_state(site, "pooled")
}

/// The prefixes of an ENI in the ledger whose addresses may be handed out.
fn pooled_prefixes(site: &Site, eni: &EniId) -> BTreeSet<String> {
    let states = site.aws.prefixes_of(eni).into_iter();
    let pooled = states.filter(|(_, state)| state == "pooled");
    pooled.map(|(prefix, _)| prefix).collect()
}

/// Those that are open for networks without addresses.
fn prefixes_for_all(site: &Site, eni: &EniId) -> BTreeSet<String> {
    let mut open = pooled_prefixes(site, eni);
    open.retain(|prefix| {
        let name = format!(".prefix-{}", prefix.replace('/', "-"));
        let text = fs::read_to_string(site.aws.ledger_path_of(eni).join(name));
        text.is_ok_and(|text| !text.contains("rangesFile"))
    });
    open
}

/// What is on the ENIs for no pool, and for nobody who is unknown.
fn unneeded(site: &Site) -> BTreeSet<String> {
    let (pooled, adopted) = (pooled(site), in_state(site, "adopted"));
    let mut found = site.addresses();
    found.retain(|address| !pooled.contains(address) && !adopted.contains(address));
    found
}

fn assert_quiet(site: &Site, most: usize) {
    let found = unneeded(site);
    assert!(found.is_empty(), "{found:?} stays");
    assert!(pooled(site).len() <= most, "{:?}", pooled(site));
    for address in in_state(site, "adopted") {
        let is_own = site.own.contains(&address);
        let is_unknown = address == FOREIGN || site.lost.contains(&address) || is_own;
        assert!(is_unknown, "it is forgotten for whom {address} was");
    }
    assert_eq!(known(site), kept(site), "the ledger has more than the ENIs");
}

/// How much the ledgers have, and how much of that stays.
fn known(site: &Site) -> usize {
    let ledgers = site.enis.iter().map(|(eni, _)| site.aws.ledger_of(eni));
    ledgers.map(|ledger| ledger.len()).sum()
}

fn kept(site: &Site) -> usize {
    pooled(site).len() + in_state(site, "adopted").len()
}
