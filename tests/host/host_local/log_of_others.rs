//! A `logFile` that names what is not a log of these plugins: whoever may write networks must
//! not be able to change files of other programs, or parameters of the kernel.

use std::fs;
use std::path::Path;

use harness::Node;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::Network;

/// A line of another command, from which on a file is a log of these plugins.
const LINE: &str =
    "time=2026-11-27T02:40:00.123Z level=info plugin=ipvlan command=DEL network=n milliseconds=7\n";
/// From this size in bytes on a file is put aside.
const LIMIT: u64 = 10 << 20;

fn logged(path: &Path) -> Network {
    Network::of("10.0.0.0/24").with("logFile", path.to_str().into())
}

/// An ADD that must succeed although its log cannot be written, and says once why.
#[track_caller]
fn add_unlogged(path: &Path, why: &str) {
    let output = logged(path).add("c1");
    output.ok();
    assert!(output.stderr.contains(why), "{why:?}\n{output}");
    let begin = format!("failed to write the log file {path:?}");
    assert_eq!(output.stderr.matches(&begin).count(), 1, "{output}");
    assert_eq!(output.stderr.lines().count(), 1, "{output}");
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

#[test]
fn a_file_of_another_program_is_not_written_to() {
    let directory = directory();
    let path = directory.path().join("file");
    for content in [
        "precious",
        "\n",
        " ",
        "root:x:0:0:root:/root:/bin/bash\n",
        // The formats of containerd, of Go's package slog and of Multus.
        "time=\"2026-11-27T02:40:00.123456789Z\" level=info msg=\"starting containerd\"\n",
        "time=2026-11-27T02:40:00.123Z level=INFO msg=hello\n",
        "time=2026-11-27T02:40:00.123Z level=info msg=hello\n",
        "2026-11-27T02:40:00Z [verbose] Add: user:smf-0\n",
    ] {
        fs::write(&path, content).unwrap();
        add_unlogged(&path, "it is not a log of these plugins");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn an_empty_file_and_a_log_of_the_plugins_are_appended_to() {
    let directory = directory();
    let path = directory.path().join("file");
    let failed = LINE.replace("level=info", "level=error");
    // A full disk may have cut the first line.
    for content in ["", LINE, &failed, &LINE[..3], &LINE[..9], &LINE[..40]] {
        fs::write(&path, content).unwrap();
        let output = logged(&path).add("c1");
        output.ok();
        assert_eq!(output.stderr, "", "{content}");
        let text = fs::read_to_string(&path).unwrap();
        let line = text.strip_prefix(content).expect("it is appended");
        assert!(line.contains(" command=ADD "), "{text}");
    }
}

#[test]
fn a_large_log_does_not_replace_a_file_of_another_program() {
    let directory = directory();
    let path = directory.path().join("file");
    let other = directory.path().join("file.1");
    fs::write(&path, LINE).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(LIMIT).unwrap();
    fs::write(&other, "precious").unwrap();
    add_unlogged(&path, "file.1");
    assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
    assert_eq!(fs::metadata(&path).unwrap().len(), LIMIT);
    // It is put aside in place of an older log.
    fs::write(&other, LINE).unwrap();
    logged(&path).add("c1").ok();
    assert_eq!(fs::metadata(&other).unwrap().len(), LIMIT);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
}

const NO_DISK: &str = "its file system does not keep files";

#[test]
fn a_parameter_of_the_kernel_is_not_written_to() {
    let node = Node::new();
    let directory = directory();
    let elsewhere = directory.path().join("file");
    fs::write(&elsewhere, "").unwrap();
    node.inside(|| {
        unshare(CloneFlags::CLONE_NEWUTS).expect("the names of the node can be hidden");
        let domain = Path::new("/proc/sys/kernel/domainname");
        let alias = Path::new("/sys/class/net/lo/ifalias");
        for (parameter, content) in [(domain, "example.org\n"), (domain, "\n"), (alias, "")] {
            if parameter == domain {
                fs::write(parameter, content).unwrap();
            }
            add_unlogged(parameter, NO_DISK);
            assert_eq!(fs::read_to_string(parameter).unwrap(), content);
        }
        // Under another name it is the same.
        let none: Option<&str> = None;
        mount(Some(alias), &elsewhere, none, MsFlags::MS_BIND, none).unwrap();
        add_unlogged(&elsewhere, NO_DISK);
        assert_eq!(fs::read_to_string(alias).unwrap(), "");
    });
}

#[test]
fn no_file_is_made_where_none_is_kept() {
    let node = Node::new();
    let directory = directory();
    node.inside(|| {
        let (kind, none) = (Some("devtmpfs"), None::<&str>);
        mount(kind, directory.path(), kind, MsFlags::empty(), none).expect("it can be mounted");
        // The devices are those of the machine, so that nothing may be left among them.
        let path = directory.path().join(format!("log-{}", std::process::id()));
        let output = logged(&path).add("c1");
        let is_made = fs::remove_file(&path).is_ok();
        output.ok();
        assert!(output.stderr.contains(NO_DISK), "{output}");
        assert!(!is_made, "there is a file among the devices");
        // Memory keeps files till the next boot.
        let kind = Some("tmpfs");
        mount(kind, directory.path(), kind, MsFlags::empty(), none).expect("it can be mounted");
        logged(&path).add("c1").ok();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    });
}

/// A device may do something when it is opened.
#[test]
fn a_device_is_not_even_opened() {
    let trace = directory();
    let trace = trace.path().join("trace");
    let network = logged(Path::new("/dev/null"));
    let options = ["-f", "-o", trace.to_str().unwrap(), "-e", "trace=openat"];
    let output = network.call("ADD", "c1").run_under("strace", &options);
    output.ok();
    assert!(output.stderr.contains("not a regular file"), "{output}");
    let opened = fs::read_to_string(&trace).unwrap();
    let own = opened.lines().filter(|line| line.contains("O_APPEND"));
    assert_eq!(own.count(), 0, "{opened}");
}
