//! The state machine of an address in the ledger: which state follows from which, for every
//! event. Pure. Claimed addresses and addresses on the ENI are in different states, and only an
//! answer of EC2 leads from one to the other.

use super::Takeover;
use super::{Refusal, State, Timestamp};

/// What has happened to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// An attachment or a pool claims it, and EC2 is to be asked.
    Claimed {
        /// From which ENIs it may be taken.
        takeover: Takeover,
        /// Whether its attachment works without it.
        best_effort: bool,
    },
    /// host-local has given an address of a pool to an attachment.
    Taken,
    /// The instance metadata show the claimed address on the ENI.
    Shown,
    /// EC2 has answered that the claimed address is on the ENI, itself or as a part of a
    /// prefix.
    Assigned {
        /// Whether it was claimed for a pool and not for an attachment.
        for_pool: bool,
    },
    /// EC2 has not assigned it, or not answered.
    Refused(Refusal),
    /// A description shows it on the ENI.
    Seen,
    /// Descriptions have not shown it so often and for so long that it is not on the ENI. Has
    /// from which ENIs it may be taken for the attachment that needs it.
    Missed(Takeover),
    /// Its attachment or pool does not need it any more.
    Ended {
        /// When it may be removed at the earliest.
        after: Timestamp,
    },
    /// A pod uses it nevertheless.
    Postponed {
        /// When it may be removed at the earliest.
        after: Timestamp,
    },
    /// EC2 is about to be asked to remove it.
    Unassigning,
    /// EC2 has removed it, or answered that it is not on the ENI.
    Unassigned,
    /// A pool takes it for the next attachment.
    Pooled,
}

impl Event {
    /// Whether the event is EC2's confirmation that the address is on the ENI.
    pub(super) fn is_confirmation(&self) -> bool {
        matches!(self, Self::Assigned { .. } | Self::Seen)
    }
}

/// What follows from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing changes.
    Stay,
    /// The address is in this state from now on.
    Become(State),
    /// The entry is to be removed.
    Forget,
}

/// What follows from `event` for an address that is in `state`, or that the ledger does
/// not know.
pub(super) fn next(state: Option<&State>, event: &Event) -> Next {
    match event {
        Event::Claimed {
            takeover,
            best_effort,
        } => Next::Become(State::Claiming {
            takeover: *takeover,
            best_effort: *best_effort,
            refusal: None,
        }),
        Event::Taken => when(state, &State::Pooled, State::Held),
        Event::Shown => shown(state),
        Event::Assigned { for_pool } => assigned(state, *for_pool),
        Event::Refused(refusal) => refused(state, refusal),
        Event::Seen => seen(state),
        Event::Missed(takeover) => missed(state, *takeover),
        Event::Ended { after } => ended(state, *after),
        Event::Postponed { after } => postponed(state, *after),
        Event::Unassigning => unassigning(state),
        Event::Unassigned => unassigned(state),
        Event::Pooled => pooled(state),
    }
}

fn when(state: Option<&State>, expected: &State, then: State) -> Next {
    match state == Some(expected) {
        true => Next::Become(then),
        false => Next::Stay,
    }
}

fn shown(state: Option<&State>) -> Next {
    match state {
        Some(State::Claiming { .. }) => Next::Become(State::Held),
        _ => Next::Stay,
    }
}

/// The attachment may have ended while EC2 was asked: then the address is on the ENI without a
/// use.
fn assigned(state: Option<&State>, for_pool: bool) -> Next {
    match state {
        Some(State::Claiming { .. }) if for_pool => Next::Become(State::Pooled),
        Some(State::Claiming { .. }) => Next::Become(State::Held),
        Some(State::Withdrawn { after }) => Next::Become(releasing(*after)),
        _ => Next::Stay,
    }
}

fn refused(state: Option<&State>, refusal: &Refusal) -> Next {
    match state {
        Some(State::Claiming {
            takeover,
            best_effort,
            ..
        }) => Next::Become(State::Claiming {
            takeover: *takeover,
            best_effort: *best_effort,
            refusal: Some(refusal.clone()),
        }),
        _ => Next::Stay,
    }
}

