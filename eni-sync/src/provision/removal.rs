//! Takes ENIs off the node that no configuration names any more, unless they carry pods. What is
//! detached has a record until it is deleted, so a process that is killed between the two has the
//! next pass delete it.

use std::thread;
use std::time::{Duration, Instant};

use common::error::{Error, Result};
use common::kernel::netlink::Netlink;

use crate::ledger::Ledger;
use crate::provision::carried;
use crate::provision::denied::explained;
use crate::provision::record::{Record, Records};
use crate::provision::request::INSTANCE_TAG;
use crate::provision::wanted::Wanted;
use crate::registration::node::TURN_DEADLINE;
use crate::vpc::clients::Aws;
use crate::vpc::ec2::{Description, Ec2};
use crate::vpc::failure::{Failure, Kind};
use crate::vpc::inventory;

/// How long somebody else may take with the ENIs of the node.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long EC2 may take until an ENI is detached that it was told to detach.
const DETACHES: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_secs(2);

/// An ENI, and what has become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) fate: Fate,
}

/// What becomes of an ENI that nobody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is detached and deleted.
    Deleted,
    /// It would be.
    WouldBe,
    /// It carries pods; which, or what may be one.
    Kept(Vec<String>),
}

/// Detaches and deletes what was created for this node and is not in the configuration any more,
/// or only says so.
///
/// # Errors
/// Code 5 or 6 naming a file, and what EC2 says.
pub(crate) fn run(aws: &Aws, wanted: &[Wanted], dry_run: bool) -> Result<Vec<Removed>> {
    let records = Records::open(PATIENCE)?;
    let mut look = inventory::look(aws)?;
    let ec2 = aws.ec2(&look.identity.region)?;
    let ledger = Ledger::of_node();
    let mut removed = Vec::new();
    let instance = &look.identity.instance_id;
    for eni in unwanted(&look.enis, wanted, instance) {
        // No pod gets an address of it meanwhile.
        let _turn = ledger.of_eni(&eni.id)?.take_turn(TURN_DEADLINE)?;
        let links = Netlink::open()?.links()?;
        let reasons = carried::reasons(&ledger, &eni, &links)?;
        let fate = match (reasons.is_empty(), dry_run) {
            (false, _) => Fate::Kept(reasons),
            (true, true) => Fate::WouldBe,
            (true, false) => remove(ec2, &records, &eni).map(|()| Fate::Deleted)?,
        };
        removed.push(Removed {
            name: eni.network().unwrap_or_default().to_owned(),
            id: eni.id.clone(),
            fate,
        });
    }
    let is_gone = |id: &str| {
        let mut gone = removed.iter().filter(|eni| eni.fate == Fate::Deleted);
        gone.any(|eni| eni.id == id)
    };
    if removed.iter().any(|eni| eni.fate == Fate::Deleted) {
        look.enis.retain(|eni| !is_gone(&eni.id));
        inventory::note(&look)?;
    }
    Ok(removed)
}

/// The ENIs that were created for the instance and that no configuration names, or not so many of
/// them: then the last ones.
fn unwanted(enis: &[Description], wanted: &[Wanted], instance: &str) -> Vec<Description> {
    let is_its = |eni: &&Description| {
        eni.tags
            .get(INSTANCE_TAG)
            .is_some_and(|own| own == instance)
            && !eni.is_primary()
    };
    let mut sorted: Vec<&Description> = enis.iter().filter(|eni| !eni.is_primary()).collect();
    sorted.sort_by_key(|eni| eni.place());
    let number = |eni: &Description| {
        let before = sorted.iter().take_while(|other| other.id != eni.id);
        before
            .filter(|other| other.network() == eni.network())
            .count()
    };
    let is_wanted = |eni: &Description| {
        let wanted = wanted.iter().find(|w| eni.network() == Some(&w.name));
        let most = wanted.map_or(0, |wanted| wanted.count);
        u32::try_from(number(eni)).is_ok_and(|number| number < most)
    };
    let unwanted = sorted.iter().copied().filter(is_its);
    unwanted.filter(|eni| !is_wanted(eni)).cloned().collect()
}

fn remove(ec2: &Ec2, records: &Records, eni: &Description) -> Result<()> {
    let Some(attachment) = &eni.attachment_id else {
        return Err(Error::internal(format!(
            "EC2 names no attachment of {}",
            eni.id
        )));
    };
    let network = eni.network().unwrap_or_default();
    let record = Record::of_left(network, eni.network_card, eni);
    records.write(&record)?;
    let failed = |what: &str| {
        let what = format!("{what} {}", eni.id);
        move |failure: Failure| explained(&failure, &what)
    };
    ec2.detach(&eni.id, attachment).map_err(failed("detach"))?;
    let deadline = Instant::now() + DETACHES;
    loop {
        match ec2.delete(&eni.id) {
            Ok(_) => return records.forget(&eni.id),
            // It takes some seconds until the instance has given it up.
            Err(failure) if failure.kind == Kind::Invalid && Instant::now() < deadline => {
                thread::sleep(LOOK);
            }
            Err(failure) => return Err(failed("delete")(failure)),
        }
    }
}
