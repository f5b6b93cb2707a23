//! Metrics and health of the agent over HTTP: `/metrics` for Prometheus; `/healthz` and
//! `/readyz` for the kubelet, and the status page `/`, only on loopback addresses. Nothing can
//! be changed here, and what clients can use of the agent is limited: see `limits`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::error::{Error, Result};
use common::say;
use common::text::printable_lines;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::agent::configuration::Configuration;
use crate::agent::handover::{self, Role};
use crate::agent::news::News;
use crate::agent::readers::READERS;
use crate::agent::shared::Agent;
use crate::limits;
use crate::registration::without;

/// The pause after an error of the listener.
const PAUSE: Duration = Duration::from_secs(1);
const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// Headers that restrict what a browser does with the page, which only needs its own style.
const OF_PAGE: [(HeaderName, &str); 4] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
];
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Answer = std::result::Result<Response<Full<Bytes>>, Infallible>;

/// The port of metrics and health, which the agent has that serves plugins.
#[derive(Debug)]
pub(crate) struct Monitor {
    address: SocketAddr,
    listener: Option<TcpListener>,
}

impl Monitor {
    /// The configured port, if there is one. An agent that takes over gets the port later, from
    /// the agent before.
    ///
    /// # Errors
    /// Code 5 naming the address.
    pub(crate) fn new(configuration: &Configuration, role: Role) -> Result<Option<Self>> {
        let Some(address) = configuration.metrics else {
            return Ok(None);
        };
        let listener = match role {
            Role::Serving => Some(listen(address)?),
            Role::Coming | Role::Relieved => None,
        };
        Ok(Some(Self { address, listener }))
    }

    /// Serves requests at the port, whenever this agent has it, for ever.
    pub(crate) fn serve(self, agent: &Arc<Agent>) {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(READERS)
            .build();
        let served = runtime.and_then(|runtime| runtime.block_on(self.run(agent)));
        if let Err(cause) = served {
            say!("metrics are not served: {cause}");
        }
    }

