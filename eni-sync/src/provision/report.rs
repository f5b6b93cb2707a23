//! What a pass has found and done, for people, programs and the metrics.

use common::attach::inventory::Inventory;
use common::error::{Error, Errors, Result};
use serde::Serialize;

use crate::vpc::ec2::{Description, Place};

/// What a pass has found and done.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// The ENIs that the configuration names and the node has.
    pub(crate) enis: Vec<Eni>,
    /// Those that the node has of us, and no configuration names.
    pub(crate) unwanted: Vec<Eni>,
    /// What is missing, and why.
    pub(crate) problems: Vec<Problem>,
}

/// An ENI that is attached to the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Eni {
    /// What the configuration calls its kind.
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) mac: String,
    /// The name of its interface; empty when that is not on the node.
    pub(crate) interface: String,
    pub(crate) subnet_id: String,
    #[serde(flatten)]
    pub(crate) place: Place,
    /// Whether this pass has attached it.
    pub(crate) is_new: bool,
}

/// Why ENIs are missing.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Problem {
    /// What the configuration calls their kind; empty when it is about all of them.
    pub(crate) name: String,
    /// In words.
    pub(crate) says: String,
    #[serde(skip)]
    pub(crate) error: Error,
}

impl Eni {
    pub(super) fn of(eni: &Description, inventory: &Inventory, is_new: bool) -> Self {
        let written = inventory.enis.iter().find(|written| written.id == eni.id);
        Self {
            name: eni.network().unwrap_or_default().to_owned(),
            id: eni.id.clone(),
            mac: eni.mac.clone(),
            interface: written.map(|eni| eni.interface.clone()).unwrap_or_default(),
            subnet_id: eni.subnet_id.clone(),
            place: eni.place(),
            is_new,
        }
    }
}

impl Problem {
    /// That ENIs of this kind are missing.
    pub(crate) fn new(name: &str, error: Error) -> Self {
        Self {
            name: name.to_owned(),
            says: error.to_string(),
            error,
        }
    }
}

impl Report {
    /// Whether all is there that is wanted.
    ///
    /// # Errors
    /// All that is not, as one.
    pub(crate) fn outcome(&self) -> Result<()> {
        let mut errors = Errors::default();
        for problem in &self.problems {
            errors.keep::<()>(Err(problem.error.clone()));
        }
        errors.into_result()
    }
}
