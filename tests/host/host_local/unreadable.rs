//! Reservations that cannot be read at the moment, because a process or the node has too many
//! open files or the disk fails: they may be anybody's, so no command takes them for those of
//! others, or for missing ones.

use std::path::Path;

use harness::fault::{Counted, Fault, Strike, each_system_call, strike};
use harness::{Call, CniError, Namespace, Output};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use super::{Network, address};

/// The errors that say nothing of the file.
const ERRORS: [&str; 5] = ["EMFILE", "ENFILE", "EIO", "ENOMEM", "EACCES"];
/// The system calls that read a file.
const READING: [&str; 3] = ["openat", "statx,fstat,newfstatat", "read"];

/// The call while these system calls fail at one path.
fn failing(call: &Call, path: &Path, calls: &str, error: &str) -> Output {
    let path = path.to_str().expect("the path is text");
    let (trace, fault) = (
        format!("trace={calls}"),
        format!("inject={calls}:error={error}"),
    );
    let options = ["-f", "-qq", "-o", "/dev/null", "-P", path];
    let options = [&options[..], &["-e", &trace, "-e", &fault]].concat();
    call.run_under("strace", &options)
}

/// Each way in which reading a file fails.
fn ways() -> impl Iterator<Item = (&'static str, &'static str)> {
    let calls = READING.into_iter();
    calls.flat_map(|calls| ERRORS.map(|error| (calls, error)))
}

fn dual_stack() -> Network {
    let ranges = json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "2001:db8::/64"}]]);
    Network::new(json!({"ranges": ranges}))
}

/// The same with so many reservations of others that there is an index.
fn indexed() -> Network {
    let network = dual_stack();
    for n in 0..12 {
        network.write(&format!("10.0.0.{}", 100 + n), &format!("p{n}\r\nnet1"));
    }
    network.add("c0").ok();
    assert!(network.path(".reservations.index").exists());
    network
}

fn gc_call(network: &Network, valid: Value) -> Call {
    let mut conf = network.conf().clone();
    conf["cni.dev/valid-attachments"] = valid;
    Call::ours("host-local", "GC").conf(&conf)
}

/// The error of a file that cannot be read: its name, and what to do.
#[track_caller]
fn names(error: &CniError, file: &str) {
    assert!(error.msg.contains(&format!("{file}\"")), "{error:?}");
    assert!(error.details.contains("remove"), "{error:?}");
}

#[test]
fn a_del_whose_reservation_cannot_be_read_names_it_and_releases_the_rest() {
    for make in [dual_stack, indexed] {
        let network = make();
        let before = network.reserved();
        for (calls, error) in ways() {
            let given = network.add("c1").ok();
            let own = given["ips"][0]["address"].as_str().unwrap_or_default();
            let own = own.trim_end_matches("/24");
            let path = network.path(own);
            let del = failing(&network.call("DEL", "c1"), &path, calls, error);
            names(&del.error_code(5), own);
            let left = [&before[..], &[own.to_owned()]].concat();
            let mut reserved = network.reserved();
            assert_eq!(reserved.len(), left.len(), "{calls} {error}: {reserved:?}");
            reserved.retain(|name| !left.contains(name));
            assert_eq!(reserved, [""; 0], "{calls} {error}");
            network.del("c1").ok();
            assert_eq!(network.reserved(), before, "{calls} {error}");
        }
    }
}

