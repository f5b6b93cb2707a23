//! Failures of calls to AWS. The code of an answer decides which kind of failure it is; its
//! text is only for people.

use std::error::Error as StdError;

use aws_runtime::retries::classifiers::{THROTTLING_ERRORS, TRANSIENT_ERRORS};
use aws_smithy_types::error::ErrorMetadata;
use common::error::{Error, ErrorCode};

/// Our own error code: AWS does not permit the call. Trying again does not help until the role
/// is changed.
pub(crate) const NOT_PERMITTED: ErrorCode = ErrorCode(100);

/// Codes for a refused signature: wrong credentials, or a wrong clock.
const SIGNATURE: [&str; 12] = [
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "RequestExpired",
    "RequestInTheFuture",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// Codes for what the role of the node is not allowed to do.
pub(crate) const DENIALS: [&str; 3] = ["AccessDenied", "OptInRequired", "UnauthorizedOperation"];

/// Codes of refusals because of a temporary state, not because of the request.
const TEMPORARY: [&str; 4] = ["Blocked", "IncorrectState", NO_FREE_ADDRESS, NO_FREE_PREFIX];
/// The code for a subnet that has fewer free addresses than were asked for.
const NO_FREE_ADDRESS: &str = "InsufficientFreeAddressesInSubnet";

/// The code for a subnet that has fewer free prefixes than were asked for.
const NO_FREE_PREFIX: &str = "InsufficientCidrBlocks";

/// A request that has not succeeded. EC2 may have carried it out nevertheless: an attempt whose
/// answer was lost counts as failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The API action, such as `AssignPrivateIpAddresses`.
    pub(crate) action: &'static str,
    /// What kind of failure it is.
    pub(crate) kind: Kind,
    /// The code of the answer as AWS writes it, or one word that says why there is no answer.
    pub(crate) code: String,
    /// The id of the request, where EC2 has given it one.
    pub(crate) request_id: Option<String>,
    /// The code and the text of the answer, or why there is no answer.
    pub(crate) answer: String,
}

/// The kinds of failures that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The node's role lacks the permission.
    NotPermitted,
    /// There are no usable credentials.
    Credentials,
    /// The account's budget of calls is used up.
    Throttled,
    /// The ENI has all the addresses that its instance type allows.
    SlotsExhausted,
    /// What the call was about does not exist.
    Missing,
    /// AWS does not accept the request as it is; the reason is only in the text.
    Invalid,
    /// No answer, or an error of the server.
    Unanswered,
    /// AWS was not asked (again), because the ENI that was to be changed is not on this node
    /// any more, or not for pods.
    NotOurs,
}