/// A claimed address stays claimed: a description is not an answer to a claim.
fn seen(state: Option<&State>) -> Next {
    match state {
        None | Some(State::Removed) => Next::Become(State::Adopted),
        Some(State::Withdrawn { after }) => Next::Become(releasing(*after)),
        Some(_) => Next::Stay,
    }
}

/// An existing attachment claims a lost address again. For an address that is being released,
/// EC2 is asked to remove that very address before it is forgotten.
fn missed(state: Option<&State>, takeover: Takeover) -> Next {
    match state {
        Some(State::Held) => Next::Become(State::Claiming {
            takeover,
            best_effort: true,
            refusal: None,
        }),
        Some(State::Withdrawn { .. } | State::Removed | State::Pooled | State::Adopted) => {
            Next::Forget
        }
        Some(State::Claiming { .. } | State::Releasing { .. }) | None => Next::Stay,
    }
}

/// An operator may release a pooled or an adopted address, and end a cool-down early.
fn ended(state: Option<&State>, after: Timestamp) -> Next {
    match state {
        Some(State::Claiming { .. } | State::Withdrawn { .. }) => {
            Next::Become(State::Withdrawn { after })
        }
        Some(State::Held | State::Pooled | State::Adopted) => Next::Become(releasing(after)),
        Some(State::Releasing { asked, .. }) => Next::Become(State::Releasing {
            after,
            asked: *asked,
        }),
        Some(State::Removed) | None => Next::Stay,
    }
}

fn postponed(state: Option<&State>, after: Timestamp) -> Next {
    match state {
        Some(State::Releasing { .. } | State::Withdrawn { .. }) => ended(state, after),
        _ => Next::Stay,
    }
}

fn unassigning(state: Option<&State>) -> Next {
    match state {
        Some(State::Releasing { after, .. }) => Next::Become(State::Releasing {
            after: *after,
            asked: true,
        }),
        _ => Next::Stay,
    }
}

/// It may have been claimed while EC2 was asked; then EC2 is asked to assign it again.
fn unassigned(state: Option<&State>) -> Next {
    match state {
        Some(State::Releasing { .. }) => Next::Become(State::Removed),
        _ => Next::Stay,
    }
}

/// Only an address that is certainly on the ENI goes to a pool.
fn pooled(state: Option<&State>) -> Next {
    match state {
        Some(State::Releasing { asked: false, .. } | State::Adopted) => Next::Become(State::Pooled),
        _ => Next::Stay,
    }
}

