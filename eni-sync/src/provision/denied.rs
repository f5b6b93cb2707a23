//! Errors about missing permissions, with the statement of the policy that would grant them.

use common::error::Error;

use crate::vpc::failure::{Failure, Kind};

/// The file with the statements.
const POLICY: &str = "iam-policy-attach.json";

/// The statement of the policy for each action.
const STATEMENTS: [(&str, &str); 6] = [
    ("DescribeSecurityGroups", "LookAtSecurityGroups"),
    ("CreateNetworkInterface", "CreateTaggedEnis"),
    ("AttachNetworkInterface", "AttachTaggedEnis"),
    ("ModifyNetworkInterfaceAttribute", "DeleteWithInstance"),
    ("DetachNetworkInterface", "DetachTaggedEnis"),
    ("DeleteNetworkInterface", "DeleteTaggedEnis"),
];

/// The error of a request; one that is not permitted names the statement that is missing.
pub(super) fn explained(failure: &Failure, what: &str) -> Error {
    let error = failure.error(what);
    let mut statements = STATEMENTS.iter();
    let statement = statements.find(|(action, _)| *action == failure.action);
    match statement.filter(|_| failure.kind == Kind::NotPermitted) {
        None => error,
        Some((_, sid)) => {
            let details = format!(
                "{}; the statement {sid} of {POLICY} permits it",
                failure.answer
            );
            error.with_details(details)
        }
    }
}
