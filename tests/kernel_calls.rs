//! What an attachment costs the kernel: the netlink messages of ADD and DEL, exactly
//! as the crates' `KERNEL.md` lists them, and bounds for all system calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use harness::{Call, Node, Pod};
use serde_json::{Value, json};

/// What `strace -X raw` shows of `AF_NETLINK` and of `CLONE_THREAD`.
const AF_NETLINK: &str = "0x10";
const CLONE_THREAD: u64 = 0x1_0000;

/// More than the runtimes of C and Rust make before `main`.
const MOST_BEFORE_STDIN: usize = 40;

/// The types of `linux/rtnetlink.h` that the plugins send.
const TYPES: [(u32, &str); 16] = [
    (0x10, "RTM_NEWLINK"),
    (0x11, "RTM_DELLINK"),
    (0x12, "RTM_GETLINK"),
    (0x13, "RTM_SETLINK"),
    (0x14, "RTM_NEWADDR"),
    (0x15, "RTM_DELADDR"),
    (0x16, "RTM_GETADDR"),
    (0x18, "RTM_NEWROUTE"),
    (0x1a, "RTM_GETROUTE"),
    (0x1c, "RTM_NEWNEIGH"),
    (0x1d, "RTM_DELNEIGH"),
    (0x1e, "RTM_GETNEIGH"),
    (0x20, "RTM_NEWRULE"),
    (0x21, "RTM_DELRULE"),
    (0x22, "RTM_GETRULE"),
    (0x5a, "RTM_GETNSID"),
];

/// A command as the kernel saw it.
#[derive(Default)]
pub(crate) struct Trace {
    /// The netlink messages, as `PLACE TYPE`; one that was sent together with the one
    /// before it has a `+` in front.
    messages: Vec<String>,
    /// The system calls of the plugin itself, in all of its threads.
    pub(crate) own_calls: usize,
    /// Those before it reads its configuration.
    calls_before_stdin: usize,
    /// The plugin and the threads that it has started. Other processes are, or are about
    /// to become, its delegate.
    threads: BTreeSet<String>,
    /// The threads that have entered the container.
    inside: BTreeSet<String>,
    /// Where each netlink socket is.
    sockets: BTreeMap<String, &'static str>,
    has_read: bool,
    /// What strace has written, in the order of time.
    lines: Vec<Line>,
}

/// A system call, in the order of time.
#[derive(PartialEq, PartialOrd)]
struct Line {
    time: f64,
    process: String,
    text: String,
}

impl Trace {
    /// Runs `call` on `node`, which must succeed.
    pub(crate) fn of(node: &Node, call: &Call) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let prefix = directory.path().join("trace");
        let prefix = prefix.to_str().expect("it is text");
        let arguments = ["-ff", "-ttt", "-qq", "-X", "raw", "-s", "64", "-o", prefix];
        node.inside(|| call.run_under("strace", &arguments)).ok();
        let mut trace = Self::default();
        let mut lines = lines_in(directory.path());
        lines.sort_by(|a, b| a.time.total_cmp(&b.time));
        let plugin = lines.first().map(|line| line.process.clone());
        trace.threads.extend(plugin);
        for line in &lines {
            trace.take(line);
        }
        trace.lines = lines;
        trace
    }

    /// What strace says of every system call, of delegates as well.
    pub(crate) fn calls(&self) -> Vec<&str> {
        self.lines.iter().map(|line| line.text.as_str()).collect()
    }

    fn take(&mut self, line: &Line) {
        let Some((name, arguments)) = line.text.split_once('(') else {
            return;
        };
        let is_call = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !is_call || !self.threads.contains(&line.process) {
            return;
        }
        self.own_calls += 1;
        let first = arguments.split([',', ')']).next().unwrap_or_default();
        let returned = arguments.rsplit(' ').next().unwrap_or_default();
        match name {
            "read" if first == "0" => self.has_read = true,
            "setns" => {
                self.inside.insert(line.process.clone());
            }
            "clone3" if flags_of(arguments) & CLONE_THREAD != 0 => {
                self.threads.insert(returned.to_owned());
            }
            "socket" if first == AF_NETLINK => {
                let place = match self.inside.contains(&line.process) {
                    true => "pod",
                    false => "node",
                };
                self.sockets.insert(returned.to_owned(), place);
            }
            "sendto" => self.send(first, arguments),
            _ => {}
        }
        self.calls_before_stdin += usize::from(!self.has_read);
    }

    fn send(&mut self, descriptor: &str, arguments: &str) {
        let place = self.sockets.get(descriptor).copied().unwrap_or("?");
        let types = arguments.split("nlmsg_type=").skip(1);
        for (position, text) in types.enumerate() {
            let number = text.split([',', ' ']).next().unwrap_or_default();
            let together = if position == 0 { "" } else { "+ " };
            let name = type_name(number);
            self.messages.push(format!("{together}{place} {name}"));
        }
    }
}

/// The lines of all processes and threads, each of which has a file of its own.
fn lines_in(directory: &Path) -> Vec<Line> {
    let files = fs::read_dir(directory).expect("it exists").flatten();
    let lines_of = |file: fs::DirEntry| {
        let name = file.file_name().to_string_lossy().into_owned();
        let (_, process) = name.split_once('.').expect("strace adds the process");
        let text = fs::read_to_string(file.path()).expect("strace has written it");
        let line = |line: &str| {
            let (time, text) = line.split_once(' ').expect("a line has a time");
            Line {
                time: time.parse().expect("it is a number"),
                process: process.to_owned(),
                text: text.to_owned(),
            }
        };
        text.lines().map(line).collect::<Vec<Line>>()
    };
    files.flat_map(lines_of).collect()
}

