//! The program: what it prints, that it serves and ends, and how it refuses.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use fixtures::documents::blocks::commands;
use fixtures::lab::send;
use harness::program;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The program while it serves; it never outlives its test.
struct Running(Child);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let child = Command::new(program("eni-lab"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        Self(child)
    }

    /// What it has printed up to the line that begins so.
    fn printed(&mut self, until: &str) -> Vec<String> {
        let stdout = self.0.stdout.take().expect("it is piped");
        let mut lines = Vec::new();
        for line in BufReader::new(stdout).lines() {
            lines.push(line.expect("it is text"));
            if lines.last().is_some_and(|line| line.starts_with(until)) {
                break;
            }
        }
        lines
    }

    fn end(&mut self, signal: Signal) -> Option<i32> {
        let pid = i32::try_from(self.0.id()).expect("it is a process id");
        kill(Pid::from_raw(pid), signal).expect("it runs");
        self.0.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn refuses(arguments: &[&str], said: &str) {
    let Output { status, stderr, .. } = Command::new(program("eni-lab"))
        .args(arguments)
        .output()
        .expect("the program can be started");
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(!status.success(), "{arguments:?}");
    assert!(stderr.contains(said), "{arguments:?}: {stderr}");
}

fn socket(url: &str) -> SocketAddr {
    let address = url.strip_prefix("http://").expect("it is a URL");
    address.parse().expect("it has an address and a port")
}

#[test]
fn the_lab_prints_what_to_export_and_serves_until_it_is_told_to_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut running = Running::start(&["--mac", "02:00:00:00:00:AA"]);
        let lines = running.printed("# eni-");
        let of = |name: &str| {
            let start = format!("export {name}=");
            let line = lines.iter().find_map(|line| line.strip_prefix(&start));
            line.unwrap_or_else(|| panic!("{name} is missing in {lines:#?}"))
        };
        assert_eq!(of("AWS_REGION"), "us-west-2");
        let imds = socket(of("AWS_EC2_METADATA_SERVICE_ENDPOINT"));
        let ttl = "x-aws-ec2-metadata-token-ttl-seconds: 60";
        let token = send(imds, "PUT", "/latest/api/token", &[ttl], "");
        token.expect("it serves").ok();
        let state = send(
            socket(of("AWS_ENDPOINT_URL_EC2")),
            "GET",
            "/lab/state",
            &[],
            "",
        );
        let state = state.expect("it serves").ok().body;
        let last = lines.last().expect("there are lines");
        assert!(last.contains("02:00:00:00:00:aa"), "{last}");
        assert!(state.contains("02:00:00:00:00:aa"), "{state}");
        assert_eq!(running.end(signal), Some(0));
    }
}

#[test]
fn every_node_has_a_metadata_service_and_its_interfaces() {
    let options = [
        "--nodes",
        "2",
        "--json",
        "--multus-subnet",
        "10.0.7.0/24",
        "--latency",
        "1",
    ];
    let mut running = Running::start(&options);
    // The last line of a document is the only one that begins so.
    let text = running.printed("}").join("\n");
    let printed: Value = serde_json::from_str(&text).expect("it is JSON");
    let nodes = printed["nodes"].as_array().expect("a list");
    assert_eq!(nodes.len(), 2);
    let endpoint = |node: &Value, name: &str| node["environment"][name].clone();
    let imds = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
    assert_ne!(endpoint(&nodes[0], imds), endpoint(&nodes[1], imds));
    let ec2 = "AWS_ENDPOINT_URL_EC2";
    assert_eq!(endpoint(&nodes[0], ec2), endpoint(&nodes[1], ec2));
    for node in nodes {
        assert_eq!(node["enis"].as_array().map(Vec::len), Some(1));
        assert_eq!(node["enis"][0]["cidr"], "10.0.7.0/24");
        assert_eq!(node["enis"][0]["deviceIndex"], 1);
    }
}

/// What a shell prints that executes this with the program in its path, and ends it.
fn in_shell(text: &str) -> String {
    let work = tempfile::tempdir().expect("a directory can be made");
    let mut shell = Command::new("bash");
    let path = program("eni-lab");
    let path = path.parent().expect("it is in a directory").display();
    let others = std::env::var("PATH").unwrap_or_default();
    shell.env("PATH", format!("{path}:{others}"));
    let text = format!("set -eo pipefail; trap 'kill $(jobs -p)' EXIT\n{text}");
    let output = shell.args(["-c", &text]).current_dir(work.path()).output();
    let output = output.expect("there is a shell");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    printed
}

fn section(heading: &str) -> String {
    commands("docs/eni-lab.md", heading).join("\n")
}

