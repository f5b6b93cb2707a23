//! What a plugin costs and how long it waits where others are before it: a node without an
//! agent on which many pods start, and a lock whose holder does not go on.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use harness::eni_lab::Hold;
use harness::vpc::{Agent, DEADLINE, Vpc, VpcNode, eventually};
use harness::{Call, Pod};
use serde_json::{Value, json};

const ASSIGN: &str = "AssignPrivateIpAddresses";
/// How many processes wait.
const WAITING: u8 = 20;

/// A plugin that runs until it is awaited.
pub(super) fn start(node: &VpcNode, call: &Call) -> Child {
    node.node.inside(|| call.start(Stdio::null()))
}

/// What a process has open that clients of AWS are made of: sockets and event queues.
fn open_files(id: u32) -> Vec<PathBuf> {
    let files = fs::read_dir(format!("/proc/{id}/fd")).unwrap().flatten();
    let files = files.filter_map(|file| fs::read_link(file.path()).ok());
    let is_of_kind = |file: &PathBuf| {
        let file = file.to_string_lossy();
        file.starts_with("socket:") || file.starts_with("anon_inode:")
    };
    files.filter(is_of_kind).collect()
}

fn threads(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/task")).unwrap().count()
}

#[test]
fn a_process_that_waits_for_the_lock_has_no_aws_client() {
    let vpc = Vpc::new();
    let node = vpc.node_of_type("m5.4xlarge");
    node.command(&["sync", "--once"]);
    node.lab.hold(ASSIGN, Hold::BeforeCommit);
    let calls = node.lab.calls().get(ASSIGN).copied().unwrap_or_default();
    let pods: Vec<Pod> = (0..=WAITING).map(|n| Pod::new(&format!("c{n}"))).collect();
    let start = |n: u8| {
        let address = format!("10.0.4.{}", 100 + n);
        let call = node.pod_call("ADD", &pods[usize::from(n)], &[&address]);
        start(&node, &call)
    };
    let mut first = start(0);
    assert!(node.lab.wait_for_call(ASSIGN, calls + 1, DEADLINE));
    let mut waiting: Vec<Child> = (1..=WAITING).map(start).collect();
    let all_wait = || waiting.iter().all(|child| is_turn_open(child.id()));
    assert!(eventually(all_wait));
    for child in &waiting {
        let open = open_files(child.id());
        assert!(open.is_empty(), "{open:?} is open");
        assert_eq!(threads(child.id()), 1);
    }
    node.lab.release_held();
    for child in waiting.iter_mut().chain([&mut first]) {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(
        node.lab.calls()[ASSIGN],
        calls + 2,
        "one call for all that waited"
    );
}

/// Whether a process has opened the file of an ENI's turn.
pub(super) fn is_turn_open(id: u32) -> bool {
    let files = fs::read_dir(format!("/proc/{id}/fd")).unwrap().flatten();
    let mut files = files.filter_map(|file| fs::read_link(file.path()).ok());
    files.any(|file| file.ends_with(".turn"))
}

#[test]
fn a_del_does_not_wait_for_a_ledger_whose_lock_stays_held() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let other = vpc.lab.multus_eni(&node.instance, &vpc.pods);
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    // Of three ENIs, two are locked by somebody who is stopped.
    let mut locks = Vec::new();
    for eni in [other.to_string(), "eni-0abc".to_owned()] {
        let directory = node.node.state().join("eni-cni/ledger").join(eni);
        fs::create_dir(&directory).unwrap();
        let lock = File::create(directory.join(".lock")).unwrap();
        lock.lock().unwrap();
        locks.push(lock);
    }
    let start = Instant::now();
    let output = node.run(&node.pod_call("DEL", &pod, &[]));
    // The runtime asks again; what could be written down is.
    let error = output.error_code(11);
    assert!(error.msg.contains("another process"), "{error:?}");
    let waited = start.elapsed();
    assert!(waited < Duration::from_secs(30), "{waited:?}");
    assert_eq!(node.ledger()["10.0.4.70"], "releasing");
    drop(locks);
    node.del(&pod);
}

const ADDRESS: &str = "10.0.4.71";
/// Less than a second look at EC2 needs.
const PATIENCE: Duration = Duration::from_secs(4);

/// The owner of the address that a pod has.
fn owner(node: &VpcNode) -> Value {
    let entry = fs::read(node.ledger_path().join("10.0.4.70")).unwrap();
    let entry: Value = serde_json::from_slice(&entry).unwrap();
    entry["owner"].clone()
}

