//! The records of ENIs that the node creates. A record is written before EC2 is asked for an
//! ENI, and kept until a description shows the ENI attached: a crash between two requests
//! leaves a record and never an unknown ENI. There is a file for each ENI.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::attach::awaited::LOCK;
use common::attach::inventory::{DIRECTORY, RECORD_LIMIT as LIMIT, begun, leaving};
use common::error::{Error, ErrorCode, Result};
use common::files::lock::Lock;
use common::files::{file, format};
use serde::{Deserialize, Serialize};

use crate::ledger::{Timestamp, now};
use crate::random;
use crate::vpc::ec2::{Description, NewEni, Place};
use crate::vpc::inventory::Look;

/// How long, in seconds, EC2 may not know yet what it has just created. Source: Amazon EC2
/// Developer Guide, "Eventual consistency".
const SETTLED: Timestamp = 60;

/// An ENI that EC2 was asked for or will be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// The name of its kind in the configuration.
    pub(super) network: String,
    /// The network card to attach it to.
    pub(super) network_card: u32,
    /// The request to EC2.
    pub(super) request: NewEni,
    /// The ENI that EC2 has created.
    #[serde(default)]
    pub(super) made: Option<Made>,
    /// When the record was written first.
    since: Timestamp,
    /// Whether it is being detached from the node. The file of such a record keeps pods away
    /// from its interface.
    #[serde(default)]
    pub(super) leaving: bool,
}

/// An ENI as EC2 has created it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Made {
    pub(super) eni: String,
    pub(super) mac: String,
    pub(super) subnet_id: String,
    pub(super) vpc_id: String,
    pub(super) primary: Vec<IpAddr>,
    /// When EC2 answered that it has created the ENI.
    #[serde(default)]
    created: Timestamp,
    /// When it was first known to be attached to this node and set to be deleted with it.
    #[serde(default)]
    attached: Option<Timestamp>,
    /// When EC2 answered that it has deleted the ENI. Descriptions may show it after that.
    #[serde(default)]
    deleted: Option<Timestamp>,
}

impl Made {
    pub(super) fn of(eni: &Description) -> Self {
        Self {
            eni: eni.id.clone(),
            mac: eni.mac.clone(),
            subnet_id: eni.subnet_id.clone(),
            vpc_id: eni.vpc_id.clone(),
            primary: eni.primary.clone(),
            created: now(),
            attached: None,
            deleted: None,
        }
    }
}

impl Record {
    /// The record of an ENI that EC2 has not been asked for yet.
    pub(super) fn begin(network: &str, network_card: u32, request: NewEni) -> Self {
        Self {
            network: network.to_owned(),
            network_card,
            request,
            made: None,
            since: now(),
            leaving: false,
        }
    }

    /// The record of an ENI that was found without one.
    pub(super) fn of_left(network: &str, network_card: u32, eni: &Description) -> Self {
        let request = NewEni {
            token: token(),
            subnet_id: eni.subnet_id.clone(),
            groups: Vec::new(),
            tags: eni.tags.clone(),
            primary: None,
            description: String::new(),
        };
        Self {
            made: Some(Made::of(eni)),
            ..Self::begin(network, network_card, request)
        }
    }

    /// The record of an ENI that is about to be detached from the node.
    pub(super) fn of_leaving(network: &str, eni: &Description) -> Self {
        Self {
            leaving: true,
            ..Self::of_left(network, eni.network_card, eni)
        }
    }

    /// The record of the same ENI when it is to be attached to the node again.
    pub(super) fn returning(&self) -> Self {
        let request = NewEni {
            token: token(),
            ..self.request.clone()
        };
        Self {
            request,
            leaving: false,
            ..self.clone()
        }
    }

    /// The id of the ENI, if EC2 has created it.
    pub(super) fn eni(&self) -> Option<&str> {
        self.made.as_ref().map(|made| made.eni.as_str())
    }

    /// The ENI as a description will show it.
    pub(super) fn description(
        &self,
        made: &Made,
        instance: String,
        place: Place,
        attachment: String,
    ) -> Description {
        Description {
            id: made.eni.clone(),
            mac: made.mac.clone(),
            attachment_id: Some(attachment),
            subnet_id: made.subnet_id.clone(),
            vpc_id: made.vpc_id.clone(),
            tags: self.request.tags.clone(),
            delete_on_termination: false,
            primary: made.primary.clone(),
            ..Description::planned(instance, &self.network, place)
        }
    }

