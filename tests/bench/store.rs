//! Directories of host-local with a network, one for each party or one for both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use harness::{Call, go_plugin, our_plugin};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Cost, run};
use crate::samples::{BOTH, Party, Step, attachment};

/// A namespace that is not looked at.
const NO_NETNS: &str = "/run/netns/none";
/// The file with the address that was given last.
const LAST: &str = "last_reserved_ip.0";
const NETWORK: &str = "n";

/// A directory with the reservations of one network.
#[derive(Debug)]
pub struct Store {
    directory: TempDir,
    subnet: String,
}

impl Store {
    /// A network without reservations.
    pub fn new(subnet: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        fs::create_dir(directory.path().join(NETWORK)).expect("it is writable");
        Self {
            directory,
            subnet: subnet.to_owned(),
        }
    }

    /// Reserves addresses, each for a container of its own. It is the turn of the one
    /// behind the last of them.
    pub fn reserve(&self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        self.fill(addresses, |path, address| {
            fs::write(path, format!("container-{:08x}\r\nnet1", address.to_bits()))
        });
    }

    /// Reserves addresses that are reserved in another store for the same containers. To
    /// a disk, more links to a file are far less work than more files.
    fn reserve_as_in(&self, other: &Self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        self.fill(addresses, |path, address| {
            fs::hard_link(other.network().join(address.to_string()), path)
        });
    }

    fn fill(
        &self,
        addresses: impl IntoIterator<Item = Ipv4Addr>,
        make: impl Fn(&Path, Ipv4Addr) -> io::Result<()>,
    ) {
        let directory = self.network();
        let mut last = None;
        for address in addresses {
            let made = make(&directory.join(address.to_string()), address);
            made.expect("the store is writable");
            last = Some(address);
        }
        if let Some(last) = last {
            fs::write(directory.join(LAST), last.to_string()).expect("the store is writable");
        }
    }

    fn network(&self) -> PathBuf {
        self.directory.path().join(NETWORK)
    }

    /// The configuration of the network.
    pub fn conf(&self) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": NETWORK, "type": "ipvlan",
            "ipam": { "type": "host-local", "dataDir": self.directory.path(), "subnet": self.subnet },
        })
    }

    /// A call of a party's plugin about the container `id`.
    pub fn call(&self, party: Party, command: &str, id: &str) -> Call {
        call(party, "host-local", command)
            .attachment(id, "net1", NO_NETNS)
            .conf(&self.conf())
    }

    /// What ADD and DEL of one container cost a party.
    pub fn attach(&self, party: Party) -> Vec<(Step, Cost)> {
        let id = party.name();
        let (add, _) = run(&self.call(party, "ADD", id));
        let (del, _) = run(&self.call(party, "DEL", id));
        attachment(add, del)
    }

    /// How many addresses are reserved.
    pub fn reserved(&self) -> usize {
        let files = fs::read_dir(self.network()).expect("it is readable");
        let names = files.flatten().map(|file| file.file_name());
        let addresses: BTreeSet<Ipv4Addr> = names
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect();
        addresses.len()
    }
}

/// A call of a party's plugin, whose delegates are the same party's.
pub fn call(party: Party, plugin: &str, command: &str) -> Call {
    let program = match party {
        Party::Go => go_plugin(plugin),
        Party::Ours | Party::Reference => our_plugin(plugin),
        Party::Alone => our_plugin(&format!("alone/{plugin}")),
    };
    let directory = program.parent().expect("a plugin is in a directory");
    let directory = directory.display().to_string();
    Call::new(program, command).env("CNI_PATH", &directory)
}

/// A store for each party.
#[derive(Debug)]
pub struct Stores(BTreeMap<Party, Store>);

impl Stores {
    /// Stores of the same network without reservations.
    pub fn new(parties: &[Party], subnet: &str) -> Self {
        let store = |party: &Party| (*party, Store::new(subnet));
        Self(parties.iter().map(store).collect())
    }

    /// Reserves the same addresses for both parties.
    pub fn reserve(&self, addresses: impl Iterator<Item = Ipv4Addr> + Clone) {
        let [ours, go] = BOTH.map(|party| self.of(party));
        ours.reserve(addresses.clone());
        go.reserve_as_in(ours, addresses);
    }

    pub fn of(&self, party: Party) -> &Store {
        &self.0[&party]
    }
}

/// The addresses of 10.0.0.0 with these numbers.
pub fn addresses<N>(numbers: N) -> impl Iterator<Item = Ipv4Addr> + Clone
where
    N: Iterator<Item = u32> + Clone,
{
    let first = Ipv4Addr::new(10, 0, 0, 0).to_bits();
    let address = move |number| Ipv4Addr::from_bits(first + number);
    numbers.map(address)
}
