//! ENIs that were created for instances which ended before the ENI was attached, or before it
//! was set to be deleted with the instance. Any node deletes them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use common::attach::inventory::Inventory;
use common::error::{Error, Result};
use common::timestamp::moment;

use crate::provision::denied::explained;
use crate::provision::request::{CREATED_TAG, INSTANCE_TAG};
use crate::vpc::clients::Aws;
use crate::vpc::ec2::{Description, Ec2};
use crate::vpc::failure::Failure;
use crate::vpc::imds::Identity;
use crate::vpc::inventory;

/// The age below which an ENI may be about to be attached.
const YOUNG: Duration = Duration::from_secs(5 * 60);
/// An instance that EC2 does not find counts as ended when its ENI is older than this. Source:
/// Amazon EC2 User Guide, "Terminate Amazon EC2 instances": a terminated instance is shown for
/// an hour.
const UNKNOWN: Duration = Duration::from_secs(60 * 60);
/// The states of an instance that is ending or has ended.
const ENDED: [&str; 2] = ["shutting-down", "terminated"];

/// The results for the ENIs that were found.
#[derive(Debug, Default)]
pub(crate) struct Cleaned {
    /// The ENIs that were deleted, or with `dry_run` would be.
    pub(crate) deleted: Vec<String>,
    /// Why others were not deleted.
    pub(crate) errors: Vec<Error>,
}

/// Deletes the ENIs of ended instances in the VPC of the node, or with `dry_run` only finds
/// them. EC2 refuses to delete an ENI that has been attached meanwhile.
///
/// # Errors
/// Code 11 without metadata, credentials or an answer, 100 without permission to describe ENIs.
pub(crate) fn delete(aws: &Aws, dry_run: bool) -> Result<Cleaned> {
    let identity = aws.imds()?.identity()?;
    let ec2 = aws.ec2(&identity.region)?;
    let vpc = vpc(aws, &identity)?;
    let mut cleaned = Cleaned::default();
    for eni in find(ec2, &identity, &vpc)? {
        if let Err(error) = aws.deadline().require_time_for(&eni.id) {
            cleaned.errors.push(error);
            break;
        }
        let what = format!("delete {}, whose instance has gone", eni.id);
        match dry_run {
            true => cleaned.deleted.push(eni.id),
            false => match ec2.delete(&eni.id) {
                Ok(true) => cleaned.deleted.push(eni.id),
                // Another node has deleted it.
                Ok(false) => {}
                Err(failure) => cleaned.errors.push(explained(&failure, &what)),
            },
        }
    }
    Ok(cleaned)
}

/// The VPC of the node, which never changes.
fn vpc(aws: &Aws, identity: &Identity) -> Result<String> {
    let primary = |inventory: &Inventory| {
        let mut enis = inventory.enis.iter();
        enis.find(|eni| eni.is_primary())
            .map(|eni| eni.vpc_id.clone())
    };
    let is_own = |inventory: &Inventory| inventory.instance_id == identity.instance_id;
    // An inventory that cannot be read is written again.
    let written = Inventory::read().ok().flatten().filter(is_own);
    if let Some(vpc) = written.as_ref().and_then(primary) {
        return Ok(vpc);
    }
    primary(&inventory::discover(aws)?).ok_or_else(|| {
        let instance = &identity.instance_id;
        Error::internal(format!("EC2 shows no primary ENI of {instance}"))
    })
}

/// The ENIs that were created for instances which have ended.
fn find(ec2: &Ec2, identity: &Identity, vpc: &str) -> Result<Vec<Description>> {
    let failed =
        |failure: Failure| explained(&failure, "look for ENIs of instances that have gone");
    let mut found = ec2.available_with(INSTANCE_TAG, vpc).map_err(failed)?;
    found.retain(|eni| instance(eni) != identity.instance_id && eni.no_manage);
    if found.is_empty() {
        return Ok(found);
    }
    let instances: BTreeSet<&str> = found.iter().map(instance).collect();
    let instances: Vec<String> = instances.into_iter().map(str::to_owned).collect();
    let states = ec2.instance_states(&instances).map_err(failed)?;
    let states: BTreeMap<String, String> = states.into_iter().collect();
    let now = SystemTime::now();
    found.retain(|eni| is_leaked(eni, &states, now));
    Ok(found)
}

fn instance(eni: &Description) -> &str {
    eni.tags.get(INSTANCE_TAG).map_or("", String::as_str)
}

/// Whether the instance that an ENI was created for has ended, and the ENI is old enough.
fn is_leaked(eni: &Description, states: &BTreeMap<String, String>, now: SystemTime) -> bool {
    let created = eni.tags.get(CREATED_TAG).and_then(|text| moment(text));
    let Some(age) = created.and_then(|created| now.duration_since(created).ok()) else {
        return false;
    };
    match states.get(instance(eni)) {
        Some(state) => age >= YOUNG && ENDED.contains(&state.as_str()),
        None => age >= UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use common::timestamp::rfc3339;

    use super::*;
    use crate::vpc::ec2::Place;

    #[test]
    fn an_eni_is_leaked_when_it_is_old_and_its_instance_has_gone() {
        let now = SystemTime::now();
        let eni = |minutes: u64| {
            let place = Place {
                network_card: 0,
                device_index: 1,
            };
            let mut eni = Description::planned(String::new(), "pods", place);
            let created = rfc3339(now - Duration::from_secs(minutes * 60));
            eni.tags.insert(INSTANCE_TAG.to_owned(), "i-1".to_owned());
            eni.tags.insert(CREATED_TAG.to_owned(), created);
            eni
        };
        for (state, minutes, expected) in [
            (Some("terminated"), 6, true),
            (Some("shutting-down"), 6, true),
            (Some("terminated"), 4, false),
            (Some("running"), 600, false),
            (Some("stopped"), 600, false),
            (None, 59, false),
            (None, 61, true),
        ] {
            let states = state.map(|state| ("i-1".to_owned(), state.to_owned()));
            let states: BTreeMap<String, String> = states.into_iter().collect();
            let found = is_leaked(&eni(minutes), &states, now);
            assert_eq!(found, expected, "{state:?} {minutes}");
        }
        let mut undated = eni(600);
        undated.tags.remove(CREATED_TAG);
        assert!(!is_leaked(&undated, &BTreeMap::new(), now));
    }
}
