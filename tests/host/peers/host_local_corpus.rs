//! Generated configurations and sequences of commands, run by the Go host-local and
//! by ours on separate directories: what a user can see must be the same, but for the
//! differences that are listed here. The environment variable `HOST_LOCAL_CASES` makes
//! more of them.

mod difference;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use harness::Output;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use self::difference::{ALL, Difference};
pub(super) use self::random::Random;
use super::host_local::Party;
use crate::host_local::{Network, at_once};

/// How many cases there are, unless somebody wants more.
const CASES: usize = 500;
/// The networks of a case, which share their addresses and their data directory.
const NETWORKS: [&str; 2] = ["n", "m"];

/// What `resolvConf` may find.
const RESOLV_CONFS: [&str; 5] = [
    "nameserver 10.0.0.2\nsearch a.example b.example\noptions ndots:5 edns0\n",
    "domain a.example\n# nameserver 10.0.0.9\n; a comment\n\tnameserver\t2001:db8::2\n",
    "search a\nsearch b\ndomain c\ndomain d\noptions\nnameserver",
    "nameserver 10.0.0.2 10.0.0.3\r\nsortlist 10.0.0.0/8\nNAMESERVER 10.0.0.4",
    "",
];

type Files = BTreeMap<String, String>;

#[test]
fn both_plugins_do_the_same_with_generated_configurations() {
    let threads = 4;
    let number = std::env::var("HOST_LOCAL_CASES");
    let number = number.map_or(CASES, |text| text.parse().expect("it is a number"));
    let outcomes = at_once(threads, |first| {
        let cases = (first..number).step_by(threads);
        let mut seen = BTreeSet::new();
        let adds: usize = cases
            .map(|number| Case::generate(number).compare(&mut seen))
            .sum();
        (seen, adds)
    });
    let seen: BTreeSet<Difference> = outcomes.iter().flat_map(|(seen, _)| seen.clone()).collect();
    let adds: usize = outcomes.iter().map(|(_, adds)| adds).sum();
    assert!(adds > number, "only {adds} addresses were handed out");
    assert_eq!(
        seen,
        BTreeSet::from(ALL),
        "a difference is listed that does not occur"
    );
}

#[derive(Debug)]
struct Case {
    number: usize,
    conf: Value,
    files: Vec<(String, String)>,
    /// The content of the file that `resolvConf` names, if it names one of ours.
    resolv_conf: Option<&'static str>,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    network: &'static str,
    command: &'static str,
    id: &'static str,
    ifname: &'static str,
    cni_args: String,
    /// Keys that replace those of the configuration in this step.
    keys: Vec<(&'static str, Value)>,
}

/// The address with this number in the network of a range set, which may be outside.
fn host(set: u64, ipv6: bool, number: u64) -> String {
    if ipv6 {
        let address: Ipv6Addr = format!("2001:db8:{set}::{number:x}")
            .parse()
            .expect("it is one");
        address.to_string()
    } else {
        format!("10.0.{set}.{number}")
    }
}

impl Case {
    fn generate(number: usize) -> Self {
        let mut random = Random::sequence(number);
        let r = &mut random;
        let families: Vec<bool> = (0..r.below(3) + 1).map(|_| r.chance(40)).collect();
        let mut ipam = json!({"type": "host-local"});
        let sets = families
            .iter()
            .zip(0..)
            .map(|(ipv6, set)| range_set(r, set, *ipv6));
        ipam["ranges"] = Value::Array(sets.collect());
        if r.chance(15) {
            ipam["subnet"] = "192.0.2.0/29".into();
            ipam["rangeStart"] = "192.0.2.3".into();
        }
        if r.chance(30) {
            ipam["routes"] =
                json!([{"dst": "0.0.0.0/0"}, {"dst": "2001:db8::5/32", "gw": "2001:db8::1"}]);
        }
        if r.chance(5) {
            ipam["resolvConf"] = r.pick(&["/etc/hosts", "/nonexistent", ""]).into();
        }
        let resolv_conf = r.chance(10).then(|| r.pick(&RESOLV_CONFS));
        if r.chance(12) {
            spoil(r, &mut ipam);
        }
        let versions = [
            "", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "0.4.0", "1.0.0", "1.0.0", "1.0.0",
        ];
        let mut conf = json!({"cniVersion": r.pick(&versions), "name": "n", "ipam": ipam});
        if r.chance(5) {
            conf["runtimeConfig"] = json!({"ipRanges": [[{"subnet": "198.51.100.0/29"}]]});
        }
        let steps = (0..6 + r.below(5)).map(|_| step(r, &families)).collect();
        let files = (0..r.below(5)).filter_map(|_| file(r, &families)).collect();
        Self {
            number,
            conf,
            files,
            resolv_conf,
            steps,
        }
    }

