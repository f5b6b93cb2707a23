//! The gRPC service of one resource, which the kubelet calls.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::kernel::pci::PciAddress;
use common::say;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::server::ServerStreamingService;
use tonic::{Request, Response, Status};

use crate::agent::configuration::{Kind, Resource};
use crate::agent::devices::api::{self, Device};
use crate::agent::devices::grpc::{answer, server};
use crate::agent::devices::shown::Waker;
use crate::agent::news::LastLook;

/// How many connections a resource accepts. The kubelet needs one.
const CONNECTIONS: usize = 8;
/// The pause after an error of the socket.
const PAUSE: Duration = Duration::from_secs(1);
/// The directory of the device nodes of vfio-pci.
const VFIO: &str = "/dev/vfio";
/// Permission to read, write and create the device node.
const PERMISSIONS: &str = "mrw";

/// The service of one resource.
#[derive(Clone)]
pub(crate) struct Plugin {
    pub(crate) resource: Arc<Resource>,
    pub(crate) list: watch::Sender<Vec<Device>>,
    pub(crate) listeners: Listeners,
}

/// Counts the listeners of the list of a resource.
#[derive(Clone)]
pub(crate) struct Listeners {
    count: Arc<AtomicUsize>,
    waker: Waker,
}

/// One listener; it is counted until it is dropped.
struct Listening(Listeners);

impl Listeners {
    pub(crate) fn new(waker: &Waker) -> Self {
        Self {
            count: Arc::default(),
            waker: waker.clone(),
        }
    }

    /// Whether there is a listener.
    pub(crate) fn is_any(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    fn add(&self) -> Listening {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.waker.wake();
        Listening(self.clone())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        self.0.waker.wake();
    }
}

impl Plugin {
    /// Serves all connections, for ever. Only root can connect.
    pub(crate) async fn serve(self, listener: UnixListener) {
        let (mut connections, mut said) = (JoinSet::new(), LastLook::default());
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    said.replace(Vec::new());
                    while connections.try_join_next().is_some() {}
                    if connections.len() < CONNECTIONS {
                        connections.spawn(self.clone().converse(stream));
                    }
                }
                Err(cause) => {
                    let failed = format!("resource {}: accept: {cause}", self.resource.name);
                    for failed in said.replace(vec![failed]) {
                        say!("{failed}");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn converse(self, stream: UnixStream) {
        let answer = |request| {
            let plugin = self.clone();
            async move { Ok::<_, Infallible>(plugin.answer(request).await) }
        };
        let connection = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        // The kubelet has ended the connection; it connects again when needed.
        connection.await.ok();
    }

    async fn answer(&self, request: hyper::Request<Incoming>) -> hyper::Response<Body> {
        match request.uri().path() {
            api::OPTIONS => answer(request, |_: api::Empty| Ok(options())).await,
            api::LIST_AND_WATCH => {
                let mut server = server::<api::Empty, api::ListAndWatchResponse>();
                server.server_streaming(Watch(self), request).await
            }
            api::PREFERRED => answer(request, |asked| Ok(self.prefer(asked))).await,
            api::ALLOCATE => answer(request, |asked| self.allocate(asked)).await,
            api::PRE_START => answer(request, |_: api::Empty| Ok(api::Empty {})).await,
            path => {
                let msg = format!("a device plugin has no method {path}");
                Status::unimplemented(msg).into_http()
            }
        }
    }

    /// Prefers the devices that a container must have, and then the first ones of the list: the
    /// last slots are the ones that are removed when there are fewer.
    fn prefer(&self, asked: api::PreferredAllocationRequest) -> api::PreferredAllocationResponse {
        let list = self.list.borrow();
        let of_one = |asked: api::ContainerPreferredAllocationRequest| {
            let size = usize::try_from(asked.allocation_size).unwrap_or(0);
            let available: HashSet<String> = asked.available_device_ids.into_iter().collect();
            let mut ids = asked.must_include_device_ids;
            let others = list.iter().map(|device| &device.id);
            let others = others.filter(|id| available.contains(*id) && !ids.contains(id));
            let others: Vec<String> = others.cloned().collect();
            ids.extend(others);
            ids.truncate(size);
            api::ContainerPreferredAllocationResponse { device_ids: ids }
        };
        let answers = asked.container_requests.into_iter().map(of_one);
        api::PreferredAllocationResponse {
            container_responses: answers.collect(),
        }
    }

    fn allocate(&self, asked: api::AllocateRequest) -> Result<api::AllocateResponse, Status> {
        let answers = asked.container_requests.into_iter();
        let answers = answers.map(|asked| self.allocate_one(&asked.device_ids));
        Ok(api::AllocateResponse {
            container_responses: answers.collect::<Result<_, _>>()?,
        })
    }

    /// The settings for a container: for whole ENIs, the variable that
    /// sriov-network-device-plugin sets, and the device nodes of those that are bound to
    /// vfio-pci.
    fn allocate_one(&self, ids: &[String]) -> Result<api::ContainerAllocateResponse, Status> {
        let list = self.list.borrow();
        for id in ids {
            let Some(device) = list.iter().find(|device| device.id == *id) else {
                let msg = format!("{} has no device {id:?}", self.resource.name);
                return Err(Status::not_found(msg));
            };
            if device.health != api::HEALTHY {
                let msg = format!("{id} of {} cannot be used now", self.resource.name);
                return Err(Status::failed_precondition(msg));
            }
        }
        Ok(match self.resource.kind {
            Kind::Addresses => api::ContainerAllocateResponse::default(),
            Kind::Devices => api::ContainerAllocateResponse {
                envs: HashMap::from([(self.resource.variable(), ids.join(","))]),
                devices: nodes(ids),
            },
        })
    }
}

/// The options of the plugin.
pub(crate) fn options() -> api::DevicePluginOptions {
    api::DevicePluginOptions {
        pre_start_required: false,
        get_preferred_allocation_available: true,
    }
}

/// The device nodes of the devices that are bound to vfio-pci: that of each IOMMU group, and
/// the one that all of them need.
fn nodes(ids: &[String]) -> Vec<api::DeviceSpec> {
    let group = |id: &String| {
        let directory = PciAddress::new(id)?.directory();
        let driver = host_device::sysfs::driver_of(&directory).ok()?;
        let group = directory.join("iommu_group").read_link().ok()?;
        let group = group.file_name()?.to_str()?.to_owned();
        (driver == "vfio-pci").then_some(group)
    };
    let mut names: Vec<String> = ids.iter().filter_map(group).collect();
    if !names.is_empty() {
        names.push("vfio".to_owned());
    }
    names.sort();
    names.dedup();
    let node = |name: String| {
        let path = Path::new(VFIO).join(name).display().to_string();
        api::DeviceSpec {
            container_path: path.clone(),
            host_path: path,
            permissions: PERMISSIONS.to_owned(),
        }
    };
    names.into_iter().map(node).collect()
}

/// Sends the list at once, and again whenever it has changed.
struct Watch<'a>(&'a Plugin);

impl ServerStreamingService<api::Empty> for Watch<'_> {
    type Response = api::ListAndWatchResponse;
    type ResponseStream =
        Box<dyn Stream<Item = Result<api::ListAndWatchResponse, Status>> + Send + Unpin>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<api::Empty>) -> Self::Future {
        let listening = self.0.listeners.add();
        let lists = WatchStream::new(self.0.list.subscribe());
        let lists = lists.map(move |devices| {
            // The closure keeps the listener counted as long as the stream exists.
            let _ = &listening;
            Ok(api::ListAndWatchResponse { devices })
        });
        std::future::ready(Ok(Response::new(Box::new(lists))))
    }
}
