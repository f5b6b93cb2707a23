//! Logs the changes that EC2 was asked for and its answers, with the id of the request, which
//! AWS Support asks for and CloudTrail has too.

use std::net::IpAddr;

use aws_sdk_ec2::operation::RequestId;
use common::address::Cidr;
use tracing::{debug, info};

use super::Outcome;

/// Logs the answer to a request that changes the addresses of an ENI. A failure is returned.
pub(super) fn change<T: RequestId>(
    action: &str,
    eni: &str,
    addresses: &[IpAddr],
    answer: Outcome<T>,
) -> Outcome<()> {
    log(action, eni, &list(addresses), answer)
}

/// The same for a request that changes its prefixes.
pub(super) fn change_prefixes<T: RequestId>(
    action: &str,
    eni: &str,
    prefixes: &[Cidr],
    answer: Outcome<T>,
) -> Outcome<()> {
    log(action, eni, &list(prefixes), answer)
}

fn log<T: RequestId>(action: &str, eni: &str, addresses: &str, answer: Outcome<T>) -> Outcome<()> {
    match answer {
        Ok(answer) => {
            let request_id = answer.request_id();
            info!(
                action,
                eni, addresses, request_id, "the request to EC2 succeeded"
            );
            Ok(())
        }
        Err(failure) => {
            let request_id = failure.request_id.as_deref();
            let reason = failure.answer.as_str();
            info!(
                action,
                eni, addresses, request_id, reason, "the request to EC2 failed"
            );
            Err(failure)
        }
    }
}

/// Logs the answer to any request.
pub(super) fn answered<T>(action: &str, answer: &Outcome<T>) {
    let failure = answer.as_ref().err();
    let request_id = failure.and_then(|failure| failure.request_id.as_deref());
    let reason = failure.map(|failure| failure.answer.as_str());
    debug!(action, request_id, reason, "EC2 was asked");
}

fn list(addresses: &[impl ToString]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(",")
}
