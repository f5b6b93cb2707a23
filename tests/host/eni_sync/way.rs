//! The way to AWS: clocks, credentials, throttling, proxies, private authorities, and
//! answers without an end.

mod proxy;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::thread;

use fixtures::kernel_calls::Trace;
use harness::eni_lab::{Certificate, Fault};
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use harness::{Call, Host, Node, Pod};
use serde_json::{Value, json};

use self::proxy::Proxy;

const ASSIGN: &str = "AssignPrivateIpAddresses";
const ADDRESS: &str = "10.0.4.70";
const EC2: &str = "ec2.us-west-2.amazonaws.com";
/// How many bytes of memory a command may have: several times what it needs.
const MEMORY: &str = "--as=400000000";

/// Has an address registered by a plugin, and one by an agent, in a VPC that is made so.
pub(super) fn by_plugin_and_agent(make: impl Fn(&Vpc, &VpcNode) + Sync) {
    thread::scope(|scope| {
        for has_agent in [false, true] {
            let make = &make;
            scope.spawn(move || {
                let vpc = Vpc::new();
                let node = vpc.node();
                let _agent = has_agent.then(|| Agent::start(&node, &json!({})));
                make(&vpc, &node);
                let output = node.add(&Pod::new("c1"), &[ADDRESS]);
                assert_eq!(output.status, Some(0), "agent: {has_agent}\n{output}");
                assert_eq!(node.addresses(), [ADDRESS]);
            });
        }
    });
}

#[test]
fn a_clock_that_is_ten_minutes_off_registers_addresses() {
    thread::scope(|scope| {
        for (ahead, code) in [
            (600, "AuthFailure"),
            (-600, "RequestExpired"),
            (600, "SignatureDoesNotMatch"),
        ] {
            scope.spawn(move || {
                by_plugin_and_agent(|vpc, _| {
                    vpc.lab.rules(|rules| {
                        rules.clock_ahead = ahead;
                        rules.clock_code = code.to_owned();
                    });
                });
            });
        }
    });
}

#[test]
fn credentials_that_expired_are_replaced_within_the_command() {
    thread::scope(|scope| {
        for code in ["RequestExpired", "ExpiredToken", "AuthFailure"] {
            scope.spawn(move || {
                by_plugin_and_agent(|vpc, node| {
                    node.add(&Pod::new("c0"), &["10.0.4.60"]).ok();
                    node.lab
                        .unassign(&node.eni, &["10.0.4.60".parse().unwrap()]);
                    vpc.lab.rules(|rules| rules.expired_code = code.to_owned());
                    vpc.lab.expire_credentials();
                });
            });
        }
    });
}

#[test]
fn whatever_code_ec2_throttles_with_the_address_is_registered() {
    thread::scope(|scope| {
        for code in [
            "SlowDown",
            "TooManyRequestsException",
            "RequestThrottledException",
            "PriorRequestNotComplete",
            "RequestLimitExceeded",
        ] {
            scope.spawn(move || {
                by_plugin_and_agent(|vpc, _| {
                    let fault = Fault::Error {
                        status: 503,
                        code: code.to_owned(),
                        message: "Request limit exceeded.".to_owned(),
                    };
                    vpc.lab.fail_next(ASSIGN, 1, fault);
                });
            });
        }
    });
}

#[test]
fn an_internal_error_of_ec2_is_not_a_refusal() {
    by_plugin_and_agent(|vpc, _| {
        let fault = Fault::Error {
            status: 500,
            code: "SomethingNew".to_owned(),
            message: "An internal error has occurred".to_owned(),
        };
        vpc.lab.fail_next(ASSIGN, 1, fault);
    });
}

#[test]
fn an_answer_without_an_end_is_read_to_a_bound_and_asked_for_again() {
    let vpc = Vpc::new();
    let node = vpc.node();
    vpc.lab
        .fail_next("DescribeNetworkInterfaces", 1, Fault::Endless);
    vpc.lab.fail_next(ASSIGN, 1, Fault::Endless);
    let pod = Pod::new("c1");
    let call = node.pod_call("ADD", &pod, &[ADDRESS]);
    let output = node.node.inside(|| call.run_under("prlimit", &[MEMORY]));
    output.ok();
    assert_eq!(node.addresses(), [ADDRESS]);
}

