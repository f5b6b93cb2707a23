//! One pass: completes what earlier passes have begun, and creates and attaches the missing
//! ENIs. A record is written before each request to EC2, so if a process is killed between two
//! requests, the next pass does the rest.

use std::collections::BTreeSet;
use std::time::Duration;

use common::attach::inventory::is_known_to_leave;
use common::error::{Error, ErrorCode, Result};
use tracing::warn;

use crate::deadline::Deadline;
use crate::provision::denied::explained;
use crate::provision::place;
use crate::provision::record::{self, Made, Record, Records};
use crate::provision::report::{self, Problem, Report};
use crate::provision::request::{Chosen, INSTANCE_TAG, Site};
use crate::provision::wanted::Wanted;
use crate::vpc::clients::Aws;
use crate::vpc::ec2::{Description, Ec2, Subnet};
use crate::vpc::failure::Kind;
use crate::vpc::inventory::{self, Look};

/// How often another primary address is chosen because the one before is in use.
const MOST_ADDRESSES: usize = 8;
/// EC2's error code for a primary address that is in use.
const ADDRESS_IN_USE: &str = "InvalidIPAddress.InUse";

/// A step of a pass, to show its progress.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    /// An ENI of this kind is being created in a subnet.
    Creating { name: &'a str, subnet: &'a str },
    /// It is being attached.
    Attaching { name: &'a str, eni: &'a str },
    /// It is attached.
    Attached { name: &'a str, eni: &'a str },
    /// It is deleted: the configuration does not ask for it.
    Deleted { eni: &'a str },
}

/// Runs a pass, which gives the node the ENIs in `wanted`. The report names the problems.
///
/// # Errors
/// Code 11 without metadata, credentials or an answer, or when another pass takes longer than
/// `wait`; 5 and 6 naming a record; 100 without permission to describe the ENIs.
pub(crate) fn run(
    aws: &Aws,
    wanted: &[Wanted],
    wait: Duration,
    tell: &mut dyn FnMut(Step<'_>),
) -> Result<Report> {
    let records = Records::open(aws.deadline().left_of(wait))?;
    let begun = records.all()?;
    let mut look = inventory::look(aws)?;
    record::leave_out_deleted(&mut look)?;
    let ec2 = aws.ec2(&look.identity.region)?;
    let mut pass = Pass {
        aws,
        ec2,
        deadline: aws.deadline(),
        records,
        look,
        wanted,
        tell,
        attached: Vec::new(),
        left: None,
        is_all_described: false,
        problems: Vec::new(),
        protected: BTreeSet::new(),
    };
    pass.complete(begun);
    pass.fulfil_all();
    pass.protect_all();
    pass.delete_left();
    pass.end()
}

pub(super) struct Pass<'a> {
    pub(super) aws: &'a Aws,
    pub(super) ec2: &'a Ec2,
    pub(super) deadline: Deadline,
    pub(super) records: Records,
    pub(super) look: Look,
    pub(super) wanted: &'a [Wanted],
    pub(super) tell: &'a mut dyn FnMut(Step<'_>),
    /// The ENIs that this pass has attached; a description may not show them yet.
    pub(super) attached: Vec<Description>,
    /// The ENIs that were created for this node and are attached to nothing; `None` until they
    /// are looked for.
    left: Option<Vec<Description>>,
    /// Whether it was found out that EC2 describes all ENIs of the node.
    is_all_described: bool,
    problems: Vec<Problem>,
    /// The ENIs that EC2 was asked to delete with the instance, whatever its answer was.
    pub(super) protected: BTreeSet<String>,
}

