//! What is in `deploy/`: that Kubernetes would accept every key of it, and that it says
//! of the programs what they are.

use fixtures::deploy::{manifest, path, pod, text};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, Probe, ServiceAccount};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

fn agent() -> Container {
    pod().containers.remove(0)
}

fn installer() -> Container {
    pod().init_containers.unwrap().remove(0)
}

fn added_capabilities(container: &Container) -> Vec<String> {
    let context = container.security_context.as_ref().unwrap();
    let capabilities = context.capabilities.as_ref().unwrap();
    assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
    capabilities.add.clone().unwrap_or_default()
}

#[test]
fn the_agent_has_the_network_of_the_node_and_nothing_of_kubernetes() {
    let pod = pod();
    assert_eq!(pod.host_network, Some(true));
    assert_eq!(pod.dns_policy.as_deref(), Some("Default"));
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.host_pid, None);
    let account: ServiceAccount = manifest("deploy/serviceaccount.yaml");
    assert_eq!(account.automount_service_account_token, Some(false));
    assert_eq!(account.metadata.name, pod.service_account_name);
}

/// Two pods of one node cannot declare one port of the node.
#[test]
fn the_next_agent_starts_before_the_one_before_ends() {
    let daemon_set: DaemonSet = manifest("deploy/daemonset.yaml");
    let spec = daemon_set.spec.unwrap();
    let update = spec.update_strategy.unwrap().rolling_update.unwrap();
    assert_eq!(update.max_unavailable, Some(IntOrString::Int(0)));
    let surge = update.max_surge.unwrap();
    assert!(surge != IntOrString::Int(0) && surge != IntOrString::String("0%".into()));
    assert!(spec.min_ready_seconds > Some(0));
    assert_eq!(agent().ports, None);
}

#[test]
fn the_agent_runs_on_every_node_that_can_have_an_eni_for_pods() {
    let pod = pod();
    assert_eq!(
        pod.priority_class_name.as_deref(),
        Some("system-node-critical")
    );
    let tolerations = pod.tolerations.unwrap();
    assert!(tolerations.iter().any(|t| {
        t.operator.as_deref() == Some("Exists") && t.key.is_none() && t.effect.is_none()
    }));
}

#[test]
fn no_container_can_do_more_than_it_must() {
    assert_eq!(
        added_capabilities(&agent()),
        ["SYS_ADMIN", "NET_ADMIN", "DAC_OVERRIDE"]
    );
    // The directory of the plugins is root's on some nodes only.
    assert_eq!(added_capabilities(&installer()), ["DAC_OVERRIDE"]);
    for container in [agent(), installer()] {
        let context = container.security_context.unwrap();
        assert_eq!(context.read_only_root_filesystem, Some(true));
        assert_eq!(context.privileged, None);
        // What a container says at its end is what `kubectl describe` shows.
        assert_eq!(
            container.termination_message_policy.as_deref(),
            Some("FallbackToLogsOnError")
        );
        assert!(
            container
                .resources
                .unwrap()
                .limits
                .unwrap()
                .contains_key("memory")
        );
    }
}

#[test]
fn namespaces_that_appear_later_appear_in_the_agent_too() {
    let mounts = agent().volume_mounts.unwrap();
    for path in ["/run/netns", "/var/run/netns"] {
        let mount = mounts
            .iter()
            .find(|mount| mount.mount_path == path)
            .unwrap();
        assert_eq!(mount.mount_propagation.as_deref(), Some("HostToContainer"));
    }
    let volumes = pod().volumes.unwrap();
    for (mount_path, host_path) in [
        ("/run/eni-cni", "/run/eni-cni"),
        ("/var/lib/cni", "/var/lib/cni"),
        ("/run/netns", "/run/netns"),
        ("/var/run/netns", "/run/netns"),
    ] {
        let mount = mounts.iter().find(|mount| mount.mount_path == mount_path);
        let name = &mount.unwrap().name;
        let volume = volumes.iter().find(|volume| volume.name == *name).unwrap();
        assert_eq!(volume.host_path.as_ref().unwrap().path, host_path);
    }
}

#[test]
fn the_probes_ask_where_the_agent_answers() {
    let configuration: Value = serde_json::from_str(&text("deploy/agent.json")).unwrap();
    let (host, port) = configuration["metrics"]
        .as_str()
        .unwrap()
        .split_once(':')
        .unwrap();
    let agent = agent();
    let asks = |probe: Option<Probe>, path: &str| {
        let get = probe.unwrap().http_get.unwrap();
        let port_of = serde_json::to_value(&get.port).unwrap().to_string();
        assert_eq!(get.host.as_deref(), Some(host));
        assert_eq!((port_of.as_str(), get.path.as_deref()), (port, Some(path)));
    };
    asks(agent.startup_probe, "/healthz");
    asks(agent.liveness_probe, "/healthz");
    asks(agent.readiness_probe, "/readyz");
}

