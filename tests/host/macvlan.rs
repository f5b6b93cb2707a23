//! The whole life of an attachment of a plugin that has only what is particular to its
//! interfaces: `macvlan/main.rs`. What is tested here holds for every plugin that is led
//! through it by `common::attach`.

use harness::fault::{Counted, Fault, NO_MEMORY, Strike, Struck};
use harness::{Call, FakeIpam, Node, Output, Pod, attachment_files, program};
use serde_json::{Value, json};

/// More system calls that change anything than an ADD makes.
const MOST: usize = 200;

/// A node with a master `eth1` that is up.
struct Fixture {
    node: Node,
    pod: Pod,
}

impl Fixture {
    fn new() -> Self {
        let node = Node::new();
        let peer = ["link", "add", "eth1", "type", "veth", "peer", "name", "far"];
        node.netns.ip(&peer);
        node.netns.ip(&["link", "set", "eth1", "up"]);
        node.netns.ip(&["link", "set", "far", "up"]);
        Self {
            node,
            pod: Pod::new("c1"),
        }
    }

    fn call(&self, command: &str, conf: &Value) -> Call {
        let call = Call::new(program("macvlan"), command).conf(conf);
        call.pod(&self.pod, "net1")
    }

    fn run(&self, command: &str, conf: &Value) -> Output {
        self.node.run(&self.call(command, conf))
    }

    /// Neither an interface nor a record nor a reservation is left.
    fn is_as_before(&self) -> bool {
        self.pod.netns.links() == ["lo"] && attachment_files(self.node.state()).is_empty()
    }
}

fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "macvlan", "master": "eth1",
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}
    })
}

fn with(key: &str, value: Value) -> Value {
    let mut conf = conf();
    conf[key] = value;
    conf
}

#[test]
fn an_attachment_is_made_verified_and_ended() {
    let fixture = Fixture::new();
    fixture.run("STATUS", &conf()).ok();
    let result = fixture.run("ADD", &conf()).ok();
    assert_eq!(fixture.pod.netns.addresses("net1"), ["10.9.0.2/24"]);
    assert_eq!(result["interfaces"][0]["name"], "net1");
    assert_eq!(result["ips"][0]["interface"], 0);

    let checked = with("prevResult", result);
    fixture.run("CHECK", &checked).ok();
    let address = ["address", "del", "10.9.0.2/24", "dev", "net1"];
    fixture.pod.netns.ip(&address);
    let error = fixture.run("CHECK", &checked).error_code(999);
    assert!(error.msg.starts_with("Failed to match addr"), "{error:?}");

    fixture.run("DEL", &conf()).ok();
    assert!(fixture.is_as_before());
    fixture.run("DEL", &conf()).ok();
}

#[test]
fn del_knows_an_attachment_by_its_record_alone() {
    let fixture = Fixture::new();
    fixture.run("ADD", &conf()).ok();
    let stripped = json!({"cniVersion": "1.1.0", "name": "net", "type": "macvlan"});
    let del = fixture.call("DEL", &stripped).env("CNI_NETNS", "");
    fixture.node.run(&del).ok();
    assert!(fixture.is_as_before());
}

#[test]
fn gc_ends_what_is_not_valid_and_only_that() {
    let fixture = Fixture::new();
    fixture.run("ADD", &conf()).ok();
    let valid = json!([{"containerID": "c1", "ifname": "net1"}]);
    let gc = |valid: Value| fixture.run("GC", &with("cni.dev/valid-attachments", valid));
    gc(valid).ok();
    assert_eq!(fixture.pod.netns.links(), ["lo", "net1"]);
    gc(json!([])).ok();
    assert!(fixture.is_as_before());
}

#[test]
fn an_add_that_exists_already_leaves_it_as_it_is() {
    let fixture = Fixture::new();
    fixture.run("ADD", &conf()).ok();
    let error = fixture.run("ADD", &conf()).error_code(999);
    assert!(error.msg.contains("already exists"), "{error:?}");
    assert_eq!(fixture.pod.netns.addresses("net1"), ["10.9.0.2/24"]);
    fixture.run("DEL", &conf()).ok();
    assert!(fixture.is_as_before());
}

#[test]
fn an_add_that_fails_leaves_everything_as_it_was() {
    let (fixture, ipam) = (Fixture::new(), FakeIpam::new());
    ipam.fail("ADD", r#"{"code": 11, "msg": "no address is free"}"#);
    let call = fixture.call("ADD", &with("ipam", json!({"type": "fake-ipam"})));
    let add = fixture.node.run(&call.env("CNI_PATH", &ipam.cni_path()));
    assert_eq!(add.error_code(11).msg, "no address is free");
    assert_eq!(ipam.reserved(), [""; 0]);
    assert!(fixture.is_as_before());
}

#[test]
fn a_version_that_cannot_express_the_result_is_refused_before_anything_is_touched() {
    let fixture = Fixture::new();
    let mut conf = with("cniVersion", json!("0.2.0"));
    conf["ipam"] = json!({});
    let error = fixture.run("ADD", &conf).error_code(7);
    assert_eq!(error.msg, "cannot convert: no valid IP addresses");
    assert!(!fixture.node.state().join("eni-cni").exists());
}

/// Lets `fault` strike the `command` at one system call after the other until it makes fewer,
/// and calls `after` each time.
fn struck_anywhere(
    command: &str,
    fault: Fault,
    prepare: impl Fn(&Fixture),
    after: impl Fn(&Fixture, &Struck),
) {
    let strike = |nth: usize| {
        let fixture = Fixture::new();
        prepare(&fixture);
        let how = Strike {
            fault,
            counted: Counted::Changing,
            nth,
        };
        let struck = fixture.node.strike(&fixture.call(command, &conf()), how);
        struck.hit.is_some().then_some((fixture, struck))
    };
    let mut count = 0;
    for (fixture, struck) in (1..MOST).map_while(strike) {
        after(&fixture, &struck);
        count += 1;
    }
    assert!(count > 10, "{command} was struck {count} times");
}

/// The answer to the request that makes the interface is among what is lost: then nobody knows
/// whether that is there.
#[test]
fn an_add_that_loses_a_message_of_the_kernel_leaves_everything_as_it_was() {
    let after = |fixture: &Fixture, struck: &Struck| {
        let is_as_before = fixture.is_as_before();
        assert!(
            struck.output.status == Some(0) || is_as_before,
            "{struck:?}"
        );
        fixture.run("DEL", &conf()).ok();
        assert!(fixture.is_as_before(), "{struck:?}");
    };
    struck_anywhere("ADD", Fault::Error(NO_MEMORY), |_| (), after);
}

fn ends(fixture: &Fixture, struck: &Struck) {
    fixture.run("DEL", &conf()).ok();
    assert!(fixture.is_as_before(), "{struck:?}");
}

#[test]
fn del_ends_what_an_add_that_was_killed_anywhere_has_left() {
    struck_anywhere("ADD", Fault::Kill, |_| (), ends);
}

#[test]
fn del_ends_what_a_del_that_was_killed_anywhere_has_left() {
    let prepare = |fixture: &Fixture| drop(fixture.run("ADD", &conf()).ok());
    struck_anywhere("DEL", Fault::Kill, prepare, ends);
}
