//! A large directory that Go's plugin changes: ours reads again what has changed, and that alone.

use std::fs;
use std::os::unix::fs::MetadataExt;

use harness::wait_until;

use super::host_local::Party;
use crate::host_local::index::{Trace, crowd, host};
use crate::host_local::{Network, address};

/// The number of the last reserved address.
const LAST: u32 = 500;
/// After how many seconds ours does not read a file again that has not changed.
const SETTLED: i64 = 3;

/// Waits until every file in the directory of a network has been there for a while.
pub(super) fn await_settled(network: &Network) {
    let changed = |name: &String| fs::metadata(network.path(name)).map_or(0, |found| found.ctime());
    let newest = network
        .reserved()
        .iter()
        .map(changed)
        .max()
        .unwrap_or_default();
    let probe = tempfile::NamedTempFile::new_in(network.data_dir()).expect("a file can be made");
    wait_until("the files have been there for a while", || {
        probe.as_file().set_len(1).expect("it can be written");
        let now = probe.as_file().metadata().map_or(0, |found| found.ctime());
        now > newest + SETTLED
    });
}

/// A network whose directory ours has read.
fn read() -> Network {
    let mut network = crowd("10.0.0.0/16", LAST);
    network.set("cniVersion", "1.0.0".into());
    await_settled(&network);
    network.del("nobody").ok();
    network
}

#[test]
fn a_directory_that_go_changes_is_not_read_whole() {
    let network = read();
    let go = |command, id: &str| Party::Go.call(&network, command, id).run().ok();
    go("ADD", "g1");
    let add = Trace::of(&network, "ADD", "c1");
    go("ADD", "g2");
    go("DEL", "g1");
    let del = Trace::of(&network, "DEL", "c1");
    for trace in [&add, &del] {
        let opened = trace.matching(&["openat", "/n/10.0."]);
        assert!(opened.len() <= 8, "{opened:#?}");
        assert!(trace.len() < LAST as usize + 200, "{}", trace.len());
    }
    let next = host(LAST + 2);
    assert_eq!(network.reserved().len(), LAST as usize, "the crowd and g2");
    assert!(!network.reserved().contains(&next), "{next} was released");
}

/// The file may have the inode of the one before, too.
#[test]
fn an_address_that_go_has_given_to_another_container_is_read_again() {
    let network = read();
    let (old, new) = ("n77", "c7");
    let was = host(77);
    for _ in 0..3 {
        Party::Go.call(&network, "DEL", old).run().ok();
        let requested = format!("IgnoreUnknown=1;IP={was}");
        let add = Party::Go
            .call(&network, "ADD", new)
            .env("CNI_ARGS", &requested);
        assert_eq!(address(&add.run()), format!("{was}/16"));
        // The container that had it has none, and the one that has it is found.
        network.check(old).error_code(999);
        network.check(new).ok();
        network.del(old).ok();
        assert!(network.reserved().contains(&was));
        network.del(new).ok();
        assert!(!network.reserved().contains(&was));
        Party::Go
            .call(&network, "ADD", old)
            .env("CNI_ARGS", &requested)
            .run()
            .ok();
        await_settled(&network);
        network.del("nobody").ok();
    }
}
