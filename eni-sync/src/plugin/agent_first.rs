//! Who does the work of an ADD: the agent of the node, else the plugin itself. Where only the
//! agent has a role in AWS, the plugin waits for an agent instead.

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

/// How long until the agent is asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// For how long STATUS waits for the agent, which may have to ask AWS.
const STATUS_TIME: Duration = Duration::from_secs(30);
/// An agent needs this long at least for what it is asked.
const LEAST: Duration = Duration::from_secs(3);

/// AWS as this process reaches it, by the way of the last agent where it has none of its own.
/// Whatever was done before is done once more, because the program is executed anew for that.
pub(super) fn own_aws(conf: &ConfArgs, deadline: Deadline) -> Aws {
    environment::adopt_as_plugin(&conf.stdin, deadline);
    Aws::open().until(deadline)
}

/// The answer of the agent to `ask`, else what `own` comes to.
///
/// # Errors
/// Those of either; code 11 when the agent whose role is needed does not come in time.
pub(super) fn agent_first<T>(
    conf: &ConfArgs,
    deadline: Deadline,
    ask: impl Fn() -> Option<Result<T>>,
    own: impl FnOnce(&Aws) -> Result<T>,
) -> Result<T> {
    // The one that was executed before this one has asked already.
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
    say!("waiting for the agent, whose role this node has not: {failed}");
    while deadline.left() > LEAST {
        thread::sleep(PAUSE);
        if let Some(answer) = ask() {
            return answer;
        }
    }
    let msg = "timed out waiting for the agent of eni-sync, whose role this node has not";
    Err(Error::new(ErrorCode::TRY_AGAIN, msg).with_details(failed.to_string()))
}

fn require_role(aws: &Aws) -> Result<()> {
    let region = aws.imds()?.identity()?.region;
    aws.require_credentials(&region)
}

/// Whether an ADD would succeed now: as the agent says, which has what it needs even where this
/// process has nothing of it, else as this process finds out.
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

/// Whether the agent would serve an ADD now; nothing where there is no agent that says.
fn agent_status() -> Option<Result<()>> {
    if environment::is_adopted() {
        return None;
    }
    let answer = socket::status(Deadline::after(STATUS_TIME))?;
    Some(answer.map_err(|error| error.with_code(ErrorCode::UNAVAILABLE)))
}
