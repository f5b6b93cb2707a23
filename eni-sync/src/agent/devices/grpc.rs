//! gRPC over a Unix socket, client and server: tonic provides the framing, the messages and the
//! status; hyper, which the agent uses for its metrics, the connection. tonic's own transport
//! would add a second HTTP stack and features of hyper that are not needed otherwise.

use std::future::{Future, Ready, ready};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::http::uri::PathAndQuery;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::client::{Grpc as Client, GrpcService};
use tonic::server::{Grpc as Server, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// The size limit of a message in bytes.
const LARGEST: usize = 1 << 20;

/// Calls a method once, and waits for the answer until `time` is over.
///
/// # Errors
/// Why there is no answer, or the text of a refusal.
pub(crate) async fn call<Q, A>(
    socket: &Path,
    method: &'static str,
    request: Q,
    time: Duration,
) -> Result<A, String>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    match timeout(time, call_once(socket, method, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", time.as_secs())),
    }
}

async fn call_once<Q, A>(socket: &Path, method: &'static str, request: Q) -> Result<A, String>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let text = |cause: &dyn std::fmt::Display| cause.to_string();
    let stream = UnixStream::connect(socket).await;
    let stream = TokioIo::new(stream.map_err(|cause| text(&cause))?);
    let shaken = handshake(TokioExecutor::new(), stream).await;
    let (sender, connection) = shaken.map_err(|cause| text(&cause))?;
    let connection = tokio::spawn(connection);
    let origin = Uri::from_static("http://localhost");
    let mut client = Client::with_origin(Sender(sender), origin);
    let method = PathAndQuery::from_static(method);
    let codec = ProstCodec::<Q, A>::default();
    client.ready().await.map_err(|cause| text(&cause))?;
    let answer = client.unary(Request::new(request), method, codec).await;
    connection.abort();
    answer
        .map(Response::into_inner)
        .map_err(|status| status.message().to_owned())
}

/// The client side of a connection, in the type that tonic needs.
struct Sender(SendRequest<Body>);

impl GrpcService<Body> for Sender {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<hyper::Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A server for a method with these types.
pub(crate) fn server<Q, A>() -> Server<ProstCodec<A, Q>>
where
    Q: Message + Default + Send + Sync + 'static,
    A: Message + Send + Sync + 'static,
{
    Server::new(ProstCodec::default()).max_decoding_message_size(LARGEST)
}

/// Answers a call of a method that has one request and one answer.
pub(crate) async fn answer<Q, A>(
    request: hyper::Request<Incoming>,
    answer: impl FnMut(Q) -> Result<A, Status>,
) -> hyper::Response<Body>
where
    Q: Message + Default + Send + Sync + 'static,
    A: Message + Send + Sync + 'static,
{
    server::<Q, A>().unary(Unary(answer), request).await
}

/// A function that answers at once.
struct Unary<F>(F);

impl<F, Q, A> UnaryService<Q> for Unary<F>
where
    F: FnMut(Q) -> Result<A, Status>,
{
    type Response = A;
    type Future = Ready<Result<Response<A>, Status>>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        ready(self.0(request.into_inner()).map(Response::new))
    }
}
