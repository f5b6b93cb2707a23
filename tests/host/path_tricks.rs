//! Names and paths that lead elsewhere: each is refused with the code for it, or is a
//! harmless name; nothing outside of the plugins' directories is made, and nothing of a
//! file that a configuration names is printed.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{Call, Namespace, Node};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Names that no directory or file of ours may get.
const TRICKS: [&str; 10] = [
    "../../etc",
    "/etc/cron.d",
    "a/b",
    ".",
    "..",
    ".turns",
    ".reservations.index",
    "a\nb",
    "a b",
    "-rf",
];

/// A data directory below a directory that is looked at as a whole.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary directory can be made");
        fs::create_dir_all(root.path().join("a/data")).expect("it is writable");
        Self { root }
    }

    fn data_dir(&self) -> String {
        self.root.path().join("a/data").display().to_string()
    }

    /// The directories and files, as `find` prints them.
    fn tree(&self) -> String {
        let root = self.root.path().display().to_string();
        let output = harness::run_tool("find", &[&root, "-printf", "%P\n"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn conf(&self, name: &str, ipam: &Value) -> Value {
        let mut conf = json!({"cniVersion": "1.1.0", "name": name, "type": "ipvlan"});
        conf["ipam"] = json!({
            "type": "host-local", "dataDir": self.data_dir(), "ranges": [[{"subnet": "10.0.0.0/24"}]],
        });
        for (key, value) in ipam.as_object().into_iter().flatten() {
            conf["ipam"][key] = value.clone();
        }
        conf
    }

    fn call(&self, command: &str, name: &str, ipam: &Value) -> Call {
        Call::ours("host-local", command)
            .attachment("c1", "net1", "/run/netns/none")
            .conf(&self.conf(name, ipam))
    }
}

#[test]
fn a_name_that_could_lead_elsewhere_is_refused_and_makes_nothing() {
    let place = Place::new();
    let before = place.tree();
    let cut = "n\0x";
    for name in TRICKS.iter().chain([&cut, &""]) {
        for command in ["ADD", "DEL", "CHECK"] {
            let error = place.call(command, name, &json!({})).run().error_code(7);
            assert!(error.msg.contains("network name"), "{name:?}: {error:?}");
        }
    }
    for id in TRICKS {
        let call = place.call("ADD", "n", &json!({}));
        let error = call.env("CNI_CONTAINERID", id).run().error_code(4);
        assert_eq!(error.msg, "invalid characters in containerID", "{id:?}");
    }
    for ifname in ["../../etc", "/etc", "a/b", ".", "..", "a\nb", "a b", "a:b"] {
        let call = place.call("ADD", "n", &json!({}));
        let error = call.env("CNI_IFNAME", ifname).run().error_code(4);
        assert!(error.msg.starts_with("interface name "), "{ifname:?}");
    }
    assert_eq!(place.tree(), before);
}

#[test]
fn names_of_our_own_files_and_names_in_another_case_are_names_like_others() {
    let place = Place::new();
    for name in ["lock", "last_reserved_ip.0", "10.0.0.2", "n", "N"] {
        for id in ["lock", "c1", "C1", "last_reserved_ip.0"] {
            let call = place.call("ADD", name, &json!({}));
            call.env("CNI_CONTAINERID", id).run().ok();
        }
        let call = place.call("DEL", name, &json!({}));
        call.env("CNI_CONTAINERID", "C1").run().ok();
        let kept = |id: &&str| {
            let call = place.call("CHECK", name, &json!({}));
            call.env("CNI_CONTAINERID", id).run().status == Some(0)
        };
        assert!(
            ["lock", "c1", "last_reserved_ip.0"].iter().all(kept),
            "{name}"
        );
        assert!(!kept(&"C1"), "{name}");
    }
}

#[test]
fn a_name_that_is_too_long_for_a_file_is_named_and_del_has_nothing_to_do() {
    let (place, long) = (Place::new(), "x".repeat(300));
    let error = place.call("ADD", &long, &json!({})).run().error_code(5);
    assert!(error.msg.contains(&long), "{}", error.msg);
    place.call("DEL", &long, &json!({})).run().ok();

    let (node, pod) = (Node::new(), Namespace::new());
    node.netns
        .ip(&["link", "add", "hd0", "type", "veth", "peer", "name", "peer"]);
    for (name, id) in [(long.as_str(), "c1"), ("lan", long.as_str())] {
        let conf =
            json!({"cniVersion": "1.1.0", "name": name, "type": "host-device", "device": "hd0"});
        let call = |command: &str| {
            let call = Call::ours("host-device", command).conf(&conf);
            node.run(&call.attachment(id, "net1", &pod.path()))
        };
        let error = call("ADD").error_code(5);
        assert!(error.msg.contains(&long), "{}", error.msg);
        call("DEL").ok();
        assert_eq!(node.netns.links(), ["hd0", "lo", "peer"]);
        assert_eq!(node.files(), [""; 0]);
    }
}

#[test]
fn paths_that_are_not_valid_are_refused_by_add_and_do_not_prevent_del() {
    let place = Place::new();
    let before = place.tree();
    for key in ["dataDir", "resolvConf", "rangesFile"] {
        for path in ["../../etc", "etc", ".", "a\0b", "/etc\0/x"] {
            let keys = json!({key: path});
            let error = place.call("ADD", "n", &keys).run().error_code(7);
            assert!(error.msg.starts_with(key), "{key} {path:?}: {error:?}");
            place.call("DEL", "n", &keys).run().ok();
        }
    }
    assert_eq!(place.tree(), before);
}

#[test]
fn a_delegate_is_a_name_and_no_path() {
    let (node, pod) = (Node::new(), Namespace::new());
    node.netns
        .ip(&["link", "add", "hd0", "type", "veth", "peer", "name", "peer"]);
    for name in [
        "../host-local",
        "/bin/sh",
        "a/b",
        ".",
        "..",
        "host-local\0x",
    ] {
        let conf = json!({
            "cniVersion": "1.1.0", "name": "lan", "type": "host-device", "device": "hd0",
            "ipam": {"type": name},
        });
        let call = Call::ours("host-device", "ADD").conf(&conf);
        let error = node
            .run(&call.attachment("c1", "net1", &pod.path()))
            .error_code(7);
        assert!(error.msg.starts_with("invalid plugin name: "), "{error:?}");
        assert_eq!(node.netns.links(), ["hd0", "lo", "peer"]);
    }
}

#[test]
fn nothing_of_a_file_that_is_not_a_list_of_ranges_is_printed() {
    const SECRET: &str = "s3cr3t";
    let place = Place::new();
    let file = place.root.path().join("file");
    let contents = [
        SECRET.to_owned(),
        format!("root:{SECRET}:19000:0:99999:7:::\n"),
        format!("\"{SECRET}\""),
        format!("[\"{SECRET}\"]"),
        format!("{{\"auths\": {{\"{SECRET}\": \"{SECRET}\"}}}}"),
        format!("{{\"{SECRET}\": "),
        format!("apiVersion: v1\ntoken: {SECRET}\n"),
        format!("\u{feff}{SECRET}"),
    ];
    for content in contents {
        fs::write(&file, &content).expect("it is writable");
        for key in ["rangesFile", "resolvConf"] {
            let keys = json!({key: path(&file), "ranges": null});
            for command in ["ADD", "CHECK", "STATUS", "DEL"] {
                let output = place.call(command, "n", &keys).run();
                let said = output.stdout + &output.stderr;
                assert!(!said.contains(SECRET), "{key} {command}: {said}");
            }
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the path is a text")
}

/// To open a FIFO waits for its other end, which nobody opens.
#[test]
fn a_fifo_in_place_of_a_namespace_is_not_waited_for() {
    let node = Node::new();
    node.netns.ip(&["link", "add", "dev7", "type", "bridge"]);
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let fifo = directory.path().join("netns");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("it is writable");
    let conf = |plugin: &str| {
        json!({
            "cniVersion": "1.1.0", "name": "net", "type": plugin, "device": "dev7", "master": "dev7",
            "prevResult": { "cniVersion": "1.1.0", "interfaces": [], "ips": [] },
        })
    };
    for plugin in ["host-device", "ipvlan"] {
        for (command, status) in [("ADD", 1), ("CHECK", 1), ("DEL", 0)] {
            let call = Call::ours(plugin, command)
                .attachment("c1", "net1", &fifo.display().to_string())
                .conf(&conf(plugin));
            let process = call.process();
            let mut bounded = Command::new("timeout");
            bounded.arg("60").arg(process.get_program()).env_clear();
            let variables = process.get_envs();
            bounded.envs(variables.filter_map(|(name, value)| Some((name, value?))));
            let output = node.inside(|| call.run_as(bounded));
            assert_eq!(output.status, Some(status), "{output}");
            if command == "ADD" {
                output.error_code(8);
            }
        }
    }
    assert_eq!(node.netns.links(), ["dev7", "lo"]);
}
