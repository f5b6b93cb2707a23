//! The index: what an ADD and a DEL cost however many addresses are taken, and that
//! nothing that is wrong with the file is ever noticed but by the clock.

mod tampering;

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use harness::{Call, Node};
use nix::mount::{MsFlags, mount};
use serde_json::json;

use self::tampering::{change, invert, tampering};
use super::{NO_NETNS, Network, address};

pub(crate) const INDEX: &str = ".reservations.index";

pub(crate) fn host(number: u32) -> String {
    Ipv4Addr::from_bits(0x0a00_0000 + number).to_string()
}

/// A network in which the containers `n2`, `n3` and so on have the addresses with
/// their numbers, and the turn is that of the next one.
pub(crate) fn crowd(subnet: &str, last: u32) -> Network {
    let network = Network::of(subnet);
    for n in 2..=last {
        network.write(&host(n), &format!("n{n}\r\nnet1"));
    }
    network.write("last_reserved_ip.0", &host(last));
    // Without it, the first ADD reads every file for its age.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    network.write(".boot_id", boot.trim());
    network
}

/// The same with an index that agrees with it.
fn indexed(subnet: &str, last: u32) -> Network {
    let network = crowd(subnet, last);
    network.del("nobody").ok();
    assert!(network.path(INDEX).is_file(), "there is no index");
    network
}

/// The system calls of a successful or failed call.
pub(crate) struct Trace(Vec<String>);

