//! Nodes and pods. A node has its own network namespace and state directory: `/var/lib/cni` is
//! a temporary directory for its plugins, so tests affect neither each other nor the machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output as ProcessOutput};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::dup2;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fault::{Strike, Struck, strike};
use crate::pci::{Alone, alone};
use crate::{Call, Output};

const NO_SOURCE: Option<&Path> = None;
const NO_TEXT: Option<&str> = None;

/// A network namespace that exists as long as this value.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

/// The path of a namespace that has ended, which leads to no namespace while this value
/// exists.
#[derive(Debug)]
pub struct Ended(#[expect(dead_code, reason = "it is only kept open")] OwnedFd);

impl Namespace {
    /// A new namespace with only a loopback interface, which is up.
    pub fn new() -> Self {
        let namespace = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|errno| {
                panic!("cannot make a network namespace: {errno}; run the tests as root")
            });
            Self::of_thread()
        });
        let namespace = namespace.join().expect("a namespace can be made");
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// The namespace of the calling thread.
    pub fn of_thread() -> Self {
        let file = File::open("/proc/thread-self/ns/net").expect("/proc is mounted");
        Self { file }
    }

    /// The namespace that `path` leads to, such as `/proc/1/ns/net`.
    pub fn at(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let file = File::open(path).unwrap_or_else(|cause| panic!("cannot open {path:?}: {cause}"));
        Self { file }
    }

    /// A path that leads to it while this value exists.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Ends it. Its path leads to no namespace while the returned value exists. Otherwise the
    /// path could lead to the next file that any test opens, even to another namespace.
    pub fn end(self) -> Ended {
        let nothing = File::open("/dev/null").expect("there is a null device");
        let mut descriptor = OwnedFd::from(self.file);
        dup2(nothing, &mut descriptor).expect("a descriptor can lead elsewhere");
        Ended(descriptor)
    }

    /// Runs `work` on a thread inside the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = || {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
                work()
            };
            scope
                .spawn(inside)
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` inside, which must succeed.
    #[track_caller]
    pub fn ip(&self, arguments: &[&str]) -> String {
        self.tool("ip", arguments)
    }

    /// Runs a command inside, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.try_tool(program, arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {arguments:?} failed: {}\n{text}{errors}",
            output.status
        );
        text
    }

    /// Runs a command inside.
    pub fn try_tool(&self, program: &str, arguments: &[&str]) -> ProcessOutput {
        self.run(|| run_tool(program, arguments))
    }

    /// The JSON that `ip -json -details …` prints inside.
    #[track_caller]
    pub fn ip_json(&self, arguments: &[&str]) -> Value {
        let text = self.ip(&[&["-json", "-details"], arguments].concat());
        let text = if text.trim().is_empty() { "[]" } else { &text };
        serde_json::from_str(text)
            .unwrap_or_else(|cause| panic!("ip {arguments:?} did not print JSON: {cause}\n{text}"))
    }

    /// The link `name` and its addresses in the JSON of `ip`; `None` when it does not exist.
    pub fn link(&self, name: &str) -> Option<Value> {
        let all = self.ip_json(&["address", "show"]);
        all.as_array()?
            .iter()
            .find(|link| link["ifname"] == name)
            .cloned()
    }

    /// The names of all links, sorted.
    pub fn links(&self) -> Vec<String> {
        let all = self.ip_json(&["link", "show"]);
        let mut names: Vec<String> = all
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|l| l["ifname"].as_str().map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    /// The addresses of the link `name` with their prefix lengths, except link-local ones,
    /// sorted.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        let link = self
            .link(name)
            .unwrap_or_else(|| panic!("there is no link {name:?}, only {:?}", self.links()));
        addresses_of(&link)
    }

    /// Every link in the JSON of `ip`, in the order of the indices, without values that change
    /// by themselves.
    pub fn description(&self) -> Vec<Value> {
        let all = self.ip_json(&["address", "show"]);
        let links = all.as_array().expect("ip prints a list").iter();
        let mut links: Vec<Value> = links.map(lasting).collect();
        links.sort_by_key(|link| link["ifindex"].as_u64());
        links
    }
}

fn addresses_of(link: &Value) -> Vec<String> {
    let infos = link["addr_info"].as_array().cloned().unwrap_or_default();
    let mut addresses: Vec<String> = infos
        .iter()
        .filter(|info| info["scope"] != "link")
        .map(|info| {
            format!(
                "{}/{}",
                info["local"].as_str().unwrap_or_default(),
                info["prefixlen"]
            )
        })
        .collect();
    addresses.sort();
    addresses
}

/// The properties of a link that do not change by themselves.
fn lasting(link: &Value) -> Value {
    let keys = [
        "ifindex", "ifname", "mtu", "address", "altnames", "ifalias", "linkinfo", "txqlen", "group",
    ];
    let mut kept = json!({"up": is_up(link)});
    for flag in ["NOARP", "MULTICAST", "PROMISC", "ALLMULTI"] {
        kept[flag] = json!(has_flag(link, flag));
    }
    for key in keys {
        kept[key] = link[key].clone();
    }
    // The kernel lists them in the order in which they were added.
    if let Some(altnames) = kept["altnames"].as_array_mut() {
        altnames.sort_by_key(Value::to_string);
    }
    // For a port of a bridge it has timers.
    if let Some(linkinfo) = kept["linkinfo"].as_object_mut() {
        linkinfo.shift_remove("info_slave_data");
    }
    kept["addresses"] = json!(addresses_of(link));
    kept
}

/// Whether a link, as `ip` describes it, is up.
pub fn is_up(link: &Value) -> bool {
    has_flag(link, "UP")
}

/// Whether a link, as `ip` describes it, has a flag.
pub fn has_flag(link: &Value, flag: &str) -> bool {
    link["flags"]
        .as_array()
        .is_some_and(|flags| flags.contains(&json!(flag)))
}

/// Polls until `is_so` is true, for events without a notification.
#[track_caller]
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

/// A pod: a container id and a network namespace.
#[derive(Debug)]
pub struct Pod {
    /// The container id.
    pub id: String,
    /// The pod's network namespace.
    pub netns: Namespace,
}

impl Pod {
    /// A pod without any network.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            netns: Namespace::new(),
        }
    }
}

/// A node: the namespace that its plugins are called in, and their state.
#[derive(Debug)]
pub struct Node {
    /// The node's own network namespace.
    pub netns: Namespace,
    state: TempDir,
    environment: BTreeMap<String, String>,
    binds: Vec<(PathBuf, PathBuf)>,
    read_only: Vec<PathBuf>,
    _alone: Option<Alone>,
}

impl Node {
    /// A node in a new network namespace.
    pub fn new() -> Self {
        Self::in_namespace(Namespace::new(), None)
    }

    /// A node in the namespace of the calling thread, which has the machine's devices. While
    /// it exists, no other test process uses them.
    #[track_caller]
    pub fn of_machine() -> Self {
        Self::in_namespace(Namespace::of_thread(), Some(alone()))
    }

    fn in_namespace(netns: Namespace, alone: Option<Alone>) -> Self {
        let state = tempfile::tempdir().expect("a temporary directory can be made");
        Self {
            netns,
            state,
            environment: BTreeMap::new(),
            binds: Vec::new(),
            read_only: Vec::new(),
            _alone: alone,
        }
    }

    /// The directory that the plugins see as `/var/lib/cni`.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// Makes the plugins see `source` at the path `target`, which must exist.
    pub fn bind(&mut self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) {
        self.binds.push((source.into(), target.into()));
    }

    /// Removes the bind mount at `target`.
    pub fn unbind(&mut self, target: impl AsRef<Path>) {
        self.binds.retain(|(_, bound)| bound != target.as_ref());
    }

    /// Simulates a reboot: the plugins see another boot id.
    pub fn reboot(&mut self) {
        let path = self.state().join(".boot_id");
        let number = fs::read_to_string(&path).map_or(0, |text| text.trim().len());
        fs::write(&path, format!("{}\n", "b".repeat(number + 1)))
            .expect("the state directory is writable");
        let target = PathBuf::from("/proc/sys/kernel/random/boot_id");
        self.binds.retain(|(_, bound)| *bound != target);
        self.bind(path, target);
    }

    /// Sets one variable of the runtime of this node, which every plugin inherits.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Starts the plugin on this node and waits for it.
    pub fn run(&self, call: &Call) -> Output {
        let call = self.with_environment(call);
        self.inside(|| call.run())
    }

    /// As [`Self::run`], with a fault.
    pub fn strike(&self, call: &Call, how: Strike) -> Struck {
        let call = self.with_environment(call);
        self.inside(|| strike(&call, how))
    }

    pub(crate) fn with_environment(&self, call: &Call) -> Call {
        let environment = self.environment.iter();
        environment.fold(call.clone(), |call, (name, value)| call.env(name, value))
    }

    /// Starts a process on this node in the background, with the variables of its runtime.
    pub fn spawn(&self, mut command: Command) -> Child {
        command.envs(&self.environment);
        self.inside(|| command.spawn().expect("the program can be executed"))
    }

    /// Runs `work` with the node's network, state and binds.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(|| {
            self.mount_state();
            work()
        })
    }

    /// Gives the calling thread, and the processes that it starts, a mount namespace in which
    /// `/var/lib/cni` is the node's state and `/sys` shows the node's links.
    fn mount_state(&self) {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace can be made");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(NO_SOURCE, "/", NO_TEXT, private, NO_TEXT).expect("mounts can be made private");
        match mount(
            Some("sysfs"),
            "/sys",
            Some("sysfs"),
            MsFlags::empty(),
            NO_TEXT,
        ) {
            // The mounted one shows the links of this namespace already.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(errno) => panic!("cannot mount /sys: {errno}"),
        }
        mount(
            Some("tmpfs"),
            "/var/lib",
            Some("tmpfs"),
            MsFlags::empty(),
            NO_TEXT,
        )
        .expect("/var/lib can be covered");
        fs::create_dir("/var/lib/cni").expect("/var/lib is writable");
        bind(self.state.path(), Path::new("/var/lib/cni"));
        for (source, target) in &self.binds {
            bind(source, target);
        }
        for path in &self.read_only {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            bind(path, path);
            mount(NO_SOURCE, path, NO_TEXT, flags, NO_TEXT)
                .expect("a bind mount can be made read-only");
        }
    }

    /// Makes `path` read-only for the plugins.
    pub fn read_only(&mut self, path: impl Into<PathBuf>) {
        self.read_only.push(path.into());
    }

    /// Every file of the state directory, as paths relative to it, sorted. Dot-files, which
    /// are internal to the plugins, are left out.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        list_files(self.state(), self.state(), &mut files);
        files.sort();
        files
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

/// The files of attachments below `root`, a state directory or a part of one: reservations and
/// records. The permanent files of host-local are left out. The paths are relative to `root`,
/// and sorted.
pub fn attachment_files(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    list_files(root, root, &mut files);
    files.retain(|file| {
        let name = file.rsplit('/').next().unwrap_or_default();
        name != "lock" && !name.starts_with("last_reserved_ip.")
    });
    files.sort();
    files
}

fn list_files(root: &Path, directory: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(directory)
        .expect("the state directory is readable")
        .flatten()
    {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            list_files(root, &path, files);
        } else {
            files.push(
                path.strip_prefix(root)
                    .expect("it is below the root")
                    .display()
                    .to_string(),
            );
        }
    }
}

fn bind(source: &Path, target: &Path) {
    mount(Some(source), target, NO_TEXT, MsFlags::MS_BIND, NO_TEXT)
        .unwrap_or_else(|errno| panic!("cannot bind {source:?} to {target:?}: {errno}"));
}

/// Runs a command in the namespaces of the calling thread.
pub fn run_tool(program: &str, arguments: &[&str]) -> ProcessOutput {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|cause| panic!("cannot execute {program}: {cause}; run `tests/prepare`"))
}