/// A disk whose file stays damaged must not keep all pods of its network from ending.
#[test]
fn a_file_that_cannot_be_read_keeps_only_the_pod_from_ending_whose_address_it_is() {
    for make in [dual_stack, indexed] {
        for (calls, error) in ways() {
            let network = make();
            let before = network.reserved();
            let results = ["c1", "c2"].map(|id| network.add(id).ok());
            let [_, path] = results.each_ref().map(|result| {
                let own = result["ips"][0]["address"].as_str().unwrap_or_default();
                network.path(own.trim_end_matches("/24"))
            });
            let del = |id: &str, result: &Value| {
                let mut conf = network.conf().clone();
                conf["prevResult"] = result.clone();
                let call = network.call("DEL", id).conf(&conf);
                failing(&call, &path, calls, error)
            };
            let of_other = del("c1", &results[0]);
            of_other.ok();
            let own = path.file_name().unwrap().to_str().unwrap();
            // With an index, no file is read that is not needed.
            let is_said = of_other.stderr.contains(own);
            assert!(is_said || network.path(".reservations.index").exists());
            names(&del("c2", &results[1]).error_code(5), own);
            // The addresses of the pod are not known.
            for unknown in [
                json!({}),
                json!("x"),
                json!({ "cniVersion": "1.1.0", "ips": [] }),
            ] {
                names(&del("c2", &unknown).error_code(5), own);
            }
            let left = [&before[..], &[own.to_owned()]].concat();
            let mut reserved = network.reserved();
            reserved.retain(|name| !left.contains(name));
            assert_eq!(reserved, [""; 0], "{calls} {error}");
            assert!(path.exists(), "{calls} {error}");
        }
    }
}

#[test]
fn gc_releases_the_rest_and_keeps_what_it_cannot_read() {
    let network = dual_stack();
    for (calls, error) in ways() {
        for id in ["c1", "c2", "c3"] {
            network.add(id).ok();
        }
        let valid = json!([{"containerID": "c2", "ifname": "net1"}]);
        let files = network.files().into_iter();
        let files: Vec<_> = files.filter(|(name, _)| !name.contains("last")).collect();
        let of = |id: &str| {
            let mut own = files
                .iter()
                .filter(|(_, content)| content.starts_with(&format!("{id}\r")));
            own.next().expect("it has an address").0.clone()
        };
        for id in ["c1", "c2"] {
            let own = of(id);
            let call = gc_call(&network, valid.clone());
            let gc = failing(&call, &network.path(&own), calls, error);
            names(&gc.error_code(5), &own);
            assert!(network.reserved().contains(&own), "{calls} {error}");
            assert!(!network.reserved().contains(&of("c3")), "{calls} {error}");
        }
        gc_call(&network, json!([])).run().ok();
        assert_eq!(network.reserved(), [""; 0]);
    }
}

#[test]
fn check_says_that_it_cannot_read_and_not_that_there_is_no_address() {
    let network = dual_stack();
    network.add("c1").ok();
    network.add("c2").ok();
    let path = network.path("10.0.0.2");
    for (calls, error) in ways() {
        let prev = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}]});
        let mut conf = network.conf().clone();
        conf["prevResult"] = prev;
        let own = network.call("CHECK", "c1").conf(&conf);
        names(
            &failing(&own, &path, calls, error).error_code(5),
            "10.0.0.2",
        );
        // It is not needed to know whose another address is.
        let other = network.call("CHECK", "c2");
        failing(&other, &path, calls, error).ok();
    }
}

#[test]
fn an_address_whose_file_cannot_be_read_is_taken() {
    for (calls, error) in ways() {
        let ranges = json!([[{"subnet": "10.0.0.0/29", "rangeEnd": "10.0.0.3"}]]);
        let network = Network::new(json!({"ranges": ranges}));
        network.write("last_reserved_ip.0", "10.0.0.1");
        network.write("10.0.0.2", "c1\r\nnet1");
        let path = network.path("10.0.0.2");
        let add = failing(&network.call("ADD", "c2"), &path, calls, error);
        assert_eq!(address(&add), "10.0.0.3/29", "{calls} {error}");
        assert!(add.stderr.contains("10.0.0.2"), "{add}");
        let full = failing(&network.call("ADD", "c3"), &path, calls, error).error_code(999);
        assert!(
            full.details
                .contains("10.0.0.2 by a file that cannot be read"),
            "{full:?}"
        );
        assert_eq!(network.reserved(), ["10.0.0.2", "10.0.0.3"]);
    }
}

