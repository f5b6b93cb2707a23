//! The result of a pass, for people, programs and the metrics.

use common::attach::inventory::Inventory;
use common::error::{Error, Errors, Result};
use serde::Serialize;

use crate::vpc::ec2::{Description, Place};

/// The result of a pass.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// The ENIs in the configuration that are attached.
    pub(crate) enis: Vec<Eni>,
    /// The attached ENIs that were created for this node and that the configuration does not
    /// name.
    pub(crate) unwanted: Vec<Eni>,
    /// The problems because of which ENIs are missing.
    pub(crate) problems: Vec<Problem>,
}

/// An ENI that is attached to the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Eni {
    /// The name of its kind in the configuration.
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
    /// The name of their kind in the configuration; empty when the problem concerns all kinds.
    pub(crate) name: String,
    /// The error as a text.
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
    /// The problem because of which ENIs of this kind are missing.
    pub(crate) fn new(name: &str, error: Error) -> Self {
        Self {
            name: name.to_owned(),
            says: error.to_string(),
            error,
        }
    }
}

impl Report {
    /// Checks that all configured ENIs are attached.
    ///
    /// # Errors
    /// All problems, as one error.
    pub(crate) fn outcome(&self) -> Result<()> {
        let mut errors = Errors::default();
        for problem in &self.problems {
            errors.keep::<()>(Err(problem.error.clone()));
        }
        errors.into_result()
    }
}
