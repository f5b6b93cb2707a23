//! HTTP: accepts connections, and serves EC2 and STS with their faults, IMDS and Pod
//! Identity.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::error::Ec2Error;
use super::fault::{Fault, Hold};
use super::id::InstanceId;
use super::query::{Api, Query};
use super::state::{Call, fault_error};
use super::{Shared, imds, inspect, model};

/// The service on a listener.
#[derive(Debug, Clone)]
pub(super) enum Service {
    Ec2,
    Imds(InstanceId),
    Sts,
    PodIdentity,
}

/// Closes the connection without a response.
#[derive(Debug)]
pub(super) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed on purpose")
    }
}

impl std::error::Error for Closed {}

pub(super) type Body = BoxBody<Bytes, Infallible>;

pub(super) type Answer = Result<Response<Body>, Closed>;

/// Serves connections to the listener until the task is aborted.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    service: Service,
    tls: Option<TlsAcceptor>,
) {
    listener
        .set_nonblocking(true)
        .expect("a listener can be made non-blocking");
    let listener = TcpListener::from_std(listener).expect("the lab's runtime drives sockets");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // The client gave up before it was accepted.
            continue;
        };
        let (shared, service, tls) = (Arc::clone(&shared), service.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => connection(shared, service, stream).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(shared, service, stream).await;
                    }
                }
            }
        });
    }
}

async fn connection(
    shared: Arc<Shared>,
    service: Service,
    stream: impl AsyncRead + AsyncWrite + Unpin,
) {
    let handle = |request| route(&shared, &service, request);
    let served = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(handle))
        .await;
    // How the connection ends does not matter: some tests break it.
    drop(served);
}

async fn route(shared: &Shared, service: &Service, request: Request<Incoming>) -> Answer {
    match service {
        Service::Imds(instance) => metadata(shared, instance, &request),
        Service::Ec2 if request.uri().path().starts_with("/lab/") => {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
            Ok(inspect::answer(
                shared,
                &parts.method,
                parts.uri.path(),
                &body,
            ))
        }
        Service::Ec2 => query(shared, Api::Ec2, request).await,
        Service::Sts => query(shared, Api::Sts, request).await,
        Service::PodIdentity => {
            let token = request.headers().get(AUTHORIZATION);
            let token = token.and_then(|value| value.to_str().ok());
            let path = request.uri().path();
            Ok(shared.update(|state| state.pod_identity(path, token)))
        }
    }
}

fn metadata(shared: &Shared, instance: &InstanceId, request: &Request<Incoming>) -> Answer {
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
    let path = request.uri().path();
    let mut state = shared.lock();
    *state.imds_calls.entry(path.to_owned()).or_default() += 1;
    let request = imds::Request {
        method: request.method().as_str(),
        path,
        token: header("x-aws-ec2-metadata-token"),
        ttl: header(imds::TTL_HEADER),
    };
    let answer = imds::answer(&mut state, instance, &request);
    state.version += 1;
    shared.changed.notify_all();
    let answer = answer.ok_or(Closed)?;
    if state.rules.imds_endless && answer.ttl.is_none() {
        return Ok(response(200, "text/plain", String::new()).map(|_| endless()));
    }
    let mut response = response(answer.status, "text/plain", answer.body);
    if let Some(ttl) = answer.ttl {
        response
            .headers_mut()
            .insert(imds::TTL_HEADER, HeaderValue::from(ttl));
    }
    Ok(response)
}

/// A call of an API whose parameters are a form and whose responses are XML.
async fn query(shared: &Shared, api: Api, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let mut query = Query::parse(parts.uri.query().unwrap_or_default().as_bytes());
    if parts.method == Method::POST {
        let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
        query.extend(&body);
    }
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let call = Call::new(query, header(AUTHORIZATION.as_str()), header("x-amz-date"));
    let malformed = model::faults(&call.action, &call.query);
    shared.update(|state| state.malformed.extend(malformed));
    let (fault, number) = shared.arrive(&call.action);
    let request_id = format!("00000000-0000-4000-8000-{number:012x}");
    match &fault {
        Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
        Some(Fault::Hang) => pending().await,
        Some(Fault::TerminateInstance(instance)) => shared.terminate(instance),
        Some(Fault::VpcCniAttaches(instance)) => shared.attach_for_vpc_cni(instance),
        _ => {}
    }
    let latency = shared.latency(&call.action);
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    shared
        .wait_while_held(&call.action, Hold::BeforeCommit)
        .await;
    let result = match fault.as_ref().and_then(|f| fault_error(&shared.lock(), f)) {
        Some(error) => {
            shared.update(|state| state.fault_call(&call, &error.code));
            Err(error)
        }
        None => shared.update(|state| match api {
            Api::Ec2 => state.perform(&call),
            Api::Sts => state.assume(&call.action, &call.query),
        }),
    };
    shared
        .wait_while_held(&call.action, Hold::AfterCommit)
        .await;
    let mut answer = written(api, &call.action, &request_id, result);
    let date = HeaderValue::from_str(&shared.date()).expect("a date is text");
    answer.headers_mut().insert(DATE, date);
    let id = HeaderValue::from_str(&request_id).expect("an id is text");
    answer.headers_mut().insert("x-amzn-requestid", id);
    match fault {
        Some(Fault::DropAfterCommit | Fault::DropBeforeCommit) => Err(Closed),
        Some(Fault::HangAfterCommit) => pending().await,
        Some(Fault::Garbage) => Ok(response(200, "text/html", "<html>gateway".to_owned())),
        Some(Fault::Endless) => Ok(answer.map(|_| endless())),
        _ => Ok(answer),
    }
}

fn written(
    api: Api,
    action: &str,
    request_id: &str,
    result: Result<serde_json::Value, Ec2Error>,
) -> Response<Body> {
    let (status, body) = match result {
        Ok(fields) => (200, api.answer(action, request_id, &fields)),
        Err(error) => (error.status, api.error_answer(&error, request_id)),
    };
    response(status, "text/xml;charset=UTF-8", body)
}

/// A body that is longer than any client should read: a gigabyte.
struct Endless {
    chunks: u32,
}

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const CHUNK: &[u8] = &[b' '; 1 << 16];
        self.chunks -= 1;
        let is_over = self.chunks == 0;
        Poll::Ready((!is_over).then(|| Ok(Frame::data(Bytes::from_static(CHUNK)))))
    }
}

fn endless() -> Body {
    Endless { chunks: 1 << 14 }.boxed()
}

pub(super) fn response(status: u16, kind: &str, body: String) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, kind)
        .header(SERVER, "eni-lab")
        .body(Full::new(Bytes::from(body)).boxed())
        .expect("the status and the headers are valid")
}