impl Trace {
    pub(crate) fn of(network: &Network, command: &str, id: &str) -> Self {
        let path = network.data_dir().join("trace");
        let options = ["-f", "-qq", "-o", path.to_str().unwrap()];
        let call = network.call(command, id);
        // strace executes what follows its options.
        call.run_under("strace", &options);
        let text = fs::read_to_string(path).expect("strace has written");
        Self(text.lines().map(str::to_owned).collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The calls with each of these texts.
    pub(crate) fn matching(&self, texts: &[&str]) -> Vec<&String> {
        let has_all = |line: &&String| texts.iter().all(|text| line.contains(text));
        self.0.iter().filter(has_all).collect()
    }

    fn count(&self, what: &str) -> usize {
        self.0.iter().filter(|line| line.contains(what)).count()
    }
}

#[test]
fn the_number_of_taken_addresses_adds_no_system_call() {
    let counts = [20, 500, 4000].map(|taken| {
        let network = indexed("10.0.0.0/16", taken);
        network.add("c1").ok();
        let [add, del] = ["ADD", "DEL"].map(|command| Trace::of(&network, command, "c2"));
        for trace in [&add, &del] {
            assert_eq!(trace.count("getdents"), 0, "{:#?}", trace.0);
            // The address, and the two whose containers are looked at.
            assert!(trace.count("/n/10.0.") <= 4, "{:#?}", trace.0);
        }
        assert_eq!(network.reserved().len(), taken as usize);
        [add.0.len(), del.0.len()]
    });
    assert_eq!(counts, [counts[0]; 3]);
}

#[test]
fn few_addresses_leave_no_index() {
    let network = indexed("10.0.0.0/24", 12);
    for n in 4..=12 {
        network.del(&format!("n{n}")).ok();
    }
    network.write("10.0.0.9", "other\r\nnet1");
    network.add("c1").ok();
    assert!(!network.path(INDEX).exists());
    let trace = Trace::of(&network, "ADD", "c2");
    assert_eq!(
        trace.count(INDEX),
        2,
        "it is looked for, and removed: {:#?}",
        trace.0
    );
}

#[test]
fn a_nearly_full_range_is_searched_in_the_index() {
    let network = indexed("10.0.0.0/20", 4089);
    network.write("last_reserved_ip.0", "10.0.0.3");
    let trace = Trace::of(&network, "ADD", "c1");
    assert_eq!(trace.count("getdents"), 0);
    assert_eq!(trace.count("linkat("), 1, "one reservation is attempted");
    assert_eq!(network.files()["10.0.15.250"], "c1\r\nnet1");
}

#[test]
fn an_exhausted_range_costs_one_listing_and_no_attempts() {
    let network = indexed("10.0.0.0/20", 4094);
    for (command, id) in [("ADD", "c1"), ("STATUS", "")] {
        let trace = Trace::of(&network, command, id);
        assert_eq!(
            trace.count("O_DIRECTORY"),
            1,
            "the directory is listed once"
        );
        assert_eq!(trace.count("linkat("), 0);
        let examined = trace.count("/n/10.0.");
        assert!(
            examined <= 12,
            "a few are examined, and named: {:#?}",
            trace.0
        );
    }
    network.add("c1").error_code(999);
    network.status().error_code(50);
}

/// Everything that depends on what is taken, in a network of [`indexed`] whose index
/// has been tampered with.
fn works(network: &Network, last: u32, what: &str) {
    let duplicate = network.add("n5").error_code(999);
    assert!(
        duplicate.msg.contains("10.0.0.5 has been allocated"),
        "{what}: {}",
        duplicate.msg
    );
    network.check("n6").ok();
    network.check("nobody").error_code(999);
    network.status().ok();
    assert_eq!(
        address(&network.add("new")),
        format!("{}/24", host(last + 1)),
        "{what}"
    );
    network.del("n7").ok();
    network.del("new").ok();
    let expected = (2..=last).filter(|n| *n != 7).map(host);
    let mut expected: Vec<String> = expected.collect();
    expected.sort();
    assert_eq!(network.reserved(), expected, "{what}");
    network.gc(json!([{"containerID": "n3"}])).ok();
    assert_eq!(network.reserved(), ["10.0.0.3"], "{what}");
}

#[test]
fn whatever_stands_in_the_place_of_the_index_everything_works() {
    for (what, tamper) in tampering() {
        let network = indexed("10.0.0.0/24", 20);
        tamper(&network.path(INDEX));
        works(&network, 20, what);
    }
}

#[test]
fn what_stands_in_the_place_of_the_index_is_replaced_and_what_it_leads_to_is_not() {
    let network = indexed("10.0.0.0/24", 20);
    let target = network.data_dir().join("target");
    fs::copy(network.path(INDEX), &target).unwrap();
    let before = fs::read(&target).unwrap();
    fs::remove_file(network.path(INDEX)).unwrap();
    symlink(&target, network.path(INDEX)).unwrap();
    network.add("c1").ok();
    assert!(fs::symlink_metadata(network.path(INDEX)).unwrap().is_file());
    assert_eq!(fs::read(&target).unwrap(), before);
}

/// The directory keeps its times when a file in it is written, so only the sums tell.
#[test]
fn an_index_with_a_byte_that_is_another_does_not_mislead() {
    let pristine = indexed("10.0.0.0/24", 20);
    let length = fs::metadata(pristine.path(INDEX)).unwrap().len();
    assert_eq!(length, 8192, "a page for the header, one for the entries");
    // A byte of each word that is in use, and of some that are not.
    let used = (0..20).chain(512..512 + 60).map(|word| word * 8 + word % 8);
    for offset in used.chain((200..8192).step_by(487)) {
        let network = indexed("10.0.0.0/24", 20);
        invert(&network.path(INDEX), offset);
        works(&network, 20, &format!("byte {offset}"));
    }
    // The taken addresses are in the words 13 to 15.
    for offset in 13 * 8..16 * 8 {
        let network = indexed("10.0.0.0/24", 20);
        invert(&network.path(INDEX), offset);
        assert_eq!(address(&network.add("c1")), "10.0.0.21/24", "byte {offset}");
    }
}

#[test]
fn an_index_of_an_earlier_moment_does_not_mislead() {
    let network = indexed("10.0.0.0/24", 20);
    let earlier = fs::read(network.path(INDEX)).unwrap();
    network.del("n5").ok();
    network.add("n5").ok();
    // Written into the file, so that the directory stays as it is.
    change(&network.path(INDEX), 0, &earlier);
    assert_eq!(address(&network.add("c1")), "10.0.0.22/24");
    change(&network.path(INDEX), 0, &earlier);
    network.del("n5").ok();
    change(&network.path(INDEX), 0, &earlier);
    assert_eq!(address(&network.add("n5")), "10.0.0.23/24");
}

#[test]
fn the_index_of_another_network_does_not_mislead() {
    let [mine, other] = [20, 30].map(|last| indexed("10.0.0.0/24", last));
    let theirs = fs::read(other.path(INDEX)).unwrap();
    fs::write(mine.path(INDEX), theirs).unwrap();
    works(&mine, 20, "of another network");
}

#[test]
fn a_restored_directory_does_not_mislead() {
    let network = indexed("10.0.0.0/24", 20);
    let modified = || fs::metadata(network.path("")).unwrap().modified().unwrap();
    let before = modified();
    network.write("10.0.0.21", "n21\r\nnet1");
    // As an archive is unpacked over it: the time of then is put back.
    let directory = File::open(network.path("")).unwrap();
    directory.set_modified(before).unwrap();
    assert_eq!(modified(), before);
    works(&network, 21, "restored");
}

/// The clock of file times stands still for milliseconds, and these changes come
/// microseconds after ours.
#[test]
fn a_change_right_after_ours_is_noticed() {
    let network = indexed("10.0.0.0/24", 20);
    for round in 0..60 {
        let given = address(&network.add("c1"));
        let path = network.path(given.trim_end_matches("/24"));
        fs::remove_file(&path).unwrap();
        let again = address(&network.add("c1"));
        assert_ne!(again, given, "{round}");
        fs::write(&path, "c2\r\nnet1").unwrap();
        network.check("c2").ok();
        network.del("c1").ok();
        fs::write(network.path("10.0.0.200"), "c1\r\nnet1").unwrap();
        network.del("c1").ok();
        network.del("c2").ok();
        assert_eq!(network.reserved().len(), 19, "{round}");
    }
}

/// What makes the test before this one hold on kernels whose clock stands still.
#[test]
fn every_change_that_is_not_ours_gives_the_directory_two_equal_times() {
    let network = indexed("10.0.0.0/24", 20);
    let times = || {
        let metadata = fs::metadata(network.path("")).unwrap();
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        (modified, (metadata.ctime(), metadata.ctime_nsec()))
    };
    for command in ["ADD", "DEL"] {
        network.call(command, "c1").run().ok();
        let (modified, changed) = times();
        assert!(modified < changed, "{command}");
    }
    let [first, second] = ["10.0.0.30", "10.0.0.31"].map(|name| network.path(name));
    let changes: [&dyn Fn() -> std::io::Result<()>; 3] = [
        &|| fs::write(&first, "c2\r\nnet1"),
        &|| fs::rename(&first, &second),
        &|| fs::remove_file(&second),
    ];
    for change in changes {
        network.add("c1").ok();
        change().unwrap();
        let (modified, changed) = times();
        assert_eq!(modified, changed);
        network.del("c1").ok();
    }
}

#[test]
fn a_file_without_an_owner_is_looked_at_every_time() {
    let network = crowd("10.0.0.0/24", 20);
    network.write("10.0.0.30", "no\tid");
    network.write("10.0.0.31", "");
    network.check("n5").ok();
    network.del("nobody").ok();
    // Written into the files, so that the directory stays as it is.
    network.write("10.0.0.30", "late\r\nnet1");
    network.check("late").ok();
    network.del("late").ok();
    network.write("last_reserved_ip.0", "10.0.0.29");
    assert_eq!(address(&network.add("c1")), "10.0.0.30/24");
    assert_eq!(address(&network.add("c2")), "10.0.0.31/24");
    assert_eq!(network.files()["10.0.0.31"], "c2\r\nnet1");
}

#[test]
fn a_file_with_another_spelling_of_its_address_is_respected() {
    let ranges = json!([[{"subnet": "2001:db8::/64"}]]);
    let network = Network::new(json!({"ranges": ranges}));
    for n in 2..=20 {
        network.write(&format!("2001:db8::{n:x}"), &format!("n{n}\r\nnet1"));
    }
    network.write("2001:DB8:0::15", "odd\r\nnet1");
    network.write("last_reserved_ip.0", "2001:db8::14");
    assert_eq!(address(&network.add("c1")), "2001:db8::16/64");
    network.check("odd").ok();
    network.del("odd").ok();
    assert!(!network.path("2001:DB8:0::15").exists());
    // One address with two files is taken until both are gone.
    network.write("2001:DB8:0::10", "odd\r\nnet1");
    network.add("c2").ok();
    network.del("n16").ok();
    let mut conf = network.conf().clone();
    conf["runtimeConfig"] = json!({"ips": ["2001:db8::10"]});
    network.call("ADD", "c3").conf(&conf).run().error_code(999);
    // Also when the other one is that of a killed plugin, which this ADD reclaims.
    network.write("2001:db8::10", "");
    network.call("ADD", "c3").conf(&conf).run().error_code(999);
    assert_eq!(network.files()["2001:DB8:0::10"], "odd\r\nnet1");
    fs::remove_file(network.path("2001:DB8:0::10")).unwrap();
    network.call("ADD", "c3").conf(&conf).run().ok();
}

/// Which directory the networks of a node are in.
fn directory(node: &Node) -> PathBuf {
    node.state().join("networks/n")
}

fn call(command: &str, id: &str) -> Call {
    let conf = json!({"cniVersion": "1.1.0", "name": "n", "ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}]]}});
    Call::ours("host-local", command)
        .attachment(id, "net1", NO_NETNS)
        .conf(&conf)
}

#[test]
fn an_index_that_cannot_be_written_prevents_no_command() {
    // Each file needs a page, and for the index none is left.
    for pages in 22..=26 {
        let node = Node::new();
        fs::create_dir(node.state().join("networks")).unwrap();
        node.inside(|| {
            let disk = Path::new("/var/lib/cni/networks");
            let size = format!("size={}", pages * 4096);
            let tmpfs = Some("tmpfs");
            mount(tmpfs, disk, tmpfs, MsFlags::empty(), Some(size.as_str())).unwrap();
            for n in 0..20 {
                call("ADD", &format!("c{n}")).run().ok();
            }
            call("ADD", "c5").run().error_code(999);
            call("CHECK", "c7").run().ok();
            for n in 0..20 {
                call("DEL", &format!("c{n}")).run().ok();
            }
            call("CHECK", "c7").run().error_code(999);
        });
    }
}

#[test]
fn a_read_only_index_is_believed_or_not_and_changes_nothing() {
    let mut node = Node::new();
    for n in 0..20 {
        node.run(&call("ADD", &format!("c{n}"))).ok();
    }
    let path = directory(&node).join(INDEX);
    let before = fs::read(&path).unwrap();
    node.read_only("/var/lib/cni");
    for (command, id) in [("CHECK", "c7"), ("STATUS", ""), ("DEL", "nobody")] {
        node.run(&call(command, id)).ok();
    }
    node.run(&call("CHECK", "nobody")).error_code(999);
    node.run(&call("DEL", "c7")).error_code(5);
    assert_eq!(fs::read(&path).unwrap(), before);
}

/// A power failure may lose the page and keep the header that was written after it.
#[test]
fn an_index_of_an_earlier_boot_does_not_mislead() {
    let mut node = Node::new();
    let add = |node: &Node, n: u32| node.run(&call("ADD", &format!("c{n}"))).ok();
    for n in 0..20 {
        add(&node, n);
    }
    let path = directory(&node).join(INDEX);
    let mut page = [0; 4096];
    let index = File::open(&path).unwrap();
    index.read_exact_at(&mut page, 4096).unwrap();
    add(&node, 20);
    change(&path, 4096, &page);
    node.reboot();
    node.run(&call("CHECK", "c20")).ok();
    node.run(&call("DEL", "c20")).ok();
    assert!(!directory(&node).join("10.0.0.22").exists());
}

/// Kills the command at one of its system calls and returns whether it came so far.
/// Afterwards, every other command finds what the files say.
fn is_killed(command: &str, system_call: &str, nth: usize, has_index: bool) -> bool {
    let network = indexed("10.0.0.0/24", 20);
    if !has_index {
        fs::remove_file(network.path(INDEX)).unwrap();
    }
    let id = if command == "ADD" { "new" } else { "n9" };
    let trace = format!("trace={system_call}");
    let inject = format!("inject={system_call}:signal=KILL:when={nth}");
    let options = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    let output = network.call(command, id).run_under("strace", &options);
    network.del("new").ok();
    network.add("n5").error_code(999);
    network.del("n9").ok();
    network.add("n9").ok();
    assert_eq!(
        network.reserved().len(),
        19,
        "{system_call} {nth}: {output}"
    );
    for n in 2..=20 {
        network.check(&format!("n{n}")).ok();
    }
    output.status != Some(0)
}

#[test]
fn a_command_killed_at_any_system_call_leaves_an_index_that_does_not_mislead() {
    let changes = ["openat", "pwrite64", "utimensat", "close"];
    for (command, system_call) in [("ADD", "linkat"), ("ADD", "write"), ("DEL", "unlink")]
        .into_iter()
        .chain(changes.map(|name| ("ADD", name)))
        .chain(changes.map(|name| ("DEL", name)))
    {
        for has_index in [true, false] {
            let mut counts = 1..;
            let kills = counts.find(|nth| !is_killed(command, system_call, *nth, has_index));
            assert!(
                kills > Some(1),
                "{system_call} is not one of {command}'s system calls"
            );
        }
    }
    let kills = (1..).find(|nth| !is_killed("DEL", "rename", *nth, false));
    assert_eq!(kills, Some(2), "a new index is renamed once");
}
