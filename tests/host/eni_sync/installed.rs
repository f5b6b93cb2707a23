//! Plugins that stay installed: others put programs of the same names into the directory, at
//! any moment, and the agent puts ours back. What serves a pod is seen by what it does.

mod shown;
mod unwritable;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fixtures::scrape::{ADDRESS, Scrape, get, try_get};
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use harness::{Call, Output, Pod, go_plugin, our_plugin, run_tool};
use serde_json::{Value, json};

pub use self::unwritable::FullDisk;

const PLUGINS: [&str; 3] = ["host-device", "host-local", "ipvlan"];
/// What the agent calls the directory.
pub const INSIDE: &str = "/run/bin";

/// A node whose plugins are installed in a directory of its own.
pub struct Site {
    pub node: VpcNode,
    /// The directory, as the test sees it.
    pub bin: PathBuf,
}

impl Site {
    pub fn new(vpc: &Vpc) -> Self {
        let site = Self::empty(vpc);
        site.install("our-plugins", |_| {});
        site
    }

    pub fn empty(vpc: &Vpc) -> Self {
        let node = vpc.node();
        let bin = node.run_directory().join("bin");
        fs::create_dir(&bin).unwrap();
        Self { node, bin }
    }

    /// Installs our plugins from a directory `name`, each after `change` was made to it.
    pub fn install(&self, name: &str, change: impl Fn(&Path)) {
        self.prepare(name, change);
        let output = self.try_install(name);
        assert_eq!(output.status, Some(0), "{output}");
    }

    /// Makes a directory `name` with our plugins, each after `change` was made to it.
    pub fn prepare(&self, name: &str, change: impl Fn(&Path)) {
        let source = self.node.run_directory().join(name);
        if !source.exists() {
            fs::create_dir(&source).unwrap();
            for plugin in PLUGINS {
                copy(&our_plugin(plugin), &source.join(plugin));
                change(&source.join(plugin));
            }
        }
    }

    /// Installs the plugins of a directory that is there, which may fail.
    pub fn try_install(&self, name: &str) -> Output {
        let source = format!("/run/{name}");
        self.node
            .command(&["install", "--source", &source, "--target", INSIDE])
    }

    /// The names in the directory with their content.
    pub fn programs(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(&self.bin).unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.path().is_file());
        let pair = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        };
        files.map(pair).collect()
    }

    fn configuration(plugins: &Value) -> Value {
        json!({ "cniPath": INSIDE, "metrics": ADDRESS, "plugins": plugins })
    }

    /// An agent that may not be ready yet.
    pub fn spawn_agent(&self, plugins: &Value) -> Agent {
        Agent::spawn(&self.node, &Self::configuration(plugins))
    }

    pub fn agent(&self, plugins: &Value) -> Agent {
        let agent = Agent::start(&self.node, &Self::configuration(plugins));
        // The agent before may have just closed the port.
        let is_ready = || try_get(&self.node, "/readyz").is_ok_and(|(status, _)| status == 200);
        assert!(eventually(is_ready));
        agent
    }

    /// Renames Go's plugin over the file `name`, as the VPC CNI does.
    fn replace(&self, name: &str, plugin: &str) {
        let temporary = self.bin.join(format!("{name}.tmp"));
        copy(&go_plugin(plugin), &temporary);
        fs::rename(temporary, self.bin.join(name)).unwrap();
    }

    fn is_ours(&self, name: &str) -> bool {
        let plugin = name.strip_prefix("eni-").unwrap_or(name);
        fs::read(self.bin.join(name)).is_ok_and(|program| {
            let ours = fs::read(our_plugin(plugin)).unwrap();
            program == ours
        })
    }

    fn restored(&self, name: &str) -> f64 {
        let series = format!("plugins_restored_total{{plugin=\"{name}\"}}");
        Scrape::of(&self.node).value(&series)
    }

    /// An ADD or a DEL of host-local by the program `name`.
    pub fn call(&self, name: &str, command: &str, id: &str, ipam: &Value) -> Call {
        let conf = json!({ "cniVersion": "1.0.0", "name": "n", "type": name, "ipam": ipam });
        let call = Call::new(self.bin.join(name), command).conf(&conf);
        call.attachment(id, "net1", "/no/such/netns")
    }

    fn readiness(&self) -> String {
        get(&self.node, "/readyz").1
    }
}