impl Pass<'_> {
    /// Completes what earlier passes have begun, and removes the records of what they have
    /// completed.
    fn complete(&mut self, begun: Vec<Record>) {
        for record in begun {
            let outcome = match self.is_done(&record) {
                true => self.records.remove(&record),
                false => self.resume(&record),
            };
            self.keep(&record.network, outcome);
        }
    }

    /// Whether the record is not needed any more: EC2 shows the ENI attached and set to be
    /// deleted with the instance, and no description can be older than that. For a record of an
    /// ENI that was to be detached, it is enough that the ENI is attached and not being
    /// detached; for one of a deleted ENI, that no description can show it.
    fn is_done(&self, record: &Record) -> bool {
        if record.is_deleted() {
            return record.has_settled();
        }
        let found = record.eni().and_then(|id| self.shown(id));
        let is_right = |eni: &Description| match record.leaving {
            true => !eni.is_detaching,
            false => eni.delete_on_termination,
        };
        found.is_some_and(is_right) && record.has_settled()
    }

    /// The ENI as EC2 shows it on the node.
    fn shown(&self, id: &str) -> Option<&Description> {
        self.look.enis.iter().find(|eni| eni.id == id)
    }

    fn resume(&mut self, record: &Record) -> Result<()> {
        if record.is_deleted() {
            return Ok(());
        }
        let Some(record) = self.create(record)? else {
            return Ok(());
        };
        let Some(made) = &record.made else {
            return Ok(());
        };
        if let Some(eni) = self.shown(&made.eni).cloned() {
            if record.leaving {
                return Ok(());
            }
            if !eni.delete_on_termination {
                self.protect(&eni)?;
            }
            return self.keep_until_settled(&record);
        }
        let wanted = self.wanted.iter().find(|w| w.name == record.network);
        match wanted.is_some_and(|wanted| place::missing(&self.look.enis, wanted) > 0) {
            true if record.leaving => self.attach_again(&record, made),
            true => self.attach(&record, made),
            false => self.delete_recorded(&record, &made.eni),
        }
    }

    /// Attaches an ENI again that was detached from the node.
    fn attach_again(&mut self, record: &Record, made: &Made) -> Result<()> {
        let returning = record.returning();
        self.records.write(&returning)?;
        self.records.remove(record)?;
        self.attach(&returning, made)
    }

    /// Keeps the record of an attached ENI for as long as descriptions may be older: without
    /// the record, a description without the ENI would have another one created.
    pub(super) fn keep_until_settled(&self, record: &Record) -> Result<()> {
        match record.attached() {
            Some(attached) => self.records.write(&attached),
            None => Ok(()),
        }
    }

    /// Deletes an ENI that the configuration does not ask for any more. EC2 may not know a very
    /// new ENI yet; then the record stays.
    fn delete_recorded(&mut self, record: &Record, eni: &str) -> Result<()> {
        if !self.delete(eni)? && !record.has_settled() {
            return Ok(());
        }
        if record.leaving {
            self.records.forget(eni)
        } else {
            self.records.remove(record)
        }
    }

    /// Kinds with problems are left out: their ENIs are neither complete nor missing.
    fn fulfil_all(&mut self) {
        for wanted in self.wanted {
            if self
                .problems
                .iter()
                .any(|problem| problem.name == wanted.name)
            {
                continue;
            }
            let outcome = self.fulfil(wanted);
            self.keep(&wanted.name, outcome);
        }
    }

    /// Creates and attaches the missing ENIs of one kind.
    fn fulfil(&mut self, wanted: &Wanted) -> Result<()> {
        let (mut addresses, mut chosen) = (0, None);
        if place::missing(&self.look.enis, wanted) > 0 && !self.is_all_described {
            self.await_described()?;
            self.is_all_described = true;
        }
        while place::missing(&self.look.enis, wanted) > 0 {
            place::require_slot(&self.look, &wanted.name, wanted.network_card)?;
            if let Some(record) = self.take_left(wanted)? {
                self.attach_recorded(&record)?;
                continue;
            }
            let chosen = match &chosen {
                Some(chosen) => chosen,
                None => chosen.insert(self.choose(wanted)?),
            };
            let request = chosen.request(wanted, &self.look.identity.instance_id)?;
            let record = Record::begin(&wanted.name, wanted.network_card, request);
            self.records.write(&record)?;
            match self.create(&record)? {
                Some(record) => self.attach_recorded(&record)?,
                None if addresses < MOST_ADDRESSES => addresses += 1,
                None => return Err(no_address(wanted, &chosen.subnet.id)),
            }
        }
        Ok(())
    }

    /// Looks up the subnet and the security groups for ENIs of one kind.
    fn choose(&mut self, wanted: &Wanted) -> Result<Chosen> {
        let chosen = Chosen::find(self.ec2, wanted, Site::of(&self.look))?;
        let Subnet { id, cidrs, .. } = chosen.subnet.clone();
        self.look.cidrs.insert(id, cidrs);
        Ok(chosen)
    }

    fn attach_recorded(&mut self, record: &Record) -> Result<()> {
        match &record.made {
            Some(made) => self.attach(record, made),
            None => Ok(()),
        }
    }

    /// Has EC2 create the ENI of a record, unless it has. Returns `None`, and removes the
    /// record, when the primary address is in use.
    fn create(&mut self, record: &Record) -> Result<Option<Record>> {
        if record.made.is_some() {
            return Ok(Some(record.clone()));
        }
        let (name, subnet) = (&record.network, &record.request.subnet_id);
        (self.tell)(Step::Creating { name, subnet });
        let failure = match self.ec2.create(&record.request) {
            Ok(eni) => {
                let mut record = record.clone();
                record.made = Some(Made::of(&eni));
                self.records.write(&record)?;
                return Ok(Some(record));
            }
            Err(failure) => failure,
        };
        if failure.is_definite() {
            self.records.remove(record)?;
        }
        if failure.code == ADDRESS_IN_USE {
            return Ok(None);
        }
        let what = format!("create an ENI for {name:?} in {subnet}");
        let error = explained(&failure, &what);
        // A missing subnet or group is an error of the configuration.
        Err(match failure.kind {
            Kind::Missing => error.with_code(ErrorCode::NETWORK_CONFIG),
            _ => error,
        })
    }

    /// Finds an ENI of this kind that was created for this node and has no record, because the
    /// node's state was lost. Writes a record for it.
    fn take_left(&mut self, wanted: &Wanted) -> Result<Option<Record>> {
        let card = wanted.network_card;
        let left = self.find_left()?;
        let is_its = |eni: &Description| eni.network() == Some(&wanted.name);
        let Some(index) = left.iter().position(is_its) else {
            return Ok(None);
        };
        let eni = left.remove(index);
        let record = Record::of_left(&wanted.name, card, &eni);
        self.records.write(&record)?;
        Ok(Some(record))
    }

    fn find_left(&mut self) -> Result<&mut Vec<Description>> {
        if self.left.is_none() {
            let instance = &self.look.identity.instance_id;
            let what = format!("look for ENIs that were created for {instance}");
            let found = self.ec2.available(INSTANCE_TAG, instance);
            let mut found = found.map_err(|failure| explained(&failure, &what))?;
            let records = self.records.all()?;
            let recorded: BTreeSet<&str> = records.iter().filter_map(Record::eni).collect();
            let attached: BTreeSet<&str> = self.look.enis.iter().map(|e| e.id.as_str()).collect();
            found.retain(|eni| {
                !recorded.contains(eni.id.as_str()) && !attached.contains(eni.id.as_str())
            });
            self.left = Some(found);
        }
        Ok(self.left.get_or_insert_default())
    }

    /// Deletes ENIs that were created for this node and that the configuration does not ask
    /// for, if they were looked for.
    fn delete_left(&mut self) {
        for eni in self.left.take().unwrap_or_default() {
            let outcome = self.delete(&eni.id).map(drop);
            self.keep(eni.network().unwrap_or_default(), outcome);
        }
    }

    /// Deletes an ENI, and returns whether EC2 knew it.
    fn delete(&mut self, eni: &str) -> Result<bool> {
        let what = format!("delete {eni}, which no configuration names");
        let outcome = self.ec2.delete(eni);
        let is_known = outcome.map_err(|failure| explained(&failure, &what))?;
        if is_known {
            (self.tell)(Step::Deleted { eni });
        }
        Ok(is_known)
    }

    /// Whether an ENI was created for this node.
    pub(super) fn is_ours(&self, eni: &Description) -> bool {
        place::is_of(eni, &self.look.identity.instance_id)
    }

    fn keep(&mut self, name: &str, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.problems.push(Problem::new(name, error));
        }
    }

    /// Has the ENIs of this node deleted with the instance that are not: a pass was killed
    /// before, or the setting was changed. Leaves out the ENIs that are being detached and
    /// those that this pass has handled.
    fn protect_all(&mut self) {
        let unsafe_ones = |eni: &&Description| {
            let is_asked = self.protected.contains(&eni.id);
            let leaves = || is_known_to_leave(&eni.mac);
            self.is_ours(eni) && !eni.delete_on_termination && !is_asked && !leaves()
        };
        let enis: Vec<Description> = self.look.enis.iter().filter(unsafe_ones).cloned().collect();
        for eni in enis {
            let outcome = self.protect(&eni);
            self.keep(eni.network().unwrap_or_default(), outcome);
        }
    }

    /// Writes the inventory, and reports.
    fn end(mut self) -> Result<Report> {
        let known = &self.look.cidrs;
        let subnets = inventory::subnets(&self.look.enis);
        let unknown: Vec<String> = subnets
            .into_iter()
            .filter(|id| !known.contains_key(id))
            .collect();
        if !unknown.is_empty() {
            match self.ec2.subnet_cidrs(&unknown) {
                Ok(cidrs) => self.look.cidrs.extend(cidrs),
                Err(failure) => warn!("{}", failure.error("learn the ranges of subnets")),
            }
        }
        let inventory = inventory::note(&self.look, &self.attached, self.deadline)?;
        let mut report = Report {
            problems: std::mem::take(&mut self.problems),
            ..Report::default()
        };
        let row = |eni: &Description| {
            let is_new = self.attached.iter().any(|new| new.id == eni.id);
            report::Eni::of(eni, &inventory, is_new)
        };
        let (wanted, others) = place::split(&self.look.enis, self.wanted);
        report.enis = wanted.into_iter().map(row).collect();
        let unwanted = others.into_iter().filter(|eni| self.is_ours(eni));
        report.unwanted = unwanted.map(row).collect();
        Ok(report)
    }
}

fn no_address(wanted: &Wanted, subnet: &str) -> Error {
    let name = &wanted.name;
    let msg = format!("enis {name:?}: no free address was found in {subnet}");
    let details = format!(
        "{MOST_ADDRESSES} of the addresses that primary.outside and exclude leave are in use"
    );
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
}
