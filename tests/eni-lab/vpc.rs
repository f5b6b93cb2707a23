//! The VPC that the options describe, and the output for the user.

use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};

use harness::eni_lab::{Ec2Error, EniId, InstanceId, Lab, REGION, SubnetId, VpcId};
use serde_json::{Value, json};

use crate::options::Options;

/// A VPC that is being served.
pub(crate) struct Served {
    lab: Lab,
    vpc: VpcId,
    ec2: SocketAddr,
    nodes: Vec<Node>,
}

struct Node {
    instance: InstanceId,
    imds: SocketAddr,
    enis: Vec<Interface>,
}

struct Interface {
    eni: EniId,
    subnet: SubnetId,
    cidr: String,
    device_index: usize,
}

impl Served {
    /// Creates the VPC and serves it.
    pub(crate) fn start(options: &Options) -> Result<Self, String> {
        let lab = Lab::new();
        let vpc = lab.create_vpc(&options.vpc.to_string());
        let subnet = |ipv4: String, ipv6: Option<String>| {
            lab.try_create_subnet(&vpc, &ipv4, ipv6.as_deref())
                .map_err(|error| refused(&format!("the subnet {ipv4}"), &error))
        };
        let first = subnet(options.subnet.to_string(), None)?;
        let mut subnets = Vec::new();
        for ranges in &options.multus_subnet {
            let cidr = ranges.ipv4.to_string();
            let id = subnet(cidr.clone(), ranges.ipv6.map(|c| c.to_string()))?;
            subnets.push((id, cidr));
        }
        let ec2 = listen(options, options.ec2_port)?;
        let mut macs = options.mac.iter();
        let mut nodes = Vec::new();
        for number in 0..options.nodes {
            let instance = lab
                .try_run_instance(&options.instance_type, &first)
                .map_err(|error| {
                    refused(&format!("a node of {}", options.instance_type), &error)
                })?;
            let enis = interfaces(&lab, &instance, &subnets, &mut macs)?;
            let port = match options.imds_port {
                0 => 0,
                port => port.checked_add(number).ok_or("there is no such port")?,
            };
            let imds = listen(options, port)?;
            let address = address(&imds)?;
            lab.serve_imds(imds, &instance);
            nodes.push(Node {
                instance,
                imds: address,
                enis,
            });
        }
        if macs.next().is_some() {
            return Err("there are more MACs than interfaces for Multus".to_owned());
        }
        lab.rules(|rules| options.apply(rules));
        let ec2_address = address(&ec2)?;
        lab.serve_ec2(ec2);
        Ok(Self {
            lab,
            vpc,
            ec2: ec2_address,
            nodes,
        })
    }

    /// The variables as shell commands; the rest is comments.
    pub(crate) fn shell(&self) -> String {
        let mut text = format!("# {} in {REGION}\n", self.vpc);
        for node in &self.nodes {
            let _infallible = writeln!(text, "\n# Node {}:", node.instance);
            for (name, value) in self.variables(node) {
                let _infallible = writeln!(text, "export {name}={value}");
            }
            for interface in &node.enis {
                let Interface {
                    eni,
                    subnet,
                    cidr,
                    device_index,
                } = interface;
                let mac = self.lab.mac(eni);
                let _infallible =
                    writeln!(text, "# {eni} {mac} {subnet} {cidr} device {device_index}");
            }
        }
        text
    }

    /// The same as JSON.
    pub(crate) fn json(&self) -> Value {
        let interface = |interface: &Interface| {
            json!({
                "eni": interface.eni.as_str(),
                "mac": self.lab.mac(&interface.eni),
                "primary": self.lab.primary(&interface.eni),
                "subnet": interface.subnet.as_str(),
                "cidr": interface.cidr,
                "deviceIndex": interface.device_index,
            })
        };
        let node = |node: &Node| {
            let environment = self.variables(node).into_iter();
            let environment = environment.map(|(name, value)| (name.to_owned(), json!(value)));
            json!({
                "instance": node.instance.as_str(),
                "environment": Value::Object(environment.collect()),
                "enis": node.enis.iter().map(interface).collect::<Value>(),
            })
        };
        json!({
            "vpc": self.vpc.as_str(),
            "region": REGION,
            "nodes": self.nodes.iter().map(node).collect::<Value>(),
        })
    }

    /// The variables by which the AWS SDK uses the lab as this node.
    fn variables(&self, node: &Node) -> [(&'static str, String); 3] {
        [
            ("AWS_ENDPOINT_URL_EC2", format!("http://{}", self.ec2)),
            (
                "AWS_EC2_METADATA_SERVICE_ENDPOINT",
                format!("http://{}", node.imds),
            ),
            ("AWS_REGION", REGION.to_owned()),
        ]
    }
}

/// One interface for Multus in each subnet, with the next of the given MAC addresses as long as
/// there are some.
fn interfaces<'a>(
    lab: &Lab,
    instance: &InstanceId,
    subnets: &[(SubnetId, String)],
    macs: &mut impl Iterator<Item = &'a String>,
) -> Result<Vec<Interface>, String> {
    let mut enis = Vec::new();
    for (index, (subnet, cidr)) in subnets.iter().enumerate() {
        let eni = lab.try_multus_eni(instance, subnet).map_err(|error| {
            refused(
                &format!("an interface in each of {}", list(subnets)),
                &error,
            )
        })?;
        if let Some(mac) = macs.next() {
            lab.set_mac(&eni, mac);
        }
        enis.push(Interface {
            eni,
            subnet: subnet.clone(),
            cidr: cidr.clone(),
            device_index: index + 1,
        });
    }
    Ok(enis)
}

pub(crate) fn refused(what: &str, error: &Ec2Error) -> String {
    format!("{what} is not possible: {error}")
}

fn list(subnets: &[(SubnetId, String)]) -> String {
    let cidrs: Vec<&str> = subnets.iter().map(|s| s.1.as_str()).collect();
    cidrs.join(", ")
}

fn listen(options: &Options, port: u16) -> Result<TcpListener, String> {
    let wanted = SocketAddr::new(options.listen, port);
    TcpListener::bind(wanted).map_err(|cause| format!("cannot listen on {wanted}: {cause}"))
}

fn address(listener: &TcpListener) -> Result<SocketAddr, String> {
    let address = listener.local_addr();
    address.map_err(|cause| format!("cannot tell where it listens: {cause}"))
}