fn flags_of(arguments: &str) -> u64 {
    let digits = arguments.split("flags=0x").nth(1).unwrap_or_default();
    let digits = digits.split([',', '}']).next().unwrap_or_default();
    u64::from_str_radix(digits, 16).unwrap_or_default()
}

fn type_name(number: &str) -> String {
    let digits = number.trim_start_matches("0x");
    let number = u32::from_str_radix(digits, 16).expect("strace prints a type as a number");
    let known = TYPES.iter().find(|(known, _)| *known == number);
    known.map_or(format!("{number:#x}"), |(_, name)| (*name).to_owned())
}

/// What a `KERNEL.md` says of one command.
struct Documented {
    messages: Vec<String>,
    most_calls: usize,
}

impl Documented {
    /// The section `command`: a table whose first two columns are a message, and a
    /// sentence that begins with "At most" and the number of system calls.
    fn of(text: &str, command: &str) -> Self {
        let heading = format!("## {command}\n");
        let (_, section) = text.split_once(&heading).expect("there is a section");
        let section = section.split("\n## ").next().unwrap_or_default();
        let row = |line: &str| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let message = cells.get(2)?.trim_matches('`');
            let is_message = message.starts_with("RTM_");
            is_message.then(|| format!("{} {message}", cells[1]))
        };
        let bound = section.lines().find_map(|l| l.strip_prefix("At most "));
        let number = bound.and_then(|text| text.split(' ').next());
        Self {
            messages: section.lines().filter_map(row).collect(),
            most_calls: number
                .and_then(|number| number.parse().ok())
                .expect("there is a bound"),
        }
    }
}

/// Makes sure that ADD and DEL of `call`, after one of each on the same node, send the
/// messages that `text` lists and make no more system calls than it says.
pub(crate) fn calls_are_those_that_are_documented(
    node: &Node,
    text: &str,
    call: impl Fn(&str) -> Call,
) {
    // The first attachment of a network also makes its directories.
    for command in ["ADD", "DEL"] {
        node.run(&call(command)).ok();
    }
    for command in ["ADD", "DEL"] {
        let documented = Documented::of(text, command);
        let trace = Trace::of(node, &call(command));
        println!(
            "{command}: {} system calls, {} before the configuration is read, {} threads",
            trace.own_calls,
            trace.calls_before_stdin,
            trace.threads.len()
        );
        let lines = trace.calls().join("\n");
        assert_eq!(trace.messages, documented.messages, "{command}\n{lines}");
        let bounds = [
            (trace.own_calls, documented.most_calls),
            (trace.calls_before_stdin, MOST_BEFORE_STDIN),
        ];
        for (count, bound) in bounds {
            assert!(count <= bound, "{command}: {count} > {bound}\n{lines}");
        }
    }
}

#[test]
fn host_device_asks_the_kernel_for_what_is_documented_and_no_more() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let veth = [
        "link", "add", "hd0", "type", "veth", "peer", "name", "hd0-peer",
    ];
    node.netns.ip(&veth);
    node.netns.ip(&["link", "set", "hd0", "up"]);
    let conf = json!({
        "cniVersion": "1.1.0", "name": "lan", "type": "host-device", "device": "hd0",
        "ipam": {
            "type": "host-local", "subnet": "10.9.0.0/24",
            "routes": [{"dst": "10.0.0.0/8"}],
        },
    });
    let text = include_str!("../host-device/KERNEL.md");
    calls_are_those_that_are_documented(&node, text, |command| {
        Call::ours("host-device", command)
            .conf(&conf)
            .pod(&pod, "net1")
    });
}

/// A node has a record for each device that a pod has. Whether a virtual device has come back is
/// seen on the host, without a look at the pod.
#[test]
fn the_record_of_another_pod_costs_an_add_of_host_device_its_reading_only() {
    const OTHERS: usize = 40;
    // open, statx, two times read, and close, which a debug build precedes by an fcntl.
    const OF_READING: usize = 6;
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let veth = [
        "link", "add", "hd0", "type", "veth", "peer", "name", "hd0-peer",
    ];
    node.netns.ip(&veth);
    let conf = json!({
        "cniVersion": "1.1.0", "name": "lan", "type": "host-device", "device": "hd0",
    });
    let call = |command: &str| {
        Call::ours("host-device", command)
            .conf(&conf)
            .pod(&pod, "net1")
    };
    node.run(&call("ADD")).ok();
    let records = node.state().join("eni-cni/host-device/lan");
    let record = fs::read(records.join("c1:net1.json")).expect("ADD has written it");
    let mut record: Value = serde_json::from_slice(&record).expect("a record is JSON");
    node.run(&call("DEL")).ok();
    let alone = Trace::of(&node, &call("ADD")).own_calls;
    node.run(&call("DEL")).ok();
    for number in 0..OTHERS {
        let name = format!("other{number}");
        let file = records.join(format!("{name}:net1.json"));
        record["containerId"] = json!(name);
        record["device"]["name"] = json!(name);
        record["device"]["sysfsNumber"] = json!(u64::MAX - number as u64);
        fs::write(file, record.to_string()).expect("it can be written");
    }
    let trace = Trace::of(&node, &call("ADD"));
    // The list of the directory, and that of the interfaces with two of them.
    let most = alone + OTHERS * OF_READING + 15;
    let calls = trace.own_calls;
    assert!(
        calls <= most,
        "{calls} > {most}\n{}",
        trace.calls().join("\n")
    );
    node.run(&call("DEL")).ok();
}