    /// Runs the case, notes the differences that occur, and returns how many ADDs of
    /// both plugins have succeeded.
    fn compare(&self, seen: &mut BTreeSet<Difference>) -> usize {
        let resolv_conf = self.resolv_conf.map(|text| {
            let file = NamedTempFile::new().expect("a temporary file can be made");
            fs::write(file.path(), text).expect("it can be written");
            file
        });
        let prepare = || self.prepare(resolv_conf.as_ref().map(NamedTempFile::path));
        let [go, ours] = [prepare(), prepare()];
        let mut adds = 0;
        for step in &self.steps {
            let before = files(&go);
            let outputs = [step.run(Party::Go, &go), step.run(Party::Ours, &ours)];
            let after = [files(&go), files(&ours)];
            match self.difference(&before, outputs.each_ref(), after.each_ref()) {
                Ok(difference) => seen.extend(difference),
                Err(what) => panic!(
                    "case {}: {what}\nbefore {before:#?}\nGo {:#?}\nours {:#?}\n{}{}",
                    self.number, after[0], after[1], outputs[0], outputs[1]
                ),
            }
            let both = outputs.iter().all(|output| output.status == Some(0));
            adds += usize::from(both && step.command == "ADD");
            if after[0] != after[1] {
                follow(&go, &ours);
            }
        }
        adds
    }

    /// The network of one party, before anything is done.
    fn prepare(&self, resolv_conf: Option<&Path>) -> Network {
        let mut network = Network::new(json!({}));
        let data_dir = network.conf()["ipam"]["dataDir"].clone();
        network.replace_conf(self.conf.clone());
        network.set("ipam.dataDir", data_dir);
        if let Some(path) = resolv_conf {
            network.set("ipam.resolvConf", path.to_string_lossy().into());
        }
        for (name, content) in &self.files {
            network.write(name, content);
            // It is a directory of host-local already.
            network.write(".boot_id", "another");
        }
        network
    }

