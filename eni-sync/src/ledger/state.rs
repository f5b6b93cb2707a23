//! The states of an address in the ledger. Which one follows from which is in `life_cycle`.

use serde::{Deserialize, Serialize};

use super::{Refusal, Takeover, Timestamp};

/// The state of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "state",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub(crate) enum State {
    /// An attachment or a pool wants it, and EC2 has not confirmed that it is on the ENI.
    Claiming {
        /// From which ENIs it may be taken.
        takeover: Takeover,
        /// Whether its attachment works without it, so that it is tried again.
        best_effort: bool,
        /// Why EC2 did not assign it, for the process that waits for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refusal: Option<Refusal>,
    },
    /// It is on the ENI for an attachment that exists.
    Held,
    /// It is on the ENI, and no pod needs it any more.
    Releasing {
        /// When it may be removed at the earliest.
        after: Timestamp,
        /// Whether EC2 was asked to remove it and may have done so. If not, it is still on the
        /// ENI.
        asked: bool,
    },
    /// It was claimed and is not needed any more, and EC2 has never confirmed that it is on the
    /// ENI: before it is removed, it is looked for there.
    Withdrawn {
        /// When it may be removed at the earliest, if it is on the ENI.
        after: Timestamp,
    },
    /// EC2 has removed it. The entry stays for as long as a description may still show the
    /// address.
    Removed,
    /// It is on the ENI for the next attachment that host-local gives it to.
    Pooled,
    /// It was found on the ENI, and the ledger does not know for which pod. Only an operator
    /// releases it.
    Adopted,
}

impl State {
    /// The name of the state, as the ledger writes it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Claiming { .. } => "claiming",
            Self::Held => "held",
            Self::Releasing { .. } => "releasing",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Removed => "removed",
            Self::Pooled => "pooled",
            Self::Adopted => "adopted",
        }
    }
}
