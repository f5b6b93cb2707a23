//! Calls EC2's API by action and parameters: to create, attach, tag and change ENIs by hand,
//! like an administrator in the console without restrictions.

use std::env;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;

/// An authorization header that the lab accepts for every call, without the restrictions of a
/// node's role.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIDLAB/20260101/us-west-2/ec2/aws4_request, \
    SignedHeaders=host, Signature=00";
const VERSION: &str = "2016-11-15";

/// Calls an action with parameters of the form `NAME=VALUE`, and returns EC2's answer, in XML.
/// An error answer is returned as an error.
pub(crate) fn ec2(action: &str, parameters: &[String]) -> Result<String, String> {
    let form = form(action, parameters)?;
    let url = env::var("AWS_ENDPOINT_URL_EC2")
        .map_err(|_| "AWS_ENDPOINT_URL_EC2 is not set: export what `eni-lab` prints".to_owned())?;
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let answer = post(host, &form).map_err(|cause| format!("cannot call {url}: {cause}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(body.to_owned()),
    }
}

/// The text of the first element of this name.
pub(crate) fn element<'a>(answer: &'a str, name: &str) -> Result<&'a str, String> {
    let begin = answer.split_once(&format!("<{name}>"));
    let text = begin.and_then(|(_, rest)| rest.split_once(&format!("</{name}>")));
    let text = text.ok_or_else(|| format!("the answer has no {name}:\n{answer}"))?;
    Ok(text.0)
}

fn form(action: &str, parameters: &[String]) -> Result<String, String> {
    let mut form = format!("Action={action}&Version={VERSION}");
    for parameter in parameters {
        let (name, value) = parameter
            .split_once('=')
            .ok_or_else(|| format!("{parameter:?} is not NAME=VALUE"))?;
        form += &format!("&{}={}", escaped(name), escaped(value));
    }
    Ok(form)
}

fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _infallible = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

fn post(host: &str, form: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(host)?;
    let length = form.len();
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: {AUTHORIZATION}\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{form}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
