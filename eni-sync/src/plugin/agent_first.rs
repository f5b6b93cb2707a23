//! Decides who does the work of an ADD: the agent of the node, else the plugin itself. If only
//! the agent has a role in AWS, the plugin waits for the agent instead.

use std::thread;
use std::time::Duration;

use common::cni::args::ConfArgs;
use common::error::{Error, ErrorCode, Result};
use common::say;

use crate::deadline::Deadline;
use crate::plugin::socket;
use crate::vpc::clients::Aws;
use crate::vpc::environment;
use crate::vpc::failure::NOT_PERMITTED;
use crate::vpc::inventory;

/// The pause before the agent is asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long STATUS waits for the agent, which may have to ask AWS.
const STATUS_TIME: Duration = Duration::from_secs(30);
/// The least time that an agent needs for a request.
const LEAST: Duration = Duration::from_secs(3);

/// The clients of AWS, with the variables of the last agent where this process lacks them. For
/// that the program may be executed again, which repeats everything that was done before.
pub(super) fn own_aws(conf: &ConfArgs, deadline: Deadline) -> Aws {
    environment::adopt_as_plugin(&conf.stdin, deadline);
    Aws::open().until(deadline)
}

/// The answer of the agent to `ask`, else the result of `own`.
///
/// # Errors
/// Those of either; code 11 when an agent whose role is needed does not answer in time.
pub(super) fn agent_first<T>(
    conf: &ConfArgs,
    deadline: Deadline,
    ask: impl Fn() -> Option<Result<T>>,
    own: impl FnOnce(&Aws) -> Result<T>,
) -> Result<T> {
    // This program has asked before it was executed again.
    if !environment::is_adopted()
        && let Some(answer) = ask()
    {
        return answer;
    }
    let aws = own_aws(conf, deadline);
    if !environment::is_role_of_agent() {
        return own(&aws);
    }
    let failed = match require_role(&aws) {
        Err(error) => error,
        Ok(()) => match own(&aws) {
            Err(error) if error.code == NOT_PERMITTED => error,
            outcome => return outcome,
        },
    };
    drop(aws);
    say!("waiting for the agent, whose role this node does not have: {failed}");
    while deadline.left() > LEAST {
        thread::sleep(PAUSE);
        if let Some(answer) = ask() {
            return answer;
        }
    }
    let msg = "timed out waiting for the agent of eni-sync, whose role this node does not have";
    Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(failed.to_string()))
}

fn require_role(aws: &Aws) -> Result<()> {
    let region = aws.imds()?.identity()?.region;
    aws.require_credentials(&region)
}

/// Whether an ADD would succeed now: by the agent, which may have credentials that this process
/// lacks, else by this process.
///
/// # Errors
/// Code 50 saying what is missing.
pub(super) fn status(conf: &ConfArgs) -> Result<()> {
    if let Some(answer) = agent_status() {
        return answer;
    }
    let usable = inventory::require_usable(&own_aws(conf, Deadline::default()));
    match usable {
        // An ADD waits for the agent then.
        Err(error) if environment::is_role_of_agent() => {
            let msg = "the agent of eni-sync does not answer, and its role is needed";
            Err(Error::new(ErrorCode::UNAVAILABLE, msg).with_details(error.to_string()))
        }
        usable => usable,
    }
}

/// Whether the agent would serve an ADD now; `None` if no agent answers.
fn agent_status() -> Option<Result<()>> {
    if environment::is_adopted() {
        return None;
    }
    let answer = socket::status(Deadline::after(STATUS_TIME))?;
    Some(answer.map_err(|error| error.with_code(ErrorCode::UNAVAILABLE)))
}