/// A connection on which the agent is asked for [`ADDRESS`].
fn ask(node: &VpcNode, owner: &Value, patience: Duration) -> UnixStream {
    let patience = u64::try_from(patience.as_millis()).unwrap();
    let request = json!({
        "ask": "register", "wanted": { node.mac.as_str(): [ADDRESS] }, "patience": patience,
        "request": { "owner": owner, "takeover": "dead-owner", "bestEffort": false },
    });
    let socket = node.run_directory().join("eni-cni/agent.sock");
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.to_string().as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream
}

fn answer(mut stream: UnixStream) -> Value {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

/// What an agent answers to an attachment that waits for [`PATIENCE`] while `hinder` is in
/// its way.
#[track_caller]
fn refusal<T>(hinder: impl FnOnce(&Vpc, &VpcNode) -> T) -> String {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({}));
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    let owner = owner(&node);
    let _hindrance = hinder(&vpc, &node);
    let start = Instant::now();
    let answer = answer(ask(&node, &owner, PATIENCE));
    assert_eq!(answer["code"], 11, "{answer}");
    let waited = start.elapsed();
    assert!(waited < 5 * PATIENCE, "{waited:?}: {answer}");
    // Who else waits for the same call is not refused with it.
    if let Ok(entry) = fs::read(node.ledger_path().join(ADDRESS)) {
        let entry: Value = serde_json::from_slice(&entry).unwrap();
        assert_eq!(entry["state"], "claiming");
        assert_eq!(entry["refusal"], Value::Null);
    }
    node.lab.release_held();
    answer["msg"].as_str().unwrap().to_owned()
}

#[test]
fn whatever_an_add_waits_for_is_named_when_its_time_is_over() {
    let lock = |path: PathBuf| {
        let file = File::create(path).unwrap();
        file.lock().unwrap();
        file
    };
    let named = thread::scope(|scope| {
        let turn = scope.spawn(|| refusal(|_, node| lock(node.ledger_path().join(".turn"))));
        let ledger = scope.spawn(|| refusal(|_, node| lock(node.ledger_path().join(".lock"))));
        let enis = scope.spawn(|| {
            refusal(|_, node| {
                let directory = node.run_directory().join("eni-cni");
                let lock = lock(directory.join(".enis.lock"));
                fs::remove_file(directory.join("enis.json")).unwrap();
                lock
            })
        });
        let ec2 = scope.spawn(|| refusal(|vpc, _| vpc.lab.hold(ASSIGN, Hold::BeforeCommit)));
        let look = scope.spawn(|| {
            refusal(|vpc, _| {
                let eni = vpc.lab.create_eni(&vpc.pods);
                let tag = "node.k8s.amazonaws.com/no_manage";
                vpc.lab.tag_eni(&eni, tag, "true");
                vpc.lab.assign(&eni, &[ADDRESS.parse().unwrap()]);
            })
        });
        [turn, ledger, enis, ec2, look].map(|refusal| refusal.join().unwrap())
    });
    let expected = [
        ".turn",
        ".lock",
        ".enis.lock",
        "EC2 to assign",
        "second look",
    ];
    for (named, expected) in named.iter().zip(expected) {
        assert!(named.contains(expected), "{expected}: {named}");
    }
}

/// How many attachments an agent serves at a time.
const SERVED: usize = 64;

#[test]
fn of_more_attachments_than_an_agent_serves_at_a_time_the_others_wait() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let _agent = Agent::start(&node, &json!({}));
    let pod = Pod::new("c1");
    node.add(&pod, &["10.0.4.70"]).ok();
    let owner = owner(&node);
    node.lab.hold(ASSIGN, Hold::BeforeCommit);
    let taken = |patience: u64| {
        let mut stream = ask(&node, &owner, Duration::from_secs(patience));
        // What the agent says when it has read the request.
        stream.read_exact(&mut [0]).unwrap();
        stream
    };
    let served: Vec<UnixStream> = (0..SERVED).map(|_| taken(600)).collect();
    // Whoever is served is told within its time what it has waited for.
    let mut waiting = taken(1);
    waiting
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    assert!(waiting.read(&mut [0]).is_err(), "it was served");
    node.lab.release_held();
    for stream in served {
        assert_eq!(answer(stream)["answer"], "done");
    }
    waiting.set_read_timeout(Some(DEADLINE)).unwrap();
    let answer = answer(waiting);
    let said = answer["msg"].as_str().unwrap();
    assert!(said.contains("the agent, which serves others"), "{answer}");
}