/// Another process copies: see `binaries`.
fn copy(from: &Path, to: &Path) {
    let output = run_tool("cp", &[from.to_str().unwrap(), to.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
}

/// How many pods start meanwhile; `ENI_SYNC_PODS` says more.
fn pods() -> usize {
    let wanted = std::env::var("ENI_SYNC_PODS").ok();
    wanted.map_or(100, |wanted| wanted.parse().expect("it is a number"))
}

/// Runs `change` again and again, `rounds` times, while pods start; returns what an ADD of each
/// of them has got. Each pod whose number is even ends again.
fn while_pods_start(
    site: &Site,
    name: &str,
    ipam: &Value,
    rounds: usize,
    change: impl Fn(usize),
) -> Vec<String> {
    let (done, started, least) = (AtomicBool::new(false), AtomicUsize::new(0), pods());
    thread::scope(|scope| {
        let pods = scope.spawn(|| {
            let mut addresses = Vec::new();
            let mut number = 0;
            while !done.load(Ordering::Relaxed) || number < least {
                let id = format!("c{number}");
                let added = site.node.node.run(&site.call(name, "ADD", &id, ipam));
                let result = added.ok();
                addresses.push(result["ips"][0]["address"].as_str().unwrap().to_owned());
                if number % 2 == 0 {
                    site.node.node.run(&site.call(name, "DEL", &id, ipam)).ok();
                }
                number += 1;
                started.store(number, Ordering::Relaxed);
            }
            addresses
        });
        // A thread that has failed is joined all the same.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..rounds {
                let is_due = || started.load(Ordering::Relaxed) >= round * least / rounds;
                assert!(eventually(|| is_due() || pods.is_finished()));
                change(round);
            }
        }));
        done.store(true, Ordering::Relaxed);
        let addresses = pods.join().unwrap();
        outcome.unwrap();
        addresses
    })
}

/// Lets Go's host-local be renamed over ours, and ours come back.
fn replace_and_await(site: &Site) {
    site.replace("host-local", "host-local");
    assert!(eventually(|| site.is_ours("host-local")));
}

#[test]
fn no_pod_of_a_name_of_our_own_is_served_by_gos_plugin() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    let _agent = site.agent(&Value::Null);
    // Go's plugin takes no notice of `exclude`.
    let ipam = json!({
        "type": "eni-host-local", "subnet": "10.0.0.0/16", "exclude": ["10.0.0.0/17"],
    });
    let addresses = while_pods_start(&site, "eni-host-local", &ipam, 5, |_| {
        replace_and_await(&site);
    });
    for address in &addresses {
        let third: u8 = address.split('.').nth(2).unwrap().parse().unwrap();
        assert!(third >= 128, "{address} of {addresses:?}");
    }
    assert_eq!(site.restored("host-local"), 5.0);
    assert_eq!(site.restored("eni-host-local"), 0.0);
}

#[test]
fn a_pod_of_a_name_that_go_has_too_is_served_by_one_of_the_two() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    let agent = site.agent(&Value::Null);
    let ipam = json!({ "type": "host-local", "subnet": "10.0.0.0/16" });
    let addresses = while_pods_start(&site, "host-local", &ipam, 5, |_| {
        replace_and_await(&site);
    });
    let different: BTreeSet<&String> = addresses.iter().collect();
    assert_eq!(different.len(), addresses.len());
    assert!(PLUGINS.iter().all(|name| site.is_ours(name)));
    let said = format!("{INSIDE}/host-local was the Go plugin; it is this suite's, version ");
    assert_eq!(agent.log().matches(&said).count(), 5, "{}", agent.log());
    assert_eq!(site.readiness(), "ok");
}

#[test]
fn our_plugin_is_back_within_a_second() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    let _agent = site.agent(&Value::Null);
    // The best of some tries, on a machine that does other things too.
    let times = (0..5).map(|_| {
        site.replace("ipvlan", "ipvlan");
        let start = Instant::now();
        assert!(eventually(|| site.is_ours("ipvlan")));
        start.elapsed()
    });
    let best = times.min().unwrap();
    assert!(best < Duration::from_secs(1), "{best:?}");
}

