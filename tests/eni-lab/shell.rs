//! A shell on a node of a VPC that carries packets. Programs started in it see the node's
//! links, state and AWS, and find this project's programs by their names.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::process::Command;

use harness::eni_lab::{DataPlane, Lab, Names, REGION};
use harness::{AwsNode, Node, our_plugin};

use crate::options::Options;
use crate::vpc::refused;

/// Programs that also have a name of this project's own.
const PLUGINS: [&str; 3] = ["host-device", "host-local", "ipvlan"];
/// Debian's directory of the Go plugins, for networks with other plugins.
const GO_PLUGINS: &str = "/usr/lib/cni";
/// The ENI for pods on the node.
const LINK: &str = "eth1";

/// Runs a command on a new node, and returns its exit status. The default command is the user's
/// shell.
pub(crate) fn run(options: &Options, command: &[String]) -> Result<u8, String> {
    let lab = Lab::new();
    let at = node(options, &lab)?;
    lab.rules(|rules| options.apply(rules));
    let shell = env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let (program, arguments) = command
        .split_first()
        .map_or((&shell, &[][..]), |(program, rest)| (program, rest));
    let mut process = Command::new(program);
    let plugins = install(&at)?;
    let others = env::var("PATH").unwrap_or_default();
    process.args(arguments);
    process.env("PATH", format!("{plugins}:{others}"));
    process.env("CNI_PATH", format!("{plugins}:{GO_PLUGINS}"));
    process.env("AWS_REGION", REGION);
    let mut child = at.node.spawn(process);
    let status = child.wait();
    let status = status.map_err(|cause| format!("cannot wait for {program}: {cause}"))?;
    // Without an exit code, a signal has ended the command.
    Ok(status
        .code()
        .and_then(|code| code.try_into().ok())
        .unwrap_or(u8::MAX))
}

/// A node with an ENI for pods. Its packets are delivered while the lab exists.
fn node(options: &Options, lab: &Lab) -> Result<AwsNode, String> {
    let vpc = lab.create_vpc(&options.vpc.to_string());
    let subnet = |ipv4: String, ipv6: Option<String>| {
        lab.try_create_subnet(&vpc, &ipv4, ipv6.as_deref())
            .map_err(|error| refused(&format!("the subnet {ipv4}"), &error))
    };
    let first = subnet(options.subnet.to_string(), None)?;
    let ranges = &options.multus_subnet[0];
    let pods = subnet(ranges.ipv4.to_string(), ranges.ipv6.map(|c| c.to_string()))?;
    let plane = DataPlane::new(lab, &vpc);
    let mut at = AwsNode::new(Node::new(), lab, &options.instance_type, &first);
    plane.connect(&at.instance, &at.node.netns, Names::Eth);
    at.attach_master(LINK, &pods);
    // Like DHCP on the node: mode l3 of ipvlan needs the ENI's own address there.
    plane.lease(at.eni(LINK));
    Ok(at)
}

/// Links the programs into a directory of the node, under all their names, and returns the
/// directory's path on the node.
fn install(at: &AwsNode) -> Result<&'static str, String> {
    let directory = at.run_directory().join("plugins");
    let linked = || {
        fs::create_dir(&directory)?;
        symlink(our_plugin("eni-sync"), directory.join("eni-sync"))?;
        symlink(env::current_exe()?, directory.join("eni-lab"))?;
        for plugin in PLUGINS {
            symlink(our_plugin(plugin), directory.join(plugin))?;
            symlink(our_plugin(plugin), directory.join(format!("eni-{plugin}")))?;
        }
        Ok(())
    };
    linked().map_err(|cause: io::Error| format!("cannot link the programs: {cause}"))?;
    Ok("/run/plugins")
}
