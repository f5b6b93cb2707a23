//! One program for all plugins: an attachment takes one process, and what is another program
//! under a plugin's name is executed as ever.

mod answers;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use fixtures::kernel_calls::Trace;
use harness::{Call, Node, Pod, go_plugin, our_plugin, repository, run_tool};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Calls another delegate with all that it was given, and notes that it was executed.
const WRAPPER: &str = r#"#!/bin/sh
echo "$CNI_COMMAND" >>"${0%/*}/calls"
exec "${0%/*}/eni-host-local"
"#;

/// A directory with our plugins, as `make install` leaves it.
struct Installed {
    directory: TempDir,
}

impl Installed {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let installed = Self { directory };
        installed.install(&our_plugin("eni-cni"));
        installed
    }

    /// Installs a build of the program.
    fn install(&self, program: &Path) {
        let programs = tempfile::tempdir().expect("a temporary directory can be made");
        // What is in the place of eni-sync is not executed.
        for name in ["eni-cni", "eni-sync"] {
            symlink(program, programs.path().join(name)).expect("a link can be made");
        }
        let root = repository().display().to_string();
        let from = format!("FROM={}", programs.path().display());
        let bin = format!("BINDIR={}", self.directory.path().display());
        let arguments = ["--silent", "-C", &root, "install-from", &from, &bin];
        let output = run_tool("make", &arguments);
        assert!(output.status.success(), "{output:?}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts a program in the place of a plugin. Another process copies: see `binaries`.
    fn replace(&self, name: &str, program: &Path) {
        let paths = [program, &self.path(".new")].map(|path| path.display().to_string());
        let output = run_tool("install", &["-m", "0755", &paths[0], &paths[1]]);
        assert!(output.status.success(), "{output:?}");
        fs::rename(self.path(".new"), self.path(name)).expect("it can be renamed");
    }

    /// The same program of another build, which does the same.
    fn another_build(&self) -> PathBuf {
        let mut bytes = fs::read(our_plugin("eni-cni")).expect("it can be read");
        let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
        let at = bytes.windows(note.len()).position(|part| part == note);
        bytes[at.expect("the program has a build id") + note.len()] ^= 1;
        let other = self.path("another-build");
        fs::write(&other, bytes).expect("it can be written");
        other
    }

    /// A call of a plugin that finds its delegates here.
    fn call(&self, site: &Site, command: &str, conf: &Value) -> Call {
        let plugin = conf["type"].as_str().expect("a network has a type");
        Call::bare(self.path(plugin), command)
            .env("CNI_PATH", &self.directory.path().display().to_string())
            .conf(conf)
            .pod(&site.pod, "net1")
    }
}

/// A node with the device `hd0`, and a pod.
struct Site {
    node: Node,
    pod: Pod,
}

impl Site {
    fn new() -> Self {
        let node = Node::new();
        let veth = "link add hd0 address 02:00:00:00:00:01 type veth peer name hd0-peer";
        node.netns.ip(&veth.split(' ').collect::<Vec<&str>>());
        let pod = Pod::new("c1");
        Self { node, pod }
    }

    /// How many programs a command executes, itself included. It must succeed.
    fn executed(&self, call: &Call) -> usize {
        let trace = Trace::of(&self.node, call);
        let calls = trace.calls().into_iter();
        let executed = |line: &&str| line.starts_with("execve(") && line.ends_with("= 0");
        calls.filter(executed).count()
    }

    /// How many programs ADD and DEL of a network execute.
    fn executed_by_attachment(&self, installed: &Installed, conf: &Value) -> [usize; 2] {
        ["ADD", "DEL"].map(|command| self.executed(&installed.call(self, command, conf)))
    }
}

fn network(plugin: &str, ipam: &str) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "lan", "type": plugin, "device": "hd0",
        "ipam": {"type": ipam, "subnet": "10.9.0.0/24"},
    })
}

#[test]
fn every_command_takes_one_process_under_either_name() {
    let (installed, site) = (Installed::new(), Site::new());
    for (plugin, ipam) in [
        ("host-device", "host-local"),
        ("eni-host-device", "eni-host-local"),
        ("host-device", "eni-host-local"),
    ] {
        let mut conf = network(plugin, ipam);
        for command in ["STATUS", "ADD", "DEL"] {
            let executed = site.executed(&installed.call(&site, command, &conf));
            assert_eq!(executed, 1, "{command} of {plugin} with {ipam}");
        }
        conf["prevResult"] = site.node.run(&installed.call(&site, "ADD", &conf)).ok();
        conf["cni.dev/valid-attachments"] = json!([]);
        for command in ["CHECK", "GC"] {
            let executed = site.executed(&installed.call(&site, command, &conf));
            assert_eq!(executed, 1, "{command} of {plugin} with {ipam}");
        }
        assert_eq!(site.pod.netns.links(), ["lo"]);
    }
}