/// `cp` writes into the file that is there, whatever other names that has.
#[test]
fn what_is_written_into_one_name_is_in_no_other() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    let number = |name: &str| fs::metadata(site.bin.join(name)).unwrap().ino();
    assert_ne!(number("ipvlan"), number("eni-ipvlan"));
    let _agent = site.agent(&Value::Null);
    copy(&go_plugin("ipvlan"), &site.bin.join("ipvlan"));
    assert!(site.is_ours("eni-ipvlan"));
    assert!(eventually(|| site.is_ours("ipvlan")));
}

/// As on a node whose agent was not there when the VPC CNI started.
#[test]
fn what_was_replaced_or_removed_before_the_agent_starts_is_back() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    site.replace("ipvlan", "ipvlan");
    fs::write(site.bin.join("host-local"), "").unwrap();
    fs::remove_file(site.bin.join("host-device")).unwrap();
    // Nobody else has a plugin of this name; the copy is that of the agent's image.
    fs::remove_file(site.bin.join("eni-host-device")).unwrap();
    let _agent = site.agent(&Value::Null);
    let names = PLUGINS.map(|name| [name.to_owned(), format!("eni-{name}")]);
    let is_ours = |name: &String| site.is_ours(name);
    assert!(eventually(|| names.as_flattened().iter().all(is_ours)));
}

/// As from the image, which has the plugins once.
#[test]
fn the_program_with_all_plugins_is_installed_and_restored_under_all_names() {
    let vpc = Vpc::new();
    let site = Site::empty(&vpc);
    let source = site.node.run_directory().join("image");
    fs::create_dir(&source).unwrap();
    copy(&our_plugin("eni-cni"), &source.join("eni-cni"));
    let arguments = ["install", "--source", "/run/image", "--target", INSIDE];
    let install = || {
        let output = site.node.command(&arguments);
        assert_eq!(output.status, Some(0), "{output}");
        output.stderr
    };
    install();
    let program = fs::read(our_plugin("eni-cni")).unwrap();
    let is_ours = |name: &str| fs::read(site.bin.join(name)).is_ok_and(|found| found == program);
    let number = |name: &str| fs::metadata(site.bin.join(name)).unwrap().ino();
    let own = PLUGINS.map(|name| format!("eni-{name}"));
    let mut files = BTreeSet::from([number("eni-cni")]);
    for (name, own) in PLUGINS.iter().zip(&own) {
        assert!(is_ours(name) && is_ours(own));
        assert_eq!(number(own), number("eni-cni"));
        files.insert(number(name));
    }
    assert_eq!(files.len(), 1 + PLUGINS.len());
    assert_eq!(install().matches("is up to date").count(), 7);
    let _agent = site.agent(&Value::Null);
    site.replace("host-local", "host-local");
    fs::remove_file(site.bin.join("eni-host-local")).unwrap();
    assert!(eventually(
        || is_ours("host-local") && is_ours("eni-host-local")
    ));
}

#[test]
fn a_directory_that_appears_later_is_watched() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    let _agent = site.agent(&Value::Null);
    assert!(site.is_ours("eni-ipvlan"));
    fs::rename(&site.bin, site.node.run_directory().join("old")).unwrap();
    fs::create_dir(&site.bin).unwrap();
    assert!(eventually(|| site.is_ours("eni-ipvlan")));
    site.replace("ipvlan", "ipvlan");
    assert!(eventually(|| site.is_ours("ipvlan")));
}

#[test]
fn a_program_that_replaces_ours_again_and_again_wins_and_is_named() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    let agent = site.agent(&Value::Null);
    for _ in 0..10 {
        replace_and_await(&site);
    }
    site.replace("host-local", "host-local");
    let finding =
        format!("{INSIDE}/host-local is the Go plugin: this suite's program was replaced 10 times");
    assert!(eventually(|| site.readiness().contains(&finding)));
    assert!(!site.is_ours("host-local"));
    assert!(site.is_ours("eni-host-local"));
    assert_eq!(site.restored("host-local"), 10.0);
    assert_eq!(agent.log().matches(&finding).count(), 1, "{}", agent.log());
    // The others are not concerned.
    site.replace("ipvlan", "ipvlan");
    assert!(eventually(|| site.is_ours("ipvlan")));
}

