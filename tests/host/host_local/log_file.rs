//! The log file of a network, which all four plugins write.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use harness::{Call, Output};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use tempfile::TempDir;

use super::{NO_NETNS, Network};

/// From this size on a file is put aside.
const LIMIT: u64 = 10 << 20;

/// A network with a log file in a directory of its own.
struct Logged {
    network: Network,
    directory: TempDir,
}

impl Logged {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let network = Network::of("10.0.0.0/24");
        let path = directory.path().join("cni.log");
        let network = network.with("logFile", path.to_str().into());
        Self { network, directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("cni.log")
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// An ADD that must succeed although its log cannot be written, and says why.
    #[track_caller]
    fn add_unlogged(&self, container: &str, why: &str) {
        let output = self.network.add(container);
        output.ok();
        assert!(output.stderr.contains(why), "{why:?}\n{output}");
    }
}

#[test]
fn each_command_is_a_line_with_whose_it_was_and_how_it_ended() {
    let logged = Logged::new();
    let arguments = "K8S_POD_NAMESPACE=user;K8S_POD_NAME=a b";
    let call = logged.network.call("ADD", "c1");
    call.env("CNI_ARGS", &format!("IgnoreUnknown=1;{arguments}"))
        .run()
        .ok();
    logged.network.del("c1").ok();
    logged.network.status().ok();
    logged.network.check("c1").error();
    let lines = logged.lines();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    for (line, parts) in lines.iter().zip([
        &[" level=info plugin=host-local command=ADD network=n pod=\"user/a b\" container=c1 ifname=net1 ", " addresses=10.0.0.2/24"][..],
        &[" level=info plugin=host-local command=DEL network=n container=c1 ifname=net1 milliseconds="],
        &[" level=info plugin=host-local command=STATUS network=n milliseconds="],
        &[" level=error plugin=host-local command=CHECK ", " code=999 error=\""],
    ]) {
        assert!(line.starts_with("time=2"), "{line}");
        parts.iter().for_each(|part| assert!(line.contains(part), "{part:?} in {line}"));
    }
    let mode = fs::metadata(logged.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn every_plugin_writes_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cni.log");
    let conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "any", "logFile": path});
    for plugin in ["eni-sync", "host-device", "host-local", "ipvlan"] {
        let call = Call::ours(plugin, "ADD").attachment("c1", "net1", NO_NETNS);
        call.conf(&conf).run().error();
        let log = fs::read_to_string(&path).unwrap();
        let line = log.lines().last().unwrap_or_default();
        let begin = format!(" level=error plugin={plugin} command=ADD network=net ");
        assert!(line.contains(&begin), "{log}");
    }
}

#[test]
fn the_level_says_which_commands_are_written() {
    for (level, lines, has_result) in [
        (json!("error"), 0, false),
        (json!("panic"), 0, false),
        (json!("verbose"), 1, false),
        (json!("debug"), 1, true),
        (json!("loud"), 1, false),
        (json!(7), 1, false),
    ] {
        let mut logged = Logged::new();
        logged.network.set("logLevel", level.clone());
        let output = logged.network.add("c1");
        output.ok();
        assert_eq!(logged.lines().len(), lines, "{level}");
        assert_eq!(logged.lines().concat().contains(" result="), has_result);
        let is_unknown = level == json!("loud") || level == json!(7);
        assert_eq!(output.stderr.contains("logLevel"), is_unknown, "{output}");
        let failed: Output = logged.network.check("c2");
        failed.error();
        assert_eq!(logged.lines().len(), lines + 1, "{level}");
    }
}

#[test]
fn no_name_makes_a_line_of_the_log() {
    let logged = Logged::new();
    let arguments = "K8S_POD_NAMESPACE=user;K8S_POD_NAME=a\ntime=2026 \u{202e}";
    let call = logged.network.call("ADD", "c1").env("CNI_ARGS", arguments);
    // host-local itself refuses such arguments or not; the line is one in either case.
    call.run();
    let text = fs::read_to_string(logged.path()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains('\u{202e}'), "{text}");
}

#[test]
fn a_log_file_that_cannot_be_written_fails_no_command() {
    let mut logged = Logged::new();
    for (value, why) in [
        (json!("log"), "not an absolute path"),
        (json!(7), "not an absolute path"),
        (json!("/no/such/directory/log"), "No such file"),
        (json!("/proc/version"), "failed to write the log file"),
        (json!("/dev/null"), "not a regular file"),
        (json!(logged.directory.path()), "not a regular file"),
    ] {
        logged.network.set("logFile", value.clone());
        logged.add_unlogged(&format!("c{}", value.to_string().len()), why);
    }
    logged.network.set("logFile", json!(""));
    let output = logged.network.add("quiet");
    output.ok();
    assert_eq!(output.stderr, "");
}

#[test]
fn nothing_that_others_put_in_its_place_is_written_to() {
    let logged = Logged::new();
    let victim = logged.directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, logged.path()).unwrap();
    logged.add_unlogged("c1", "not a regular file of this user with one name");
    fs::remove_file(logged.path()).unwrap();
    fs::hard_link(&victim, logged.path()).unwrap();
    logged.add_unlogged("c2", "not a regular file of this user with one name");
    fs::remove_file(logged.path()).unwrap();
    fs::write(logged.path(), "").unwrap();
    std::os::unix::fs::chown(logged.path(), Some(65534), None).unwrap();
    logged.add_unlogged("c3", "not a regular file of this user with one name");
    fs::remove_file(logged.path()).unwrap();
    mknodat(CWD, logged.path(), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    logged.add_unlogged("c4", "not a regular file of this user with one name");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn a_file_that_is_large_is_put_aside_once() {
    let logged = Logged::new();
    logged.network.status().ok();
    let fill = |size| {
        let file = fs::File::options().write(true).open(logged.path());
        file.unwrap().set_len(size).unwrap();
    };
    fill(LIMIT - 1);
    logged.network.add("c1").ok();
    assert!(fs::metadata(logged.path()).unwrap().len() > LIMIT);
    let containers: Vec<String> = (0..8).map(|n| format!("many-{n}")).collect();
    std::thread::scope(|scope| {
        for container in &containers {
            scope.spawn(|| logged.network.add(container).ok());
        }
    });
    let old = logged.directory.path().join("cni.log.1");
    assert!(fs::metadata(&old).unwrap().size() > LIMIT);
    let old = fs::read(&old).unwrap();
    let old = String::from_utf8_lossy(&old[usize::try_from(LIMIT).unwrap() - 1..]).into_owned();
    let all = logged.lines().join("\n") + &old;
    for container in &containers {
        let field = format!(" container={container} ");
        assert_eq!(all.matches(&field).count(), 1, "{all}");
    }
    let names = fs::read_dir(logged.directory.path()).unwrap().count();
    assert_eq!(names, 2);
}