    /// The listed difference between two outcomes of one step, or what else differs.
    fn difference(
        &self,
        before: &Files,
        [go, ours]: [&Output; 2],
        [files_of_go, files_of_ours]: [&Files; 2],
    ) -> Result<Option<Difference>, String> {
        let what = match (go.status, ours.status) {
            (Some(0), Some(0)) if normal(go) != normal(ours) => "the result differs",
            (Some(1), Some(1)) if message(go) != message(ours) => "the message differs",
            (of_go, of_ours) if of_go != of_ours => "the exit status differs",
            _ if files_of_go != files_of_ours => "the files differ",
            _ => return Ok(None),
        };
        let command = ours.call.variable("CNI_COMMAND");
        let failed = (go.status == Some(1), ours.status == Some(1));
        let conf = self.conf.to_string();
        let is_empty = |(name, text): (&String, &String)| text.is_empty() && !name.contains("last");
        let reason = match (command.as_str(), failed) {
            _ if conf.contains("\"subnet\":null") => Difference::NullSubnetIsNotSet,
            ("DEL", (true, false)) => Difference::DelWithoutValidation,
            _ if self.starts_at_broadcast() => Difference::StartAtBroadcastIsRefused,
            (_, (true, true)) if [go, ours].iter().any(|o| is_of_system(&o.error().msg)) => {
                Difference::OtherWordsOfTheSystem
            }
            ("ADD", (true, true)) if what == "the files differ" && files_of_ours == before => {
                Difference::FailedAddChangesNothing
            }
            ("ADD", _) if before.iter().any(is_empty) => Difference::EmptyFilesAreReclaimed,
            ("DEL", (false, false)) if only_legacy_files_more(files_of_go, files_of_ours) => {
                Difference::LegacyFilesAreReleasedAlone
            }
            _ => return Err(what.to_owned()),
        };
        Ok(Some(reason))
    }
}

impl Case {
    /// Whether a range begins with the broadcast address and has no end of its own.
    fn starts_at_broadcast(&self) -> bool {
        let sets = self.conf["ipam"]["ranges"].as_array();
        let ranges = sets
            .into_iter()
            .flatten()
            .filter_map(Value::as_array)
            .flatten();
        let is_last = |range: &Value| {
            let start: Ipv4Addr = range["rangeStart"].as_str()?.parse().ok()?;
            let prefix = range["subnet"].as_str()?.split_once('/')?.1.parse().ok()?;
            let hosts = u32::MAX.checked_shr(prefix).unwrap_or(0);
            Some(range["rangeEnd"].is_null() && start.to_bits() & hosts == hosts)
        };
        ranges.filter_map(is_last).any(|is_last| is_last)
    }
}

impl Step {
    fn run(&self, party: Party, network: &Network) -> Output {
        let mut conf = network.conf().clone();
        conf["name"] = self.network.into();
        for (key, value) in &self.keys {
            conf[*key] = value.clone();
        }
        let call = party.call(network, self.command, self.id).conf(&conf);
        call.env("CNI_IFNAME", self.ifname)
            .env("CNI_ARGS", &self.cni_args)
            .run()
    }
}

fn range_set(r: &mut Random, set: u64, ipv6: bool) -> Value {
    let prefix = if ipv6 {
        r.pick(&[125, 126])
    } else {
        r.pick(&[28, 29, 30])
    };
    let mut range = json!({"subnet": format!("{}/{prefix}", host(set, ipv6, 0))});
    for key in ["rangeStart", "rangeEnd", "gateway"] {
        if r.chance(25) {
            range[key] = host(set, ipv6, r.below(6)).into();
        }
    }
    if range.get("rangeStart").is_some() && r.chance(60) {
        range["rangeEnd"] = Value::Null;
    }
    let mut ranges = vec![range];
    if r.chance(25) {
        let second = if ipv6 {
            format!("2001:db8:{set}:1::/126")
        } else {
            format!("10.1.{set}.0/30")
        };
        ranges.push(json!({"subnet": second}));
    }
    ranges.into()
}

/// Makes one thing wrong.
fn spoil(r: &mut Random, ipam: &mut Value) {
    let range = |subnet: &str| json!({"subnet": subnet});
    let wrong = [
        ("ranges", json!([[range("10.0.0.0/31")]])),
        ("ranges", json!([[range("10.0.0.9/24")]])),
        ("ranges", json!([[range("10.0.0.0")]])),
        ("ranges", json!([[range("::ffff:10.0.0.0/120")]])),
        (
            "ranges",
            json!([[range("10.0.0.0/24"), range("10.0.0.0/25")]]),
        ),
        (
            "ranges",
            json!([[range("10.0.0.0/24")], [range("10.0.0.0/25")]]),
        ),
        (
            "ranges",
            json!([[range("10.0.0.0/24"), range("2001:db8::/64")]]),
        ),
        ("ranges", json!([[range("10.0.0.0/24")], []])),
        ("ranges", json!([[range("10.0.0.0/24")], null])),
        ("ranges", json!([[{}]])),
        ("ranges", json!([[{"subnet": null}]])),
        ("ranges", json!([])),
        ("ranges", json!({})),
        ("ranges", Value::Null),
        (
            "ranges",
            json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.255"}]]),
        ),
        (
            "ranges",
            json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}]]),
        ),
        (
            "ranges",
            json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.9"}]]),
        ),
        (
            "ranges",
            json!([[{"subnet": "10.0.0.0/24", "rangeEnd": "2001:db8::1"}]]),
        ),
        (
            "ranges",
            json!([[{"subnet": "10.0.0.0/24", "gateway": "10.0.0"}]]),
        ),
        ("subnet", "10.0.0.0/99".into()),
        ("subnet", Value::Null),
        ("routes", json!([{"dst": "x"}])),
    ];
    let (key, value) = r.pick(&wrong);
    ipam[key] = value;
}

fn step(r: &mut Random, families: &[bool]) -> Step {
    let command = r.pick(&["ADD", "ADD", "ADD", "ADD", "DEL", "DEL", "CHECK"]);
    let mut step = Step {
        network: if r.chance(85) { "n" } else { "m" },
        command,
        id: r.pick(&["c1", "c2", "c3", "c4", "c5"]),
        ifname: r.pick(&["net1", "net1", "net1", "net2"]),
        cni_args: r.pick(&["", "", "", "IgnoreUnknown=1;A=b"]).to_owned(),
        keys: Vec::new(),
    };
    if r.chance(4) {
        step.cni_args = r
            .pick(&["A=b", "IP", "IP=x", ";", "IgnoreUnknown=x", "IP="])
            .to_owned();
    }
    // One address a set at most: of several, Go takes a random one.
    let mut requested: Vec<String> = Vec::new();
    for (ipv6, set) in families.iter().zip(0..) {
        if r.chance(15) {
            requested.push(host(set, *ipv6, r.below(8)));
        }
    }
    if r.chance(3) {
        requested.push(r.pick(&["203.0.113.9", "x", "", "10.0.0.2/99"]).to_owned());
    }
    request(r, &mut step, requested);
    step
}