    async fn run(self, agent: &Arc<Agent>) -> std::io::Result<()> {
        let (mut clients, mut first) = (Clients::default(), self.listener);
        loop {
            let listener = match first.take() {
                Some(listener) => listener,
                None => port(agent, self.address).await,
            };
            clients.accept(agent, listener).await?;
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let bound = TcpListener::bind(address);
    let listener = bound.and_then(|l| l.set_nonblocking(true).map(|()| l));
    listener.map_err(|cause| Error::io(format!("failed to serve metrics at {address}"), &cause))
}

/// Waits until this agent serves plugins and the port is free. The agent before closes the port
/// within seconds, or when it ends.
async fn port(agent: &Agent, address: SocketAddr) -> TcpListener {
    let mut news = News::default();
    loop {
        if agent.role() == Role::Serving {
            match listen(address) {
                Ok(listener) => return listener,
                Err(error) => {
                    for failed in news.among(vec![format!("{error}; trying again")]) {
                        say!("{failed}");
                    }
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The connected clients, the oldest first.
#[derive(Default)]
struct Clients(VecDeque<Client>);

struct Client {
    connection: AbortHandle,
    /// Whether its request has come.
    has_asked: Arc<AtomicBool>,
}

impl Clients {
    /// Accepts connections until another agent serves plugins.
    async fn accept(&mut self, agent: &Arc<Agent>, listener: TcpListener) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        while agent.role() != Role::Relieved {
            match timeout(PAUSE, listener.accept()).await {
                Ok(Ok((stream, _))) => self.serve(agent, stream),
                Ok(Err(cause)) => {
                    say!("a request for metrics could not be accepted: {cause}");
                    tokio::time::sleep(PAUSE).await;
                }
                // No client has connected.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Serves one more client. A probe sends its request at once, so if there are too many
    /// clients, the oldest one without a request is disconnected.
    fn serve(&mut self, agent: &Arc<Agent>, stream: TcpStream) {
        self.0.retain(|client| !client.connection.is_finished());
        if self.0.len() >= limits::CLIENTS {
            let is_waiting = |client: &Client| !client.has_asked.load(Ordering::Relaxed);
            let first = self.0.iter().position(is_waiting).unwrap_or_default();
            if let Some(client) = self.0.remove(first) {
                client.connection.abort();
            }
        }
        let has_asked = Arc::<AtomicBool>::default();
        let connection = tokio::spawn(connection(
            Arc::clone(agent),
            stream,
            Arc::clone(&has_asked),
        ));
        self.0.push_back(Client {
            connection: connection.abort_handle(),
            has_asked,
        });
    }
}

/// Answers one request.
async fn connection(agent: Arc<Agent>, stream: TcpStream, has_asked: Arc<AtomicBool>) {
    let is_local = is_local(&stream);
    let answer = |request| {
        has_asked.store(true, Ordering::Relaxed);
        answer(Arc::clone(&agent), request, is_local)
    };
    converse(stream, limits::CLIENT_DEADLINE, answer).await;
}

/// Whether both ends are loopback addresses. One end is not enough: with `route_localnet`,
/// which kube-proxy sets, another host of the network can send packets to 127.0.0.1.
fn is_local(stream: &TcpStream) -> bool {
    let is_loopback = |end: std::io::Result<SocketAddr>| {
        end.is_ok_and(|address| address.ip().to_canonical().is_loopback())
    };
    is_loopback(stream.local_addr()) && is_loopback(stream.peer_addr())
}

/// Reads a request and writes the answer to it, within `time`.
async fn converse<A>(stream: TcpStream, time: Duration, answer: impl Fn(Request<Incoming>) -> A)
where
    A: Future<Output = Answer>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_DEADLINE)
        .max_buf_size(limits::HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    // The client has gone or was too slow, which concerns no other client.
    timeout(time, connection).await.ok();
}

async fn answer(agent: Arc<Agent>, request: Request<Incoming>, is_local: bool) -> Answer {
    if request.method() != Method::GET {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Ok(response(status, TEXT, "only GET is answered"));
    }
    let health = &agent.health;
    let interval = agent.configuration.longest_interval();
    Ok(match request.uri().path() {
        // These answers name pods, which must not be shown outside of the node.
        "/" | "/healthz" | "/readyz" if !is_local => response(
            StatusCode::FORBIDDEN,
            TEXT,
            "the page and health are shown at a loopback address of the node alone",
        ),
        "/" if !is_of_node(&request) => response(
            StatusCode::FORBIDDEN,
            TEXT,
            "the page is shown under the node's own address",
        ),
        "/" => page(agent).await,
        "/healthz" => report(health.alive()),
        "/readyz" => {
            let ready = health
                .alive()
                .and_then(|()| health.ready(interval, Instant::now()))
                .and_then(|()| alone(&agent));
            match ready {
                // A probe may send any host name; then the answer names no pods.
                Ok(()) if !is_of_node(&request) => report(Ok(())),
                Ok(()) => readiness(agent).await,
                Err(why) => report(Err(why)),
            }
        }
        "/metrics" => metrics(agent).await,
        _ => response(
            StatusCode::NOT_FOUND,
            TEXT,
            "there are /, /metrics, /healthz and /readyz",
        ),
    })
}

/// Checks that no agent waits to take over. That agent's kubelet probes this port too, which
/// the agent does not have yet, and must not take this agent's answer for that of the new one.
fn alone(agent: &Agent) -> std::result::Result<(), String> {
    match handover::is_another_coming(&agent.socket) {
        Ok(false) => Ok(()),
        Ok(true) => Err("another agent is about to take over, and is not ready yet".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether the host of a request is an address of this node or missing. A page of another site
/// in the same browser could resolve its own name to this address, and read what is shown (DNS
/// rebinding).
fn is_of_node(request: &Request<Incoming>) -> bool {
    let Some(host) = request.headers().get(HOST) else {
        // Browsers always send it.
        return true;
    };
    let host = host.to_str().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}

/// The status page, for a browser.
async fn page(agent: Arc<Agent>) -> Response<Full<Bytes>> {
    let asked = Arc::clone(&agent);
    let read = move || (asked.page)(&wrong(&asked));
    let page = agent.readers.page.ask(limits::SCRAPE_DEADLINE, read).await;
    match page {
        Some(Ok(html)) => {
            let mut page = response(StatusCode::OK, HTML, html);
            for (name, value) in OF_PAGE {
                page.headers_mut()
                    .insert(name, HeaderValue::from_static(value));
            }
            page
        }
        Some(Err(error)) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
        None => response(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            "the page could not be made in time: load it again",
        ),
    }
}

/// The problems that the agent itself knows.
fn wrong(agent: &Agent) -> Vec<String> {
    let interval = agent.configuration.longest_interval();
    let alive = agent.health.alive();
    let ready = agent.health.ready(interval, Instant::now());
    let mut wrong: Vec<String> = [alive, ready]
        .into_iter()
        .filter_map(std::result::Result::err)
        .collect();
    wrong.extend(agent.health.findings());
    wrong.extend(agent.resources.findings());
    // If the ledger cannot be read, the page itself says so.
    let refused = without::refused(&agent.ledger).into_iter().flatten();
    wrong.extend(refused.map(|without| without.to_string()));
    wrong
}

/// The metrics. The ledger is read on a thread of its own, so that health is answered
/// meanwhile.
async fn metrics(agent: Arc<Agent>) -> Response<Full<Bytes>> {
    let asked = Arc::clone(&agent);
    let read = move || {
        let stock = &asked.shared.stock;
        asked
            .metrics
            .text(&asked.ledger, &asked.configuration, stock)
    };
    match agent
        .readers
        .metrics
        .ask(limits::SCRAPE_DEADLINE, read)
        .await
    {
        Some(text) => response(StatusCode::OK, OPEN_METRICS, text),
        None => response(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            "the ledger could not be read in time",
        ),
    }
}

/// The answer of an agent that is ready. It also names pods without an address in the VPC,
/// namespaces that the agent does not see, plugins of other programs, and problems of the
/// kubelet's resources: none of them makes the agent unready. What takes too long to read is
/// left out.
async fn readiness(agent: Arc<Agent>) -> Response<Full<Bytes>> {
    let asked = Arc::clone(&agent);
    let read = move || without::refused(&asked.ledger);
    let refused = agent.readers.readiness.ask(limits::PROBE_DEADLINE, read);
    let refused = refused.await;
    let mut text = "ok".to_owned();
    let health = agent.health.findings().into_iter();
    for finding in health.chain(agent.resources.findings()) {
        text.push_str(&format!("\n{finding}"));
    }
    if refused.is_none() {
        text.push_str("\nwhich addresses are not registered could not be read in time");
    }
    // A ledger that cannot be read shows in the metrics, and does not make the agent unready.
    let refused = refused.and_then(|refused| refused.ok());
    for without in refused.into_iter().flatten() {
        text.push_str(&format!("\n{without}"));
    }
    response(StatusCode::OK, TEXT, text)
}

fn report(finding: std::result::Result<(), String>) -> Response<Full<Bytes>> {
    match finding {
        Ok(()) => response(StatusCode::OK, TEXT, "ok"),
        Err(why) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, why),
    }
}

fn response(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<String>,
) -> Response<Full<Bytes>> {
    let body = body.into();
    let body = match kind == TEXT {
        true => printable_lines(&body),
        // Other formats have escaping of their own.
        false => body,
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_client_whose_time_is_over_is_not_answered_any_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = TcpStream::from_std(stream).unwrap();
            let never = |_| std::future::pending::<Answer>();
            converse(stream, Duration::from_millis(20), never).await;
        });
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert!(answer.is_empty(), "{answer:?}");
    }
}