    /// The record of an ENI that is attached and set to be deleted with the instance from now
    /// on; `None` if the record says so already.
    pub(super) fn attached(&self) -> Option<Self> {
        let made = self.made.as_ref().filter(|made| made.attached.is_none())?;
        let attached = Some(now());
        Some(Self {
            made: Some(Made {
                attached,
                ..made.clone()
            }),
            ..self.clone()
        })
    }

    /// Whether the ENI is attached and stays: the record is only kept until no description can
    /// be older.
    pub(super) fn is_attached(&self) -> bool {
        let mut made = self.made.iter();
        made.any(|made| made.attached.is_some()) && !self.leaving
    }

    /// The record of an ENI that EC2 has deleted, for as long as descriptions may be older.
    fn deleted(self) -> Self {
        let made = self.made.map(|made| Made {
            deleted: Some(now()),
            ..made
        });
        Self { made, ..self }
    }

    /// Whether EC2 has deleted the ENI: a description that shows it is older.
    pub(super) fn is_deleted(&self) -> bool {
        let mut made = self.made.iter();
        made.any(|made| made.deleted.is_some())
    }

    /// Whether the record only says that the ENI is deleted, and a description may not know yet.
    pub(super) fn is_only_remembered(&self) -> bool {
        self.is_deleted() && !self.has_settled()
    }

    /// Whether EC2's descriptions must be newer than the last answer about the ENI. A request
    /// can be answered long after the record was written, so the time counts from the answer.
    pub(super) fn has_settled(&self) -> bool {
        let made = self.made.iter();
        let answers = made.flat_map(|made| [Some(made.created), made.attached, made.deleted]);
        let last = answers.flatten().fold(self.since, Timestamp::max);
        now() >= last.saturating_add(SETTLED)
    }
}

/// A random client token for a request.
pub(super) fn token() -> String {
    format!("{:016x}{:016x}", random::number(), random::number())
}

/// The records of this node, locked until the value is dropped.
#[derive(Debug)]
pub(super) struct Records {
    _lock: Lock,
}

impl Records {
    /// Waits until no other process attaches ENIs, and locks the records.
    ///
    /// # Errors
    /// Code 5 naming a file, 11 when another process takes too long.
    pub(super) fn open(deadline: Duration) -> Result<Self> {
        let failed =
            |path: &Path, cause| Error::io(format!("failed to create {}", path.display()), &cause);
        let directory = Path::new(DIRECTORY);
        file::create_private_directory(directory).map_err(|cause| failed(directory, cause))?;
        let lock = Lock::take(Path::new(LOCK), deadline)?;
        let root = begun();
        file::create_directory(&root).map_err(|cause| failed(&root, cause))?;
        Ok(Self { _lock: lock })
    }

    /// Every record.
    ///
    /// # Errors
    /// As for [`all`].
    pub(super) fn all(&self) -> Result<Vec<Record>> {
        all()
    }

    /// Writes a record, which is on the disk afterwards.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(super) fn write(&self, record: &Record) -> Result<()> {
        let path = path(record);
        let failed = |cause| Error::io(format!("failed to write {path:?}"), &cause);
        let text = serde_json::to_vec(record).map_err(|cause| failed(cause.into()))?;
        file::require_readable(&text, LIMIT).map_err(failed)?;
        file::replace_durably(&path, &text).map_err(failed)
    }

    /// Removes every record of a deleted ENI but that of its removal, which says from then on that
    /// it is deleted. A record that cannot be read stays, and is reported by [`each`].
    ///
    /// # Errors
    /// Code 5 naming the directory, and as for [`Records::write`].
    pub(super) fn forget(&self, eni: &str) -> Result<()> {
        let mut own: Vec<Record> = each()?.filter_map(Result::ok).collect();
        own.retain(|record| record.eni() == Some(eni));
        own.sort_by_key(|record| record.leaving);
        own.into_iter().try_for_each(|record| {
            if record.leaving {
                self.write(&record.deleted())
            } else {
                self.remove(&record)
            }
        })
    }

    /// Removes the records of deleted ENIs that no description shows any more.
    ///
    /// # Errors
    /// As for [`Records::forget`].
    pub(super) fn forget_settled(&self) -> Result<()> {
        let mut deleted: Vec<Record> = each()?.filter_map(Result::ok).collect();
        deleted.retain(|record| record.is_deleted() && record.has_settled());
        deleted.iter().try_for_each(|record| self.remove(record))
    }

    /// Removes the record of an ENI that needs none any more.
    ///
    /// # Errors
    /// Code 5 naming the file.
    pub(super) fn remove(&self, record: &Record) -> Result<()> {
        let path = path(record);
        let failed = |cause| Error::io(format!("failed to remove {path:?}"), &cause);
        file::remove(&path).map_err(failed)
    }
}

