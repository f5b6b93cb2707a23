//! What a measurement yields: figures with what they are compared with and what they
//! should be, and curves.

use serde::{Deserialize, Serialize};

/// What was measured for one row.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    pub row: String,
    pub about: String,
    /// Whether a machine was emulated, so that only ratios mean something.
    pub is_emulated: bool,
    /// How long measuring took.
    pub seconds: f64,
    #[serde(flatten)]
    pub report: Report,
}

/// The figures and curves of one row.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    pub figures: Vec<Figure>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curve>,
}

/// One figure of ours; the smaller, the better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub what: String,
    pub unit: String,
    pub ours: f64,
    /// What it is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<Other>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// The same figure of something else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Other {
    pub name: String,
    pub value: f64,
}

/// What a figure should be at most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// So many times the other's.
    Ratio(f64),
    /// So much.
    Value(f64),
}

/// How a figure changes with a number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Curve {
    pub what: String,
    pub unit: String,
    /// What there is a number of.
    pub of: String,
    pub party: String,
    pub points: Vec<(f64, f64)>,
}

impl Report {
    pub fn of(figures: impl IntoIterator<Item = Figure>) -> Self {
        Self {
            figures: figures.into_iter().collect(),
            curves: Vec::new(),
        }
    }
}

impl Figure {
    pub fn new(what: impl Into<String>, unit: &str, ours: f64) -> Self {
        Self {
            what: what.into(),
            unit: unit.to_owned(),
            ours,
            other: None,
            target: None,
        }
    }

    /// Compares it with the same figure of something else.
    pub fn beside(mut self, name: &str, value: f64) -> Self {
        self.other = Some(Other {
            name: name.to_owned(),
            value,
        });
        self
    }

    /// Sets what it should be at most, as a part of the other's.
    pub fn at_most_times(mut self, ratio: f64) -> Self {
        self.target = Some(Target::Ratio(ratio));
        self
    }

    /// Sets what it should be at most.
    pub fn at_most(mut self, value: f64) -> Self {
        self.target = Some(Target::Value(value));
        self
    }

    /// Ours, divided by the other's.
    pub fn ratio(&self) -> Option<f64> {
        let other = self.other.as_ref()?;
        (other.value > 0.0).then(|| self.ours / other.value)
    }

    /// Whether the target is met, where there is one.
    pub fn is_met(&self) -> Option<bool> {
        match self.target? {
            Target::Ratio(ratio) => self.ratio().map(|found| found <= ratio),
            Target::Value(value) => Some(self.ours <= value),
        }
    }
}
