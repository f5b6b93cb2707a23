//! CHECK, and STATUS.

use super::configuration::Configuration;
use super::sandbox::Sandbox;
use super::{Interface, records};
use crate::cni::args::{CmdArgs, Command, ConfArgs};
use crate::error::{Error, Result};
use crate::records::Attachment;

/// Compares an attachment with the result of its ADD, with its record and with its
/// configuration.
pub(super) fn check<I: Interface>(args: &CmdArgs) -> Result<()> {
    let conf = Configuration::of(&args.conf)?;
    let prev_result = args.conf.document.prev_result(args.conf.version)?;
    let prev_result = prev_result.ok_or_else(|| Error::config("Required prevResult missing"))?;
    let mut sandbox = Sandbox::open(&args.netns)?;
    if let Some(ipam) = conf.find_ipam(&args.conf)? {
        ipam.check(args)?;
    }
    let record: Option<Attachment<I::Device>> = records::<I>().read(args)?;
    if I::verify_without_link(args, record.as_ref())? {
        return Ok(());
    }
    let link = sandbox.verify(&args.ifname, &prev_result)?;
    let policy = record.as_ref().and_then(|r| r.source_routing.as_ref());
    conf.options
        .verify(&mut sandbox, &link, &prev_result, policy)?;
    I::verify(args, record.as_ref(), &link, sandbox)
}

/// Whether plugin and delegate could serve an ADD.
pub(super) fn status<I: Interface>(conf: &ConfArgs) -> Result<()> {
    I::status(conf)?;
    match Configuration::of(conf)?.find_ipam(conf)? {
        Some(ipam) => ipam.forward(Command::Status, conf),
        None => Ok(()),
    }
}
