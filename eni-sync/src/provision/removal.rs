//! Detaches and deletes the ENIs that the configuration does not name any more, unless they
//! carry pods. An ENI that is detached has a record until no description shows it, so if a process
//! is killed, the next process or pass deletes the ENI, or lets pods use it again.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use common::attach::turn::Turn;
use common::error::{Error, ErrorCode, Errors, Result};

use crate::deadline::Deadline;
use crate::ledger::Ledger;
use crate::provision::attachment::attachment;
use crate::provision::carried;
use crate::provision::denied::explained;
use crate::provision::place;
use crate::provision::record::{self, Record, Records};
use crate::provision::stacked;
use crate::provision::wanted::Wanted;
use crate::registration::node::TURN_DEADLINE;
use crate::vpc::clients::Aws;
use crate::vpc::ec2::{Description, Ec2};
use crate::vpc::failure::{Failure, Kind};
use crate::vpc::inventory::{self, Look};

/// How long another process may take with the ENIs of the node.
const LOCK_DEADLINE: Duration = Duration::from_secs(90);
/// How long EC2 may take to detach an ENI.
const DETACHES: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_secs(2);

/// An ENI, and the result for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) fate: Fate,
}

/// The result for an ENI that the configuration does not name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is detached and deleted.
    Deleted,
    /// It would be detached and deleted, without `dry_run`.
    WouldBe,
    /// It stays because it carries pods or may carry one; these are the reasons.
    Kept(Vec<String>),
}

/// The results for the ENIs that the configuration does not name.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The result for each.
    pub(crate) removed: Vec<Removed>,
    /// The failures. The ENIs that they name may be attached, detached or deleted.
    pub(crate) errors: Vec<Error>,
}

/// Detaches and deletes the ENIs that were created for this node and are not in the
/// configuration any more, or with `dry_run` only reports them; deletes ENIs that were detached
/// before. A failure for one ENI does not prevent the others, and no ENI is begun when the time
/// of `aws` is over.
///
/// # Errors
/// Code 11 without metadata, credentials or an answer, or when another process takes too long
/// with the ENIs of the node; 5 naming a file; 100 without permission to describe the ENIs.
pub(crate) fn run(aws: &Aws, wanted: &[Wanted], dry_run: bool) -> Result<Outcome> {
    let records = Records::open(aws.deadline().left_of(LOCK_DEADLINE))?;
    let settled = settled()?;
    let mut look = inventory::look_without_limits(aws)?;
    record::leave_out_deleted(&mut look)?;
    let removal = Removal {
        aws,
        ec2: aws.ec2(&look.identity.region)?,
        records,
        ledger: Ledger::of_node(),
        dry_run,
    };
    let mut outcome = Outcome::default();
    let detached = removal.detached(&look, wanted, &mut outcome.errors)?;
    for (network, eni) in &detached {
        outcome.note(network, eni, removal.finish(eni));
    }
    let (_, others) = place::split(&look.enis, wanted);
    let is_unwanted = |eni: &&Description| {
        let is_done = detached.iter().any(|(_, id)| *id == eni.id);
        place::is_of(*eni, &look.identity.instance_id) && !is_done
    };
    for eni in others.into_iter().filter(is_unwanted) {
        let name = eni.network().unwrap_or_default();
        outcome.note(name, &eni.id, removal.remove(eni));
    }
    if !dry_run {
        outcome.errors.extend(removal.end(&settled, &look).err());
    }
    Ok(outcome)
}

impl Outcome {
    fn note(&mut self, name: &str, id: &str, outcome: Result<Fate>) {
        match outcome {
            Ok(fate) => self.removed.push(Removed {
                name: name.to_owned(),
                id: id.to_owned(),
                fate,
            }),
            Err(error) => self.errors.push(error),
        }
    }
}

/// The context for the removal of ENIs.
struct Removal<'a> {
    aws: &'a Aws,
    ec2: &'a Ec2,
    records: Records,
    ledger: Ledger,
    dry_run: bool,
}

