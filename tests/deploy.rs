//! What is in `deploy/`: that Kubernetes would accept every key of it, and that it says
//! of the programs what they are.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Call, our_plugin};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, PodSpec, Probe, ServiceAccount};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

pub(crate) fn text(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{path:?}: {cause}"))
}

/// A manifest; every key of it must be one of the API.
fn manifest<T: DeserializeOwned + Serialize>(name: &str) -> T {
    let written: Value = serde_yaml_ng::from_str(&text(name)).unwrap();
    let read: T = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), written, "{name}");
    read
}

pub(crate) fn pod() -> PodSpec {
    let daemon_set: DaemonSet = manifest("deploy/daemonset.yaml");
    daemon_set.spec.unwrap().template.spec.unwrap()
}

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

/// Installs from one temporary directory into another.
fn install(source: &Path, target: &Path) -> (bool, String) {
    let call = Call::ours("eni-sync", "").without("CNI_COMMAND");
    let mut process = call.process();
    process
        .arg("install")
        .arg("--source")
        .arg(source)
        .arg("--target")
        .arg(target);
    let output = process.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

fn program(directory: &Path, name: &str, content: &str) {
    fs::write(directory.join(name), content).unwrap();
    fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn plugins_are_installed_with_their_modes_and_only_when_they_differ() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    program(source.path(), "ipvlan", "new");
    program(source.path(), "host-local", "same");
    fs::write(source.path().join("LICENSE"), "no program").unwrap();
    program(target.path(), "ipvlan", "old");
    program(target.path(), "host-local", "same");
    program(target.path(), "bridge", "of somebody else");
    // What a killed installation leaves.
    program(target.path(), ".ipvlan.tmp", "half");
    let (is_done, said) = install(source.path(), target.path());
    assert!(is_done, "{said}");
    assert!(said.contains("ipvlan is installed") && said.contains("host-local is up to date"));
    let mut names: Vec<String> = fs::read_dir(target.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            ".eni-cni-replaced",
            "bridge",
            "eni-host-local",
            "eni-ipvlan",
            "host-local",
            "ipvlan"
        ]
    );
    assert_eq!(
        fs::read_to_string(target.path().join("ipvlan")).unwrap(),
        "new"
    );
    let mode = fs::metadata(target.path().join("ipvlan"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn a_name_that_others_install_as_well_becomes_a_file_of_its_own() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    program(source.path(), "eni-cni", "same");
    program(target.path(), "eni-cni", "same");
    // As the archive has them.
    let names = ["host-device", "host-local", "ipvlan"];
    for name in names {
        for name in [name.to_owned(), format!("eni-{name}")] {
            fs::hard_link(target.path().join("eni-cni"), target.path().join(name)).unwrap();
        }
    }
    let (is_done, said) = install(source.path(), target.path());
    assert!(is_done, "{said}");
    let found = |name: &str| fs::metadata(target.path().join(name)).unwrap();
    for name in names {
        assert_eq!(found(name).nlink(), 1, "{name}: {said}");
        assert_eq!(found(&format!("eni-{name}")).ino(), found("eni-cni").ino());
    }
    let (_, said) = install(source.path(), target.path());
    assert!(!said.contains("is installed"), "{said}");
}

#[test]
fn a_program_of_another_user_is_replaced_though_it_is_the_same() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    program(source.path(), "ipvlan", "same");
    program(target.path(), "ipvlan", "same");
    chown(target.path().join("ipvlan"), Some(1001), Some(127)).unwrap();
    let (is_done, said) = install(source.path(), target.path());
    assert!(is_done && said.contains("ipvlan is installed"), "{said}");
    let found = fs::metadata(target.path().join("ipvlan")).unwrap();
    assert_eq!((found.uid(), found.gid()), (0, 0));
}

#[test]
fn the_owner_of_a_directory_that_cannot_be_written_is_named_with_what_to_do() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    program(source.path(), "ipvlan", "new");
    chown(target.path(), Some(1001), Some(127)).unwrap();
    fs::set_permissions(target.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
    command.arg(our_plugin("eni-sync")).arg("install");
    command.arg("--source").arg(source.path());
    let output = command.arg("--target").arg(target.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    let texts = [
        "belongs to 1001:127, mode 0755",
        "chown root:root",
        "DAC_OVERRIDE",
    ];
    assert!(texts.iter().all(|text| said.contains(text)), "{said}");
}

/// Writing into a file that is being executed is refused; a rename is not.
#[test]
fn a_plugin_that_is_being_executed_is_replaced() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::copy("/bin/sleep", target.path().join("eni-sync")).unwrap();
    fs::copy(our_plugin("eni-sync"), source.path().join("eni-sync")).unwrap();
    let mut running = Command::new(target.path().join("eni-sync"))
        .arg("60")
        .spawn()
        .unwrap();
    let (is_done, said) = install(source.path(), target.path());
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(is_done, "{said}");
}

#[test]
fn an_image_without_plugins_is_an_error() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (is_done, said) = install(source.path(), target.path());
    assert!(
        !is_done && said.contains("there is no program in"),
        "{said}"
    );
}