/// The file of a record.
fn path(record: &Record) -> PathBuf {
    match record.made.as_ref().filter(|_| record.leaving) {
        Some(made) => leaving(&made.mac),
        None => begun().join(format!("{}.json", record.request.token)),
    }
}

/// Leaves out of a look the ENIs that EC2 has deleted: it was an old description that showed them.
///
/// # Errors
/// Code 5 naming the directory of the records.
pub(super) fn leave_out_deleted(look: &mut Look) -> Result<()> {
    let deleted = each()?.filter_map(Result::ok).filter(Record::is_deleted);
    let deleted: Vec<Record> = deleted.collect();
    let is_deleted = |id: &str| deleted.iter().any(|record| record.eni() == Some(id));
    look.enis.retain(|eni| !is_deleted(&eni.id));
    Ok(())
}

/// Every record, for a caller that only reads.
///
/// # Errors
/// Code 5 naming a file that cannot be read, 6 when it is not a record: it is unknown then
/// which ENI was to be created.
pub(super) fn all() -> Result<Vec<Record>> {
    each()?.collect()
}

/// Every record, or its error if it cannot be read.
///
/// # Errors
/// Code 5 naming the directory.
pub(super) fn each() -> Result<impl Iterator<Item = Result<Record>>> {
    let paths = paths()?.into_iter();
    Ok(paths.map(|path| read(&path)))
}

/// Why records cannot be read. One that somebody has removed meanwhile is not damaged.
///
/// # Errors
/// Code 5 naming the directory.
pub(super) fn damaged() -> Result<Vec<Error>> {
    let errors = paths()?.into_iter().filter_map(|path| {
        let error = read(&path).err()?;
        path.symlink_metadata().is_ok().then_some(error)
    });
    Ok(errors.collect())
}

fn paths() -> Result<Vec<PathBuf>> {
    let root = begun();
    let failed = |cause| Error::io(format!("failed to list {}", root.display()), &cause);
    let mut paths = file::list(&root).map_err(failed)?;
    paths.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| !name.starts_with('.') && name.ends_with(".json"))
    });
    Ok(paths)
}

fn read(path: &Path) -> Result<Record> {
    let bytes = file::read_regular(path, LIMIT)
        .map_err(|cause| Error::io(format!("failed to read {path:?}"), &cause))?;
    if let Some(why) = format::newer(&bytes) {
        let msg = format!("{path:?} is the record of an ENI of a newer version");
        let details = format!("{why}; until then no ENI is created");
        return Err(Error::new(ErrorCode::DECODING, msg).with_details(details));
    }
    serde_json::from_slice(&bytes).map_err(|cause| {
        let msg = format!("{path:?} is not the record of an ENI");
        let details = format!(
            "{cause}; no ENI is created until somebody removes the file, and one that it is about \
             is found by its tags then"
        );
        Error::new(ErrorCode::DECODING, msg).with_details(details)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vpc::ec2::Place;

    fn record(since: Timestamp) -> Record {
        let place = Place {
            network_card: 0,
            device_index: 1,
        };
        let eni = Description::planned("i-1".to_owned(), "pods", place);
        Record {
            since,
            ..Record::of_left("pods", 0, &eni)
        }
    }

    #[test]
    fn a_record_settles_after_the_answer_and_not_after_the_request() {
        let long_ago = now() - 10 * SETTLED;
        let mut record = record(long_ago);
        assert!(!record.has_settled());
        let made = record.made.as_mut().unwrap();
        made.created = long_ago;
        assert!(record.has_settled());
        let attached = record.attached().unwrap();
        assert!(!attached.has_settled() && attached.is_attached());
        assert_eq!(attached.attached(), None);
        let deleted = record.clone().deleted();
        assert!(deleted.is_deleted() && deleted.is_only_remembered());
        record.made = None;
        assert!(record.has_settled());
        record.since = now();
        assert!(!record.has_settled());
    }

    #[test]
    fn a_record_of_an_earlier_version_has_settled() {
        let text = r#"{"network": "pods", "networkCard": 0, "since": 1, "request": {
            "token": "t", "subnetId": "s", "groups": [], "tags": {}, "primary": null,
            "description": ""}, "made": {"eni": "eni-1", "mac": "m", "subnetId": "s",
            "vpcId": "v", "primary": []}}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert!(record.has_settled() && !record.leaving && !record.is_deleted());
    }
}