impl Removal<'_> {
    /// The ENIs that an earlier process has detached, or begun to detach, and not deleted:
    /// network and id. An ENI of a kind that is missing now is left to the next pass, which
    /// attaches it again. `errors` gets the errors of records that cannot be read.
    fn detached(
        &self,
        look: &Look,
        wanted: &[Wanted],
        errors: &mut Vec<Error>,
    ) -> Result<Vec<(String, String)>> {
        let is_missing = |network: &str| {
            let mut kinds = wanted.iter().filter(|kind| kind.name == network);
            kinds.any(|kind| place::missing(&look.enis, kind) > 0)
        };
        let mut detached = Vec::new();
        for record in record::each()? {
            match record {
                Err(error) => errors.push(error),
                Ok(record) if !record.leaving || record.is_deleted() => {}
                Ok(record) if is_missing(&record.network) => {}
                Ok(record) => {
                    let id = record.eni().filter(|id| !is_there(look, id));
                    let id = id.map(str::to_owned);
                    detached.extend(id.map(|id| (record.network, id)));
                }
            }
        }
        Ok(detached)
    }

    /// Removes the records that are not needed any more: of deleted ENIs, and of those that an
    /// earlier process was to detach and that EC2 shows attached. Pods may use these again. Only
    /// records of `settled` count, which are older than the look: one that this process has written
    /// since is of an ENI that may be being detached, however long ago that was.
    fn end(&self, settled: &[Record], look: &Look) -> Result<()> {
        self.records.forget_settled()?;
        let stays = |record: &Record| record.eni().is_some_and(|id| is_there(look, id));
        let stay: Vec<Record> = record::each()?
            .filter_map(Result::ok)
            .filter(|record| settled.contains(record) && stays(record))
            .collect();
        if stay.is_empty() {
            return Ok(());
        }
        let mut stay = stay.iter();
        stay.try_for_each(|record| self.records.remove(record))?;
        inventory::discover(self.aws).map(drop)
    }

    /// Deletes an ENI that was detached before.
    fn finish(&self, eni: &str) -> Result<Fate> {
        if self.dry_run {
            return Ok(Fate::WouldBe);
        }
        self.require_time(eni)?;
        self.delete(eni).map(|()| Fate::Deleted)
    }

    /// Checks that there is time left to begin with an ENI.
    fn require_time(&self, eni: &str) -> Result<()> {
        let details = "nothing was asked of EC2 for it; the next detach does it";
        let in_time = self.aws.deadline().require_time_for(eni);
        in_time.map_err(|error| error.with_details(details))
    }

    fn remove(&self, eni: &Description) -> Result<Fate> {
        self.require_time(&eni.id)?;
        // While the turn is held, no pod gets an address of it that EC2 is asked for.
        let _turn = self
            .ledger
            .of_eni(&eni.id)?
            .take_turn(self.aws.deadline().left_of(TURN_DEADLINE))?;
        // The lock for all devices is not held while all processes are examined: who gets an
        // address of the ENI meanwhile is seen in the ledger, when the record has been written.
        let mut reasons = carried::reasons(self.aws, &self.ledger, eni)?;
        if reasons.is_empty() && self.dry_run {
            return Ok(Fate::WouldBe);
        }
        if reasons.is_empty() {
            reasons.extend(stacked::hidden_on_eni(&eni.mac)?);
        }
        if reasons.is_empty() {
            reasons = self.claim(eni)?;
        }
        if !reasons.is_empty() {
            return Ok(Fate::Kept(reasons));
        }
        self.detach(eni)?;
        self.delete(&eni.id)?;
        Ok(Fate::Deleted)
    }

    /// Checks again, for a short time under the lock for all devices, whether an ADD has given
    /// the ENI to a pod since. Returns the reasons why it must stay. If there is none, writes
    /// the record of its removal: no pod gets its interface from then on.
    fn claim(&self, eni: &Description) -> Result<Vec<String>> {
        let _turn = Turn::to_detach_eni()?;
        let reasons = Vec::from_iter(carried::attached(&eni.mac)?);
        if !reasons.is_empty() {
            return Ok(reasons);
        }
        self.records.write(&leaving(eni))?;
        // An ADD that needs no call writes its claim without the turn of the ENI, and looks for the
        // record after that.
        let claimed = carried::claimed(&self.ledger, &eni.id);
        if !claimed.as_ref().is_ok_and(BTreeSet::is_empty) {
            self.records.remove(&leaving(eni))?;
        }
        Ok(claimed?.into_iter().collect())
    }

    /// Removes the ENI from the inventory and detaches it, unless it is being detached. If that
    /// fails or EC2 refuses, pods may use the ENI again.
    fn detach(&self, eni: &Description) -> Result<()> {
        let forgotten = inventory::forget(&eni.id);
        if eni.is_detaching {
            return forgotten;
        }
        let attachment = match forgotten.and_then(|()| attachment(eni)) {
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

    /// Lets pods use an ENI again that was not detached because of `error`. Returns that error.
    fn give_back(&self, eni: &Description, error: Error) -> Result<()> {
        let mut errors = Errors::default();
        errors.keep::<()>(Err(error));
        errors.keep(self.return_attached(eni));
        errors.into_result()
    }

    /// Removes the record if EC2 shows the ENI attached. An earlier request, or another
    /// program, may be detaching it: then the record stays, and the next pass looks again.
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

    /// Deletes an ENI that is detached, or being detached.
    fn delete(&self, eni: &str) -> Result<()> {
        let deadline = Deadline::after(self.aws.deadline().left_of(DETACHES));
        loop {
            let failure = match self.ec2.delete(eni) {
                Ok(_) => return self.records.forget(eni),
                Err(failure) => failure,
            };
            match failure.kind {
                // The detachment takes some seconds.
                Kind::Invalid if deadline.left() > LOOK => thread::sleep(LOOK),
                Kind::Invalid => return Err(still_attached(eni, &failure)),
                _ => return Err(explained(&failure, &format!("delete {eni}"))),
            }
        }
    }
}

/// Whether a look shows an ENI attached, and not being detached.
fn is_there(look: &Look, id: &str) -> bool {
    let mut enis = look.enis.iter();
    enis.any(|eni| eni.id == id && !eni.is_detaching)
}

/// The records of ENIs that an earlier process was to detach, if every look from now on is newer
/// than what EC2 has done with them.
fn settled() -> Result<Vec<Record>> {
    let is_open = |record: &Record| record.leaving && !record.is_deleted();
    let records = record::each()?.filter_map(Result::ok);
    Ok(records
        .filter(|record| is_open(record) && record.has_settled())
        .collect())
}

fn still_attached(eni: &str, failure: &Failure) -> Error {
    let msg = format!("timed out waiting for EC2 to detach {eni}");
    let details = format!(
        "{}; the next detach or attach, or the agent, deletes it",
        failure.answer
    );
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}

fn leaving(eni: &Description) -> Record {
    Record::of_leaving(eni.network().unwrap_or_default(), eni)
}