/// The files in `deploy/examples` with this ending.
fn user_data(extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path("deploy/examples")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|end| end == extension))
        .collect();
    assert!(!found.is_empty(), "no {extension}");
    found
}

/// Makes sure that `attach` takes this configuration; there is no AWS to attach anything.
#[track_caller]
fn assert_names_enis(text: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let call = Call::ours("eni-sync", "").without("CNI_COMMAND");
    let call = call.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1");
    let output =
        harness::Node::new().run(&call.arguments(&["attach", "--dry-run", "--config", &path]));
    assert!(
        output.stderr.contains("instance metadata service"),
        "{output}"
    );
}

#[test]
fn the_user_data_of_the_examples_is_shell_with_a_configuration_that_names_enis() {
    for path in user_data("sh") {
        let output = Command::new("sh").arg("-n").arg(&path).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{path:?}: {output:?}");
        let text = fs::read_to_string(&path).unwrap();
        let configuration = text.split("<<'JSON'\n").nth(1).unwrap();
        assert_names_enis(configuration.split("\nJSON\n").next().unwrap());
    }
    for path in user_data("toml") {
        let text = fs::read_to_string(&path).unwrap();
        let encoded = text.split("user-data = \"").nth(1).unwrap();
        let encoded = encoded.split('"').next().unwrap();
        let mut decode = Command::new("base64");
        let mut decode = decode
            .arg("-d")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = decode.stdin.take().unwrap();
        std::io::Write::write_all(&mut pipe, encoded.as_bytes()).unwrap();
        drop(pipe);
        let output = decode.wait_with_output().unwrap();
        assert_names_enis(&String::from_utf8(output.stdout).unwrap());
    }
}

/// Executes the user data of a node with this distribution, below a directory of its own. Returns
/// its status and which programs it has executed.
fn execute_user_data(distribution: &str, archive: &str, attach: &str) -> (Option<i32>, String) {
    let work = tempfile::tempdir().unwrap();
    let root = work.path();
    let program = |name: &str, status: &str| {
        let file = root.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let log = root.join("log").display().to_string();
        let text = format!("#!/bin/sh\necho {name} \"$1\" >>{log}\nexit {status}\n");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    };
    program("etc/eks/bootstrap.sh", "0");
    program("packed/eni-cni-1/eni-sync", attach);
    program("packed/eni-cni-1/docs/eni-sync", "0");
    let packed = root.join("packed").display().to_string();
    let archived = root.join("eni-cni.tar.gz").display().to_string();
    let pack = ["-czf", &archived, "-C", &packed, "eni-cni-1"];
    let is_done = Command::new("tar").args(pack).status().unwrap();
    assert!(is_done.success());
    fs::write(root.join("etc/os-release"), format!("ID={distribution}\n")).unwrap();
    let directory = root.display();
    let script = text("deploy/examples/user-data.sh")
        .replace(" /opt/", &format!(" {directory}/opt/"))
        .replace("/etc/", &format!("{directory}/etc/"))
        .replace("https://example.com", &format!("file://{directory}"))
        .replace("eni-cni.tar.gz", archive);
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let log = fs::read_to_string(root.join("log")).unwrap_or_default();
    assert!(!root.join("opt/cni/bin/docs").exists());
    (output.status.code(), log)
}

#[test]
fn user_data_starts_the_kubelet_whatever_fails_before() {
    let (attach, kubelet) = (
        "packed/eni-cni-1/eni-sync attach\n",
        "etc/eks/bootstrap.sh my-cluster\n",
    );
    let both = format!("{attach}{kubelet}");
    let there = "eni-cni.tar.gz";
    for (distribution, archive, status, expected) in [
        ("ubuntu", there, "0", both.as_str()),
        ("ubuntu", there, "1", &both),
        ("ubuntu", "missing.tar.gz", "0", kubelet),
        // nodeadm starts it.
        ("amzn", there, "1", attach),
        ("amzn", "missing.tar.gz", "0", ""),
    ] {
        let executed = execute_user_data(distribution, archive, status);
        let what = format!("{distribution} {archive} {status}");
        assert_eq!(executed, (Some(0), expected.to_owned()), "{what}");
    }
}

#[test]
fn systemd_takes_the_units_and_starts_them_before_the_kubelet() {
    let work = tempfile::tempdir().unwrap();
    let kubelet = "[Service]\nExecStart=/bin/true\n";
    fs::write(work.path().join("kubelet.service"), kubelet).unwrap();
    for unit in ["eni-sync-attach.service", "eni-sync.service"] {
        let text = text(&format!("deploy/{unit}"));
        assert!(text.contains("\nBefore=kubelet.service"), "{unit}");
        let program = our_plugin("eni-sync").display().to_string();
        let text = text.replace("/opt/cni/bin/eni-sync", &program);
        fs::write(work.path().join(unit), text).unwrap();
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(["eni-sync-attach.service", "eni-sync.service"].map(|unit| work.path().join(unit)))
        .env("SYSTEMD_UNIT_PATH", format!("{}:", work.path().display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("eni-sync"), "{said}");
}
