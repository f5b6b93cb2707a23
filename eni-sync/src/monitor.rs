//! Metrics and health of the agent over HTTP, on a loopback address: `/metrics` for
//! Prometheus, `/healthz` and `/readyz` for the kubelet. Nothing can be changed here, and
//! whoever can reach the port can take nothing from the agent: see `limits`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::error::{Error, Result};
use common::say;
use common::text::printable_lines;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::agent::Agent;
use crate::configuration::Configuration;
use crate::handover::{self, Role};
use crate::limits;
use crate::news::News;
use crate::registrar;

/// After an error of the listener, so long until the next try.
const PAUSE: Duration = Duration::from_secs(1);
/// The agent is ready for so many intervals after a comparison with EC2.
const INTERVALS: u32 = 3;
const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What shows whether the agent does its work.
#[derive(Debug, Default)]
pub(crate) struct Health {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Threads that have ended and should not have.
    ended: Vec<&'static str>,
    reconciled: Option<Instant>,
    /// What the last look could not see of the namespaces of pods.
    unseen: Vec<String>,
}

/// Tells the health when the thread that has it ends, however it ends.
pub(crate) struct Lasting<'a> {
    pub(crate) health: &'a Health,
    pub(crate) thread: &'static str,
}

impl Drop for Lasting<'_> {
    fn drop(&mut self) {
        self.health.known().ended.push(self.thread);
    }
}

impl Health {
    /// Notes that the ledger has been compared with EC2.
    pub(crate) fn note_reconcile(&self, now: Instant) {
        self.known().reconciled = Some(now);
    }

    /// Notes what could not be seen of the namespaces of pods.
    pub(crate) fn note_unseen(&self, unseen: Vec<String>) {
        self.known().unseen = unseen;
    }

    /// Whether every thread is there that should be.
    ///
    /// # Errors
    /// Which is not.
    fn alive(&self) -> std::result::Result<(), String> {
        match self.known().ended.as_slice() {
            [] => Ok(()),
            ended => Err(format!("threads have ended: {}", ended.join(", "))),
        }
    }

    /// Whether the ledger has been compared with EC2 at all.
    pub(crate) fn has_reconciled(&self) -> bool {
        self.known().reconciled.is_some()
    }

    /// Whether the ledger has been compared with EC2 lately.
    ///
    /// # Errors
    /// Since when it has not.
    fn ready(&self, interval: Duration, now: Instant) -> std::result::Result<(), String> {
        let Some(last) = self.known().reconciled else {
            return Err("the ledger has not been compared with EC2 yet".to_owned());
        };
        let age = now.saturating_duration_since(last);
        if age > interval * INTERVALS {
            let seconds = age.as_secs();
            return Err(format!("the last comparison with EC2 is {seconds} s old"));
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The port of metrics and health, which belongs to the agent that serves plugins.
#[derive(Debug)]
pub(crate) struct Monitor {
    address: SocketAddr,
    listener: Option<TcpListener>,
}

impl Monitor {
    /// The port of the configuration, if it has one. An agent that takes over gets the port
    /// later, from the one before.
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

    /// Answers at the port, whenever this agent has it, for ever.
    pub(crate) fn serve(self, agent: &Arc<Agent>) {
        // One thread reads the ledger for all who ask.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
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

/// Waits until this agent serves plugins and the port is free. The agent before it gives the
/// port back within seconds, or when it ends.
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

/// Who is connected, in the order of their coming.
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
                // Nobody has come.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Serves one more. A probe sends its request at once, so the one that has to go when
    /// there are too many is the oldest one whose request is still to come.
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
    let service = service_fn(move |request| {
        has_asked.store(true, Ordering::Relaxed);
        answer(Arc::clone(&agent), request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_DEADLINE)
        .max_buf_size(limits::HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever asked has gone, or was too slow; the next one is answered as well.
    timeout(limits::CLIENT_DEADLINE, connection).await.ok();
}

async fn answer(
    agent: Arc<Agent>,
    request: Request<Incoming>,
) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Ok(response(status, TEXT, "only GET is answered"));
    }
    let health = &agent.health;
    let interval = agent.configuration.longest_interval();
    Ok(match request.uri().path() {
        "/healthz" => report(health.alive()),
        "/readyz" => {
            let ready = health
                .alive()
                .and_then(|()| health.ready(interval, Instant::now()))
                .and_then(|()| alone(&agent));
            match ready {
                Ok(()) => readiness(agent).await,
                Err(why) => report(Err(why)),
            }
        }
        "/metrics" => metrics(agent).await,
        _ => response(
            StatusCode::NOT_FOUND,
            TEXT,
            "there are /metrics, /healthz and /readyz",
        ),
    })
}

/// Whether no agent waits to take over. Its kubelet asks at this port too, which it does not
/// have yet, and must not take this agent's answer for its own.
fn alone(agent: &Agent) -> std::result::Result<(), String> {
    match handover::is_another_coming(&agent.socket) {
        Ok(false) => Ok(()),
        Ok(true) => Err("another agent is about to take over, and is not ready yet".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The ledger is read on a thread of its own, so that health is answered meanwhile.
async fn metrics(agent: Arc<Agent>) -> Response<Full<Bytes>> {
    let text = tokio::task::spawn_blocking(move || agent.metrics.text(&agent.ledger));
    match text.await {
        Ok(text) => response(StatusCode::OK, OPEN_METRICS, text),
        Err(cause) => response(
            StatusCode::INTERNAL_SERVER_ERROR,
            TEXT,
            format!("the ledger could not be read: {cause}"),
        ),
    }
}

/// An agent that is ready says also which pods run without an address in the VPC, and which
/// namespaces it does not see: it registers addresses all the same.
async fn readiness(agent: Arc<Agent>) -> Response<Full<Bytes>> {
    let asked = Arc::clone(&agent);
    let refused = tokio::task::spawn_blocking(move || registrar::refused(&asked.ledger));
    // The state of the ledger is shown by its metrics; here it only adds to the answer.
    let refused = refused.await.ok().and_then(|refused| refused.ok());
    let mut text = "ok".to_owned();
    for unseen in &agent.health.known().unseen {
        text.push_str(&format!("\n{unseen}"));
    }
    for (address, owner, error) in refused.into_iter().flatten() {
        text.push_str(&format!(
            "\n{address} of {owner} is not registered: {error}"
        ));
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
        // A reader of this format shows no text as it is.
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
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(100);

    #[test]
    fn a_thread_that_ends_is_named() {
        let health = Health::default();
        health.alive().unwrap();
        let guard = Lasting {
            health: &health,
            thread: "keeper",
        };
        health.alive().unwrap();
        drop(guard);
        assert_eq!(health.alive().unwrap_err(), "threads have ended: keeper");
    }

    #[test]
    fn the_agent_is_ready_from_its_first_comparison_until_three_intervals_after_the_last() {
        let health = Health::default();
        let start = Instant::now();
        assert!(health.ready(INTERVAL, start).is_err());
        health.note_reconcile(start);
        health.ready(INTERVAL, start + INTERVAL * 3).unwrap();
        let late = start + INTERVAL * 3 + Duration::from_secs(1);
        let error = health.ready(INTERVAL, late).unwrap_err();
        assert_eq!(error, "the last comparison with EC2 is 301 s old");
    }
}
