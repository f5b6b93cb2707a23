//! What all commands of an operator have in common, and those that only print.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use harness::vpc::Vpc;
use harness::{Call, Node, Output, our_plugin};

/// Runs eni-sync as a command line, without any AWS.
fn eni_sync(arguments: &[&str]) -> Output {
    let call = Call::ours("eni-sync", "").without("CNI_COMMAND");
    let mut process = call.process();
    process.args(arguments);
    Node::new().inside(|| call.run_as(process))
}

#[test]
fn the_completions_of_a_shell_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = eni_sync(&["completions", shell]);
        assert_eq!(output.status, Some(0), "{output}");
        for command in [
            "agent",
            "status",
            "doctor",
            "sync",
            "release",
            "completions",
            "man",
        ] {
            assert!(output.stdout.contains(command), "{shell} lacks {command}");
        }
    }
}

#[test]
fn there_is_a_manual_page_of_each_command_with_its_exit_status() {
    for (arguments, heading) in [
        (vec!["man"], ".TH eni-sync 1"),
        (vec!["man", "sync"], ".TH eni-sync-sync 1"),
        (vec!["man", "doctor"], ".TH eni-sync-doctor 1"),
        (vec!["man", "release"], ".TH eni-sync-release 1"),
    ] {
        let output = eni_sync(&arguments);
        assert_eq!(output.status, Some(0), "{output}");
        assert!(output.stdout.contains(heading), "{output}");
        assert!(output.stdout.contains("Exit status:"), "{output}");
    }
    let output = eni_sync(&["man", "nonsense"]);
    assert_eq!(output.status, Some(1), "{output}");
    assert_eq!(
        output.stderr,
        "eni-sync: there is no command \"nonsense\"\n"
    );
}

#[track_caller]
fn write_manuals(directory: &Path) {
    let call = Call::ours("eni-sync", "").without("CNI_COMMAND");
    let mut process = call.process();
    process.args(["man", "--to"]).arg(directory);
    let output = call.run_as(process);
    assert_eq!(output.status, Some(0), "{output}");
}

#[test]
fn the_manual_pages_of_all_commands_are_written_into_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    write_manuals(directory.path());
    for page in ["eni-sync.1", "eni-sync-doctor.1", "eni-sync-agent.1"] {
        assert!(directory.path().join(page).is_file(), "{page} is missing");
    }
    let page = directory.path().join("eni-sync.1");
    let mode = page.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "everybody may read it");
    let output = eni_sync(&["man", "--to", "/nowhere"]);
    assert_eq!(output.status, Some(1), "{output}");
    assert!(output.stderr.contains("/nowhere"), "{output}");
}

/// The directory may belong to another user.
#[test]
fn a_manual_page_replaces_a_symbolic_link_and_does_not_follow_it() {
    let directory = tempfile::tempdir().unwrap();
    let victim = directory.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    for page in ["eni-sync.1", "eni-sync-doctor.1"] {
        symlink(&victim, directory.path().join(page)).unwrap();
    }
    write_manuals(directory.path());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    for page in ["eni-sync.1", "eni-sync-doctor.1"] {
        let page = directory.path().join(page);
        assert!(page.symlink_metadata().unwrap().is_file(), "{page:?}");
        assert!(fs::read_to_string(&page).unwrap().contains(".TH eni-sync"));
    }
}

#[test]
fn a_command_that_is_misspelt_is_guessed() {
    let output = eni_sync(&["statsu"]);
    assert_eq!(output.status, Some(2), "{output}");
    assert!(
        output
            .stderr
            .contains("similar subcommand exists: 'status'"),
        "{output}"
    );
    // Nobody asked for colours who is not at a terminal.
    assert!(!output.stderr.contains('\u{1b}'), "{output}");
}

#[test]
fn a_wrong_argument_has_a_status_of_its_own() {
    for arguments in [&["sync"][..], &["nonsense"], &["sync", "--once", "x"]] {
        let output = eni_sync(arguments);
        assert_eq!(output.status, Some(2), "{output}");
        assert!(output.stderr.contains("Usage: eni-sync"), "{output}");
    }
}

#[test]
fn a_reader_that_closes_the_pipe_is_not_an_error() {
    let call = Call::ours("eni-sync", "").without("CNI_COMMAND");
    let mut process = call.process();
    process.args(["completions", "bash"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    process.stdout(writer).stderr(Stdio::piped());
    let output = process.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_user_that_is_not_root_is_told_so() {
    let node = Vpc::new().node();
    for arguments in ["status", "doctor", "sync --once", "release --network mgmt"] {
        // The file is opened as root: its directory may be closed to others.
        let script = format!(
            "exec setpriv --reuid 65534 --regid 65534 --clear-groups /proc/self/fd/3 {arguments} 3<{}",
            our_plugin("eni-sync").display()
        );
        let call = node.call("").without("CNI_COMMAND");
        let mut process = Command::new("sh");
        process.args(["-c", &script]).env_remove("CNI_COMMAND");
        let output = node.node.inside(|| call.run_as(process));
        assert_eq!(output.status, Some(1), "{arguments}\n{output}");
        assert_eq!(
            output.stderr,
            "eni-sync: only root can do this: \
             the ledger, the agent's socket and the namespaces of pods are root's\n",
            "{arguments}"
        );
    }
}