/// What is not examined at the first use of a directory in a boot would be kept till the next.
#[test]
fn what_could_not_be_examined_after_a_reboot_is_examined_later() {
    let xattr = ("lgetxattr", "EIO");
    for (calls, error) in ways().chain([xattr]) {
        let network = Network::of("10.0.0.0/24");
        for n in 0..8 {
            network.add(&format!("c{n}")).ok();
        }
        let all = network.reserved();
        all.iter().for_each(|name| network.date_back(name));
        network.write(".boot_id", "another");
        let path = network.path("10.0.0.6");
        failing(&network.call("ADD", "d1"), &path, calls, error).ok();
        let left: Vec<String> = network.reserved();
        assert_eq!(left, ["10.0.0.10", "10.0.0.6"], "{calls} {error}");
        // It is not the turn of this address.
        network.write("last_reserved_ip.0", "10.0.0.6");
        network.write("10.0.0.7", "x1\r\nnet1");
        network.write("10.0.0.8", "x2\r\nnet1");
        network.add("d2").ok();
        assert!(!network.path("10.0.0.6").exists(), "{calls} {error}");
    }
}

/// Without machine or namespace, nothing would ever tell that the container has ended.
#[test]
fn an_add_that_cannot_read_whose_the_address_is_reserves_nothing() {
    let pod = Namespace::new();
    for error in ["EMFILE", "ENFILE", "EIO", "ENOMEM"] {
        for (file, code) in [("/etc/machine-id", 5), (pod.path().as_str(), 8)] {
            let network = Network::of("10.0.0.0/24");
            let call = network.call("ADD", "c1").env("CNI_NETNS", &pod.path());
            let add = failing(&call, Path::new(file), "openat", error);
            let said = add.error_code(code);
            assert!(said.msg.contains(file), "{said:?}");
            assert_eq!(network.reserved(), [""; 0], "{file} {error}");
        }
    }
}

/// Such a directory is that of a Go plugin whose other files somebody has removed.
#[test]
fn a_directory_that_cannot_be_examined_does_not_count_as_another_programs() {
    for error in ERRORS {
        for (calls, file) in [
            ("openat", "10.0.0.2"),
            ("read", "10.0.0.2"),
            ("statx,newfstatat", ""),
        ] {
            let network = Network::of("10.0.0.0/24");
            network.write("10.0.0.2", "c1\r\nnet1");
            let path = match file {
                "" => network.data_dir().join("n"),
                file => network.path(file),
            };
            let failing = |command| failing(&network.call(command, "c1"), &path, calls, error);
            for command in ["DEL", "ADD"] {
                let output = failing(command);
                let said = output.error_code(5);
                assert!(said.msg.contains(path.to_str().unwrap()), "{output}");
                assert_eq!(network.reserved(), ["10.0.0.2"], "{calls} {error}");
            }
            network.del("c1").ok();
            assert_eq!(network.reserved(), [""; 0]);
        }
    }
}

/// Another kind of file is no reservation, whatever opening it says.
#[test]
fn a_device_that_cannot_be_opened_belongs_to_no_pod() {
    let network = dual_stack();
    network.add("c1").ok();
    let path = network.path("10.0.0.9");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    failing(&network.call("DEL", "c1"), &path, "openat", "EACCES").ok();
    assert_eq!(network.reserved(), ["10.0.0.9"]);
}

#[test]
fn a_del_that_succeeds_has_released_whatever_system_call_fails() {
    for error in [Errno::EIO, Errno::EMFILE] {
        for make in [dual_stack, indexed] {
            let others = make().reserved();
            each_system_call(1, make, |network, nth| {
                network.add("c1").ok();
                let how = Strike {
                    fault: Fault::Error(error),
                    counted: Counted::All,
                    nth,
                };
                let struck = strike(&network.call("DEL", "c1"), how);
                match struck.output.status {
                    Some(0) => {
                        assert_eq!(
                            network.reserved(),
                            others,
                            "{error} {nth} {}",
                            struck.output
                        );
                    }
                    _ => drop(struck.output.error()),
                }
                network.del("c1").ok();
                assert_eq!(network.reserved(), others, "{error} {nth}");
                struck.hit.is_some()
            });
        }
    }
}
