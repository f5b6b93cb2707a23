//! Nodes without the image: the user data of the examples, and the units of the service manager.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use fixtures::deploy::{path, text};
use harness::{Call, our_plugin};

/// The files in `deploy/examples` with this ending.
fn user_data(extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path("deploy/examples")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|end| end == extension))
        .collect();
    assert!(!found.is_empty(), "no {extension}");
    found
}

/// Makes sure that `attach` takes this configuration; there is no AWS to attach anything.
#[track_caller]
fn assert_names_enis(text: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let call = Call::ours("eni-sync", "").without("CNI_COMMAND");
    let call = call.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1");
    let output =
        harness::Node::new().run(&call.arguments(&["attach", "--dry-run", "--config", &path]));
    assert!(
        output.stderr.contains("instance metadata service"),
        "{output}"
    );
}

#[test]
fn the_user_data_of_the_examples_is_shell_with_a_configuration_that_names_enis() {
    for path in user_data("sh") {
        let output = Command::new("sh").arg("-n").arg(&path).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{path:?}: {output:?}");
        let text = fs::read_to_string(&path).unwrap();
        let configuration = text.split("<<'JSON'\n").nth(1).unwrap();
        assert_names_enis(configuration.split("\nJSON\n").next().unwrap());
    }
    for path in user_data("toml") {
        let text = fs::read_to_string(&path).unwrap();
        let encoded = text.split("user-data = \"").nth(1).unwrap();
        let encoded = encoded.split('"').next().unwrap();
        let mut decode = Command::new("base64");
        let mut decode = decode
            .arg("-d")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = decode.stdin.take().unwrap();
        std::io::Write::write_all(&mut pipe, encoded.as_bytes()).unwrap();
        drop(pipe);
        let output = decode.wait_with_output().unwrap();
        assert_names_enis(&String::from_utf8(output.stdout).unwrap());
    }
}

/// Executes the user data of a node with this distribution, below a directory of its own. Returns
/// its status and which programs it has executed.
fn execute_user_data(distribution: &str, archive: &str, attach: &str) -> (Option<i32>, String) {
    let work = tempfile::tempdir().unwrap();
    let root = work.path();
    let program = |name: &str, status: &str| {
        let file = root.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let log = root.join("log").display().to_string();
        let text = format!("#!/bin/sh\necho {name} \"$1\" >>{log}\nexit {status}\n");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    };
    program("etc/eks/bootstrap.sh", "0");
    program("packed/eni-cni-1/eni-sync", attach);
    program("packed/eni-cni-1/docs/eni-sync", "0");
    let packed = root.join("packed").display().to_string();
    let archived = root.join("eni-cni.tar.gz").display().to_string();
    let pack = ["-czf", &archived, "-C", &packed, "eni-cni-1"];
    let is_done = Command::new("tar").args(pack).status().unwrap();
    assert!(is_done.success());
    fs::write(root.join("etc/os-release"), format!("ID={distribution}\n")).unwrap();
    let directory = root.display();
    let script = text("deploy/examples/user-data.sh")
        .replace(" /opt/", &format!(" {directory}/opt/"))
        .replace("/etc/", &format!("{directory}/etc/"))
        .replace("https://example.com", &format!("file://{directory}"))
        .replace("eni-cni.tar.gz", archive);
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let log = fs::read_to_string(root.join("log")).unwrap_or_default();
    assert!(!root.join("opt/cni/bin/docs").exists());
    (output.status.code(), log)
}

#[test]
fn user_data_starts_the_kubelet_whatever_fails_before() {
    let (attach, kubelet) = (
        "packed/eni-cni-1/eni-sync attach\n",
        "etc/eks/bootstrap.sh my-cluster\n",
    );
    let both = format!("{attach}{kubelet}");
    let there = "eni-cni.tar.gz";
    for (distribution, archive, status, expected) in [
        ("ubuntu", there, "0", both.as_str()),
        ("ubuntu", there, "1", &both),
        ("ubuntu", "missing.tar.gz", "0", kubelet),
        // nodeadm starts it.
        ("amzn", there, "1", attach),
        ("amzn", "missing.tar.gz", "0", ""),
    ] {
        let executed = execute_user_data(distribution, archive, status);
        let what = format!("{distribution} {archive} {status}");
        assert_eq!(executed, (Some(0), expected.to_owned()), "{what}");
    }
}

#[test]
fn systemd_takes_the_units_and_starts_them_before_the_kubelet() {
    let work = tempfile::tempdir().unwrap();
    let kubelet = "[Service]\nExecStart=/bin/true\n";
    fs::write(work.path().join("kubelet.service"), kubelet).unwrap();
    for unit in ["eni-sync-attach.service", "eni-sync.service"] {
        let text = text(&format!("deploy/{unit}"));
        assert!(text.contains("\nBefore=kubelet.service"), "{unit}");
        let program = our_plugin("eni-sync").display().to_string();
        let text = text.replace("/opt/cni/bin/eni-sync", &program);
        fs::write(work.path().join(unit), text).unwrap();
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(["eni-sync-attach.service", "eni-sync.service"].map(|unit| work.path().join(unit)))
        .env("SYSTEMD_UNIT_PATH", format!("{}:", work.path().display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("eni-sync"), "{said}");
}
