//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use harness::eni_lab::{Buckets, Repeat, Rules};
use ipnetwork::{Ipv4Network, Ipv6Network};

const EXAMPLES: &str = r#"Examples:
  eni-lab shell                                  a shell on a node, with packets; in it:
    eni-lab pod examples/routable.yaml           attaches a pod
    eni-sync status                              shows its address
  eni-lab --nodes 2 --throttle >lab.env          serves two nodes, and throttles as EC2 does; then:
    . ./lab.env                                  sets what the AWS SDKs and eni-sync need
    curl "$AWS_ENDPOINT_URL_EC2/lab/state"       ENIs and addresses; also /lab/calls, /lab/events
    curl -d '[{"action": "AssignPrivateIpAddresses", "times": 2, "fault": "throttle"}]' \
        "$AWS_ENDPOINT_URL_EC2/lab/faults"       the next two calls fail
  eni-lab ec2 CreateTags ResourceId.1=eni-0123456789abcdef0 Tag.1.Key=team Tag.1.Value=core
  eni-lab ec2 DeleteNetworkInterface NetworkInterfaceId=eni-0123456789abcdef0"#;

/// A simulated VPC: EC2's API and the instance metadata service, on loopback.
///
/// Without options there is one VPC, 10.0.0.0/16, and one c5.large with two tagged network
/// interfaces for Multus. Without a command it prints the variables to export, for `eval`, and
/// serves until it is ended.
#[derive(Debug, Parser)]
#[command(name = "eni-lab", version, after_help = EXAMPLES)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
    /// Nodes, each with a metadata service of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub(crate) nodes: u16,
    /// The instance type of the nodes, which determines how many addresses they can have.
    #[arg(long, value_name = "TYPE", default_value = "c5.large")]
    pub(crate) instance_type: String,
    /// The IPv4 range of the VPC.
    #[arg(long, value_name = "CIDR", default_value = "10.0.0.0/16")]
    pub(crate) vpc: Ipv4Network,
    /// The subnet of the nodes' primary interfaces.
    #[arg(long, value_name = "CIDR", default_value = "10.0.1.0/24")]
    pub(crate) subnet: Ipv4Network,
    /// A subnet in which each node has an interface for Multus: an IPv4 range and, after a
    /// comma, optionally an IPv6 range. Repeat it for more.
    #[arg(long, value_name = "CIDR[,CIDR]", default_values = ["10.0.4.0/24,2600:1f14:1:4::/64", "10.0.5.0/24,2600:1f14:1:5::/64"])]
    pub(crate) multus_subnet: Vec<Ranges>,
    /// The MAC address of an existing device, for the next Multus interface: those of the first
    /// node first. Repeat it for more.
    #[arg(long, value_name = "MAC", value_parser = mac)]
    pub(crate) mac: Vec<String>,
    /// The address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) listen: IpAddr,
    /// EC2's port; 0 is any free port.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) ec2_port: u16,
    /// The metadata port of the first node, the other nodes have the next ones; 0 is any free
    /// port.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) imds_port: u16,
    /// How long every EC2 call takes.
    #[arg(long, value_name = "MILLISECONDS", value_parser = milliseconds, default_value = "0")]
    latency: Duration,
    /// How outdated EC2's descriptions of interfaces and instances are.
    #[arg(long, value_name = "MILLISECONDS", value_parser = milliseconds, default_value = "0")]
    describe_lag: Duration,
    /// How outdated the interfaces and addresses in the metadata are.
    #[arg(long, value_name = "MILLISECONDS", value_parser = milliseconds, default_value = "0")]
    imds_lag: Duration,
    /// How long the metadata of an interface is missing after it was attached.
    #[arg(long, value_name = "MILLISECONDS", value_parser = milliseconds, default_value = "0")]
    imds_404: Duration,
    /// How long a reassigned address takes to move.
    #[arg(long, value_name = "MILLISECONDS", value_parser = milliseconds, default_value = "0")]
    reassign_delay: Duration,
    /// How long a terminated instance keeps its interfaces.
    #[arg(long, value_name = "MILLISECONDS", value_parser = milliseconds, default_value = "0")]
    shutting_down: Duration,
    /// Throttle as EC2 does: 100 changes at once, then 5 a second, for each action.
    #[arg(long)]
    throttle: bool,
    /// Refuse to assign addresses that an interface has already.
    #[arg(long)]
    refuse_repeats: bool,
    /// Allow changes only of interfaces with the tag no_manage=true.
    #[arg(long)]
    tag_condition: bool,
    /// An action that is not permitted. Repeat it for more.
    #[arg(long, value_name = "ACTION")]
    deny: Vec<String>,
    /// An address that EC2 does not remove from its interface. Repeat it for more.
    #[arg(long, value_name = "ADDRESS")]
    pin: Vec<IpAddr>,
    /// Print JSON instead of shell commands.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Runs a shell, or a command, on a node of a VPC that carries packets. Needs root.
    ///
    /// The node is a network namespace with its own state. Its ENI for pods is the link `eth1`,
    /// in the first of the subnets for Multus. When the command ends, the node and the VPC end.
    Shell {
        /// The command to execute instead of the user's shell.
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Attaches a new pod to a network, on the node of this shell.
    ///
    /// The pod is a network namespace with its name: `ip netns exec pod-1 ip address`.
    Pod {
        /// A file with a NetworkAttachmentDefinition.
        network: PathBuf,
        #[arg(default_value = "pod-1", value_parser = pod_name)]
        name: String,
        /// Detach the pod and end it.
        #[arg(long)]
        delete: bool,
    },
    /// Calls EC2, with all permissions, and prints the answer.
    ///
    /// It has all actions of `eni-lab`, among them CreateTags, DeleteTags,
    /// CreateNetworkInterface, AttachNetworkInterface, DetachNetworkInterface,
    /// ModifyNetworkInterfaceAttribute, DeleteNetworkInterface and TerminateInstances.
    Ec2 {
        /// Print only the text of the first element of this name, such as networkInterfaceId.
        #[arg(long, value_name = "ELEMENT")]
        print: Option<String>,
        /// The action, such as CreateTags.
        action: String,
        /// Its parameters by the names of EC2's query API, such as `Tag.1.Key`.
        #[arg(value_name = "NAME=VALUE")]
        parameters: Vec<String>,
    },
}

