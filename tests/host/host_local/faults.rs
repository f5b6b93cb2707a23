//! Many at once, killed processes, and disks that are full or read-only.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write, read_to_string};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use harness::fault::{Counted, Fault, Strike, each_system_call, strike};
use harness::{Call, Node, Output, is_waited_for};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use super::{NO_NETNS, Network, address, at_once, wait_until};

#[test]
fn two_hundred_adds_at_once_get_two_hundred_addresses() {
    let network = Network::of("10.0.0.0/24");
    let outputs = at_once(200, |n| network.add(&format!("c{n}")));
    let unique: BTreeSet<String> = outputs.iter().map(address).collect();
    assert_eq!(unique.len(), 200);
    assert_eq!(network.reserved().len(), 200);
}

#[test]
fn adds_and_dels_at_once_lose_nothing() {
    let network = Network::of("10.0.0.0/25");
    let outputs = at_once(60, |n| {
        let id = format!("c{n}");
        network.add(&id).ok();
        network.del(&id).ok();
        network.add(&id)
    });
    let unique: BTreeSet<String> = outputs.iter().map(address).collect();
    assert_eq!(unique.len(), 60);
    assert_eq!(network.reserved().len(), 60);
}

#[test]
fn more_adds_at_once_than_addresses_fill_the_range_exactly() {
    let network = Network::of("10.0.0.0/28");
    let outputs = at_once(40, |n| network.add(&format!("c{n}")));
    assert_eq!(
        outputs
            .iter()
            .filter(|output| output.status == Some(0))
            .count(),
        13
    );
    assert_eq!(network.reserved().len(), 13);
    network.status().error_code(50);
}

#[test]
fn gc_beside_adds_removes_only_what_is_not_listed() {
    let network = Network::of("10.0.0.0/24");
    for n in 0..20 {
        network.write(&format!("10.0.0.{}", 200 + n), "stale\r\nnet1");
    }
    let valid: Vec<Value> = (0..30)
        .map(|n| json!({"containerID": format!("c{n}")}))
        .collect();
    at_once(32, |n| match n {
        0..30 => network.add(&format!("c{n}")).ok(),
        _ => network.gc(valid.clone().into()).ok(),
    });
    assert_eq!(network.reserved().len(), 30);
}

