//! The plugins for arm64, which `deploy/cross` has built: executed by an emulator of the processor,
//! whose system calls are this kernel's.

use std::fs;
use std::path::Path;

use harness::{Call, Output, our_plugin, run_tool};
use serde_json::{Value, json};

/// The program for arm64, which `make` puts beside those of this machine.
pub(crate) const ARM64: &str = "arm64/eni-cni";

fn run(call: &Call) -> Output {
    if cfg!(target_arch = "aarch64") {
        call.run()
    } else {
        call.run_under("qemu-aarch64-static", &[])
    }
}

#[test]
fn the_plugin_is_for_arm64_and_says_its_version() {
    let path = our_plugin(ARM64);
    let path = path.to_str().expect("the path is text");
    let header = run_tool("readelf", &["--wide", "--file-header", path]);
    let header = String::from_utf8_lossy(&header.stdout).into_owned();
    assert!(header.contains("AArch64"), "{header}");
    let output = run(&Call::bare(path, "")
        .without("CNI_COMMAND")
        .arguments(&["--version"]));
    let expected = format!("eni-cni {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (output.status, &output.stdout),
        (Some(0), &expected),
        "{output}"
    );
}

/// What host-local answers when a container comes, another one comes, and the first one goes and
/// comes back, and the files that it has written meanwhile.
fn answers(program: &Path, run: impl Fn(&Call) -> Output) -> Vec<Value> {
    let state = tempfile::tempdir().expect("a temporary directory can be made");
    let ranges = json!([[{"subnet": "10.0.0.0/29"}], [{"subnet": "fd00::/64"}]]);
    let ipam = json!({"type": "host-local", "ranges": ranges, "dataDir": state.path()});
    let conf = json!({"cniVersion": "1.1.0", "name": "n", "type": "ipvlan", "ipam": ipam});
    let call = |command: &str, container: &str| {
        let call = Call::bare(program, command).attachment(container, "net1", "/run/netns/none");
        run(&call.conf(&conf)).ok()
    };
    let mut answers = vec![run(&Call::bare(program, "VERSION").conf(&conf)).ok()];
    answers.extend(["one", "two"].map(|container| call("ADD", container)));
    answers.push(call("DEL", "one"));
    answers.push(call("ADD", "one"));
    let entries = fs::read_dir(state.path().join("n")).expect("it has a directory");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("it can be listed").path())
        .map(|path| {
            (
                path.file_name().map(ToOwned::to_owned),
                fs::read(&path).ok(),
            )
        })
        .map(|(name, content)| format!("{name:?} {}", content.unwrap_or_default().escape_ascii()))
        .collect();
    files.sort();
    answers.extend([json!(files)]);
    answers
}

#[test]
fn host_local_answers_and_writes_what_it_does_on_this_machine() {
    let program = our_plugin(ARM64).with_file_name("host-local");
    let expected = answers(&our_plugin("host-local"), Call::run);
    let found = answers(&program, run);
    assert_eq!(found[1]["ips"][0]["address"], "10.0.0.2/29");
    assert_eq!(found, expected);
}
