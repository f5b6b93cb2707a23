//! What the kubelet makes of a pod: the runtime's containers, described as its specification says,
//! one after the other, and what it shows of those that have ended. What a specification has and
//! this kubelet does not know fails the test.

use std::fs;
use std::mem::take;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use harness::vpc::DEADLINE;
use k8s_openapi::api::core::v1::{Container, PodSpec, Probe, SecurityContext, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::containerd::Containerd;
use super::cri::messages::{
    Capability, ContainerConfig, ContainerMetadata, ContainerState, CreateContainerRequest,
    ImageSpec, Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount,
    MountPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    ProfileType, SecurityProfile,
};

/// Its directory, as the runtime sees it.
const DIRECTORY: &str = "/run/kubelet";
/// Where a container can write why it ends.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// What a container sees empty, and what it cannot write.
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// A pod on a node, whose containers are started one by one.
pub(super) struct Pod<'a> {
    containerd: &'a Containerd,
    spec: PodSpec,
    /// The kubelet's directory, as the test sees it.
    directory: PathBuf,
    sandbox: PodSandboxConfig,
    id: String,
}

/// What becomes of a container that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Terminated {
    pub(super) exit_code: i32,
    /// What `kubectl describe pod` shows.
    pub(super) message: String,
}

impl<'a> Pod<'a> {
    /// Makes the volumes and the sandbox. The data of every ConfigMap is what `data` has, and `run`
    /// is where the test sees the node's /run.
    #[track_caller]
    pub(super) fn new(
        containerd: &'a Containerd,
        uid: &str,
        spec: PodSpec,
        run: &Path,
        data: &[(&str, &str)],
    ) -> Self {
        let directory = run.join("kubelet").join(uid);
        fs::create_dir_all(directory.join("logs")).unwrap();
        for volume in spec.volumes.iter().flatten() {
            make_volume(containerd, volume, &directory, data);
        }
        let namespaces = namespaces(&spec);
        let sandbox = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: uid.to_owned(),
                uid: uid.to_owned(),
                namespace: "kube-system".to_owned(),
            }),
            log_directory: format!("{DIRECTORY}/{uid}/logs"),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    seccomp: Some(runtime_default()),
                }),
            }),
        };
        let id = containerd.cri.run_sandbox(&sandbox);
        let id = id.unwrap_or_else(|error| panic!("{error}\n{}", containerd.log()));
        Self {
            containerd,
            spec,
            directory,
            sandbox,
            id,
        }
    }

    /// Starts a container with this image and more variables; its id is the answer.
    #[track_caller]
    pub(super) fn start(
        &self,
        container: &Container,
        attempt: u32,
        image: &str,
        variables: &[(String, String)],
    ) -> String {
        fs::write(self.termination_log(&container.name), "").unwrap();
        let mut config = self.translated(container, attempt);
        config.image = Some(ImageSpec {
            image: image.to_owned(),
        });
        config
            .envs
            .extend(variables.iter().map(|(key, value)| KeyValue {
                key: key.clone(),
                value: value.clone(),
            }));
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.sandbox.clone()),
        };
        let id = self.containerd.cri.run_container(&request);
        id.unwrap_or_else(|error| panic!("{error}\n{}", self.containerd.log()))
    }

    /// Waits until a container ends.
    #[track_caller]
    pub(super) fn wait(&self, container: &Container, attempt: u32, id: &str) -> Terminated {
        let status = || self.containerd.cri.container_status(id).unwrap();
        let has_ended = || status().state == i32::from(ContainerState::Exited);
        assert!(
            await_patiently(has_ended),
            "{}",
            self.log(container, attempt)
        );
        let exit_code = status().exit_code;
        let mut message = fs::read_to_string(self.termination_log(&container.name)).unwrap();
        let policy = container.termination_message_policy.as_deref();
        if message.is_empty() && exit_code != 0 && policy == Some("FallbackToLogsOnError") {
            message = self.log(container, attempt);
        }
        Terminated { exit_code, message }
    }

    /// What a container has said.
    pub(super) fn log(&self, container: &Container, attempt: u32) -> String {
        let path = self
            .directory
            .join("logs")
            .join(log_path(container, attempt));
        let text = fs::read_to_string(path).unwrap_or_default();
        // Before each line stand a time, a stream, and whether it is whole.
        let lines = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// Ends the pod as the kubelet does.
    #[track_caller]
    pub(super) fn end(&self, running: &[&str]) {
        let cri = &self.containerd.cri;
        let seconds = self.spec.termination_grace_period_seconds.unwrap_or(30);
        for id in running {
            cri.stop_container(id, seconds).unwrap();
        }
        cri.stop_pod_sandbox(&self.id).unwrap();
        cri.remove_pod_sandbox(&self.id).unwrap();
    }

    fn termination_log(&self, container: &str) -> PathBuf {
        self.directory.join(format!("termination-log-{container}"))
    }

    /// A directory or file of this pod, as the runtime sees it.
    fn seen(&self, name: &str) -> String {
        let uid = self.directory.file_name().unwrap().to_string_lossy();
        format!("{DIRECTORY}/{uid}/{name}")
    }

    /// All that the specification says of a container.
    fn translated(&self, container: &Container, attempt: u32) -> ContainerConfig {
        let mut rest = container.clone();
        let name = take(&mut rest.name);
        let termination_log = Mount {
            container_path: TERMINATION_LOG.to_owned(),
            host_path: self.seen(&format!("termination-log-{name}")),
            ..Mount::default()
        };
        let mounts = rest.volume_mounts.take().unwrap_or_default();
        let mut mounts: Vec<Mount> = mounts.into_iter().map(|it| self.mount(it)).collect();
        mounts.push(termination_log);
        let resources = rest.resources.take().unwrap_or_default();
        let amount = |of: &Option<std::collections::BTreeMap<String, Quantity>>, name: &str| {
            of.as_ref()
                .and_then(|of| of.get(name))
                .map_or(0, bytes_or_millis)
        };
        let translated = ContainerConfig {
            metadata: Some(ContainerMetadata { name, attempt }),
            args: rest.args.take().unwrap_or_default(),
            mounts,
            log_path: log_path(container, attempt),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    cpu_shares: amount(&resources.requests, "cpu") * 1024 / 1000,
                    memory_limit_in_bytes: amount(&resources.limits, "memory"),
                }),
                security_context: Some(self.security_context(rest.security_context.take())),
            }),
            ..ContainerConfig::default()
        };
        // The image's name is that of kustomize; the probes are the test's to ask.
        rest.image = None;
        rest.termination_message_policy = None;
        rest.startup_probe = None;
        rest.liveness_probe = None;
        rest.readiness_probe = None;
        assert_eq!(rest, Container::default(), "this kubelet does not know it");
        translated
    }

    fn mount(&self, mount: VolumeMount) -> Mount {
        let volumes = self.spec.volumes.iter().flatten();
        let volume = volumes.clone().find(|volume| volume.name == mount.name);
        let volume = volume.expect("the pod has the volume");
        let host_path = match &volume.host_path {
            Some(source) => source.path.clone(),
            None => self.seen(&volume.name),
        };
        let propagation = match mount.mount_propagation.as_deref() {
            None | Some("None") => MountPropagation::Private,
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            Some(other) => panic!("{other}: this kubelet does not know it"),
        };
        let rest = VolumeMount {
            name: String::new(),
            mount_path: String::new(),
            mount_propagation: None,
            read_only: None,
            ..mount.clone()
        };
        assert_eq!(
            rest,
            VolumeMount::default(),
            "this kubelet does not know it"
        );
        Mount {
            container_path: mount.mount_path,
            host_path,
            readonly: mount.read_only == Some(true),
            propagation: propagation.into(),
        }
    }

    /// What a container may do, by its own context and that of the pod.
    fn security_context(&self, own: Option<SecurityContext>) -> LinuxContainerSecurityContext {
        let mut rest = own.unwrap_or_default();
        let mut pod = self.spec.security_context.clone().unwrap_or_default();
        let capabilities = rest.capabilities.take().unwrap_or_default();
        let profile = pod.seccomp_profile.take();
        assert_eq!(
            profile.map(|it| it.type_).as_deref(),
            Some("RuntimeDefault")
        );
        let int64 = |value: Option<i64>| value.map(|value| Int64Value { value });
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let translated = LinuxContainerSecurityContext {
            capabilities: Some(Capability {
                add_capabilities: capabilities.add.unwrap_or_default(),
                drop_capabilities: capabilities.drop.unwrap_or_default(),
            }),
            namespace_options: Some(namespaces(&self.spec)),
            run_as_user: int64(pod.run_as_user.take()),
            run_as_group: int64(pod.run_as_group.take()),
            readonly_rootfs: rest.read_only_root_filesystem.take() == Some(true),
            no_new_privs: rest.allow_privilege_escalation.take() == Some(false),
            masked_paths: texts(&MASKED),
            readonly_paths: texts(&READ_ONLY),
            seccomp: Some(runtime_default()),
        };
        assert_eq!(
            rest,
            SecurityContext::default(),
            "this kubelet does not know it"
        );
        assert_eq!(pod, Default::default(), "this kubelet does not know it");
        translated
    }
}

