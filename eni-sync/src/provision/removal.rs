//! Takes ENIs off the node that no configuration names any more, unless they carry pods. What is
//! detached has a record until it is deleted, so a process that is killed between the two has the
//! next pass delete it.

use std::thread;
use std::time::{Duration, Instant};

use common::attach::turn::Turn;
use common::error::{Error, Errors, Result};

use crate::ledger::Ledger;
use crate::provision::attachment::attachment;
use crate::provision::carried;
use crate::provision::denied::explained;
use crate::provision::place;
use crate::provision::record::{Record, Records};
use crate::provision::wanted::Wanted;
use crate::registration::node::TURN_DEADLINE;
use crate::vpc::clients::Aws;
use crate::vpc::ec2::{Description, Ec2};
use crate::vpc::failure::Kind;
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

/// What has become of the ENIs that nobody wants.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What has become of each.
    pub(crate) removed: Vec<Removed>,
    /// Why others may be anywhere between the node and their end.
    pub(crate) errors: Vec<Error>,
}

/// Detaches and deletes what was created for this node and is not in the configuration any more,
/// or only says so. An ENI that fails keeps no other one.
///
/// # Errors
/// Code 11 without metadata, credentials or an answer, or when somebody else takes too long with
/// the ENIs of the node; 5 naming a file; 100 without permission to look.
pub(crate) fn run(aws: &Aws, wanted: &[Wanted], dry_run: bool) -> Result<Outcome> {
    let records = Records::open(PATIENCE)?;
    let look = inventory::look(aws)?;
    let removal = Removal {
        aws,
        ec2: aws.ec2(&look.identity.region)?,
        records,
        ledger: Ledger::of_node(),
        dry_run,
    };
    let (_, others) = place::split(&look.enis, wanted);
    let unwanted = others.into_iter();
    let unwanted = unwanted.filter(|eni| place::is_of(eni, &look.identity.instance_id));
    let mut outcome = Outcome::default();
    for eni in unwanted {
        match removal.remove(eni) {
            Ok(fate) => outcome.removed.push(Removed {
                name: eni.network().unwrap_or_default().to_owned(),
                id: eni.id.clone(),
                fate,
            }),
            Err(error) => outcome.errors.push(error),
        }
    }
    Ok(outcome)
}

/// What it takes to take ENIs away.
struct Removal<'a> {
    aws: &'a Aws,
    ec2: &'a Ec2,
    records: Records,
    ledger: Ledger,
    dry_run: bool,
}

impl Removal<'_> {
    fn remove(&self, eni: &Description) -> Result<Fate> {
        // No pod gets an address of it meanwhile.
        let _turn = self.ledger.of_eni(&eni.id)?.take_turn(TURN_DEADLINE)?;
        // The turn of all devices is not held while every process is looked into: of what is
        // found there, no pod gets more meanwhile.
        let mut reasons = carried::reasons(&self.ledger, eni)?;
        if reasons.is_empty() && self.dry_run {
            return Ok(Fate::WouldBe);
        }
        if reasons.is_empty() {
            reasons = self.claim(eni)?;
        }
        if !reasons.is_empty() {
            return Ok(Fate::Kept(reasons));
        }
        inventory::forget(&eni.id)?;
        self.detach(eni)?;
        self.delete(eni)?;
        Ok(Fate::Deleted)
    }

    /// Why an ENI must stay that had no reason to, for all that an ADD may have changed since. Without
    /// a reason a record says that it leaves: no pod gets its interface from then on.
    fn claim(&self, eni: &Description) -> Result<Vec<String>> {
        let _turn = Turn::to_take_away()?;
        let reasons = Vec::from_iter(carried::attached(&eni.mac)?);
        if reasons.is_empty() {
            self.records.write(&leaving(eni))?;
        }
        Ok(reasons)
    }

    /// Detaches the ENI, unless it is being detached; pods may have it again when EC2 refuses.
    fn detach(&self, eni: &Description) -> Result<()> {
        if eni.is_detaching {
            return Ok(());
        }
        let attachment = match attachment(eni) {
            Ok(attachment) => attachment,
            Err(error) => return self.give_back(eni, error),
        };
        let Err(failure) = self.ec2.detach(&eni.id, attachment) else {
            return Ok(());
        };
        let error = explained(&failure, &format!("detach {}", eni.id));
        match failure.is_definite() {
            true => self.give_back(eni, error),
            false => Err(error),
        }
    }

    /// Lets pods have an ENI again that was not detached because of `error`, which is returned.
    fn give_back(&self, eni: &Description, error: Error) -> Result<()> {
        let mut errors = Errors::default();
        errors.keep::<()>(Err(error));
        errors.keep(self.return_attached(eni));
        errors.into_result()
    }

    /// An earlier request, or somebody else, may be detaching it: then its record stays, and the
    /// next pass looks again.
    fn return_attached(&self, eni: &Description) -> Result<()> {
        let what = format!("look at {}", eni.id);
        let found = self.ec2.eni(&eni.id);
        let found = found.map_err(|failure| explained(&failure, &what))?;
        let is_attached =
            |found: &Description| found.instance_id == eni.instance_id && !found.is_detaching;
        if found.as_ref().is_some_and(is_attached) {
            self.records.remove(&leaving(eni))?;
            inventory::discover(self.aws)?;
        }
        Ok(())
    }

    fn delete(&self, eni: &Description) -> Result<()> {
        let deadline = Instant::now() + DETACHES;
        loop {
            match self.ec2.delete(&eni.id) {
                Ok(_) => return self.records.forget(&eni.id),
                // It takes some seconds until the instance has given it up.
                Err(failure) if failure.kind == Kind::Invalid && Instant::now() < deadline => {
                    thread::sleep(LOOK);
                }
                Err(failure) => return Err(explained(&failure, &format!("delete {}", eni.id))),
            }
        }
    }
}

fn leaving(eni: &Description) -> Record {
    Record::of_leaving(eni.network().unwrap_or_default(), eni)
}
