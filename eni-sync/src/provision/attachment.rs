//! Attaches an ENI while the VPC CNI may attach its own, and take the device index or the last
//! slot at the same moment. EC2's answer decides, and a look at EC2 shows what to try next.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use common::error::{Error, ErrorCode, Result};

use crate::deadline::Deadline;
use crate::provision::denied::explained;
use crate::provision::pass::{Pass, Step};
use crate::provision::place;
use crate::provision::record::{Made, Record};
use crate::random;
use crate::vpc::ec2::{Description, Place};
use crate::vpc::failure::{Failure, Kind};

/// How many device indexes are tried that EC2 refuses as taken.
const MOST_INDEXES: usize = 6;
/// The pauses, in seconds, while EC2 does not know an ENI yet that it has just created.
const PAUSES: [u64; 5] = [1, 2, 4, 8, 16];

/// EC2's error codes for three cases: the ENI is attached already; the device index is taken or
/// wrong; the instance has all the ENIs that it can have.
const IN_USE: &str = "InvalidNetworkInterface.InUse";
const WRONG_VALUE: &str = "InvalidParameterValue";
const NO_SLOT: &str = "AttachmentLimitExceeded";

impl Pass<'_> {
    /// Attaches the ENI of a record, and has it deleted with the instance.
    pub(super) fn attach(&mut self, record: &Record, made: &Made) -> Result<()> {
        let mut refused = BTreeSet::new();
        loop {
            let place = place::free(&self.look.enis, record.network_card, &refused);
            let (name, eni) = (&record.network, &made.eni);
            (self.tell)(Step::Attaching { name, eni });
            let failure = match self.request_attachment(record, made, place) {
                Ok(attachment) => return self.note_attached(record, made, place, attachment),
                Err(failure) => failure,
            };
            match failure.code.as_str() {
                IN_USE => return self.find_attached(record, made),
                WRONG_VALUE if refused.len() < MOST_INDEXES => {
                    refused.insert(place.device_index);
                    self.look_again()?;
                }
                NO_SLOT => return Err(self.no_slot(record, &failure)),
                _ if failure.kind == Kind::Missing && record.has_settled() => {
                    self.records.remove(record)?;
                    return Err(gone(made, &failure));
                }
                _ => return Err(refusal(record, made, place, &failure)),
            }
        }
    }

    /// Requests the attachment, and repeats the request while EC2 does not know the ENI yet.
    fn request_attachment(
        &self,
        record: &Record,
        made: &Made,
        place: Place,
    ) -> std::result::Result<String, Failure> {
        let instance = &self.look.identity.instance_id;
        let ask = || self.ec2.attach(&made.eni, instance, place);
        match record.has_settled() {
            true => ask(),
            false => while_unknown(self.deadline, ask),
        }
    }

    /// Notes that an ENI is attached, and has it deleted with the instance.
    fn note_attached(
        &mut self,
        record: &Record,
        made: &Made,
        place: Place,
        attachment: String,
    ) -> Result<()> {
        let instance = self.look.identity.instance_id.clone();
        let eni = record.description(made, instance, place, attachment);
        self.add(eni.clone());
        let (name, id) = (&record.network, &made.eni);
        (self.tell)(Step::Attached { name, eni: id });
        self.protect(&eni)?;
        self.keep_until_settled(record)
    }

    fn add(&mut self, eni: Description) {
        self.look.enis.retain(|known| known.id != eni.id);
        self.look.enis.push(eni.clone());
        self.attached.push(eni);
    }

    /// Has an ENI of this node deleted with the instance.
    pub(super) fn protect(&mut self, eni: &Description) -> Result<()> {
        let attachment = attachment(eni)?;
        self.protected.insert(eni.id.clone());
        let ask = || self.ec2.delete_with_instance(&eni.id, attachment);
        let what = format!("have {} deleted with the instance", eni.id);
        while_unknown(self.deadline, ask).map_err(|failure| explained(&failure, &what))?;
        let known = self.look.enis.iter_mut().chain(&mut self.attached);
        for known in known.filter(|known| known.id == eni.id) {
            known.delete_on_termination = true;
        }
        Ok(())
    }

    /// Handles an ENI that is attached already: by an earlier request whose answer was lost, or
    /// to another instance.
    fn find_attached(&mut self, record: &Record, made: &Made) -> Result<()> {
        let what = format!("look at {}", made.eni);
        let found = self.ec2.eni(&made.eni);
        let found = found.map_err(|failure| explained(&failure, &what))?;
        let own = &self.look.identity.instance_id;
        // An ENI that is still being detached does not count as attached.
        match found.filter(|eni| !eni.is_detaching) {
            Some(eni) if eni.instance_id.as_ref() == Some(own) => {
                self.add(eni.clone());
                if !eni.delete_on_termination {
                    self.protect(&eni)?;
                }
                self.keep_until_settled(record)
            }
            Some(eni) if eni.instance_id.is_some() => {
                let other = eni.instance_id.unwrap_or_default();
                self.records.remove(record)?;
                let msg = format!("{} is attached to {other}", made.eni);
                let details = format!("it was created for {own}; another one will be");
                Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details))
            }
            _ => {
                let msg = format!("EC2 does not show yet where {} is attached", made.eni);
                Err(Error::new(ErrorCode::TRY_AGAIN, msg))
            }
        }
    }

    /// Describes the ENIs of the node again. ENIs that this pass has attached are kept if the
    /// description does not show them yet.
    pub(super) fn look_again(&mut self) -> Result<()> {
        let instance = &self.look.identity.instance_id;
        let what = format!("list the ENIs of {instance}");
        let found = self.ec2.enis_of_instance(instance);
        let mut enis = found.map_err(|failure| explained(&failure, &what))?;
        let is_shown = |eni: &&Description| enis.iter().any(|shown| shown.id == eni.id);
        let hidden: Vec<Description> = self
            .attached
            .iter()
            .filter(|eni| !is_shown(eni))
            .cloned()
            .collect();
        enis.extend(hidden);
        self.look.enis = enis;
        Ok(())
    }

    /// The error for an ENI that the instance has no slot for, naming the holders of the slots.
    fn no_slot(&mut self, record: &Record, failure: &Failure) -> Error {
        let (name, card) = (&record.network, record.network_card);
        let looked = self.look_again();
        match looked.and_then(|()| place::require_slot(&self.look, name, card)) {
            Err(error) => error,
            Ok(()) => {
                let msg = format!("enis {name:?}: there is no room for one more ENI");
                Error::config(msg).with_details(failure.answer.as_str())
            }
        }
    }
}

