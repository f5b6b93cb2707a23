//! `support-bundle`: what is in it, that `tar` reads it, and that no secret is in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::vpc::{CANARY, Vpc, VpcNode};
use harness::{Call, Pod};
use serde_json::{Value, json};

/// What no bundle may have.
const SECRET: &str = "s3cr3t-0f-s0meb0dy";

/// Writes a bundle and unpacks it: where what is in it lies.
#[track_caller]
fn unpacked(node: &VpcNode, call: &Call, directory: &Path, more: &[&str]) -> PathBuf {
    let file = directory.join("bundle.tar.gz");
    let name = file.display().to_string();
    let output = node.command_with(call, &[&["support-bundle", &name], more].concat());
    assert_eq!(output.status, Some(0), "{output}");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600, "only root can read it");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(directory).arg("-xzf").arg(&file);
    let output = tar.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    directory.join("eni-sync")
}

/// Every file below a directory with its text.
fn texts(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => texts.extend(self::texts(&path)),
            false => texts.push((path.clone(), fs::read_to_string(&path).unwrap())),
        }
    }
    texts
}

/// A node with a pod, whose network, log and agent have something secret in them.
fn node_with_secrets(vpc: &Vpc, pod: &Pod, directory: &Path) -> VpcNode {
    let node = vpc.node();
    node.add(pod, &["10.0.4.70"]).ok();
    let network = json!({
        "cniVersion": "1.0.0", "name": "other", "type": "ipvlan",
        "ipam": {"type": "some", "auth": {"apiToken": SECRET}},
    });
    let conf = directory.join("net.d");
    fs::create_dir(&conf).unwrap();
    fs::write(conf.join("10-other.conf"), network.to_string()).unwrap();
    let records = node.node.state().join("eni-cni/ipvlan/other");
    fs::create_dir_all(&records).unwrap();
    let record = json!({"ipam": {"password": SECRET}, "network": "other"});
    fs::write(records.join("c9:net1.json"), record.to_string()).unwrap();
    let log = format!("level=info address=10.0.4.70\nAuthorization: Bearer {SECRET}\n");
    fs::write(directory.join("plugins.log"), log).unwrap();
    fs::write(
        directory.join("agent.json"),
        json!({"token": SECRET}).to_string(),
    )
    .unwrap();
    node
}

#[test]
fn the_bundle_has_what_helps_and_no_secret() {
    let (vpc, pod) = (Vpc::new(), Pod::new("c1"));
    let directory = tempfile::tempdir().unwrap();
    let node = node_with_secrets(&vpc, &pod, directory.path());
    let path = |name: &str| directory.path().join(name).display().to_string();
    let more = [
        "--log",
        &path("plugins.log"),
        "--cni-conf-dir",
        &path("net.d"),
        "--agent-config",
        &path("agent.json"),
    ];
    let bundle = unpacked(&node, &node.call(""), directory.path(), &more);
    let files = texts(&bundle);
    for (file, text) in &files {
        assert!(
            !text.contains(SECRET) && !text.contains(CANARY),
            "{file:?}: {text}"
        );
    }
    let text = |name: &str| {
        let found = files.iter().find(|(path, _)| path.ends_with(name));
        let (_, text) = found.unwrap_or_else(|| panic!("{name} is not in {files:?}"));
        text.clone()
    };
    assert!(text("version.txt").contains(env!("CARGO_PKG_VERSION")));
    let status: Value = serde_json::from_str(&text("status.json")).unwrap();
    assert_eq!(status["instanceId"], node.instance.as_str());
    assert!(text("status.txt").contains("10.0.4.70"));
    assert!(text("doctor.txt").contains("errors: "));
    let entry = format!("node/var/lib/cni/eni-cni/ledger/{}/10.0.4.70", node.eni);
    let entry: Value = serde_json::from_str(&text(&entry)).unwrap();
    assert_eq!(entry["owner"]["containerId"], "c1");
    let record = text("ipvlan/other/c9:net1.json");
    assert!(record.contains("(redacted)") && record.contains("other"));
    assert!(text("node/run/eni-cni/enis.json").contains(node.eni.as_str()));
    assert!(text("links.txt").contains(&node.mac));
    assert!(text("plugins.log").starts_with("level=info address=10.0.4.70\n"));
    assert!(text("10-other.conf").contains("ipvlan"));
}

#[test]
fn no_link_is_followed_and_what_is_not_collected_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("logs")).unwrap();
    for name in ["shadow", "real.log"] {
        fs::write(path(name), "root:x\n").unwrap();
    }
    // Whoever may write in a directory of logs must not have root show them another file.
    symlink(path("shadow"), path("logs/link.log")).unwrap();
    // As a ConfigMap has it.
    fs::write(path("data.json"), "{}").unwrap();
    symlink("data.json", path("agent.json")).unwrap();
    let logs = ["logs/link.log", "logs/../real.log", "none.log"];
    let logs = logs.map(|name| path(name).display().to_string());
    let agent = path("agent.json").display().to_string();
    let mut more = vec!["--agent-config", &agent, "--log"];
    more.extend(logs.iter().map(String::as_str));
    let bundle = unpacked(&node, &node.call(""), directory.path(), &more);
    let here = |name: &str| {
        let path = path(name).display().to_string();
        bundle.join("node").join(path.trim_start_matches('/'))
    };
    assert_eq!(fs::read_to_string(here("real.log")).unwrap(), "root:x\n");
    assert_eq!(fs::read_to_string(here("agent.json")).unwrap(), "{}\n");
    assert!(!here("logs").exists());
    let errors = fs::read_to_string(bundle.join("errors.txt")).unwrap();
    for said in [
        "logs/link.log: not a regular file\n",
        "none.log: there is no such file\n",
    ] {
        assert!(errors.contains(said), "{errors}");
    }
}

#[test]
fn the_file_must_be_new() {
    let (vpc, directory) = (Vpc::new(), tempfile::tempdir().unwrap());
    let node = vpc.node();
    let (other, link) = (
        directory.path().join("other"),
        directory.path().join("link"),
    );
    fs::write(&other, "of somebody").unwrap();
    symlink(&other, &link).unwrap();
    let output = node.command(&["support-bundle", &link.display().to_string()]);
    assert_eq!(output.status, Some(1), "{output}");
    assert!(output.stderr.contains("File exists"), "{output}");
    assert_eq!(fs::read_to_string(&other).unwrap(), "of somebody");
}

#[test]
fn a_node_without_aws_and_with_damaged_files_has_a_bundle_too() {
    let (vpc, pod) = (Vpc::new(), Pod::new("c1"));
    let node = vpc.node();
    node.add(&pod, &["10.0.4.70"]).ok();
    fs::write(node.ledger_path().join("10.0.4.71"), [0xff, 0xfe]).unwrap();
    let fifo = node.ledger_path().join("10.0.4.72");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let nobody = "http://127.0.0.1:9";
    let call = node
        .call("")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", nobody);
    let directory = tempfile::tempdir().unwrap();
    let bundle = unpacked(&node, &call, directory.path(), &[]);
    let files = texts(&bundle);
    let damaged = files.iter().find(|(path, _)| path.ends_with("10.0.4.71"));
    assert_eq!(damaged.unwrap().1, "(2 bytes that are not text)\n");
    fs::remove_file(&fifo).unwrap();
}
