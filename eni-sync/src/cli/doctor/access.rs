//! Checks of the access to AWS: metadata, region, credentials, permissions.

use crate::cli::doctor::facts::{Access, Facts, Question};
use crate::cli::doctor::finding::Finding;
use crate::vpc::failure::{Failure, Kind};

pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    let access = &facts.access;
    let mut findings = vec![imds(access)];
    findings.extend(region(access));
    findings.extend(credentials(access));
    // Without valid credentials, every request fails; that is one finding.
    let is_own = |question: &&Question| {
        let failure = question.failure.as_ref();
        failure.is_none_or(|failure| failure.kind != Kind::Credentials)
    };
    findings.extend(access.questions.iter().filter(is_own).map(permission));
    findings
}

fn imds(access: &Access) -> Finding {
    const CHECK: &str = "imds";
    match &access.identity {
        Ok(identity) => Finding::ok(
            CHECK,
            &identity.instance_id,
            format!(
                "IMDSv2 answers: {} in {}",
                identity.instance_type, identity.region
            ),
        ),
        Err(error) => Finding::error(CHECK, "node", error.to_string())
            .advise("enable the instance's metadata service; in a pod, eni-sync needs hostNetwork"),
    }
}

fn region(access: &Access) -> Option<Finding> {
    const CHECK: &str = "region";
    let node = access.identity.as_ref().ok()?.region.as_str();
    Some(match access.region_variable.as_deref() {
        Some(other) if other != node => {
            let says = format!("AWS_REGION is {other}, and the node is in {node}");
            Finding::error(CHECK, "node", says).advise("unset AWS_REGION")
        }
        _ => Finding::ok(CHECK, "node", node),
    })
}

fn credentials(access: &Access) -> Option<Finding> {
    const CHECK: &str = "credentials";
    let of_answers = access.questions.iter().find_map(|question| {
        let failure = question.failure.as_ref()?;
        (failure.kind == Kind::Credentials).then(|| failure.answer.clone())
    });
    let advice = "give the instance a role, or eni-sync credentials";
    Some(match (access.credentials.as_ref()?, of_answers) {
        (Err(error), _) => Finding::error(CHECK, "node", error.to_string()).advise(advice),
        (_, Some(answer)) => {
            let says = format!("EC2 does not accept them: {answer}");
            Finding::error(CHECK, "node", says).advise(advice)
        }
        (Ok(()), None) => Finding::ok(CHECK, "node", "there are some"),
    })
}

fn permission(question: &Question) -> Finding {
    const CHECK: &str = "permission";
    let subject = format!("ec2:{}", question.action);
    match &question.failure {
        Some(failure) if failure.kind == Kind::NotPermitted => denied(question, &subject, failure),
        Some(failure) if question.is_probe && failure.kind == Kind::Invalid => {
            Finding::ok(CHECK, &subject, "permitted")
        }
        Some(failure) if failure.kind == Kind::Throttled => {
            let says = format!("EC2 throttles this account: {}", failure.answer);
            Finding::warning(CHECK, &subject, says)
                .advise("others use up the account's budget of calls; look again later")
        }
        Some(failure) => {
            let says = format!(
                "it is not known whether this is permitted: {}",
                failure.answer
            );
            let advice = "check the path to EC2: routes, security groups, proxy and endpoint";
            match question.is_needed && !question.is_probe {
                true => Finding::error(CHECK, &subject, says).advise(advice),
                false => Finding::warning(CHECK, &subject, says).advise(advice),
            }
        }
        None => Finding::ok(CHECK, &subject, "permitted"),
    }
}

fn denied(question: &Question, subject: &str, failure: &Failure) -> Finding {
    const CHECK: &str = "permission";
    let says = format!("not permitted: {}", failure.answer);
    match question.is_needed {
        true => Finding::error(CHECK, subject, says)
            .advise(format!("allow {subject} in the role's policy")),
        false => Finding::info(CHECK, subject, says)
            .advise("only the doctor asks this; allow it to have more checked"),
    }
}