impl Options {
    /// Sets the rules of the lab by the options.
    pub(crate) fn apply(&self, rules: &mut Rules) {
        rules.latency = self.latency;
        rules.describe_lag = self.describe_lag;
        rules.imds_lag = self.imds_lag;
        rules.imds_404_after_attach = self.imds_404;
        rules.reassign_delay = self.reassign_delay;
        rules.shutting_down = self.shutting_down;
        rules.token_buckets = self.throttle.then(Buckets::default);
        rules.tag_condition = self.tag_condition;
        rules.denied_actions = self.deny.iter().cloned().collect();
        rules.pinned = self.pin.iter().copied().collect();
        if self.refuse_repeats {
            rules.repeat_assign = Repeat::Refuse;
        }
    }
}

/// The ranges of a subnet.
#[derive(Debug, Clone)]
pub(crate) struct Ranges {
    pub(crate) ipv4: Ipv4Network,
    pub(crate) ipv6: Option<Ipv6Network>,
}

impl FromStr for Ranges {
    type Err = ipnetwork::IpNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ipv4, ipv6) = match text.split_once(',') {
            Some((ipv4, ipv6)) => (ipv4, Some(ipv6.parse()?)),
            None => (text, None),
        };
        let ipv4 = ipv4.parse()?;
        Ok(Self { ipv4, ipv6 })
    }
}

fn milliseconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_millis)
}

fn mac(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_byte = |part: &&str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    if parts.len() == 6 && parts.iter().all(is_byte) {
        Ok(text.to_lowercase())
    } else {
        Err("a MAC has six bytes, as in 02:00:00:00:00:01".to_owned())
    }
}

/// A name that can also be that of a file.
fn pod_name(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match !text.is_empty() && !text.starts_with('-') && text.chars().all(is_name) {
        true => Ok(text.to_owned()),
        false => Err("the name of a pod has letters, digits and hyphens".to_owned()),
    }
}
