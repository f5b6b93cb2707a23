//! The static build where there is nothing: a root with the file itself, a resolver's
//! configuration, certificates of authorities and `/proc`, as in an empty container.
//! No variable says where AWS is. The names are resolved by the C library that is in
//! the file, and EC2's certificate is verified.
//!
//! `/proc` is the kernel's: it has the boot id that attachments are written down with,
//! and the node's own namespace to return to from the pod's.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use harness::eni_lab::{CANARY, Certificate};
use harness::vpc::{Vpc, VpcNode};
use harness::{Call, Output, Pod, our_plugin, run_tool};
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, QTYPE, ResourceRecord, TYPE};
use tempfile::TempDir;

const EC2: &str = "ec2.us-west-2.amazonaws.com";
/// Where the metadata of every instance are.
const IMDS: &str = "169.254.169.254";
/// How long the name server may take to see that it has to end.
const LOOK_UP: Duration = Duration::from_millis(50);

#[test]
fn an_address_is_registered_from_an_empty_root() {
    let vpc = Vpc::new();
    let certificate = Certificate::new(EC2);
    let place = Place::new(vpc.node(), &certificate, &certificate.authority);
    let pod = Pod::new("c1");
    place.add(&pod, "10.0.4.70").ok();
    assert_eq!(place.node.addresses(), ["10.0.4.70"]);
}

#[test]
fn a_server_whose_authority_is_unknown_is_not_ec2() {
    let vpc = Vpc::new();
    let other = Certificate::new(EC2);
    let place = Place::new(vpc.node(), &Certificate::new(EC2), &other.authority);
    let error = place.add(&Pod::new("c1"), "10.0.4.70").error_code(11);
    let expected = "AWS did not answer DescribeNetworkInterfaces";
    assert!(error.msg.contains(expected), "{error:?}");
    assert!(
        error.details.contains("invalid peer certificate"),
        "{error:?}"
    );
    assert!(vpc.lab.calls().is_empty(), "nothing was sent to it");
}

/// A node where AWS is where it always is, and an empty root on it.
struct Place {
    node: VpcNode,
    root: TempDir,
    _names: NameServer,
}

impl Place {
    /// EC2 has the certificate; the root has this authority.
    fn new(mut node: VpcNode, certificate: &Certificate, authority: &[u8]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for directory in ["etc/ssl/certs", "proc"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        fs::write(at("etc/resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        fs::write(at("etc/ssl/certs/ca-certificates.crt"), authority).unwrap();
        copy_program(root.path());
        node.node.bind("/proc", at("proc"));
        let netns = &node.node.netns;
        netns.ip(&["address", "add", &format!("{IMDS}/32"), "dev", "lo"]);
        let listen = |address: &str| netns.run(|| TcpListener::bind(address)).unwrap();
        let (imds, ec2) = (listen(&format!("{IMDS}:80")), listen("127.0.0.1:443"));
        node.lab.serve_imds(imds, &node.instance);
        let (chain, key) = (&certificate.chain, &certificate.key);
        node.lab.serve_ec2_tls(ec2, chain, key);
        let socket = netns.run(|| UdpSocket::bind("127.0.0.1:53")).unwrap();
        Self {
            _names: NameServer::start(socket),
            node,
            root,
        }
    }

    fn add(&self, pod: &Pod, address: &str) -> Output {
        let call = self
            .node
            .pod_call("ADD", pod, &[address])
            .without("AWS_ENDPOINT_URL_EC2")
            .without("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let process = in_root(&call, self.root.path());
        let output = self.node.node.inside(|| call.run_as(process));
        let printed = output.to_string();
        assert!(!printed.contains(CANARY), "a secret was printed\n{printed}");
        output
    }
}

fn in_root(call: &Call, root: &Path) -> Command {
    let mut process = Command::new("chroot");
    process.arg(root).arg("/eni-sync").env_clear();
    for (name, value) in call.process().get_envs() {
        process.env(name, value.unwrap_or_default());
    }
    process
}

/// Another process copies: a descriptor of ours, open for writing, could be inherited
/// by what another test executes, and keep the copy from being executed.
fn copy_program(directory: &Path) {
    let program = our_plugin("eni-sync");
    let paths = [program.to_str().unwrap(), directory.to_str().unwrap()];
    assert!(run_tool("cp", &paths).status.success());
}

/// A name server for which EC2 is on this machine, until the value is dropped.
struct NameServer {
    is_ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    fn start(socket: UdpSocket) -> Self {
        socket.set_read_timeout(Some(LOOK_UP)).unwrap();
        let is_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&is_ended);
        let serve = move || {
            let mut buffer = [0; 512];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&answer(&buffer[..length]), client).unwrap();
                }
            }
        };
        Self {
            is_ended,
            thread: Some(std::thread::spawn(serve)),
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What went wrong in it has failed the test by a name that was not found.
            thread.join().ok();
        }
    }
}

/// EC2 has one IPv4 address; no other name has any.
fn answer(request: &[u8]) -> Vec<u8> {
    let request = Packet::parse(request).unwrap();
    let mut reply = Packet::new_reply(request.id());
    for question in &request.questions {
        let is_address = question.qtype == QTYPE::TYPE(TYPE::A);
        if is_address && question.qname.to_string() == EC2 {
            let address = RData::A(A::from(Ipv4Addr::LOCALHOST));
            let record = ResourceRecord::new(question.qname.clone(), CLASS::IN, 60, address);
            reply.answers.push(record);
        }
        reply.questions.push(question.clone());
    }
    reply.build_bytes_vec().unwrap()
}