impl Failure {
    /// Whether EC2 has refused the request, so that nothing was done.
    pub(crate) fn is_definite(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Throttled | Kind::Unanswered | Kind::Credentials
        )
    }

    /// The failure of a call that was not answered before the deadline.
    pub(crate) fn too_late(action: &'static str) -> Self {
        Self {
            action,
            kind: Kind::Unanswered,
            code: "TooLate".to_owned(),
            request_id: None,
            answer: "there was no answer in the time that was left for it".to_owned(),
        }
    }

    /// The failure of a change of an ENI that has left this node, before the (next) request.
    pub(crate) fn not_ours(eni: &str) -> Self {
        Self {
            action: "DescribeNetworkInterfaces",
            kind: Kind::NotOurs,
            code: "NotOurs".to_owned(),
            request_id: None,
            answer: format!("EC2 does not show {eni} on this node with its tag"),
        }
    }

    /// The failure of a call whose answer lacks what was asked for.
    pub(crate) fn empty(action: &'static str) -> Self {
        Self {
            action,
            kind: Kind::Unanswered,
            code: "Empty".to_owned(),
            request_id: None,
            answer: "the answer names no address and no prefix".to_owned(),
        }
    }

    /// What kind of failure an answer is, by its code and its HTTP status. Which codes
    /// are worth another attempt is the SDK's knowledge; the others are from EC2 API
    /// reference, "Error codes for the Amazon EC2 API".
    pub(crate) fn kind_of(code: &str, status: u16) -> Kind {
        match code {
            code if DENIALS.contains(&code) => Kind::NotPermitted,
            code if SIGNATURE.contains(&code) => Kind::Credentials,
            code if THROTTLING_ERRORS.contains(&code) => Kind::Throttled,
            code if TRANSIENT_ERRORS.contains(&code) => Kind::Unanswered,
            "PrivateIpAddressLimitExceeded" | "Ipv6AddressLimitExceeded" => Kind::SlotsExhausted,
            "InternalError" | "InternalFailure" | "Unavailable" | "ServiceUnavailable" => {
                Kind::Unanswered
            }
            code if code.ends_with(".NotFound") => Kind::Missing,
            _ if status >= 500 => Kind::Unanswered,
            _ => Kind::Invalid,
        }
    }

    /// Whether EC2 refused because of a temporary state, not because of the request.
    pub(crate) fn is_temporary(&self) -> bool {
        TEMPORARY.contains(&self.code.as_str())
    }

    /// Whether the subnet has fewer free addresses than were asked for.
    pub(crate) fn is_exhausted_subnet(&self) -> bool {
        self.code == NO_FREE_ADDRESS
    }

    /// Whether the subnet has fewer free prefixes than were asked for.
    pub(crate) fn is_without_prefixes(&self) -> bool {
        self.code == NO_FREE_PREFIX
    }

    /// Whether EC2 has refused the signature of the request, and so done nothing.
    pub(crate) fn is_of_signature(&self) -> bool {
        SIGNATURE.contains(&self.code.as_str())
    }

    /// Whether every other call would fail in the same way now.
    pub(crate) fn concerns_every_call(&self) -> bool {
        matches!(
            self.kind,
            Kind::NotPermitted | Kind::Credentials | Kind::Throttled
        )
    }

    /// The error for the runtime: `what` was being done, to what.
    pub(crate) fn error(&self, what: &str) -> Error {
        let (code, why) = match self.kind {
            Kind::NotPermitted => (
                NOT_PERMITTED,
                format!("the node's role does not permit ec2:{}", self.action),
            ),
            Kind::Credentials if self.is_of_signature() => (
                ErrorCode::TRY_AGAIN,
                "AWS does not accept the credentials, or the time of this node".to_owned(),
            ),
            Kind::Credentials => (
                ErrorCode::TRY_AGAIN,
                "there are no valid AWS credentials".to_owned(),
            ),
            Kind::Throttled => (
                ErrorCode::TRY_AGAIN,
                format!("AWS throttles {}", self.action),
            ),
            Kind::SlotsExhausted => (ErrorCode::TRY_AGAIN, "the ENI is full".to_owned()),
            Kind::Missing => (
                ErrorCode::TRY_AGAIN,
                format!("{} found nothing", self.action),
            ),
            Kind::Invalid if self.is_temporary() => (
                ErrorCode::TRY_AGAIN,
                format!("AWS refuses {} now", self.action),
            ),
            Kind::Invalid => (
                ErrorCode::NETWORK_CONFIG,
                format!("AWS refuses {}", self.action),
            ),
            Kind::Unanswered => (
                ErrorCode::TRY_AGAIN,
                format!("AWS did not answer {}", self.action),
            ),
            Kind::NotOurs => (
                ErrorCode::TRY_AGAIN,
                "the ENI is not on this node any more".to_owned(),
            ),
        };
        Error::new(code, format!("failed to {what}: {why}")).with_details(self.answer.as_str())
    }
}

/// The texts of an error and of its causes. Only the texts: debug output of the SDK repeats
/// whole answers, which may be secret. The answer of a service is given by its code and text,
/// without the id of the request, so that a repeated failure has the same text.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in causes(error) {
        match cause.downcast_ref::<ErrorMetadata>() {
            Some(answer) => {
                // The cause before it says the same in the SDK's words.
                texts.pop();
                let code = answer.code().unwrap_or_default();
                texts.push(format!("{code}: {}", answer.message().unwrap_or_default()));
            }
            None => texts.push(cause.to_string()),
        }
    }
    // An error that only wraps another one says the same.
    texts.dedup();
    texts.join(": ")
}

/// An error and what caused it, the first cause last.
pub(crate) fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let mut causes = vec![error];
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_sdk_takes_for_throttling_is_throttling() {
        for code in THROTTLING_ERRORS {
            assert_eq!(Failure::kind_of(code, 400), Kind::Throttled, "{code}");
        }
    }

    #[test]
    fn an_error_of_the_server_is_no_answer_and_one_of_the_request_is_a_refusal() {
        for code in ["SomethingNew", ""] {
            assert_eq!(Failure::kind_of(code, 502), Kind::Unanswered);
            assert_eq!(Failure::kind_of(code, 400), Kind::Invalid);
        }
    }
}
