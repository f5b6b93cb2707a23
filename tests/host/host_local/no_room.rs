//! A disk on which no file can be made any more: what is reserved there can still be released,
//! and that makes room. A place where nothing can be reserved has nothing to release.

use std::fs;
use std::path::Path;

use harness::small_disk::{LIMITS, mount_at, use_inodes};
use harness::{Call, Node, Output, is_waited_for};
use serde_json::{Value, json};

use super::faults::{hold_lock, kill};
use super::{NO_NETNS, Network, wait_until};

const DISK: &str = "/var/lib/cni/networks";

/// Runs `work` on a node with such a disk.
fn on_small_disk<T: Send>(limit: &str, work: impl FnOnce() -> T + Send) -> T {
    let node = Node::new();
    fs::create_dir(node.state().join("networks")).unwrap();
    node.inside(|| {
        mount_at(Path::new(DISK), limit);
        work()
    })
}

fn call(command: &str, id: &str, keys: &Value) -> Call {
    let ranges = json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:db8::/64"}]]);
    let mut conf = json!({"cniVersion": "1.1.0", "name": "n", "ipam": {"ranges": ranges}});
    for (key, value) in keys.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    Call::ours("host-local", command)
        .attachment(id, "net1", NO_NETNS)
        .conf(&conf)
}

fn run(command: &str, id: &str) -> Output {
    call(command, id, &json!({})).run()
}

fn reserved() -> usize {
    let names = fs::read_dir(Path::new(DISK).join("n")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .count()
}

#[test]
fn where_no_file_can_be_made_each_address_can_be_released() {
    for (limit, use_up) in LIMITS {
        for (pods, has_lock) in [(3, true), (3, false), (9, true), (9, false)] {
            on_small_disk(limit, || {
                for n in 0..pods {
                    run("ADD", &format!("c{n}")).ok();
                }
                let lock = Path::new(DISK).join("n/lock");
                if !has_lock {
                    fs::remove_file(&lock).unwrap();
                }
                use_up(Path::new(DISK));
                let what = format!("{limit} {pods} {has_lock}");
                if pods == 3 {
                    // With more there is an index, which an ADD gives up to have room.
                    run("ADD", "d1").error_code(5);
                }
                run("CHECK", "c1").ok();
                assert_eq!(reserved(), pods * 2, "{what}");
                run("DEL", "c0").ok();
                assert_eq!(reserved(), pods * 2 - 2, "{what}");
                let valid =
                    json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "net1"}]});
                call("GC", "", &valid).run().ok();
                assert_eq!(reserved(), 2, "{what}");
                run("DEL", "c1").ok();
                assert_eq!(reserved(), 0, "{what}");
            });
        }
    }
}

/// Of two that cannot make the lock, one waits for the other.
#[test]
fn who_releases_without_the_lock_excludes_others_that_do() {
    on_small_disk("nr_inodes=64", || {
        run("ADD", "c1").ok();
        let directory = Path::new(DISK).join("n");
        fs::remove_file(directory.join("lock")).unwrap();
        use_inodes(Path::new(DISK));
        let holder = hold_lock(&directory);
        let del = call("DEL", "c1", &json!({}));
        let mut child = del.start(std::process::Stdio::null());
        wait_until("the wait for the directory", || is_waited_for(&directory));
        assert_eq!(reserved(), 2);
        kill(holder);
        assert!(child.wait().unwrap().success());
        assert_eq!(reserved(), 0);
    });
}

/// The disk of the reservations may be mounted read-only after a failure.
#[test]
fn a_del_that_has_nothing_to_release_needs_no_lock() {
    let mut node = Node::new();
    let directory = node.state().join("networks/n");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("10.0.0.2"), "c1\r\nnet1").unwrap();
    fs::write(directory.join("last_reserved_ip.0"), "10.0.0.2").unwrap();
    node.read_only("/var/lib/cni");
    node.inside(|| {
        run("DEL", "c2").ok();
        run("CHECK", "c1").ok();
        let error = run("DEL", "c1").error_code(5);
        assert!(error.msg.contains("10.0.0.2"), "{error:?}");
    });
}

/// As where the directory is missing: no ADD succeeds there.
#[test]
fn where_the_data_directory_is_a_file_there_is_nothing_to_release() {
    let network = Network::of("10.0.0.0/24");
    let file = network.data_dir().join("file");
    fs::write(&file, "precious").unwrap();
    for path in [file.clone(), file.join("below")] {
        let network = Network::of("10.0.0.0/24").with("ipam.dataDir", path.to_str().into());
        for command in ["ADD", "STATUS"] {
            let error = network.call(command, "c1").run().error_code(5);
            assert!(error.msg.contains(path.to_str().unwrap()), "{error:?}");
        }
        network.check("c1").error_code(999);
        for output in [network.del("c1"), network.gc(json!([]))] {
            output.ok();
            assert!(
                output.stderr.contains("nothing is reserved there"),
                "{output}"
            );
        }
    }
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
}
