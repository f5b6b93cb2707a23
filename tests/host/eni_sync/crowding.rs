//! What others can take from the agent and from the plugins: nothing. Each limit is hit.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fixtures::handover::{agent_socket, serving};
use fixtures::scrape::{ADDRESS, get};
use harness::Pod;
use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How many clients of the metrics may be connected.
const CLIENTS: usize = 32;
/// How many plugins may be connected.
const PLUGINS: usize = 512;
/// How many files the agent may open.
const FILES: u64 = 4096;
/// How many connections an agent that hangs has in its queue.
const BACKLOG: usize = 4;
/// What an agent without any connection has open at most.
const OPEN: usize = 64;

fn configuration() -> Value {
    json!({ "metrics": ADDRESS })
}

/// Connections that have sent `text` and nothing more.
fn half_open(node: &VpcNode, number: usize, text: &[u8]) -> Vec<TcpStream> {
    node.node.netns.run(|| {
        let connect = |_| {
            let mut stream = TcpStream::connect(ADDRESS).unwrap();
            // The agent may have ended it already.
            stream.write_all(text).ok();
            stream
        };
        (0..number).map(connect).collect()
    })
}

/// How many files a process has open.
fn open_files(agent: &Agent) -> usize {
    fs::read_dir(format!("/proc/{}/fd", agent.id()))
        .unwrap()
        .count()
}

#[test]
fn requests_that_never_end_take_nothing_from_plugins_and_probes() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &configuration());
    let _held = half_open(&node, 1000, b"GET /metrics HTTP/1.1\r\nX: ");
    assert_eq!(get(&node, "/healthz").0, 200);
    let open = open_files(&agent);
    assert!(open <= CLIENTS + OPEN, "{open} files are open");
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    assert_eq!(get(&node, "/metrics").0, 200);
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &configuration());
    let text = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(9000));
    let mut held = half_open(&node, 1, text.as_bytes());
    let mut answer = String::new();
    held[0].set_read_timeout(Some(DEADLINE)).unwrap();
    // A reset says the same.
    held[0].read_to_string(&mut answer).ok();
    assert!(answer.is_empty() || answer.contains(" 431 "), "{answer}");
}

#[test]
fn a_request_that_does_not_come_in_time_is_not_waited_for() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &configuration());
    let mut held = half_open(&node, 1, b"GET /healthz HTTP/1.1\r\nX: ");
    held[0].set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = String::new();
    held[0].read_to_string(&mut answer).ok();
    assert!(!answer.contains(" 200 "), "{answer}");
}

#[test]
fn plugins_that_are_too_many_do_their_work_themselves() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    let path = agent_socket(&node);
    // Each has begun a request, which the agent awaits for seconds.
    let connect = |_| UnixStream::connect(&path).unwrap();
    let held: Vec<UnixStream> = (0..PLUGINS + 50).map(connect).collect();
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    let open = open_files(&agent);
    assert!(open <= PLUGINS + OPEN, "{open} files are open");
    drop(held);
    assert!(eventually(|| open_files(&agent) <= OPEN));
}

#[test]
fn a_plugin_that_sends_no_request_is_not_waited_for() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    let mut silent = UnixStream::connect(agent_socket(&node)).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).unwrap();
    assert!(answer.is_empty(), "{answer:?}");
    let said = agent.log();
    assert!(said.contains("a request could not be read"), "{said}");
}

/// Lets each look of an agent at a file take long, until this value is dropped.
struct Slow(Child);

impl Slow {
    fn look(agent: &Agent, file: &str) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-e", "trace=openat", "-P", file]);
        strace.args(["-e", "inject=openat:delay_enter=20000000"]);
        strace.args(["-o", "/dev/null", "-p", &agent.id().to_string()]);
        let strace = strace.stderr(Stdio::null()).spawn().unwrap();
        let is_traced = || {
            let tasks = fs::read_dir(format!("/proc/{}/task", agent.id())).unwrap();
            let status = |task: PathBuf| fs::read_to_string(task.join("status"));
            let mut states = tasks.map(|task| status(task.unwrap().path()).unwrap_or_default());
            states.all(|state| !state.contains("TracerPid:\t0\n"))
        };
        assert!(eventually(is_traced));
        Self(strace)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_scrape_that_takes_long_keeps_no_probe_waiting() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &configuration());
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    assert!(eventually(|| get(&node, "/readyz").0 == 200));
    let file = format!("/var/lib/cni/eni-cni/ledger/{}/10.0.4.70", node.eni);
    let slow = Slow::look(&agent, &file);
    thread::scope(|scope| {
        let scrape = scope.spawn(|| get(&node, "/metrics"));
        let start = Instant::now();
        let (status, text) = get(&node, "/readyz");
        assert_eq!(status, 200, "{text}");
        assert!(text.contains("could not be read in time"), "{text}");
        assert_eq!(get(&node, "/healthz").0, 200);
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(10), "{waited:?}");
        let (status, text) = scrape.join().unwrap();
        assert_eq!(
            (status, text.as_str()),
            (503, "the ledger could not be read in time")
        );
    });
    drop(slow);
    assert!(eventually(|| get(&node, "/metrics").0 == 200));
}