/// The id of the attachment of an ENI of this node.
///
/// # Errors
/// Code 999 when EC2 does not name it.
pub(super) fn attachment(eni: &Description) -> Result<&str> {
    let attachment = eni.attachment_id.as_deref();
    attachment.ok_or_else(|| Error::internal(format!("EC2 names no attachment of {}", eni.id)))
}

/// Repeats a request while EC2 does not know an ENI yet that it has just created, as long as
/// there is time.
fn while_unknown<T>(
    deadline: Deadline,
    ask: impl Fn() -> std::result::Result<T, Failure>,
) -> std::result::Result<T, Failure> {
    for pause in PAUSES {
        let answer = ask();
        let pause = Duration::from_secs(pause).mul_f64((1.0 + random::chance()) / 2.0);
        let is_unknown = matches!(&answer, Err(failure) if failure.kind == Kind::Missing);
        if !is_unknown || deadline.left() <= pause {
            return answer;
        }
        thread::sleep(pause);
    }
    ask()
}

fn refusal(record: &Record, made: &Made, place: Place, failure: &Failure) -> Error {
    let Place {
        network_card,
        device_index,
    } = place;
    let what = format!(
        "attach {} of {:?} at network card {network_card}, device index {device_index}",
        made.eni, record.network
    );
    explained(failure, &what)
}

fn gone(made: &Made, failure: &Failure) -> Error {
    let msg = format!("{} was deleted before it was attached", made.eni);
    Error::new(ErrorCode::TRY_AGAIN, msg).with_details(failure.answer.as_str())
}