#[test]
fn programs_of_others_find_it_as_its_document_says() {
    let serve = section("## For your own programs");
    // The AWS command line would be the next.
    let check = "curl -s \"$AWS_ENDPOINT_URL_EC2/lab/calls\"; echo; echo $AWS_REGION";
    let printed = in_shell(&format!("{serve}\n{check}"));
    assert_eq!(printed.matches("\"primary\"").count(), 6, "{printed}");
    assert!(printed.contains("\"armed\": 1"), "{printed}");
    assert!(printed.ends_with("us-west-2\n"), "{printed}");
}

#[test]
fn tags_and_enis_are_changed_as_its_document_says() {
    let serve = section("## For your own programs");
    let changes = section("## Tags and ENIs");
    let state =
        "curl -s \"$AWS_ENDPOINT_URL_EC2/lab/state\" | grep -A99 \"$ENI\" | grep -m1 no_manage";
    let (before, after) = changes
        .split_once("\neni-lab ec2 DeleteTags")
        .expect("it is there");
    let text = format!(
        "{serve}\n{before}\necho tagged: $({state})\neni-lab ec2 DeleteTags{after}\n\
         eni-lab ec2 DeleteTags ResourceId.1=\"$ENI\" Tag.1.Key=x || echo gone"
    );
    let printed = in_shell(&text);
    assert!(
        printed.contains("tagged: \"node.k8s.amazonaws.com/no_manage\": \"true\""),
        "{printed}"
    );
    assert!(printed.ends_with("gone\n"), "{printed}");
}

#[test]
fn a_command_in_a_shell_is_on_a_node_with_its_eni_and_says_how_it_ended() {
    let look = "ip -brief link show eth1; eni-sync sync --once && eni-sync status; exit 7";
    let mut lab = Command::new(program("eni-lab"));
    let output = lab.args(["shell", "--", "sh", "-c", look]).output();
    let output = output.expect("the program can be started");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let [link, status] = ["UP", "10.0.4.0/24"].map(|word| printed.contains(word));
    assert!(link && status, "{printed}");
}

#[test]
fn a_pod_that_no_plugin_attaches_leaves_nothing() {
    let work = tempfile::tempdir().expect("a directory can be made");
    let nad = work.path().join("nad.yaml");
    let conf = "metadata: {name: n}\nspec: {config: '{\"cniVersion\": \"1.0.0\", \"type\": \"ipvlan\", \
        \"master\": \"nope\", \"ipam\": {\"type\": \"host-local\", \"subnet\": \"10.0.4.0/24\"}}'}";
    std::fs::write(&nad, conf).expect("it is writable");
    let look = format!("eni-lab pod {} || ip netns list | wc -l", nad.display());
    let mut lab = Command::new(program("eni-lab"));
    let output = lab.args(["shell", "--", "sh", "-c", &look]).output();
    let output = output.expect("the program can be started");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("nope"),
        "{output:?}"
    );
}

#[test]
fn help_tells_how_to_begin() {
    let output = Command::new(program("eni-lab")).arg("--help").output();
    let output = output.expect("the program can be started");
    let help = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    for word in [
        "--nodes",
        "--mac",
        "--imds-lag",
        "--throttle",
        "/lab/faults",
        "eval",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    // The examples are those of the document: what it executes is what they begin with.
    let page = [
        section("## Quickstart"),
        section("## For your own programs"),
        section("## Tags and ENIs"),
    ];
    let page = page.join("\n");
    let (_, examples) = help.split_once("Examples:\n").expect("it has examples");
    for line in examples
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("eni-lab ec2"))
    {
        let action: Vec<&str> = line.split(' ').take(3).collect();
        assert!(page.contains(&action.join(" ")), "{line}");
    }
    assert!(
        examples.contains("eni-lab pod examples/routable.yaml"),
        "{help}"
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    refuses(&["--unknown"], "--unknown");
    refuses(&["--nodes", "0"], "--nodes");
    refuses(&["--mac", "02:00"], "a MAC has six bytes");
    refuses(&["--subnet", "x"], "--subnet");
    refuses(&["--latency", "soon"], "--latency");
    refuses(&["--subnet", "10.9.0.0/24"], "InvalidSubnet.Range");
    refuses(
        &["--multus-subnet", "10.0.1.0/24"],
        "InvalidSubnet.Conflict",
    );
    refuses(&["--instance-type", "x1"], "do not exist: [x1]");
    refuses(&["--instance-type", "t3.micro"], "AttachmentLimitExceeded");
    refuses(
        &[
            "--mac",
            "02:00:00:00:00:01",
            "--multus-subnet",
            "10.0.4.0/24",
            "--mac",
            "02:00:00:00:00:02",
        ],
        "more MACs",
    );
    refuses(&["--listen", "192.0.2.1"], "cannot listen on 192.0.2.1");
}