/// A process that holds the lock until it is killed.
pub(super) fn hold_lock(lock: &Path) -> Child {
    fs::create_dir_all(lock.parent().expect("the lock is in a directory")).unwrap();
    let mut holder = Command::new("flock")
        .args(["--exclusive", "--no-fork"])
        .arg(lock)
        .args(["sh", "-c", "echo held; exec sleep 600"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("cannot execute flock: install util-linux");
    let mut line = String::new();
    BufReader::new(holder.stdout.as_mut().expect("stdout is a pipe"))
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "held\n");
    holder
}

pub(super) fn kill(mut process: Child) {
    process.kill().expect("the process can be killed");
    process.wait().expect("the process can be waited for");
}

#[test]
fn a_killed_holder_of_the_lock_blocks_no_other_process() {
    let network = Network::of("10.0.0.0/24");
    kill(hold_lock(&network.path("lock")));
    assert_eq!(address(&network.add("c1")), "10.0.0.2/24");
}

#[test]
fn a_running_holder_of_the_lock_is_waited_for() {
    for command in ["ADD", "DEL", "CHECK"] {
        let network = Network::of("10.0.0.0/24");
        network.write("10.0.0.9", "c1\r\nnet2");
        let holder = hold_lock(&network.path("lock"));
        let output = thread::scope(|scope| {
            let call = network
                .call(command, "c1")
                .env("CNI_IFNAME", if command == "ADD" { "net1" } else { "net2" });
            let waiting = scope.spawn(move || call.run());
            wait_until("the wait for the lock", || {
                is_waited_for(&network.path("lock"))
            });
            assert_eq!(network.reserved(), ["10.0.0.9"]);
            kill(holder);
            waiting.join().expect("the call ends")
        });
        output.ok();
    }
}

#[test]
fn an_add_whose_caller_was_killed_while_it_waited_reserves_nothing() {
    let network = Network::of("10.0.0.0/24");
    let holder = hold_lock(&network.path("lock"));
    let call = network.call("ADD", "c1");
    let mut caller = Command::new("sh")
        .args(["-c", r#"exec 3<&0; "$0" <&3 & wait"#])
        .arg(call.process().get_program())
        .env_clear()
        .envs(call.process().get_envs().filter_map(|(k, v)| Some((k, v?))))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is a shell");
    let mut stdin = caller.stdin.take().expect("it is a pipe");
    stdin.write_all(call.input()).expect("the plugin reads it");
    drop(stdin);
    wait_until("the wait for the lock", || {
        is_waited_for(&network.path("lock"))
    });
    let mut stdout = caller.stdout.take().expect("it is a pipe");
    kill(caller);
    kill(holder);

    // It ends when the plugin, which has it as well, has ended.
    let error = read_to_string(&mut stdout).expect("the plugin writes text");
    let error: Value = serde_json::from_str(&error).expect("it is an error");
    assert_eq!(error["code"], 11, "{error}");
    assert_eq!(network.reserved(), [""; 0]);
}

/// A full disk: a node whose state is a small memory file system, and what is done
/// in it.
fn on_small_disk<T: Send>(pages: usize, work: impl FnOnce(&Path) -> T + Send) -> T {
    let node = Node::new();
    let disk = node.state().join("networks");
    fs::create_dir(&disk).unwrap();
    node.inside(|| {
        let disk = Path::new("/var/lib/cni/networks");
        let size = format!("size={}", pages * 4096);
        let tmpfs = Some("tmpfs");
        mount(tmpfs, disk, tmpfs, MsFlags::empty(), Some(size.as_str()))
            .expect("tmpfs can be mounted");
        work(disk)
    })
}

fn small_call(command: &str, id: &str) -> Output {
    let ranges = json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:db8::/64"}]]);
    let conf = json!({"cniVersion": "1.1.0", "name": "n", "ipam": {"ranges": ranges}});
    Call::ours("host-local", command)
        .attachment(id, "net1", NO_NETNS)
        .conf(&conf)
        .run()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("the directory exists");
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_add_on_a_full_disk_is_code_5_and_leaves_no_part_of_a_file() {
    // The boot id, two reservations and two turns need a page each.
    for pages in 1..=4 {
        on_small_disk(pages, |disk| {
            small_call("ADD", "c1").error_code(5);
            let left = names(&disk.join("n"));
            let empty = |name: &String| fs::read(disk.join("n").join(name)).unwrap().is_empty();
            assert!(
                left.iter().all(|name| name == "lock" || !empty(name)),
                "{left:?}"
            );
            assert!(
                !left
                    .iter()
                    .any(|name| name.starts_with("10.") || name.starts_with("2001")),
                "{left:?}"
            );
            small_call("DEL", "c1").ok();
        });
    }
    on_small_disk(5, |_| small_call("ADD", "c1").ok());
}

#[test]
fn two_range_sets_are_reserved_both_or_neither() {
    on_small_disk(6, |disk| {
        small_call("ADD", "c1").ok();
        let before = names(&disk.join("n"));
        // One page is left, and the second reservation finds none.
        let error = small_call("ADD", "c2").error_code(5);
        assert!(error.msg.contains("2001:db8::3"), "{}", error.msg);
        assert_eq!(names(&disk.join("n")), before);
        small_call("DEL", "c1").ok();
        small_call("ADD", "c2").ok();
    });
}

#[test]
fn a_read_only_disk_is_code_5_for_commands_that_write() {
    let mut node = Node::new();
    let call = |node: &Node, command: &str, id: &str| node.inside(|| small_call(command, id));
    call(&node, "ADD", "c1").ok();
    let before = node.files();
    node.read_only("/var/lib/cni");
    for (command, id) in [("ADD", "c2"), ("DEL", "c1")] {
        let error = call(&node, command, id).error_code(5);
        let said = error.msg + &error.details;
        assert!(said.contains("Read-only file system"), "{said}");
    }
    for (command, id) in [("CHECK", "c1"), ("STATUS", ""), ("DEL", "c2")] {
        call(&node, command, id).ok();
    }
    assert_eq!(node.files(), before);
}

#[test]
fn a_read_only_disk_without_a_directory_is_code_5_for_add_only() {
    let mut node = Node::new();
    node.read_only("/var/lib/cni");
    let call = |command: &str| node.inside(|| small_call(command, "c1"));
    call("ADD").error_code(5);
    call("DEL").ok();
    call("STATUS").ok();
    assert!(node.files().is_empty());
}

/// The call under `strace` with these options.
fn traced(call: &Call, options: &[&str]) -> Output {
    let process = call.process();
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq"])
        .args(options)
        .arg(process.get_program())
        .env_clear();
    let variables = process
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    strace.envs(variables);
    call.run_as(strace)
}

/// D22: after every kill, each reservation file is complete, and DEL releases it.
#[test]
fn an_add_killed_at_any_system_call_leaves_nothing_that_del_does_not_release() {
    let make = || {
        Network::new(json!({
            "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:db8::/64"}]],
        }))
    };
    each_system_call(1, make, |network, nth| {
        *network = make();
        let how = Strike {
            fault: Fault::Kill,
            counted: Counted::All,
            nth,
        };
        let struck = strike(&network.call("ADD", "c1"), how);
        let reserved = network.reserved();
        let is_complete = |name: &String| network.files()[name] == "c1\r\nnet1";
        assert!(reserved.iter().all(is_complete), "{nth}: {}", struck.output);
        network.del("c1").ok();
        assert!(network.reserved().is_empty(), "{nth}");
        network.add("c2").ok();
        struck.hit.is_some()
    });
}

#[test]
fn a_file_system_without_unnamed_files_serves_as_well() {
    let seen = Network::of("10.0.0.0/24");
    let trace = seen.data_dir().join("trace");
    let options = ["-o", trace.to_str().unwrap(), "-e", "trace=openat"];
    traced(&seen.call("ADD", "c1"), &options).ok();
    let trace = fs::read_to_string(trace).unwrap();
    let nth = trace.lines().position(|line| line.contains("O_TMPFILE"));
    let nth = nth.expect("an unnamed file is opened") + 1;
    for fault in [
        format!("inject=openat:error=EOPNOTSUPP:when={nth}"),
        "inject=linkat:error=ENOENT:when=1".to_owned(),
    ] {
        let network = Network::of("10.0.0.0/24");
        let output = traced(
            &network.call("ADD", "c1"),
            &["-o", "/dev/null", "-e", &fault],
        );
        assert_eq!(address(&output), "10.0.0.2/24", "{fault}");
        assert_eq!(network.files(), seen.files());
        assert_eq!(names(&network.path("")), names(&seen.path("")));
    }
}

/// D23: the Go plugin tries to create every file of the range, one after the other.
#[test]
fn a_nearly_full_range_costs_one_listing_and_no_attempts() {
    let network = Network::of("10.0.0.0/20");
    for n in 2..4090u32 {
        network.write(
            &std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string(),
            "other\r\nnet1",
        );
    }
    network.write("last_reserved_ip.0", "10.0.0.3");
    let trace = network.data_dir().join("trace");
    let options = [
        "-o",
        trace.to_str().unwrap(),
        "-e",
        "trace=openat,linkat,link,unlink",
    ];
    assert_eq!(
        address(&traced(&network.call("ADD", "c1"), &options)),
        "10.0.15.250/20"
    );
    let trace = fs::read_to_string(trace).unwrap();
    let count = |what: &str| trace.lines().filter(|line| line.contains(what)).count();
    assert_eq!(count("O_DIRECTORY"), 1, "the directory is listed once");
    assert_eq!(count("linkat("), 1, "one reservation is attempted");
    assert_eq!(count("EEXIST"), 0);
    // Three of those that the Go plugin may have made are named, with their holders.
    assert!(
        count("/10.0.") <= 4088 + 1 + 3,
        "no other file is opened twice"
    );
}