#[test]
fn metadata_without_an_end_are_no_answer() {
    let vpc = Vpc::new();
    let node = vpc.node();
    vpc.lab.rules(|rules| rules.imds_endless = true);
    let pod = Pod::new("c1");
    let call = node.pod_call("ADD", &pod, &[ADDRESS]);
    let output = node.node.inside(|| call.run_under("prlimit", &[MEMORY]));
    let error = output.error_code(11);
    assert!(error.msg.contains("metadata service"), "{error:?}");
}

#[test]
fn an_eni_at_device_index_0_of_another_network_card_is_not_the_primary_one() {
    let vpc = Vpc::new();
    let node = vpc.node_at("c6in.32xlarge", (1, 0));
    node.add(&Pod::new("c1"), &[ADDRESS]).ok();
    assert_eq!(node.addresses(), [ADDRESS]);
    let text = fs::read(node.run_directory().join("eni-cni/enis.json")).unwrap();
    let inventory: Value = serde_json::from_slice(&text).unwrap();
    let eni = inventory["enis"].as_array().unwrap().iter();
    let mut eni = eni.filter(|eni| eni["id"] == node.eni.as_str());
    assert_eq!(eni.next().unwrap()["networkCardIndex"], 1);
}

/// A node that reaches EC2 by its own name over TLS, with an authority of its own, and a
/// proxy on that node.
struct Place {
    proxy: Proxy,
    pod: Pod,
    node: VpcNode,
}

impl Place {
    fn new(vpc: &Vpc) -> Self {
        let mut node = vpc.node();
        let certificate = Certificate::new(EC2);
        let netns = &node.node.netns;
        let ec2 = netns.run(|| TcpListener::bind("127.0.0.1:443").unwrap());
        node.lab
            .serve_ec2_tls(ec2, &certificate.chain, &certificate.key);
        let file = |name: &str| node.run_directory().join(name);
        fs::write(file("authority.pem"), &certificate.authority).unwrap();
        // As a mounted ConfigMap has it.
        symlink("authority.pem", file("bundle.pem")).unwrap();
        fs::write(file("hosts"), format!("127.0.0.1 {EC2}\n")).unwrap();
        let (hosts, proxy) = (file("hosts"), Proxy::start(&netns.path()));
        node.node.bind(hosts, "/etc/hosts");
        Self {
            proxy,
            pod: Pod::new("c1"),
            node,
        }
    }

    /// An ADD with a private authority that knows no other way to EC2 than its name.
    fn add(&self) -> Call {
        let call = self.node.pod_call("ADD", &self.pod, &[ADDRESS]);
        call.without("AWS_ENDPOINT_URL_EC2")
            .env("AWS_CA_BUNDLE", "/run/bundle.pem")
    }
}

#[test]
fn a_private_authority_is_trusted_when_it_is_named() {
    let vpc = Vpc::new();
    let place = Place::new(&vpc);
    place.node.run(&place.add()).ok();
    assert_eq!(place.node.addresses(), [ADDRESS]);
}

#[test]
fn ec2_is_asked_through_the_proxy_and_the_metadata_service_is_not() {
    for (name, other) in [("HTTPS_PROXY", "HTTP_PROXY"), ("https_proxy", "http_proxy")] {
        let vpc = Vpc::new();
        let place = Place::new(&vpc);
        let call = place.add().env(name, &place.proxy.url);
        let call = call.env(other, &place.proxy.url);
        place.node.run(&call).ok();
        assert_eq!(place.node.addresses(), [ADDRESS]);
        let asked = place.proxy.asked();
        assert!(!asked.is_empty(), "nothing went through the proxy");
        let ec2 = format!("CONNECT {EC2}:443 HTTP/1.1");
        assert!(asked.iter().all(|line| *line == ec2), "{asked:?}");
    }
}

#[test]
fn what_needs_no_proxy_is_asked_directly() {
    let vpc = Vpc::new();
    let place = Place::new(&vpc);
    let call = place.add().env("HTTPS_PROXY", &place.proxy.url);
    place.node.run(&call.env("NO_PROXY", ".amazonaws.com")).ok();
    assert_eq!(place.proxy.asked(), [""; 0]);
}

/// An agent that reaches EC2 as the plugin does not.
impl Host for Place {
    fn node(&self) -> &Node {
        self.node.node()
    }

    fn run_directory(&self) -> &Path {
        self.node.run_directory()
    }

