//! host-local, called as a delegating plugin calls it, on a directory of its own.

mod allocation;
mod bad_disk;
mod configuration;
mod disk;
mod ended;
mod exclude;
mod faults;
mod foreign;
mod garbage;
pub(crate) mod index;
mod log_file;
mod log_of_others;
mod no_room;
mod ranges_file;
mod release;
mod unreadable;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use harness::{Call, Output};
use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A path that leads to no namespace: host-local needs none.
pub(crate) const NO_NETNS: &str = "/run/netns/none";

/// What an address file remembers of its container.
const ATTRIBUTE: &str = "trusted.eni-cni.container";
/// A boot that is not this one.
pub(crate) const EARLIER: &str = "earlier";

/// A network with one range set, unless its `ipam` section says otherwise, and a
/// data directory of its own.
pub(crate) struct Network {
    state: TempDir,
    conf: Value,
}

impl Network {
    /// The network `n` of version 1.1.0 with this `ipam` section, to which type and
    /// data directory are added.
    pub(crate) fn new(ipam: Value) -> Self {
        let state = tempfile::tempdir().expect("a temporary directory can be made");
        let mut conf = json!({"cniVersion": "1.1.0", "name": "n", "type": "ipvlan", "ipam": ipam});
        conf["ipam"]["type"] = "host-local".into();
        conf["ipam"]["dataDir"] = state.path().to_str().into();
        Self { state, conf }
    }

    /// A network whose one range set is this subnet.
    pub(crate) fn of(subnet: &str) -> Self {
        Self::new(json!({"ranges": [[{"subnet": subnet}]]}))
    }

    /// The same with another value at a path of keys, such as `ipam.routes`.
    pub(crate) fn with(mut self, path: &str, value: Value) -> Self {
        self.set(path, value);
        self
    }

    pub(crate) fn set(&mut self, path: &str, value: Value) {
        let keys = path.split('.');
        *keys.fold(&mut self.conf, |conf, key| &mut conf[key]) = value;
    }

    /// The network's configuration.
    pub(crate) fn conf(&self) -> &Value {
        &self.conf
    }

    /// Replaces the whole configuration.
    pub(crate) fn replace_conf(&mut self, conf: Value) {
        self.conf = conf;
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> &Path {
        self.state.path()
    }

    /// A path below the network's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.state.path().join("n").join(name)
    }

    /// A call about the interface `net1` of a container.
    pub(crate) fn call(&self, command: &str, container_id: &str) -> Call {
        Call::ours("host-local", command)
            .attachment(container_id, "net1", NO_NETNS)
            .conf(&self.conf)
    }

    pub(crate) fn add(&self, container_id: &str) -> Output {
        self.call("ADD", container_id).run()
    }

    pub(crate) fn del(&self, container_id: &str) -> Output {
        self.call("DEL", container_id).run()
    }

    pub(crate) fn check(&self, container_id: &str) -> Output {
        self.call("CHECK", container_id).run()
    }

    pub(crate) fn status(&self) -> Output {
        Call::ours("host-local", "STATUS").conf(&self.conf).run()
    }

    pub(crate) fn gc(&self, valid: Value) -> Output {
        let mut conf = self.conf.clone();
        conf["cni.dev/valid-attachments"] = valid;
        Call::ours("host-local", "GC").conf(&conf).run()
    }

    /// The files of the network with their content, but for the lock and dot-files.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        self.files_of("n")
    }

    /// The same of any network that has the same data directory.
    pub(crate) fn files_of(&self, network: &str) -> BTreeMap<String, String> {
        let directory = self.state.path().join(network);
        let Ok(entries) = fs::read_dir(&directory) else {
            return BTreeMap::new();
        };
        let names = entries.map(|entry| entry.expect("the directory is readable").file_name());
        names
            .map(|name| name.into_string().expect("file names are text"))
            .filter(|name| name != "lock" && !name.starts_with('.'))
            .map(|name| (name.clone(), content(&directory.join(&name))))
            .collect()
    }

    /// The names of the reservation files, sorted as texts.
    pub(crate) fn reserved(&self) -> Vec<String> {
        let names = self.files().into_keys();
        names
            .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
            .collect()
    }

    /// Puts a file into the network's directory, as another plugin would have.
    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::create_dir_all(self.path("")).expect("the data directory is writable");
        fs::write(self.path(name), content).expect("the network's directory is writable");
    }

    /// What the file of a reservation remembers of its container.
    pub(crate) fn remembered(&self, name: &str) -> Option<String> {
        let mut value = [0; 1024];
        let length = lgetxattr(self.path(name), ATTRIBUTE, &mut value[..]).ok()?;
        Some(String::from_utf8_lossy(&value[..length]).into_owned())
    }

    /// Lets a reservation be of an earlier boot, if its file remembers any.
    pub(crate) fn date_back(&self, name: &str) {
        self.remember(name, &[("bootId", EARLIER.into())]);
    }

    /// Changes what the file of a reservation remembers, if it remembers anything.
    pub(crate) fn remember(&self, name: &str, values: &[(&str, Value)]) {
        if let Some(text) = self.remembered(name) {
            let mut container: Value = serde_json::from_str(&text).expect("it is JSON");
            for (key, value) in values {
                container[*key] = value.clone();
            }
            let value = container.to_string();
            let flags = XattrFlags::REPLACE;
            lsetxattr(self.path(name), ATTRIBUTE, value.as_bytes(), flags)
                .expect("attributes can be set");
        }
    }

    /// Lets a file be of last century.
    pub(crate) fn age(&self, name: &str) {
        let file = File::options()
            .write(true)
            .open(self.path(name))
            .expect("the file exists");
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(900_000_000);
        file.set_modified(moment).expect("the time can be set");
    }
}

/// What a file has, or what stands in its place.
fn content(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => {
            String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
        }
        Ok(metadata) => format!("{:?}", metadata.file_type()),
        Err(cause) => cause.to_string(),
    }
}

/// The addresses in a result of version 0.3.0 or later.
#[track_caller]
pub(crate) fn addresses(output: &Output) -> Vec<String> {
    let result = output.ok();
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    let addresses = ips
        .iter()
        .map(|ip| ip["address"].as_str().unwrap_or_default().to_owned());
    addresses.collect()
}

/// The one address in a result.
#[track_caller]
pub(crate) fn address(output: &Output) -> String {
    let addresses = addresses(output);
    assert_eq!(addresses.len(), 1, "there is not one address\n{output}");
    addresses.concat()
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::yield_now();
    }
}

/// Runs `work` for every number below `count`, all at once.
pub(crate) fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..count).map(|n| scope.spawn(move || work(n))).collect();
        running
            .into_iter()
            .map(|t| t.join().expect("no thread panics"))
            .collect()
    })
}