fn releasing(after: Timestamp) -> State {
    State::Releasing {
        after,
        asked: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIMED: Event = Event::Claimed {
        takeover: Takeover::Never,
        best_effort: false,
    };

    fn refusal() -> Refusal {
        Refusal {
            code: 11,
            msg: "m".into(),
            details: "d".into(),
        }
    }

    fn claiming(refusal: Option<Refusal>) -> State {
        State::Claiming {
            takeover: Takeover::Never,
            best_effort: false,
            refusal,
        }
    }

    fn states() -> Vec<(&'static str, Option<State>)> {
        let asked = State::Releasing {
            after: 5,
            asked: true,
        };
        vec![
            ("unknown", None),
            ("claiming", Some(claiming(None))),
            ("refused", Some(claiming(Some(refusal())))),
            ("held", Some(State::Held)),
            ("releasing", Some(releasing(5))),
            ("asked", Some(asked)),
            ("withdrawn", Some(State::Withdrawn { after: 5 })),
            ("removed", Some(State::Removed)),
            ("pooled", Some(State::Pooled)),
            ("adopted", Some(State::Adopted)),
        ]
    }

    fn events() -> Vec<(&'static str, Event)> {
        vec![
            ("claimed", CLAIMED),
            ("taken", Event::Taken),
            ("shown", Event::Shown),
            ("assigned", Event::Assigned { for_pool: false }),
            ("stocked", Event::Assigned { for_pool: true }),
            ("refused", Event::Refused(refusal())),
            ("seen", Event::Seen),
            ("missed", Event::Missed(Takeover::Never)),
            ("ended", Event::Ended { after: 5 }),
            ("postponed", Event::Postponed { after: 5 }),
            ("unassigning", Event::Unassigning),
            ("unassigned", Event::Unassigned),
            ("pooled", Event::Pooled),
        ]
    }

    /// The name that [`states`] has for a state, whatever its numbers are.
    fn name(state: &State) -> &'static str {
        match state {
            State::Claiming { refusal: None, .. } => "claiming",
            State::Claiming { .. } => "refused",
            State::Held => "held",
            State::Releasing { asked: false, .. } => "releasing",
            State::Releasing { .. } => "asked",
            State::Withdrawn { .. } => "withdrawn",
            State::Removed => "removed",
            State::Pooled => "pooled",
            State::Adopted => "adopted",
        }
    }

    /// A column is an event in the order of [`events`]; `.` is a state that stays.
    const TABLE: [(&str, [&str; 13]); 10] = [
        (
            "unknown",
            [
                "claiming", ".", ".", ".", ".", ".", "adopted", ".", ".", ".", ".", ".", ".",
            ],
        ),
        (
            "claiming",
            [
                "claiming",
                ".",
                "held",
                "held",
                "pooled",
                "refused",
                ".",
                ".",
                "withdrawn",
                ".",
                ".",
                ".",
                ".",
            ],
        ),
        (
            "refused",
            [
                "claiming",
                ".",
                "held",
                "held",
                "pooled",
                "refused",
                ".",
                ".",
                "withdrawn",
                ".",
                ".",
                ".",
                ".",
            ],
        ),
        (
            "held",
            [
                "claiming",
                ".",
                ".",
                ".",
                ".",
                ".",
                ".",
                "claiming",
                "releasing",
                ".",
                ".",
                ".",
                ".",
            ],
        ),
        (
            "releasing",
            [
                "claiming",
                ".",
                ".",
                ".",
                ".",
                ".",
                ".",
                ".",
                "releasing",
                "releasing",
                "asked",
                "removed",
                "pooled",
            ],
        ),
        (
            "asked",
            [
                "claiming", ".", ".", ".", ".", ".", ".", ".", "asked", "asked", "asked",
                "removed", ".",
            ],
        ),
        (
            "withdrawn",
            [
                "claiming",
                ".",
                ".",
                "releasing",
                "releasing",
                ".",
                "releasing",
                "forgotten",
                "withdrawn",
                "withdrawn",
                ".",
                ".",
                ".",
            ],
        ),
        (
            "removed",
            [
                "claiming",
                ".",
                ".",
                ".",
                ".",
                ".",
                "adopted",
                "forgotten",
                ".",
                ".",
                ".",
                ".",
                ".",
            ],
        ),
        (
            "pooled",
            [
                "claiming",
                "held",
                ".",
                ".",
                ".",
                ".",
                ".",
                "forgotten",
                "releasing",
                ".",
                ".",
                ".",
                ".",
            ],
        ),
        (
            "adopted",
            [
                "claiming",
                ".",
                ".",
                ".",
                ".",
                ".",
                ".",
                "forgotten",
                "releasing",
                ".",
                ".",
                ".",
                "pooled",
            ],
        ),
    ];

    #[test]
    fn every_event_has_its_consequence_in_every_state() {
        let (states, events) = (states(), events());
        for ((name_of, state), (row, cells)) in states.iter().zip(TABLE) {
            assert_eq!(*name_of, row);
            for ((event_name, event), expected) in events.iter().zip(cells) {
                let found = match next(state.as_ref(), event) {
                    Next::Stay => ".",
                    Next::Forget => "forgotten",
                    Next::Become(state) => name(&state),
                };
                assert_eq!(found, expected, "{event_name} in {row}");
            }
        }
    }

    /// Whether EC2 has the address on the ENI, for all that the state says.
    fn is_on_eni(state: &State) -> bool {
        matches!(
            state,
            State::Held | State::Releasing { .. } | State::Pooled | State::Adopted
        )
    }

    #[test]
    fn only_an_answer_of_aws_makes_a_claim_an_assigned_address() {
        for (row, state) in states() {
            let was_there = state.as_ref().is_some_and(is_on_eni);
            for (event_name, event) in events() {
                let Next::Become(after) = next(state.as_ref(), &event) else {
                    continue;
                };
                let is_answer = event.is_confirmation() || event == Event::Shown;
                assert!(
                    was_there || is_answer || !is_on_eni(&after),
                    "{event_name} in {row} leads to {after:?}"
                );
            }
        }
    }
}