#[test]
fn an_administrator_can_turn_it_off() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    let agent = site.agent(&json!(false));
    site.replace("ipvlan", "ipvlan");
    let finding = format!("{INSIDE}/ipvlan is the Go plugin: the agent does not put ours back");
    assert!(eventually(|| site.readiness().contains(&finding)));
    assert!(eventually(|| agent.log().contains(&finding)));
    assert_eq!(agent.log().matches(&finding).count(), 1, "{}", agent.log());
    assert!(!site.is_ours("ipvlan"));
    let series = |origin: &str| {
        format!("installed_plugins{{plugin=\"ipvlan\",origin=\"{origin}\",version=\"\"}}")
    };
    assert_eq!(Scrape::of(&site.node).value(&series("go")), 1.0);
}

/// A program of another version, which is as long.
pub fn of_another_version(program: &Path) {
    let mut bytes = fs::read(program).unwrap();
    let text = format!("version {}\n", env!("CARGO_PKG_VERSION"));
    let at = bytes
        .windows(text.len())
        .position(|part| part == text.as_bytes());
    let at = at.expect("a plugin has its version in it");
    bytes[at + text.len() - 2] = b'9';
    let other = program.with_extension("other");
    fs::write(&other, bytes).unwrap();
    fs::set_permissions(&other, fs::metadata(program).unwrap().permissions()).unwrap();
    fs::rename(other, program).unwrap();
}

#[test]
fn no_pod_fails_during_an_update_or_a_return_to_the_version_before() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    let agent = site.agent(&Value::Null);
    let ipam = json!({ "type": "host-local", "subnet": "10.0.0.0/16" });
    while_pods_start(&site, "host-local", &ipam, 6, |round| match round % 2 {
        0 => site.install("other-plugins", of_another_version),
        _ => site.install("our-plugins", |_| {}),
    });
    // What is ours in any version is left alone.
    assert!(
        !agent.log().contains("version 0.1.0 again"),
        "{}",
        agent.log()
    );
    assert_eq!(site.restored("host-local"), 0.0);
    site.install("other-plugins", of_another_version);
    let other = fs::read(site.bin.join("eni-host-local")).unwrap();
    site.replace("host-local", "host-local");
    // It is the version that was installed last that comes back.
    assert!(eventually(|| fs::read(site.bin.join("host-local"))
        .unwrap()
        == other));
}

#[test]
fn a_plugin_does_the_same_under_either_name() {
    let vpc = Vpc::new();
    let site = Site::new(&vpc);
    let pod = Pod::new("c1");
    site.node.add_device();
    let conf = |name: &str, ipam: &str| {
        json!({
            "cniVersion": "1.1.0", "name": "dpdk", "type": name, "device": "dev7",
            "ipam": { "type": ipam, "subnet": "10.9.0.0/24", "exclude": ["10.9.0.2"] },
        })
    };
    let call = |name: &str, ipam: &str, command: &str| {
        let call = Call::new(site.bin.join(name), command).conf(&conf(name, ipam));
        call.env("CNI_PATH", site.bin.to_str().unwrap())
            .pod(&pod, "net1")
    };
    let node = &site.node.node;
    node.run(&call("eni-host-device", "eni-host-local", "STATUS"))
        .ok();
    let added = node.run(&call("eni-host-device", "eni-host-local", "ADD"));
    assert_eq!(added.ok()["ips"][0]["address"], "10.9.0.3/24");
    let is_record = |file: &String| file.starts_with("eni-cni/host-device/dpdk/");
    assert!(node.files().iter().any(is_record), "{:?}", node.files());
    // A runtime whose configuration was changed meanwhile ends it by the other name.
    node.run(&call("host-device", "host-local", "DEL")).ok();
    assert!(!node.files().iter().any(is_record), "{:?}", node.files());
    assert!(node.netns.links().contains(&"dev7".to_owned()));
    assert!(!node.state().join("networks/dpdk/10.9.0.3").exists());
}
