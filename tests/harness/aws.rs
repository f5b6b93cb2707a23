//! A node that is an instance of a simulated VPC: the endpoints of AWS are on its loopback
//! interface, and its links have the MAC addresses of its ENIs.

use std::fs;
use std::net::{IpAddr, TcpListener};
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::eni_lab::{EniId, InstanceId, Lab, SubnetId};
use crate::{Call, Host, Node};

/// An ENI for pods, and the name of its link on the node.
#[derive(Debug)]
struct Master {
    link: String,
    eni: EniId,
}

/// A node whose plugins use the simulated AWS.
#[derive(Debug)]
pub struct AwsNode {
    /// The node.
    pub node: Node,
    /// The simulated VPC.
    pub lab: Lab,
    /// The id of its instance.
    pub instance: InstanceId,
    masters: Vec<Master>,
    run: TempDir,
    /// The endpoints of EC2 and of the metadata service.
    urls: [String; 2],
}

impl AwsNode {
    /// Makes `node` an instance of this type, whose primary ENI is in `subnet`. All programs that
    /// it runs reach the simulated AWS.
    pub fn new(node: Node, lab: &Lab, instance_type: &str, subnet: &SubnetId) -> Self {
        let instance = lab.run_instance(instance_type, subnet);
        let mut at = Self::of(node, lab, instance);
        for (name, url) in at.environment() {
            at.node.set_env(&name, &url);
        }
        at
    }

    /// Makes `node` this instance. Only programs with [`Self::environment`] reach the simulated
    /// AWS.
    pub(crate) fn of(mut node: Node, lab: &Lab, instance: InstanceId) -> Self {
        let run = tempfile::tempdir().expect("a temporary directory can be made");
        node.bind(run.path(), "/run");
        let listen = || TcpListener::bind("127.0.0.1:0").expect("loopback is up");
        let listeners = node.netns.run(|| [listen(), listen()]);
        let urls = listeners.each_ref().map(|listener| {
            let address = listener.local_addr();
            format!("http://{}", address.expect("a listener has an address"))
        });
        let [ec2, imds] = listeners;
        lab.serve_ec2(ec2);
        lab.serve_imds(imds, &instance);
        Self {
            node,
            lab: lab.clone(),
            instance,
            masters: Vec::new(),
            run,
            urls,
        }
    }

    /// The environment with the endpoints of the simulated AWS.
    pub fn environment(&self) -> Vec<(String, String)> {
        let names = ["AWS_ENDPOINT_URL_EC2", "AWS_EC2_METADATA_SERVICE_ENDPOINT"];
        let variables = names.map(str::to_owned).into_iter().zip(self.urls.clone());
        variables.collect()
    }

    /// Attaches an ENI for pods, and makes a link of this kind for it.
    pub fn add_master(&mut self, link: &str, kind: &str, subnet: &SubnetId) {
        let eni = self.lab.multus_eni(&self.instance, subnet);
        let mac = self.lab.mac(&eni);
        let ip = |arguments: &[&str]| self.node.netns.ip(arguments);
        ip(&["link", "add", link, "address", &mac, "type", kind]);
        ip(&["link", "set", link, "mtu", "9001", "up"]);
        let link = link.to_owned();
        self.masters.push(Master { link, eni });
    }

    /// Attaches an ENI for pods, for which the data plane of the lab makes this link on
    /// the node.
    #[track_caller]
    pub fn attach_master(&mut self, link: &str, subnet: &SubnetId) {
        let eni = self.lab.multus_eni(&self.instance, subnet);
        let links = self.node.netns.links();
        assert!(links.iter().any(|found| found == link), "{links:?}");
        let link = link.to_owned();
        self.masters.push(Master { link, eni });
    }

    /// Finds the ENI of this link, which was attached by other means.
    #[track_caller]
    pub fn find_master(&mut self, link: &str) {
        let found = self.node.netns.link(link);
        let found = found.unwrap_or_else(|| panic!("the node has no link {link}"));
        let mut enis = self.lab.enis(&self.instance).into_iter();
        let eni = enis.find(|eni| found["address"] == self.lab.mac(eni).as_str());
        let eni = eni.unwrap_or_else(|| panic!("no ENI is {link}"));
        let link = link.to_owned();
        self.masters.push(Master { link, eni });
    }

    /// Attaches an ENI for pods with the MAC address of this existing link of the node.
    pub fn adopt_master(&mut self, link: &str, subnet: &SubnetId) {
        let eni = self.lab.multus_eni(&self.instance, subnet);
        let found = self.node.netns.link(link);
        let found = found.unwrap_or_else(|| panic!("the node has no link {link}"));
        let mac = found["address"].as_str().expect("the link has an address");
        self.lab.set_mac(&eni, mac);
        let link = link.to_owned();
        self.masters.push(Master { link, eni });
    }

    /// The ENI of a link of the node.
    #[track_caller]
    pub fn eni(&self, link: &str) -> &EniId {
        let found = self.masters.iter().find(|master| master.link == link);
        match found {
            Some(master) => &master.eni,
            None => panic!("{link} is not an ENI for pods"),
        }
    }

    /// The directory that the plugins of the node see as `/run`.
    pub fn run_directory(&self) -> &Path {
        self.run.path()
    }

    /// Every secondary address of the node's ENIs for pods.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let enis = self.masters.iter().map(|master| &master.eni);
        enis.flat_map(|eni| self.lab.addresses(eni)).collect()
    }
}

impl Host for AwsNode {
    fn node(&self) -> &Node {
        &self.node
    }

    fn run_directory(&self) -> &Path {
        self.run.path()
    }

    fn eni_sync(&self) -> Call {
        self.node
            .with_environment(&Call::ours("eni-sync", ""))
            .without("CNI_COMMAND")
    }
}

/// Whether a file of the ledger is about an address that EC2 has removed. The ledger keeps
/// such a file for a minute.
pub fn is_removed(file: &Path) -> bool {
    let text = fs::read(file).unwrap_or_default();
    let entry: Value = serde_json::from_slice(&text).unwrap_or_default();
    entry["state"] == "removed"
}
