//! An IPAM plugin that is a shell script: it writes down its calls, and fails on demand.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

/// The script: it answers ADD with the file `result`, keeps one file for each attachment
/// in `store`, fails if the file `fail.COMMAND` exists, and writes every call to `calls`.
/// `host-links.COMMAND` has the links that the call has seen on the host.
const IPAM: &str = r#"#!/bin/sh
dir=${0%/*}
cat >"$dir/stdin.$CNI_COMMAND"
[ ! -e "$dir/hook" ] || . "$dir/hook"
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME ${CNI_NETNS:-none}" >>"$dir/calls"
(cd /sys/class/net && printf '%s\n' *) >"$dir/host-links.$CNI_COMMAND"
case $CNI_COMMAND in
ADD) echo x >"$dir/store/$CNI_CONTAINERID.$CNI_IFNAME" ;;
DEL) [ -e "$dir/fail.DEL" ] || rm -f "$dir/store/$CNI_CONTAINERID.$CNI_IFNAME" ;;
esac
if [ -e "$dir/fail.$CNI_COMMAND" ]; then
    cat "$dir/fail.$CNI_COMMAND"
    exit 1
fi
[ "$CNI_COMMAND" != ADD ] || exec cat "$dir/result"
"#;

/// The script, in a directory with its files.
#[derive(Debug)]
pub struct FakeIpam {
    directory: TempDir,
}

impl FakeIpam {
    /// A script that answers ADD with 10.9.0.5/24.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let ipam = Self { directory };
        fs::create_dir(ipam.path("store")).expect("it is writable");
        ipam.write("fake-ipam", IPAM);
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(ipam.path("fake-ipam"), executable).expect("it is ours");
        ipam.answer(&json!({"ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]}));
        ipam
    }

    /// A path below its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes one of its files.
    pub fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("the directory is writable");
    }

    /// The content of one of its files; empty when it does not exist.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Sets the answer to ADD.
    pub fn answer(&self, result: &Value) {
        self.write("result", &result.to_string());
    }

    /// Makes the script execute these shell commands first.
    pub fn hook(&self, commands: &str) {
        self.write("hook", commands);
    }

    /// Makes `command` print `document` and fail.
    pub fn fail(&self, command: &str, document: &str) {
        self.write(&format!("fail.{command}"), document);
    }

    /// Makes `command` succeed again.
    pub fn recover(&self, command: &str) {
        fs::remove_file(self.path(&format!("fail.{command}"))).expect("it was failing");
    }

    /// The calls so far, as `COMMAND CONTAINERID IFNAME`.
    pub fn calls(&self) -> Vec<String> {
        let words = |line: &str| line.rsplit_once(' ').map(|(call, _)| call.to_owned());
        self.read("calls").lines().filter_map(words).collect()
    }

    /// The attachments that have an address, as `CONTAINERID.IFNAME`.
    pub fn reserved(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("store")).expect("it exists");
        let name = |e: fs::DirEntry| e.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.flatten().map(name).collect();
        names.sort();
        names
    }

    /// The value for `CNI_PATH`.
    pub fn cni_path(&self) -> String {
        self.directory.path().display().to_string()
    }
}

impl Default for FakeIpam {
    fn default() -> Self {
        Self::new()
    }
}