#[test]
fn the_kustomization_has_every_file_and_names_what_the_daemon_set_uses() {
    let kustomization: Value = serde_yaml_ng::from_str(&text("deploy/kustomization.yaml")).unwrap();
    for resource in kustomization["resources"].as_array().unwrap() {
        assert!(path("deploy").join(resource.as_str().unwrap()).is_file());
    }
    let generated = &kustomization["configMapGenerator"][0];
    let volumes = pod().volumes.unwrap();
    let maps = volumes
        .iter()
        .filter_map(|volume| volume.config_map.as_ref());
    let maps: Vec<&str> = maps.map(|map| map.name.as_str()).collect();
    assert_eq!(maps, [generated["name"].as_str().unwrap()]);
    assert_eq!(generated["files"][0], "agent.json");
    let image = kustomization["images"][0]["name"].as_str();
    assert_eq!(agent().image.as_deref(), image);
    assert_eq!(installer().image.as_deref(), image);
}

#[test]
fn the_job_that_uninstalls_sees_what_the_agent_sees() {
    let job: Job = manifest("deploy/uninstall.yaml");
    let pod_of_job = job.spec.unwrap().template.spec.unwrap();
    // Where EC2 is asked with the role of the agents, the Job has it too.
    assert_eq!(pod_of_job.service_account_name, pod().service_account_name);
    assert_eq!(pod_of_job.volumes.unwrap()[..], pod().volumes.unwrap()[1..]);
    let container = &pod_of_job.containers[0];
    let mounts = |container: &Container| {
        let mounts = container.volume_mounts.clone().unwrap().into_iter();
        let kept = mounts.filter(|mount| !["configuration", "cni-bin"].contains(&&*mount.name));
        kept.collect::<Vec<_>>()
    };
    assert_eq!(mounts(container), mounts(&agent()));
    let kustomization: Value = serde_yaml_ng::from_str(&text("deploy/kustomization.yaml")).unwrap();
    let image = &kustomization["images"][0];
    let [name, tag] = ["newName", "newTag"].map(|key| image[key].as_str().unwrap());
    assert_eq!(container.image, Some(format!("{name}:{tag}")));
    let mounted = container.volume_mounts.as_ref().unwrap();
    let bin = mounted
        .iter()
        .find(|mount| mount.name == "cni-bin")
        .unwrap();
    let target = format!("--target={}", bin.mount_path);
    assert_eq!(container.args.clone().unwrap(), ["uninstall", &target]);
}

/// What follows `word` at the beginning of each line.
fn instructions<'a>(text: &'a str, word: &str) -> Vec<Vec<&'a str>> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(word));
    lines
        .map(|rest| rest.split_whitespace().collect())
        .collect()
}

#[test]
fn the_image_is_built_by_the_toolchain_of_the_repository_from_all_of_it() {
    let dockerfile = text("deploy/Dockerfile");
    let toolchain = text("rust-toolchain.toml");
    let version = dockerfile.split("rust:").nth(1).unwrap();
    let version = version.split('-').next().unwrap();
    assert!(
        toolchain.contains(&format!("channel = \"{version}\"")),
        "{version}"
    );
    assert_eq!(instructions(&dockerfile, "COPY . "), [["."]]);
    // Nothing is kept from Docker but what is no source.
    let mut ignored: Vec<String> = text(".gitignore").lines().map(str::to_owned).collect();
    ignored.push(".git".to_owned());
    assert!(text(".dockerignore").lines().eq(ignored));
}

#[test]
fn the_unit_of_the_service_manager_is_as_strict_as_the_container() {
    let unit = text("deploy/eni-sync.service");
    let value = |key: &str| instructions(&unit, &format!("{key}=")).concat();
    let capabilities = added_capabilities(&agent());
    let capabilities: Vec<String> = capabilities.iter().map(|c| format!("CAP_{c}")).collect();
    assert_eq!(value("CapabilityBoundingSet"), capabilities);
    assert_eq!(value("Type"), ["notify"]);
    assert_eq!(value("ProtectSystem"), ["strict"]);
    let limits = text("eni-sync/src/limits.rs");
    assert!(limits.contains(&format!("FILES: u64 = {};", value("LimitNOFILE")[0])));
    let start = value("ExecStart");
    let options: Vec<&str> = agent()
        .args
        .unwrap()
        .iter()
        .map(String::as_str)
        .map(|argument| argument.split('=').next().unwrap_or_default())
        .map(|option| {
            start
                .iter()
                .find(|word| **word == option)
                .copied()
                .unwrap_or("missing")
        })
        .collect();
    assert_eq!(options, ["agent", "--config"]);
}
