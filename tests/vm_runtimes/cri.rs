//! A client of Kubernetes' Container Runtime Interface, as far as the tests speak it:
//! unary calls of gRPC, with messages made and read field by field.

use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::http::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::time::timeout;

const SERVICE: &str = "http://localhost/runtime.v1.RuntimeService";
/// What a runtime on an emulated machine may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Before every message stand a flag, which says that it is not compressed, and its
/// length in four bytes.
const PREFIX: usize = 5;

/// The runtime behind a socket.
pub(super) struct Cri {
    socket: PathBuf,
}

impl Cri {
    pub(super) fn at(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Whether the runtime answers. Unlike others, this call is refused until the runtime
    /// knows what runs.
    pub(super) fn is_ready(&self) -> bool {
        self.call("ListPodSandbox", &[]).is_ok()
    }

    /// Makes the sandbox of a pod, whose id is the answer.
    pub(super) fn run_pod_sandbox(&self, pod: &str) -> Result<String, String> {
        let metadata = [field(1, pod), field(2, pod), field(3, "default")].concat();
        let config = field(1, metadata);
        let answer = self.call("RunPodSandbox", &field(1, config))?;
        Ok(text(&answer, &[1]))
    }

    /// The address that the runtime shows for a pod.
    #[track_caller]
    pub(super) fn address(&self, sandbox: &str) -> String {
        let answer = self.call("PodSandboxStatus", &field(1, sandbox));
        // PodSandboxStatusResponse.status.network.ip
        text(
            &answer.unwrap_or_else(|error| panic!("{error}")),
            &[1, 5, 1],
        )
    }

    pub(super) fn stop_pod_sandbox(&self, sandbox: &str) -> Result<(), String> {
        self.call("StopPodSandbox", &field(1, sandbox)).map(drop)
    }

    pub(super) fn remove_pod_sandbox(&self, sandbox: &str) -> Result<(), String> {
        self.call("RemovePodSandbox", &field(1, sandbox)).map(drop)
    }

    /// Calls a method; the error is the runtime's message.
    fn call(&self, method: &str, message: &[u8]) -> Result<Vec<u8>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        runtime
            .block_on(async { timeout(PATIENCE, self.exchange(method, message)).await })
            .unwrap_or_else(|_| Err(format!("{method}: no answer within {PATIENCE:?}")))
    }

    async fn exchange(&self, method: &str, message: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |cause: hyper::Error| format!("{method}: {cause:?}");
        let stream = UnixStream::connect(&self.socket);
        let stream = TokioIo::new(stream.await.map_err(|cause| cause.to_string())?);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .map_err(failed)?;
        tokio::spawn(connection);

        let length = u32::try_from(message.len()).expect("messages are small");
        let body = [&[0], &length.to_be_bytes()[..], message].concat();
        let request = Request::post(format!("{SERVICE}/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(body)))
            .expect("the request is valid");
        let response = sender.send_request(request).await.map_err(failed)?;
        let headers = response.headers().clone();
        let body = response.into_body().collect().await.map_err(failed)?;
        // A call without an answer has its status in the headers.
        status(body.trailers().unwrap_or(&headers)).map_err(|m| format!("{method}: {m}"))?;
        Ok(body.to_bytes().get(PREFIX..).unwrap_or_default().to_vec())
    }
}

/// What the runtime says about a call.
fn status(trailers: &HeaderMap) -> Result<(), String> {
    let header = |name| {
        let value = trailers.get(name).map(|value| value.as_bytes());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    match header("grpc-status").as_str() {
        "0" => Ok(()),
        code => Err(format!("status {code}: {}", header("grpc-message"))),
    }
}

/// A field that has bytes: a text, or another message.
fn field(number: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 0x7f {
        bytes.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    bytes.push(length.to_le_bytes()[0]);
    bytes.extend(content);
    bytes
}

/// The text in the field that these numbers lead to, one a message; empty when there is
/// none.
fn text(message: &[u8], path: &[u64]) -> String {
    let mut content = message.to_vec();
    for number in path {
        content = find(&content, *number).unwrap_or_default();
    }
    String::from_utf8_lossy(&content).into_owned()
}

/// The first field of this number that has bytes.
fn find(mut message: &[u8], wanted: u64) -> Option<Vec<u8>> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let value = varint(&mut message)?;
        match tag & 7 {
            0 => {}
            2 => {
                let (content, rest) = message.split_at_checked(usize::try_from(value).ok()?)?;
                if tag >> 3 == wanted {
                    return Some(content.to_vec());
                }
                message = rest;
            }
            kind => panic!("the runtime sent a field of kind {kind}"),
        }
    }
    None
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