#[test]
fn gos_host_local_is_executed_under_its_name() {
    let (installed, site) = (Installed::new(), Site::new());
    installed.replace("host-local", &go_plugin("host-local"));
    let mut conf = network("host-device", "host-local");
    conf["cniVersion"] = json!("1.0.0");
    assert_eq!(site.executed_by_attachment(&installed, &conf), [2, 2]);
}

#[test]
fn a_wrapper_under_the_name_of_a_delegate_is_executed() {
    let (installed, site) = (Installed::new(), Site::new());
    let wrapper = installed.path("wrapper");
    fs::write(&wrapper, WRAPPER).expect("it can be written");
    installed.replace("host-local", &wrapper);
    let conf = network("host-device", "host-local");
    site.node.run(&installed.call(&site, "ADD", &conf)).ok();
    assert_eq!(site.pod.netns.addresses("net1"), ["10.9.0.2/24"]);
    site.node.run(&installed.call(&site, "DEL", &conf)).ok();
    let calls = fs::read_to_string(installed.path("calls")).expect("it was executed");
    assert_eq!(calls, "ADD\nDEL\n");
}

/// As in the middle of an update, in either order.
#[test]
fn programs_of_different_builds_execute_each_other() {
    let (installed, site) = (Installed::new(), Site::new());
    let other = installed.another_build();
    for name in ["host-local", "host-device"] {
        let now = installed.path(name);
        let before = installed.path("before");
        fs::hard_link(&now, &before).expect("a file can have two names");
        installed.replace(name, &other);
        let conf = network("host-device", "host-local");
        let executed = site.executed_by_attachment(&installed, &conf);
        assert_eq!(executed, [2, 2], "another {name}");
        fs::rename(before, now).expect("it can be renamed");
    }
}

#[test]
fn no_attachment_fails_while_the_programs_are_replaced() {
    let (installed, site) = (Installed::new(), Site::new());
    let (ours, other) = (our_plugin("eni-cni"), installed.another_build());
    std::thread::scope(|scope| {
        let update = scope.spawn(|| {
            for build in [&other, &ours, &other, &ours] {
                installed.install(build);
            }
        });
        let mut attachments = 0;
        while !update.is_finished() || attachments < 10 {
            let conf = network("host-device", "host-local");
            site.node.run(&installed.call(&site, "ADD", &conf)).ok();
            site.node.run(&installed.call(&site, "DEL", &conf)).ok();
            attachments += 1;
        }
        update.join().expect("it can be installed");
    });
}

#[test]
fn called_as_itself_the_program_says_what_it_is() {
    let installed = Installed::new();
    let version = format!("eni-cni {}\n", env!("CARGO_PKG_VERSION"));
    let program = installed.path("eni-cni");
    let program = program.to_str().expect("it is text");
    let said = |arguments: &[&str]| {
        let output = run_tool(program, arguments);
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    assert_eq!(said(&["--version"]), (Some(0), version));
    for arguments in [&["--help"][..], &[]] {
        let (status, help) = said(arguments);
        assert_eq!(status, Some(0));
        for name in ["ipvlan", "eni-ipvlan", "host-device", "host-local"] {
            assert!(help.contains(name), "{help}");
        }
    }
    assert_eq!(said(&["--nonsense"]), (Some(2), String::new()));
}

#[test]
fn a_command_under_a_name_that_is_no_plugins_is_refused() {
    let (installed, site) = (Installed::new(), Site::new());
    for (name, command) in [("eni-cni", "ADD"), ("bridge", "DEL"), ("bridge", "VERSION")] {
        if name != "eni-cni" {
            installed.replace(name, &our_plugin("eni-cni"));
        }
        let call = installed.call(&site, command, &network(name, "host-local"));
        let error = site.node.run(&call).error_code(7);
        assert_eq!(error.msg, format!("{name:?} is not the name of a plugin"));
        assert!(error.details.contains("ipvlan, eni-ipvlan"), "{error:?}");
    }
}
