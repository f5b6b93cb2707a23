//! The API server of a cluster, as far as the agent asks it: over TLS with an authority of its
//! own, for one token, which may do what `deploy/kubernetes/rbac.yaml` says and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use fixtures::deploy::text;
use harness::eni_lab::Certificate;
use harness::kubernetes::refusals;
use harness::vpc::VpcNode;
use harness::{Call, Host, Namespace, Node};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The name of the node that the agent is on.
pub const NODE: &str = "ip-10-0-1-5.us-west-2.compute.internal";
const TOKEN: &str = "a.service.account";

/// What the cluster has.
#[derive(Debug, Default)]
pub struct State {
    /// Nodes and pods, each at its path.
    pub objects: BTreeMap<String, Value>,
    pub events: Vec<Value>,
    /// Every request, with its method.
    pub requests: Vec<String>,
    /// So many requests are answered as by a server that is starting.
    pub outage: usize,
    /// What somebody else makes of the taints of a node before the next change.
    pub meddled: Option<Value>,
}

/// A cluster, and a node of it whose agent is a pod.
pub struct Cluster<'a> {
    node: &'a VpcNode,
    port: u16,
    state: Arc<Mutex<State>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<'a> Cluster<'a> {
    pub fn start(node: &'a VpcNode) -> Self {
        let certificate = Certificate::new("127.0.0.1");
        let account = node
            .run_directory()
            .join("secrets/kubernetes.io/serviceaccount");
        fs::create_dir_all(&account).unwrap();
        fs::write(account.join("ca.crt"), &certificate.authority).unwrap();
        fs::write(account.join("token"), format!("{TOKEN}\n")).unwrap();
        let inside = Namespace::at(node.node.netns.path());
        let listener = inside.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<Mutex<State>>::default();
        let is_over = Arc::<AtomicBool>::default();
        let thread = thread::spawn({
            let (state, is_over) = (Arc::clone(&state), Arc::clone(&is_over));
            let config = Arc::new(config(&certificate));
            move || {
                let rules = rules();
                for stream in listener.incoming().map_while(Result::ok) {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    // A client that does not trust this server says no more.
                    serve(stream, &config, &rules, &state).ok();
                }
            }
        });
        Self {
            node,
            port,
            state,
            is_over,
            thread: Some(thread),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Has a node of this name with these taints.
    pub fn has_node(&self, taints: &Value) {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": NODE }, "spec": { "taints": taints },
        });
        let path = format!("/api/v1/nodes/{NODE}");
        self.state().objects.insert(path, node);
    }

    pub fn taints(&self) -> Value {
        let path = format!("/api/v1/nodes/{NODE}");
        self.state().objects[&path]["spec"]["taints"].clone()
    }

    /// Has a pod of this name on a node.
    pub fn has_pod(&self, name: &str, node: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "default", "uid": format!("uid-of-{name}") },
            "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "i" }] },
        });
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        self.state().objects.insert(path, pod);
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let address = ("127.0.0.1", self.port);
        let inside = &self.node.node.netns;
        inside.run(|| TcpStream::connect(address).ok());
        self.thread.take().map(JoinHandle::join);
    }
}

/// An agent that is a pod of the cluster.
impl Host for Cluster<'_> {
    fn node(&self) -> &Node {
        self.node.node()
    }

    fn run_directory(&self) -> &std::path::Path {
        self.node.run_directory()
    }

    fn eni_sync(&self) -> Call {
        let call = self.node.eni_sync().env("NODE_NAME", NODE);
        call.env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", &self.port.to_string())
    }
}

fn config(certificate: &Certificate) -> ServerConfig {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate.chain).collect();
    let key = PrivateKeyDer::from_pem_slice(&certificate.key).unwrap();
    let provider = Arc::new(ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_no_client_auth();
    builder.with_single_cert(chain.unwrap(), key).unwrap()
}