/// An agent that is there and does nothing, and whose queue of connections is full.
struct Hung {
    agent: Agent,
    _queue: Vec<UnixStream>,
}

impl Hung {
    fn on(node: &VpcNode) -> Self {
        let somaxconn = || fs::write("/proc/sys/net/core/somaxconn", BACKLOG.to_string());
        node.node.netns.run(somaxconn).unwrap();
        let agent = Agent::start(node, &json!({}));
        stop(&agent);
        let path = agent_socket(node);
        // The kernel takes one more than it was told, and lets the next one wait.
        let connect = |_| UnixStream::connect(&path).unwrap();
        let queue = (0..=BACKLOG).map(connect).collect();
        Self {
            agent,
            _queue: queue,
        }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        signal(&self.agent, Signal::SIGCONT);
    }
}

/// Stops an agent at a moment at which it has no lock: whoever stops with one keeps others
/// waiting for that.
pub fn stop(agent: &Agent) {
    let id = format!(" {} ", agent.id());
    let tasks = || fs::read_dir(format!("/proc/{}/task", agent.id())).unwrap();
    let state = |task: PathBuf| fs::read_to_string(task.join("stat")).unwrap_or_default();
    let is_stopped = || tasks().all(|task| state(task.unwrap().path()).contains(") T "));
    let is_idle = || {
        signal(agent, Signal::SIGSTOP);
        assert!(eventually(is_stopped));
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let has_lock = locks.lines().any(|line| line.contains(&id));
        if has_lock {
            signal(agent, Signal::SIGCONT);
        }
        !has_lock
    };
    assert!(eventually(is_idle));
}

pub fn signal(agent: &Agent, signal: Signal) {
    let id = i32::try_from(agent.id()).unwrap();
    kill(Pid::from_raw(id), signal).unwrap();
}

#[test]
fn an_agent_that_hangs_keeps_neither_add_nor_del_waiting() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let hung = Hung::on(&node);
    let pod = Pod::new("c1");
    let start = Instant::now();
    thread::scope(|scope| {
        let commands = scope.spawn(|| {
            node.add(&pod, &["10.0.4.70"]).ok();
            node.del(&pod);
        });
        let is_done = eventually(|| commands.is_finished());
        // So that a command that waits ends, and the test with it.
        drop(hung);
        assert!(is_done, "{:?}", start.elapsed());
    });
    assert_eq!(node.ledger()["10.0.4.70"], "releasing");
}

#[test]
fn an_agent_that_accepts_and_does_not_answer_is_bypassed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let agent = Agent::start(&node, &json!({}));
    stop(&agent);
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    node.del(&pod);
    signal(&agent, Signal::SIGCONT);
    assert_eq!(node.addresses(), ["10.0.4.70"]);
}

#[test]
fn an_agent_that_hangs_is_relieved_by_the_next_one() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _hung = Hung::on(&node);
    let agent = Agent::start(&node, &json!({}));
    assert!(eventually(|| serving(&node) == Some(agent.id())));
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
}

#[test]
fn the_agent_raises_the_limit_of_its_open_files() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        hard >= FILES,
        "the tests need a hard limit of {FILES} open files"
    );
    let agent = Agent::start(&node, &json!({}));
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.id())).unwrap();
    let mut lines = limits.lines();
    let line = lines
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let found: u64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(found, soft.max(FILES), "{limits}");
}

#[test]
fn a_directory_that_the_kubelet_has_made_becomes_accessible_to_root_only() {
    use std::os::unix::fs::PermissionsExt;
    let vpc = Vpc::new();
    let node = vpc.node();
    let directory = node.run_directory().join("eni-cni");
    let open = || {
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let mode = || fs::metadata(&directory).unwrap().permissions().mode() & 0o7777;
    open();
    node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
    assert_eq!(mode(), 0o700, "by the plugin");
    open();
    let _agent = Agent::start(&node, &json!({}));
    assert_eq!(mode(), 0o700, "by the agent");
}
