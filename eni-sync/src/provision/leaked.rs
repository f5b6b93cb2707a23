//! ENIs that were created for instances that have gone before they were attached to them, or
//! before they were to go with them: any node deletes them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use common::error::{Errors, Result};
use common::timestamp::moment;

use crate::provision::denied::explained;
use crate::provision::request::{CREATED_TAG, INSTANCE_TAG};
use crate::vpc::clients::Aws;
use crate::vpc::ec2::Description;

/// An ENI that is younger may be about to be attached.
const YOUNG: Duration = Duration::from_secs(5 * 60);
/// An instance that EC2 does not find has gone if its ENI is as old as this. Source: Amazon EC2
/// User Guide, "Terminate Amazon EC2 instances": one that was terminated is shown for an hour.
const UNKNOWN: Duration = Duration::from_secs(60 * 60);
/// The states of an instance that ends.
const ENDED: [&str; 2] = ["shutting-down", "terminated"];

/// Deletes the ENIs of instances that have gone, or only finds them. Returns which. EC2
/// refuses to delete one that has been attached meanwhile.
///
/// # Errors
/// What EC2 says; the others are deleted.
pub(crate) fn delete(aws: &Aws, dry_run: bool) -> Result<Vec<String>> {
    let identity = aws.imds()?.identity()?;
    let ec2 = aws.ec2(&identity.region)?;
    let what = "look for ENIs of instances that have gone";
    let mut found = ec2
        .available_with(INSTANCE_TAG)
        .map_err(|failure| explained(&failure, what))?;
    found.retain(|eni| instance(eni) != identity.instance_id && eni.no_manage);
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut instances: Vec<String> = found.iter().map(|eni| instance(eni).to_owned()).collect();
    instances.sort();
    instances.dedup();
    let states = ec2.instance_states(&instances);
    let states: BTreeMap<String, String> = states
        .map_err(|failure| explained(&failure, what))?
        .into_iter()
        .collect();
    let (mut deleted, mut errors) = (Vec::new(), Errors::default());
    let now = SystemTime::now();
    for eni in found.iter().filter(|eni| is_leaked(eni, &states, now)) {
        let what = format!("delete {}, whose instance has gone", eni.id);
        let outcome = match dry_run {
            true => Ok(()),
            false => ec2.delete(&eni.id).map(drop),
        };
        let outcome = outcome.map_err(|failure| explained(&failure, &what));
        if errors.keep(outcome).is_some() {
            deleted.push(eni.id.clone());
        }
    }
    errors.into_result().map(|()| deleted)
}

fn instance(eni: &Description) -> &str {
    eni.tags.get(INSTANCE_TAG).map_or("", String::as_str)
}

/// Whether the instance that an ENI was created for has gone, and the ENI is old enough.
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