    fn eni_sync(&self) -> Call {
        let call = self.node.eni_sync().without("AWS_ENDPOINT_URL_EC2");
        call.env("AWS_CA_BUNDLE", "/run/bundle.pem")
            .env("HTTPS_PROXY", &self.proxy.url)
    }
}

#[test]
fn a_plugin_goes_the_way_that_its_agent_has_left() {
    let vpc = Vpc::new();
    let place = Place::new(&vpc);
    let plugin = |pod: &Pod| {
        let call = place.node.pod_call("ADD", pod, &[ADDRESS]);
        call.without("AWS_ENDPOINT_URL_EC2")
    };
    Agent::start(&place, &json!({})).kill();
    // The file of the agent's container is not on the node.
    fs::remove_file(place.node.run_directory().join("bundle.pem")).unwrap();
    let before = place.proxy.asked().len();
    place.node.run(&plugin(&place.pod)).ok();
    assert_eq!(place.node.addresses(), [ADDRESS]);
    assert!(
        place.proxy.asked().len() > before,
        "it has not used the proxy"
    );
    // Its own environment counts more.
    let other = Pod::new("c2");
    let call = place.node.pod_call("ADD", &other, &["10.0.4.71"]);
    let call = call
        .without("AWS_ENDPOINT_URL_EC2")
        .env("AWS_CA_BUNDLE", "/run/none.pem");
    let error = place.node.run(&call).error_code(5);
    assert!(error.msg.contains("/run/none.pem"), "{error:?}");
}

/// How many programs a call has become, which succeeds.
fn executions(node: &VpcNode, call: &Call) -> usize {
    let trace = Trace::of(&node.node, call);
    let is_execution = |line: &&&str| line.starts_with("execve(") && line.ends_with("= 0");
    trace.calls().iter().filter(is_execution).count()
}

#[test]
fn a_plugin_executes_itself_anew_only_when_no_agent_serves_it() {
    let vpc = Vpc::new();
    let place = Place::new(&vpc);
    let node = &place.node;
    let ipam = json!({
        "cniVersion": "1.1.0", "name": "mgmt", "type": "eni-sync",
        "cni.dev/valid-attachments": [{ "containerID": "c1", "ifname": "net1" }],
    });
    let status = || {
        let call = node.call("STATUS").conf(&ipam);
        call.without("AWS_ENDPOINT_URL_EC2")
    };
    let add = |pod: &Pod, address: &str| {
        let call = node.pod_call("ADD", pod, &[address]);
        call.without("AWS_ENDPOINT_URL_EC2")
    };
    let agent = Agent::start(&place, &json!({}));
    assert_eq!(executions(node, &add(&place.pod, ADDRESS)), 1);
    assert_eq!(executions(node, &status()), 1);
    agent.kill();
    let before = place.proxy.asked().len();
    assert_eq!(executions(node, &status()), 2);
    let next = Pod::new("c2");
    assert_eq!(executions(node, &add(&next, "10.0.4.71")), 2);
    let check = node.pod_call("CHECK", &place.pod, &[ADDRESS]);
    assert_eq!(executions(node, &check.without("AWS_ENDPOINT_URL_EC2")), 2);
    let gc = node.call("GC").conf(&ipam);
    assert_eq!(executions(node, &gc.without("AWS_ENDPOINT_URL_EC2")), 2);
    assert!(place.proxy.asked().len() > before);
    assert_eq!(node.addresses(), [ADDRESS, "10.0.4.71"]);
}

#[test]
fn a_plugin_that_an_agent_has_kept_waiting_goes_on_with_the_time_that_is_left() {
    let vpc = Vpc::new();
    let place = Place::new(&vpc);
    Agent::start(&place, &json!({})).kill();
    let call = place.node.pod_call("ADD", &place.pod, &[ADDRESS]);
    let call = call
        .without("AWS_ENDPOINT_URL_EC2")
        .env("ENI_SYNC_ENVIRONMENT", "0");
    let error = place.node.run(&call).error_code(11);
    assert!(error.msg.starts_with("timed out waiting"), "{error:?}");
}

#[test]
fn a_command_goes_the_way_that_the_agent_has_left() {
    let vpc = Vpc::new();
    let place = Place::new(&vpc);
    Agent::start(&place, &json!({})).kill();
    for arguments in [
        &["detach", "--leaked", "--dry-run"][..],
        &["release", "--foreign", "--dry-run"],
        &["sync", "--once"],
    ] {
        let before = place.proxy.asked().len();
        let call = place.node.call("").without("AWS_ENDPOINT_URL_EC2");
        let output = place.node.command_with(&call, arguments);
        assert_eq!(output.status, Some(0), "{output}");
        let asked = place.proxy.asked().len();
        assert!(asked > before, "{arguments:?} has not used the proxy");
    }
}

