//! A client of the cluster's API server, as a pod with a service account reaches it. It is used
//! rarely, so no state is kept between two requests: a new token or authority counts at once.

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::HttpConnector;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::body::SdkBody;
use common::error::{Error, ErrorCode, Result};
use common::files::file;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::vpc::failure::{NOT_PERMITTED, causes};
use crate::vpc::http;

/// The directory in which the kubelet puts the token and the authority of a service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The size limit of a token in bytes.
const LONGEST_TOKEN: u64 = 64 << 10;
/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// A request that changes something.
pub(super) struct Change<'a> {
    /// `POST` or `PATCH`.
    pub(super) method: &'static str,
    /// The media type of the body.
    pub(super) content_type: &'static str,
    /// The object, or the patch.
    pub(super) body: &'a Value,
}

/// The object at a path; `None` if it does not exist.
///
/// # Errors
/// Those of [`send`].
pub(super) fn get(path: &str) -> Result<Option<Value>> {
    send(path, None)
}

/// Changes or creates the object at a path; `None` if it does not exist.
///
/// # Errors
/// Those of [`send`].
pub(super) fn change(path: &str, change: Change<'_>) -> Result<Option<Value>> {
    send(path, Some(change))
}

/// # Errors
/// Code 5 naming a file of the service account, 7 when the agent is not a pod, 100 naming the
/// request that the account may not make, 11 for all failures that may pass.
fn send(path: &str, change: Option<Change<'_>>) -> Result<Option<Value>> {
    let method = change.as_ref().map_or("GET", |change| change.method);
    let again = |why: String| {
        let msg = format!("Kubernetes has not answered {method} {path}");
        Error::new(ErrorCode::TRY_AGAIN, msg).with_details(why)
    };
    let request = request(path, change)?;
    let client = http::for_cluster(&Path::new(ACCOUNT).join("ca.crt"))?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| again(cause.to_string()))?;
    let answered = async {
        let answer = client.call(request).await;
        let answer = answer.map_err(|cause| cause_of(&cause))?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await;
        let body = body.map_err(|cause| cause.to_string())?;
        Ok::<_, String>((status, body.to_bytes()))
    };
    let late = |_| format!("no answer within {} s", DEADLINE.as_secs());
    let answer = runtime.block_on(async { timeout(DEADLINE, answered).await.map_err(late) });
    let (status, body) = answer.flatten().map_err(again)?;
    // An answer that is not JSON does not come from the API server.
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let said = || answer["message"].as_str().unwrap_or_default().to_owned();
    match status {
        200..=299 => Ok(Some(answer)),
        404 => Ok(None),
        // The object exists already.
        409 if method == "POST" => Ok(Some(answer)),
        401 | 403 => {
            let msg = format!("Kubernetes does not permit {method} {path}");
            Err(Error::new(NOT_PERMITTED, msg).with_details(said()))
        }
        _ => Err(again(format!("status {status} {}", said()))),
    }
}

fn request(path: &str, change: Option<Change<'_>>) -> Result<HttpRequest> {
    let refused = |cause: &dyn std::fmt::Display| {
        Error::config("the API server of Kubernetes cannot be asked")
            .with_details(cause.to_string())
    };
    let token = token()?;
    let mut request = HttpRequest::new(SdkBody::empty());
    let add = |headers: &mut Headers, name: &'static str, value: String| {
        headers
            .try_insert(name, value)
            .map(drop)
            .map_err(|cause| refused(&cause))
    };
    add(
        request.headers_mut(),
        "authorization",
        format!("Bearer {token}"),
    )?;
    add(
        request.headers_mut(),
        "accept",
        "application/json".to_owned(),
    )?;
    if let Some(change) = change {
        let set = request.set_method(change.method);
        set.map_err(|cause| refused(&cause))?;
        add(
            request.headers_mut(),
            "content-type",
            change.content_type.to_owned(),
        )?;
        let body = change.body.to_string();
        add(
            request.headers_mut(),
            "content-length",
            body.len().to_string(),
        )?;
        *request.body_mut() = SdkBody::from(body);
    }
    let uri = format!("{}{path}", origin()?);
    request.set_uri(uri).map_err(|cause| refused(&cause))?;
    Ok(request)
}

/// The URL of the API server, by the variables that Kubernetes sets for every pod.
fn origin() -> Result<String> {
    let named = |name: &str| {
        env::var(name)
            .ok()
            .filter(|value| !value.is_empty())
            .ok_or_else(|| {
                let msg = format!("the agent is not a pod of Kubernetes: {name} is not set");
                Error::config(msg).with_details("remove the key kubernetes from its configuration")
            })
    };
    let (host, port) = (
        named("KUBERNETES_SERVICE_HOST")?,
        named("KUBERNETES_SERVICE_PORT")?,
    );
    match host.contains(':') {
        true => Ok(format!("https://[{host}]:{port}")),
        false => Ok(format!("https://{host}:{port}")),
    }
}

/// The token of the service account. The file is behind symbolic links and is renewed.
fn token() -> Result<String> {
    let path = Path::new(ACCOUNT).join("token");
    let read = || file::read_regular(&fs::canonicalize(&path)?, LONGEST_TOKEN);
    let token = read().map_err(|cause| {
        let msg = format!("failed to read {path:?}, the token of the agent's service account");
        Error::io(msg, &cause)
    })?;
    Ok(String::from_utf8_lossy(&token).trim().to_owned())
}

/// The innermost cause of an error of the connection: the outer ones do not explain it.
fn cause_of(error: &(dyn std::error::Error + 'static)) -> String {
    let first = causes(error).last().map(ToString::to_string);
    first.unwrap_or_default()
}
