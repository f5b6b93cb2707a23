//! A client of Kubernetes' Container Runtime Interface, as far as the tests speak it:
//! unary calls of gRPC.

pub(super) mod messages;

use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::http::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::timeout;

use messages::{
    ContainerStatus, ContainerStatusResponse, CreateContainerRequest, CreateContainerResponse,
    Empty, OfContainer, OfSandbox, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusResponse,
    RunPodSandboxRequest, RunPodSandboxResponse, StopContainerRequest,
};

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
        self.call::<Empty>("ListPodSandbox", &Empty {}).is_ok()
    }

    /// Makes the sandbox of a pod with this name, whose id is the answer.
    pub(super) fn run_pod_sandbox(&self, pod: &str) -> Result<String, String> {
        self.run_sandbox(&PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: pod.to_owned(),
                uid: pod.to_owned(),
                namespace: "default".to_owned(),
            }),
            ..PodSandboxConfig::default()
        })
    }

    /// Makes a sandbox as it is described, whose id is the answer.
    pub(super) fn run_sandbox(&self, config: &PodSandboxConfig) -> Result<String, String> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
        };
        let answer: RunPodSandboxResponse = self.call("RunPodSandbox", &request)?;
        Ok(answer.pod_sandbox_id)
    }

    /// The address that the runtime shows for a pod.
    #[track_caller]
    pub(super) fn address(&self, sandbox: &str) -> String {
        let answer: Result<PodSandboxStatusResponse, _> =
            self.call("PodSandboxStatus", &OfSandbox::new(sandbox));
        let status = answer.unwrap_or_else(|error| panic!("{error}")).status;
        let network = status.and_then(|status| status.network);
        network.unwrap_or_default().ip
    }

    pub(super) fn stop_pod_sandbox(&self, sandbox: &str) -> Result<(), String> {
        self.call::<Empty>("StopPodSandbox", &OfSandbox::new(sandbox))
            .map(drop)
    }

    pub(super) fn remove_pod_sandbox(&self, sandbox: &str) -> Result<(), String> {
        self.call::<Empty>("RemovePodSandbox", &OfSandbox::new(sandbox))
            .map(drop)
    }

    /// Makes a container and starts it; its id is the answer.
    pub(super) fn run_container(&self, request: &CreateContainerRequest) -> Result<String, String> {
        let answer: CreateContainerResponse = self.call("CreateContainer", request)?;
        let id = answer.container_id;
        self.call::<Empty>("StartContainer", &OfContainer::new(&id))?;
        Ok(id)
    }

    pub(super) fn container_status(&self, id: &str) -> Result<ContainerStatus, String> {
        let answer: ContainerStatusResponse =
            self.call("ContainerStatus", &OfContainer::new(id))?;
        Ok(answer.status.unwrap_or_default())
    }

    /// Sends SIGTERM, and SIGKILL when that has not ended the container after so many seconds.
    pub(super) fn stop_container(&self, id: &str, seconds: i64) -> Result<(), String> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout: seconds,
        };
        self.call::<Empty>("StopContainer", &request).map(drop)
    }

    /// Calls a method; the error is the runtime's message.
    fn call<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let request = request.encode_to_vec();
        let answer = runtime
            .block_on(async { timeout(PATIENCE, self.exchange(method, &request)).await })
            .unwrap_or_else(|_| Err(format!("{method}: no answer within {PATIENCE:?}")))?;
        A::decode(&answer[..]).map_err(|cause| format!("{method}: {cause}"))
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