/// Asks for addresses, each in one of the three ways, or some in two.
fn request(r: &mut Random, step: &mut Step, addresses: Vec<String>) {
    let [mut by_args, mut by_runtime] = [Vec::new(), Vec::new()];
    for address in addresses {
        match r.below(4) {
            0 if step.cni_args.is_empty() => step.cni_args = format!("IP={address}/24"),
            0 | 1 => by_args.push(address),
            2 => by_runtime.push(address),
            _ => {
                by_args.push(address.clone());
                by_runtime.push(address);
            }
        }
    }
    for (key, value) in [
        (
            "args",
            (!by_args.is_empty()).then(|| json!({"cni": {"ips": by_args}})),
        ),
        (
            "runtimeConfig",
            (!by_runtime.is_empty()).then(|| json!({"ips": by_runtime})),
        ),
    ] {
        step.keys.extend(value.map(|value| (key, value)));
    }
}

/// A file that was there before: of a neighbour, of an old plugin, or of a crash.
fn file(r: &mut Random, families: &[bool]) -> Option<(String, String)> {
    let set = r.below(families.len() as u64);
    let ipv6 = families[usize::try_from(set).ok()?];
    if r.chance(20) {
        let last = [
            host(set, ipv6, r.below(8)),
            "10.0.0\0\0".into(),
            "10.0.0.3\n".into(),
            String::new(),
        ];
        return Some((format!("last_reserved_ip.{set}"), r.pick(&last)));
    }
    let contents = [
        "other\r\neth0",
        "c1\r\nnet1",
        "c2",
        "c1\r\nnet1\n",
        "c3\r\nnet2",
        "c1\r\nnet1\r\n",
        " c2\r\nnet1",
        "c1\nnet1",
        "c1\r\n",
        "\r\nnet1",
        "some garbage",
        " \n",
        "\0\0\0\0",
        "",
    ];
    let content = match r.chance(80) {
        true => r.pick(&contents[..contents.len() - 1]),
        false => "",
    };
    Some((host(set, ipv6, r.below(8)), content.to_owned()))
}

/// A result without what the Go plugin of that version prints differently: an empty
/// `dns` in 1.0.0.
fn normal(output: &Output) -> Value {
    let mut result = output.ok();
    if let Some(result) = result.as_object_mut()
        && result.get("dns") == Some(&json!({}))
    {
        result.remove("dns");
    }
    result
}

/// A message in which addresses that could not be had are sorted: Go names them in
/// random order, ours in the order requested.
fn message(output: &Output) -> String {
    let msg = output.error().msg;
    let Some((said, addresses)) = msg.split_once("requested IPs: ") else {
        return msg;
    };
    let mut addresses: Vec<&str> = addresses.split(' ').collect();
    addresses.sort_unstable();
    [&[said], addresses.as_slice()].concat().join(" ")
}

/// Whether this is the text of a failed system call, or of a JSON reader.
fn is_of_system(msg: &str) -> bool {
    let texts = [
        "open ",
        "json: ",
        "invalid CIDR address: x",
        "failed to load the host-local configuration",
    ];
    texts.iter().any(|text| msg.starts_with(text))
}

/// Whether ours has kept nothing but files that name a container only.
fn only_legacy_files_more(go: &Files, ours: &Files) -> bool {
    let kept: Vec<&String> = ours
        .iter()
        .filter(|(name, _)| !go.contains_key(*name))
        .map(|(_, text)| text)
        .collect();
    go.keys().all(|name| ours.contains_key(name))
        && kept.iter().all(|text| !text.trim().contains('\r'))
}

/// The files of all networks, with the name of the network.
fn files(network: &Network) -> Files {
    let of_network = |name: &'static str| {
        let files = network.files_of(name).into_iter();
        files.map(move |(file, content)| (format!("{name}/{file}"), content))
    };
    NETWORKS.into_iter().flat_map(of_network).collect()
}

/// Lets ours continue from what Go's has.
fn follow(go: &Network, ours: &Network) {
    let path = |name: &String| ours.data_dir().join(name);
    for name in files(ours).keys() {
        fs::remove_file(path(name)).expect("the file can be removed");
    }
    for name in NETWORKS {
        fs::create_dir_all(ours.data_dir().join(name)).expect("the directory can be made");
    }
    for (name, content) in files(go) {
        fs::write(path(&name), content).expect("the file can be written");
    }
}
