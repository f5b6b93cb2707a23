//! Whether our requests mean to a server that somebody else wrote what they mean to the
//! simulated VPC: moto, from PyPI. It accepts much that EC2 refuses, so nothing else is
//! learnt from it. Its metadata service has no interfaces, so that is eni-lab's.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use harness::vpc::{Vpc, VpcNode, eventually, prev_result};
use harness::{Namespace, Pod, python_with};
use serde_json::json;

const VERSION: &str = "5.2.5";
/// Where moto listens, in the namespace of a node, which has all ports to itself.
const ADDRESS: &str = "127.0.0.1:5000";
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIDLAB/20260101/us-west-2/ec2/aws4_request, \
     SignedHeaders=host, Signature=00";

#[test]
fn a_server_by_other_authors_understands_the_requests() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let moto = Moto::start(&node.node.netns);
    let eni = moto.eni_of_a_new_instance();
    let metadata = metadata_of(&node, &eni);
    node.node.netns.ip(&[
        "link", "add", "ens7", "address", &eni.mac, "type", "veth", "peer", "name", "moto",
    ]);
    let pod = Pod::new("c1");
    let addresses: &[&str] = &["10.0.4.70", "10.0.4.71", "2001:db8:4::70"];
    let keys = json!({
        "cooldownSeconds": 0,
        "cni.dev/valid-attachments": [],
        "prevResult": prev_result(&pod, &[(&eni.mac, addresses)]),
    });
    let run = |command: &str| {
        let call = node
            .conf_call(command, &pod, &[], &keys)
            .env("AWS_ENDPOINT_URL_EC2", &format!("http://{ADDRESS}"))
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata);
        node.run(&call).ok();
    };
    run("ADD");
    assert_eq!(moto.addresses(&eni.id), addresses);
    run("CHECK");
    run("DEL");
    run("GC");
    assert_eq!(moto.addresses(&eni.id), [""; 0]);
    assert!(vpc.lab.calls().is_empty(), "the simulated EC2 is not asked");
}

/// Lets the metadata of the node be those of the instance that moto knows.
fn metadata_of(node: &VpcNode, eni: &MotoEni) -> String {
    let instance = node.lab.set_instance_id(&node.instance, &eni.instance);
    let listener = node.node.netns.run(|| TcpListener::bind("127.0.0.1:0"));
    let listener = listener.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    node.lab.serve_imds(listener, &instance);
    url
}

/// An ENI for pods as moto has it.
struct MotoEni {
    id: String,
    mac: String,
    instance: String,
}

/// A moto that runs until this value is dropped.
struct Moto<'a> {
    netns: &'a Namespace,
    process: Child,
}

impl<'a> Moto<'a> {
    fn start(netns: &'a Namespace) -> Self {
        let (host, port) = ADDRESS.split_once(':').unwrap();
        let mut command = Command::new(python());
        command
            .args(["-m", "moto.server", "-H", host, "-p", port])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = netns.run(|| command.spawn()).unwrap();
        let moto = Self { netns, process };
        let is_up = || moto.netns.run(|| TcpStream::connect(ADDRESS).is_ok());
        assert!(eventually(is_up), "moto does not listen on {ADDRESS}");
        moto
    }

    /// Asks moto as any client does: the answer's document.
    fn ask(&self, parameters: &[(&str, &str)]) -> String {
        let body = form_urlencoded::Serializer::new("Version=2016-11-15".to_owned())
            .extend_pairs(parameters)
            .finish();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {ADDRESS}\r\nConnection: close\r\nAuthorization: {AUTHORIZATION}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = String::new();
        self.netns.run(|| {
            let mut stream = TcpStream::connect(ADDRESS).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_to_string(&mut answer).unwrap();
        });
        assert!(answer.contains(" 200 "), "{parameters:?}: {answer}");
        answer
    }

    /// An instance with a second ENI, which is tagged for pods.
    fn eni_of_a_new_instance(&self) -> MotoEni {
        let vpc = self.ask(&[("Action", "CreateVpc"), ("CidrBlock", "10.0.0.0/16")]);
        let subnet = self.ask(&[
            ("Action", "CreateSubnet"),
            ("VpcId", &first(&vpc, "vpcId")),
            ("CidrBlock", "10.0.4.0/24"),
            ("Ipv6CidrBlock", "2001:db8:4::/64"),
        ]);
        let subnet = first(&subnet, "subnetId");
        let instance = self.ask(&[
            ("Action", "RunInstances"),
            ("ImageId", "ami-12c6146b"),
            ("InstanceType", "c5.large"),
            ("MinCount", "1"),
            ("MaxCount", "1"),
            ("SubnetId", &subnet),
        ]);
        let instance = first(&instance, "instanceId");
        let eni = self.ask(&[
            ("Action", "CreateNetworkInterface"),
            ("SubnetId", &subnet),
            ("TagSpecification.1.ResourceType", "network-interface"),
            (
                "TagSpecification.1.Tag.1.Key",
                "node.k8s.amazonaws.com/no_manage",
            ),
            ("TagSpecification.1.Tag.1.Value", "true"),
        ]);
        let (id, mac) = (first(&eni, "networkInterfaceId"), first(&eni, "macAddress"));
        self.ask(&[
            ("Action", "AttachNetworkInterface"),
            ("NetworkInterfaceId", &id),
            ("InstanceId", &instance),
            ("DeviceIndex", "1"),
        ]);
        MotoEni { id, mac, instance }
    }

    /// The addresses of an ENI but for its primary one, sorted.
    fn addresses(&self, eni: &str) -> Vec<String> {
        let found = self.ask(&[
            ("Action", "DescribeNetworkInterfaces"),
            ("NetworkInterfaceId.1", eni),
        ]);
        let primary = first(&found, "privateIpAddress");
        let ipv4 = all(&found, "privateIpAddress").into_iter();
        let mut addresses: Vec<String> = ipv4.chain(all(&found, "ipv6Address")).collect();
        addresses.retain(|address| *address != primary);
        addresses.sort();
        addresses
    }
}

impl Drop for Moto<'_> {
    fn drop(&mut self) {
        // It may have ended already, by a failure that the test shows.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The text of the first element of this name.
#[track_caller]
fn first(document: &str, name: &str) -> String {
    let found = all(document, name).into_iter().next();
    found.unwrap_or_else(|| panic!("there is no {name} in {document}"))
}

fn all(document: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let after = document.split(&open).skip(1);
    after
        .filter_map(|text| Some(text.split_once(&close)?.0.to_owned()))
        .collect()
}

/// A Python that has moto, with what its server needs for EC2.
fn python() -> PathBuf {
    let moto = format!("moto=={VERSION}");
    python_with("moto", VERSION, &[&moto, "flask", "flask-cors"])
}
