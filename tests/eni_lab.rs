//! The simulated VPC itself, over HTTP as its clients see it: every rule of EC2
//! that it keeps. What no document of AWS says is a switch, tested both ways.

mod attaching;
mod data_plane;
mod describe;
mod faults;
mod imds;
mod ipv4;
mod ipv6;
mod log;
mod model;
mod program;
mod set_up;
mod strict;
mod tls;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use harness::eni_lab::{EniId, InstanceId, Lab, SubnetId, VpcId};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

const ASSIGN: &str = "AssignPrivateIpAddresses";
const UNASSIGN: &str = "UnassignPrivateIpAddresses";
const ASSIGN_IPV6: &str = "AssignIpv6Addresses";
const UNASSIGN_IPV6: &str = "UnassignIpv6Addresses";
const DESCRIBE: &str = "DescribeNetworkInterfaces";

/// A VPC with one node that has one interface for Multus.
struct Vpc {
    lab: Lab,
    vpc: VpcId,
    subnet: SubnetId,
    node: InstanceId,
    eni: EniId,
    ec2: SocketAddr,
    imds: SocketAddr,
}

impl Vpc {
    fn new() -> Self {
        let lab = Lab::new();
        let vpc = lab.create_vpc("10.0.0.0/16");
        let first = lab.create_subnet(&vpc, "10.0.1.0/24", None);
        let subnet = lab.create_subnet(&vpc, "10.0.4.0/24", Some("2600:1f14:1:4::/64"));
        let node = lab.run_instance("c5.large", &first);
        let eni = lab.multus_eni(&node, &subnet);
        let (ec2, imds) = (listener(), listener());
        let (ec2_address, imds_address) = (address(&ec2), address(&imds));
        lab.serve_ec2(ec2);
        lab.serve_imds(imds, &node);
        Self {
            lab,
            vpc,
            subnet,
            node,
            eni,
            ec2: ec2_address,
            imds: imds_address,
        }
    }

    /// Another node of the VPC with an interface in the same subnet.
    fn another(&self) -> (InstanceId, EniId) {
        let node = self.lab.run_instance("c5.large", &self.subnet);
        let eni = self.lab.multus_eni(&node, &self.subnet);
        (node, eni)
    }

    /// A call that the node has signed.
    fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Reply {
        self.call_as(&self.lab.access_key(&self.node), action, parameters)
    }

    fn call_as(&self, key: &str, action: &str, parameters: &[(&str, &str)]) -> Reply {
        let reply = self.try_call_as(key, action, parameters);
        reply.unwrap_or_else(|| panic!("{action} was not answered"))
    }

    /// Nothing when the connection was closed without an answer.
    fn try_call_as(&self, key: &str, action: &str, parameters: &[(&str, &str)]) -> Option<Reply> {
        let authorization = format!(
            "authorization: AWS4-HMAC-SHA256 Credential={key}/20260101/us-west-2/ec2/aws4_request, \
             SignedHeaders=host, Signature=00"
        );
        let form = form(action, parameters);
        send(self.ec2, "POST", "/", &[&authorization], &form)
    }

    /// Assigns addresses to the interface as the node does.
    fn assign(&self, addresses: &[&str]) -> Reply {
        self.call(
            ASSIGN,
            &named(&self.eni, "PrivateIpAddress", addresses).pairs(),
        )
    }

    fn unassign(&self, addresses: &[&str]) -> Reply {
        self.call(
            UNASSIGN,
            &named(&self.eni, "PrivateIpAddress", addresses).pairs(),
        )
    }

    fn addresses(&self) -> Vec<String> {
        texts(&self.lab.addresses(&self.eni))
    }
}

/// Parameters that own their text.
struct Named(Vec<(String, String)>);

impl Named {
    fn pairs(&self) -> Vec<(&str, &str)> {
        self.0
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect()
    }

    fn and(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// The interface, and a list of addresses below `name`.
fn named(eni: &EniId, name: &str, addresses: &[&str]) -> Named {
    let listed = addresses.iter().enumerate();
    let listed = listed.map(|(i, a)| (format!("{name}.{}", i + 1), (*a).to_owned()));
    let eni = ("NetworkInterfaceId".to_owned(), eni.to_string());
    Named(std::iter::once(eni).chain(listed).collect())
}

fn form(action: &str, parameters: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("Action", action);
    form.append_pair("Version", "2016-11-15");
    form.extend_pairs(parameters);
    form.finish()
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port is free")
}

fn address(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("it is bound")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(IpAddr::to_string).collect()
}

/// An HTTP answer.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}", self.body);
        self
    }

    /// The status, code and message of an error.
    #[track_caller]
    fn error(&self) -> (u16, String, String) {
        assert_ne!(self.status, 200, "{}", self.body);
        let first = |name| self.all(name).into_iter().next().unwrap_or_default();
        (self.status, first("Code"), first("Message"))
    }

    /// The text of every element of that name.
    fn all(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let after = self.body.split(&open).skip(1);
        after
            .filter_map(|text| Some(text.split_once(&close)?.0.to_owned()))
            .collect()
    }
}

/// One request on a connection of its own; nothing when it is closed unanswered.
fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> Option<Reply> {
    let headers: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\n{headers}");
    exchange(PATIENCE, address, &head, body)
}

/// A call by a client that gives up after the time.
fn send_within(time: Duration, address: SocketAddr, header: &str, body: &str) -> Option<Reply> {
    let head = format!("POST / HTTP/1.1\r\n{header}\r\n");
    exchange(time, address, &head, body)
}

fn exchange(time: Duration, address: SocketAddr, head: &str, body: &str) -> Option<Reply> {
    let mut stream = TcpStream::connect(address).expect("the lab listens");
    stream
        .set_read_timeout(Some(time))
        .expect("a time-out can be set");
    let length = body.len();
    let request =
        format!("{head}host: lab\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    // A connection that is reset, or on which nothing comes, is as unanswered as one
    // that is closed.
    let _read = stream.read_to_string(&mut answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Reply {
        status,
        head: head.to_lowercase(),
        body: body.to_owned(),
    })
}
