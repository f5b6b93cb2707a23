//! A disk on which no file can be made any more: an address that is on it can still be released,
//! and that makes room.

use std::fs;
use std::path::PathBuf;

use harness::Pod;
use harness::fault::{Strike, each_system_call};
use harness::small_disk::{LIMITS, make_room, mount_at, use_inodes};
use harness::vpc::{Vpc, VpcNode};
use nix::mount::{MntFlags, umount2};

const ADDRESS: &str = "10.0.4.70";
/// A small disk of its own under the state of a node.
struct Disk(PathBuf);

impl Disk {
    fn of(node: &mut VpcNode, limit: &str) -> Self {
        let path = node.node.state().join("eni-cni");
        fs::create_dir(&path).unwrap();
        mount_at(&path, limit);
        node.node.bind(&path, "/var/lib/cni/eni-cni");
        Self(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("it was mounted");
    }
}

#[test]
fn where_no_file_can_be_made_an_address_is_released_and_makes_room() {
    for (limit, use_up) in LIMITS {
        for has_lock in [true, false] {
            let vpc = Vpc::new();
            let mut node = vpc.node();
            let disk = Disk::of(&mut node, limit);
            let (pod, other) = (Pod::new("c1"), Pod::new("c2"));
            node.add(&pod, &[ADDRESS]).ok();
            node.add(&other, &["10.0.4.71"]).ok();
            if !has_lock {
                fs::remove_file(node.ledger_path().join(".lock")).unwrap();
            }
            use_up(&disk.0);
            node.add(&Pod::new("c3"), &["10.0.4.72"]).error_code(5);
            node.del(&pod);
            assert_eq!(node.ledger()[ADDRESS], "releasing", "{limit}");
            assert_eq!(node.ledger()["10.0.4.71"], "held", "{limit}");
            if !has_lock {
                continue;
            }
            node.end_cooldown(ADDRESS);
            node.gc(&[&other]);
            assert_eq!(node.addresses(), ["10.0.4.71"], "{limit}");
            node.check(&other, &["10.0.4.71"]).ok();
        }
    }
}

#[test]
fn a_del_without_room_that_is_killed_can_be_repeated() {
    let make = || {
        let vpc = Vpc::new();
        let mut node = vpc.node();
        let disk = Disk::of(&mut node, "nr_inodes=64");
        node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
        (node, disk, vpc)
    };
    each_system_call(1, make, |(node, disk, _), nth| {
        let pod = Pod::new("c1");
        make_room(&disk.0);
        node.add(&pod, &[ADDRESS]).ok();
        use_inodes(&disk.0);
        let struck = node
            .node
            .strike(&node.pod_call("DEL", &pod, &[]), Strike::kill(nth));
        let state = &node.ledger()[ADDRESS];
        assert!(state == "held" || state == "releasing", "{nth}: {state}");
        node.del(&pod);
        assert_eq!(node.ledger()[ADDRESS], "releasing", "{nth}");
        assert_eq!(node.ledger()["10.0.4.60"], "held", "{nth}");
        node.end_cooldown(ADDRESS);
        node.gc(&[&Pod::new("c0")]);
        assert_eq!(node.addresses(), ["10.0.4.60"], "{nth}");
        struck.hit.is_some()
    });
}
