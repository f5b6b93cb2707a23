//! Parses what a delegate prints: a result when it succeeds, an error when it fails. The
//! delegate may be any program, so its output can be anything.

use serde::Deserialize;
use serde_json::Value;

use crate::cni::lenient::read_value;
use crate::cni::process::Output;
use crate::cni::result::AddResult;
use crate::cni::version::CniVersion;
use crate::error::{Error, ErrorCode, Result};

/// The result that a successful delegate printed.
///
/// # Errors
/// Code 6 when it is not a result of `version`.
pub fn result(stdout: &[u8], version: CniVersion) -> Result<AddResult> {
    parse_object(stdout)
        .and_then(|value| AddResult::from_value(&value, version))
        .map_err(|cause| {
            let msg = "failed to parse the result of the IPAM plugin";
            Error::new(ErrorCode::DECODING, msg).with_details(cause.to_string())
        })
}

/// The error that a failed delegate printed, or an error with the text of libcni when the
/// output is something else.
pub fn error(output: &Output) -> Error {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    if stdout.is_empty() && stderr.is_empty() {
        return Error::internal(format!(
            "netplugin failed with no error message: {}",
            output.status
        ));
    }
    if stdout.is_empty() {
        return Error::internal(format!("netplugin failed: {stderr:?}"));
    }
    match parse_error(&stdout) {
        Ok(error) => error,
        Err(cause) => Error::internal(format!(
            "netplugin failed but error parsing its diagnostic message {stdout:?}: {cause}"
        )),
    }
}

fn parse_error(stdout: &str) -> Result<Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Document {
        code: u32,
        msg: String,
        details: String,
    }
    let document: Document =
        read_value(&parse_object(stdout.as_bytes())?, "not an error document")?;
    Ok(Error::new(ErrorCode(document.code), document.msg).with_details(document.details))
}

fn parse_object(bytes: &[u8]) -> Result<Value> {
    let wrong = |cause: String| Error::new(ErrorCode::DECODING, cause);
    match serde_json::from_slice(bytes) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(wrong("not a JSON object".into())),
        Err(cause) => Err(wrong(cause.to_string())),
    }
}