fn log_path(container: &Container, attempt: u32) -> String {
    format!("{}-{attempt}.log", container.name)
}

fn runtime_default() -> SecurityProfile {
    SecurityProfile {
        profile_type: ProfileType::RuntimeDefault.into(),
    }
}

/// Whose namespaces the containers of a pod have.
fn namespaces(spec: &PodSpec) -> NamespaceOption {
    let of = |is_host: Option<bool>, default: NamespaceMode| {
        let mode = if is_host == Some(true) {
            NamespaceMode::Node
        } else {
            default
        };
        i32::from(mode)
    };
    NamespaceOption {
        network: of(spec.host_network, NamespaceMode::Pod),
        pid: of(spec.host_pid, NamespaceMode::Container),
        ipc: of(spec.host_ipc, NamespaceMode::Pod),
    }
}

/// A directory of the node is made where it is missing; the data of a ConfigMap are files.
fn make_volume(containerd: &Containerd, volume: &Volume, directory: &Path, data: &[(&str, &str)]) {
    if let Some(source) = &volume.host_path {
        assert_eq!(source.type_.as_deref(), Some("DirectoryOrCreate"));
        containerd.on_node("mkdir", &["-p", &source.path]);
        return;
    }
    assert!(
        volume.config_map.is_some(),
        "this kubelet does not know {volume:?}"
    );
    let directory = directory.join(&volume.name);
    fs::create_dir(&directory).unwrap();
    for (name, text) in data {
        fs::write(directory.join(name), text).unwrap();
    }
}

/// An amount of memory in bytes, or of processors in thousandths.
fn bytes_or_millis(quantity: &Quantity) -> i64 {
    let text = &quantity.0;
    let units = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("m", 1)];
    let found = units
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (number, factor) = found.unwrap_or_else(|| panic!("{text}: this kubelet does not know it"));
    number.parse::<i64>().unwrap() * factor
}

/// Whether it comes true before the deadline. It is not asked often: an emulated machine has
/// better things to do.
pub(super) fn await_patiently(is_so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(200));
    }
    true
}

/// Where a probe asks: address and path.
pub(super) fn target(probe: Option<&Probe>) -> (String, String) {
    let get = probe.and_then(|probe| probe.http_get.as_ref());
    let get = get.expect("a probe by HTTP");
    let port = serde_json::to_value(&get.port).unwrap();
    let host = get
        .host
        .as_deref()
        .expect("the pod has the node's addresses");
    (
        format!("{host}:{port}"),
        get.path.clone().unwrap_or_default(),
    )
}
