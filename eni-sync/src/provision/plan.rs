//! What a pass would do, for a dry run. Nothing is changed: EC2 is only asked for descriptions.

use std::collections::BTreeSet;

use common::error::Result;
use serde::Serialize;

use crate::provision::place;
use crate::provision::record::{self, Record};
use crate::provision::report::Problem;
use crate::provision::request::{Chosen, Site};
use crate::provision::wanted::Wanted;
use crate::vpc::clients::Aws;
use crate::vpc::ec2::{Description, Ec2, Place};
use crate::vpc::inventory::{self, Look};

/// What a pass would do.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plan {
    /// The ENIs that would be attached.
    pub(crate) missing: Vec<Missing>,
    /// Why others would not.
    pub(crate) problems: Vec<Problem>,
}

/// An ENI that would be attached.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Missing {
    /// What the configuration calls its kind.
    pub(crate) name: String,
    /// The ENI, where an earlier pass has created it.
    pub(crate) id: Option<String>,
    pub(crate) subnet_id: String,
    pub(crate) security_groups: Vec<String>,
    #[serde(flatten)]
    pub(crate) place: Place,
}

/// What a pass would do now.
///
/// # Errors
/// As for [`super::pass::run`].
pub(crate) fn make(aws: &Aws, wanted: &[Wanted]) -> Result<Plan> {
    let mut look = inventory::look(aws)?;
    record::leave_out_deleted(&mut look)?;
    let ec2 = aws.ec2(&look.identity.region)?;
    let records = record::all()?;
    let mut plan = Plan::default();
    for wanted in wanted {
        begun(&mut look, &records, wanted, &mut plan);
        let outcome = create(ec2, &mut look, wanted, &mut plan);
        if let Err(error) = outcome {
            plan.problems.push(Problem::new(&wanted.name, error));
        }
    }
    Ok(plan)
}

/// Adds to the plan the ENIs that earlier passes have begun.
fn begun(look: &mut Look, records: &[Record], wanted: &Wanted, plan: &mut Plan) {
    for record in records {
        // An ENI that was begun and is not needed any more is deleted.
        if place::missing(&look.enis, wanted) == 0 {
            return;
        }
        let is_there = |id: &str| look.enis.iter().any(|eni| eni.id == id);
        let is_open = record.network == wanted.name && !record.is_deleted();
        if !is_open || record.eni().is_some_and(is_there) {
            continue;
        }
        plan.missing.push(Missing {
            name: wanted.name.clone(),
            id: record.eni().map(str::to_owned),
            subnet_id: record.request.subnet_id.clone(),
            security_groups: record.request.groups.clone(),
            place: attach(look, wanted),
        });
    }
}

/// Adds to the plan the ENIs that would be created.
fn create(ec2: &Ec2, look: &mut Look, wanted: &Wanted, plan: &mut Plan) -> Result<()> {
    let mut chosen = None;
    while place::missing(&look.enis, wanted) > 0 {
        place::require_slot(look, &wanted.name, wanted.network_card)?;
        let chosen = match &chosen {
            Some(chosen) => chosen,
            None => chosen.insert(Chosen::find(ec2, wanted, Site::of(look))?),
        };
        let request = chosen.request(wanted, &look.identity.instance_id)?;
        plan.missing.push(Missing {
            name: wanted.name.clone(),
            id: None,
            subnet_id: request.subnet_id,
            security_groups: request.groups,
            place: attach(look, wanted),
        });
    }
    Ok(())
}

/// Adds a planned ENI to the look, at the place where it would be attached.
fn attach(look: &mut Look, wanted: &Wanted) -> Place {
    let place = place::free(&look.enis, wanted.network_card, &BTreeSet::new());
    let instance = look.identity.instance_id.clone();
    look.enis
        .push(Description::planned(instance, &wanted.name, place));
    place
}