#[test]
fn what_others_may_write_is_not_believed() {
    let vpc = Vpc::new();
    let node = vpc.node();
    Agent::start(&node, &json!({})).kill();
    let file = node.run_directory().join("eni-cni/environment.json");
    fs::write(&file, r#"{"variables":{"AWS_REGION":"eu-west-1"}}"#).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    let output = node.add(&Pod::new("c1"), &[ADDRESS]);
    output.ok();
    assert!(
        output.stderr.contains("it can be written by others"),
        "{output}"
    );
    assert_eq!(node.addresses(), [ADDRESS]);
}

/// A node whose agent has a wrong way to EC2.
struct Astray<'a>(&'a VpcNode, &'static str, String);

impl Host for Astray<'_> {
    fn node(&self) -> &Node {
        self.0.node()
    }

    fn run_directory(&self) -> &Path {
        self.0.run_directory()
    }

    fn eni_sync(&self) -> Call {
        let Self(node, name, value) = self;
        let call = node.eni_sync().without("AWS_ENDPOINT_URL_EC2");
        call.env(name, value)
    }
}

#[test]
fn the_agent_says_in_a_line_that_its_proxy_or_its_authorities_are_wrong() {
    for (name, value, said) in [
        ("HTTPS_PROXY", "http://127.0.0.1:1", "(HTTPS_PROXY is set)"),
        (
            "AWS_CA_BUNDLE",
            "/run/agent.json",
            "is not a list of certificates in PEM",
        ),
    ] {
        let vpc = Vpc::new();
        let node = vpc.node();
        let agent = Agent::start(&Astray(&node, name, value.to_owned()), &json!({}));
        assert_tries_again(&agent, said);
    }
}

/// That the agent says in a line what keeps it from EC2, and that it tries again.
#[track_caller]
fn assert_tries_again(agent: &Agent, said: &str) {
    let is_said = || {
        let log = agent.log();
        let mut lines = log.lines().filter(|line| line.contains("trying again in"));
        lines.any(|line| line.contains(said))
    };
    assert!(eventually(is_said), "{}", agent.log());
}

#[test]
fn a_proxy_that_accepts_connections_and_answers_nothing_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = node.node.netns.run(listen);
    let url = format!("http://{}", silent.local_addr().unwrap());
    let agent = Agent::start(&Astray(&node, "HTTPS_PROXY", url), &json!({}));
    assert_tries_again(&agent, "(HTTPS_PROXY is set)");
}

#[test]
fn a_node_without_any_authority_is_told_so() {
    let vpc = Vpc::new();
    let mut place = Place::new(&vpc);
    let empty = tempfile::tempdir().unwrap();
    place.node.node.bind(empty.path(), "/etc/ssl");
    let call = place.add().without("AWS_CA_BUNDLE");
    let error = place.node.run(&call).error_code(7);
    assert_eq!(error.msg, "this node has no certificates of authorities");
    assert!(error.details.contains("AWS_CA_BUNDLE"), "{error:?}");
    let del = place.node.pod_call("DEL", &place.pod, &[]);
    place.node.run(&del).ok();
}

#[test]
fn a_file_that_has_no_authorities_is_named() {
    let vpc = Vpc::new();
    let place = Place::new(&vpc);
    let file = place.node.run_directory().join("bad.pem");
    for text in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n",
    ] {
        fs::write(&file, text).unwrap();
        let call = place.add().env("AWS_CA_BUNDLE", "/run/bad.pem");
        let error = place.node.run(&call).error_code(6);
        for said in ["/run/bad.pem", "AWS_CA_BUNDLE"] {
            assert!(error.msg.contains(said), "{text:?}: {error:?}");
        }
    }
    let call = place.add().env("AWS_CA_BUNDLE", "/run/none.pem");
    let error = place.node.run(&call).error_code(5);
    assert!(error.msg.contains("/run/none.pem"), "{error:?}");
    let del = place.node.pod_call("DEL", &place.pod, &[]);
    let del = del.env("AWS_CA_BUNDLE", "/run/none.pem");
    place.node.run(&del).ok();
}