/// Which verb on which resource the service account has.
fn rules() -> Vec<(String, String)> {
    let stream = text("deploy/kubernetes/rbac.yaml");
    let documents = serde_yaml_ng::Deserializer::from_str(&stream);
    let objects = documents.map(|document| Value::deserialize(document).unwrap());
    let rules = objects.flat_map(|object| object["rules"].as_array().cloned().unwrap_or_default());
    let texts = |list: &Value| -> Vec<String> { serde_json::from_value(list.clone()).unwrap() };
    let pairs = rules.flat_map(|rule| {
        let verbs = texts(&rule["verbs"]);
        let of = move |resource: String| {
            let pairs = verbs.iter().map(|verb| (verb.clone(), resource.clone()));
            pairs.collect::<Vec<_>>()
        };
        texts(&rule["resources"]).into_iter().flat_map(of)
    });
    pairs.collect()
}

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Value,
}

fn read(stream: &mut impl BufRead) -> std::io::Result<Request> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let [method, path, _] = <[String; 3]>::try_from(words).unwrap();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length");
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Request {
        method,
        path,
        headers,
        body,
    })
}

fn serve(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    rules: &[(String, String)],
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let connection = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let request = read(&mut stream)?;
    let (status, body) = answer(&request, rules, &mut state.lock().unwrap());
    let body = body.to_string();
    let length = body.len();
    let stream = stream.get_mut();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )?;
    stream.flush()
}

fn answer(request: &Request, rules: &[(String, String)], state: &mut State) -> (u16, Value) {
    let (method, path) = (request.method.as_str(), request.path.as_str());
    state.requests.push(format!("{method} {path}"));
    if state.outage > 0 {
        state.outage -= 1;
        return (503, json!({ "message": "etcd is not ready" }));
    }
    if request.headers.get("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return (401, json!({ "message": "Unauthorized" }));
    }
    let verb = match method {
        "GET" => "get",
        "POST" => "create",
        "PATCH" => "patch",
        other => panic!("{other} {path}"),
    };
    let is_resource = |part: &&str| ["pods", "events", "nodes"].contains(part);
    let resource = path.split('/').find(is_resource).unwrap().to_owned();
    if !rules.contains(&(verb.to_owned(), resource.clone())) {
        let message = format!("cannot {verb} resource {resource:?}");
        return (403, json!({ "message": message }));
    }
    match verb {
        "create" => create(request, state),
        "patch" => patch(request, state),
        _ => match state.objects.get(path) {
            Some(object) => (200, object.clone()),
            None => (404, json!({ "message": "not found" })),
        },
    }
}

/// Takes an Event as Kubernetes does, by its own schemas.
fn create(request: &Request, state: &mut State) -> (u16, Value) {
    assert_eq!(request.headers["content-type"], "application/json");
    let event = request.body.clone();
    let namespace = format!(
        "/api/v1/namespaces/{}/events",
        text_of(&event["metadata"]["namespace"])
    );
    assert_eq!(request.path, namespace);
    let name = |event: &Value| event["metadata"]["name"].clone();
    assert!(name(&event).is_string(), "{event}");
    if state.events.iter().any(|other| name(other) == name(&event)) {
        return (409, json!({ "message": "already exists" }));
    }
    let refusals = refusals(std::slice::from_ref(&event));
    if !refusals.is_empty() {
        return (422, json!({ "message": refusals.join("; ") }));
    }
    state.events.push(event.clone());
    (201, event)
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Applies an RFC 6902 patch of the operations `test` and `replace`.
fn patch(request: &Request, state: &mut State) -> (u16, Value) {
    assert_eq!(
        request.headers["content-type"],
        "application/json-patch+json"
    );
    let meddled = state.meddled.take();
    let Some(object) = state.objects.get_mut(&request.path) else {
        return (404, json!({ "message": "not found" }));
    };
    if let Some(meddled) = meddled {
        object["spec"]["taints"] = meddled;
    }
    let mut patched = object.clone();
    for operation in request.body.as_array().unwrap() {
        let at = patched.pointer_mut(text_of(&operation["path"])).unwrap();
        match text_of(&operation["op"]) {
            "test" if *at == operation["value"] => {}
            "test" => return (422, json!({ "message": "the test failed" })),
            "replace" => at.clone_from(&operation["value"]),
            other => panic!("{other}"),
        }
    }
    object.clone_from(&patched);
    (200, patched)
}
