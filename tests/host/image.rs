//! The image that `deploy/image` makes without Docker, as others read it: skopeo, and a registry.
//! What is in it runs in `machine::runtimes` of `tests/vm`.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use fixtures::deploy::path;
use harness::{Namespace, wait_until};
use serde_json::Value;
use tempfile::TempDir;

/// What is in both archives of the tests.
const TIME: &str = "2024-02-29T12:00:00Z";
/// Where a number in ELF's header says for which machine a program is.
const MACHINE: usize = 18;
/// The numbers there.
const MACHINES: [(&str, u8); 2] = [("x86_64", 62), ("aarch64", 183)];
/// The machine that the tests run on.
const OWN: &str = std::env::consts::ARCH;

/// Archives as `deploy/dist` makes them, and the image that is made of them.
struct Dist(TempDir);

impl Dist {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With an archive for each architecture.
    fn of_both() -> Self {
        let dist = Self::new();
        let mut program = fs::read(busybox()).unwrap();
        for (machine, number) in MACHINES {
            program[MACHINE] = number;
            dist.publish(machine, &program);
        }
        dist
    }

    /// Makes the archive of a machine, whose programs are this one.
    fn publish(&self, machine: &str, program: &[u8]) {
        self.publish_version("0.1.0", machine, program);
    }

    fn publish_version(&self, version: &str, machine: &str, program: &[u8]) {
        let name = format!("eni-cni-{version}-{machine}");
        let directory = self.0.path().join(&name);
        fs::create_dir(&directory).unwrap();
        for program_name in ["eni-cni", "eni-sync"] {
            let file = directory.join(program_name);
            fs::write(&file, program).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
            let sbom = self
                .0
                .path()
                .join(format!("{name}.{program_name}.cdx.json"));
            fs::write(sbom, "{}").unwrap();
        }
        fs::write(directory.join("LICENSE"), "text").unwrap();
        let mut tar = Command::new("tar");
        tar.current_dir(self.0.path());
        tar.args(["-czf", &format!("{name}.tar.gz"), "--mtime", TIME, &name]);
        assert!(tar.status().unwrap().success());
        fs::remove_dir_all(directory).unwrap();
    }

    fn layout(&self) -> PathBuf {
        self.0.path().join("image")
    }

    fn try_make(&self) -> Output {
        let mut command = Command::new(path("deploy/image"));
        command.arg(self.layout());
        let entries = fs::read_dir(self.0.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        command.args(paths.filter(|path| path.extension().is_some_and(|end| end == "gz")));
        command.output().unwrap()
    }

    /// Makes the image; its digest.
    #[track_caller]
    fn make(&self) -> String {
        let output = self.try_make();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        said.split(' ').nth(1).unwrap().to_owned()
    }

    /// Makes sure that these archives are refused, and that the message says so.
    #[track_caller]
    fn is_refused(&self, said: &str) {
        let output = self.try_make();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(said), "{error}");
    }
}

/// A small static program.
fn busybox() -> PathBuf {
    let directories = std::env::var("PATH").unwrap();
    let mut paths = directories
        .split(':')
        .map(|it| Path::new(it).join("busybox"));
    paths
        .find(|path| path.is_file())
        .expect("run `tests/prepare`")
}

/// A registry at 127.0.0.1:5000 of a namespace of its own.
struct Registry {
    netns: Namespace,
    process: Child,
    _storage: TempDir,
}

impl Registry {
    fn start() -> Self {
        let netns = Namespace::new();
        let storage = tempfile::tempdir().unwrap();
        let configuration = storage.path().join("config.yml");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:5000'}}\n",
            storage.path().display()
        );
        fs::write(&configuration, text).unwrap();
        let log = File::create(storage.path().join("log")).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&configuration);
        command.stdout(Stdio::null()).stderr(log);
        let process = netns.run(|| command.spawn().expect("run `tests/prepare tests`"));
        let listens = || std::net::TcpStream::connect("127.0.0.1:5000").is_ok();
        wait_until("the registry listens", || netns.run(listens));
        Self {
            netns,
            process,
            _storage: storage,
        }
    }

    #[track_caller]
    fn skopeo(&self, arguments: &[&str]) -> String {
        self.netns.tool("skopeo", arguments)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[test]
fn a_registry_takes_the_image_for_both_architectures() {
    let dist = Dist::of_both();
    let digest = dist.make();
    let registry = Registry::start();
    let source = format!("oci:{}:0.1.0", dist.layout().display());
    let target = "docker://127.0.0.1:5000/eni-sync:0.1.0";
    registry.skopeo(&["copy", "--all", "--dest-tls-verify=false", &source, target]);
    for architecture in ["amd64", "arm64"] {
        let option = format!("--override-arch={architecture}");
        let inspect = [&option, "inspect", "--tls-verify=false", target];
        let found: Value = serde_json::from_str(&registry.skopeo(&inspect)).unwrap();
        assert_eq!(found["Architecture"], architecture);
        assert_eq!(found["Created"], TIME);
        let label = |name: &str| &found["Labels"][format!("org.opencontainers.image.{name}")];
        assert_eq!(label("version"), "0.1.0");
        assert_eq!(label("title"), "eni-sync");
        assert_eq!(label("created"), TIME);
        // What a manifest can name so that nobody can replace it.
        assert_eq!(found["Digest"], digest.as_str());
    }
}

#[test]
fn the_image_has_the_programs_what_they_are_made_of_and_certificates() {
    let dist = Dist::of_both();
    dist.make();
    let unpacked = tempfile::tempdir().unwrap();
    let target = format!("dir:{}", unpacked.path().display());
    let source = format!("oci:{}:0.1.0", dist.layout().display());
    Namespace::of_thread().tool(
        "skopeo",
        &["--override-arch=amd64", "copy", &source, &target],
    );
    let manifest = fs::read(unpacked.path().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    let layer = unpacked.path().join(digest.trim_start_matches("sha256:"));
    let list = Namespace::of_thread().tool(
        "tar",
        &["--numeric-owner", "-tvzf", layer.to_str().unwrap()],
    );
    let entries: Vec<String> = list
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {} {}", words[0], words[1], words[5])
        })
        .collect();
    let expected = [
        "drwxr-xr-x 0/0 etc/",
        "drwxr-xr-x 0/0 etc/ssl/",
        "drwxr-xr-x 0/0 etc/ssl/certs/",
        "-rw-r--r-- 0/0 etc/ssl/certs/ca-certificates.crt",
        "drwxr-xr-x 0/0 licenses/",
        "-rw-r--r-- 0/0 licenses/LICENSE",
        "drwxr-xr-x 0/0 plugins/",
        "-rwxr-xr-x 0/0 plugins/eni-cni",
        "-rwxr-xr-x 0/0 plugins/eni-sync",
        "drwxr-xr-x 0/0 sbom/",
        "-rw-r--r-- 0/0 sbom/eni-cni-0.1.0-x86_64.eni-cni.cdx.json",
        "-rw-r--r-- 0/0 sbom/eni-cni-0.1.0-x86_64.eni-sync.cdx.json",
    ];
    assert_eq!(entries, expected);
}

/// Whatever was there before, and whoever makes it.
#[test]
fn made_again_the_image_is_the_same_to_the_byte() {
    let dist = Dist::of_both();
    let digest = dist.make();
    let before = dist.0.path().join("before");
    fs::rename(dist.layout(), &before).unwrap();
    dist.make();
    fs::write(dist.layout().join("blobs/sha256/stale"), "").unwrap();
    assert_eq!(dist.make(), digest);
    let mut diff = Command::new("diff");
    let output = diff.arg("-r").arg(&before).arg(dist.layout()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_program_that_cannot_be_executed_in_the_image_is_refused() {
    let dist = Dist::of_both();
    let digest = dist.make();
    let index = fs::read(dist.layout().join("index.json")).unwrap();
    let (other, _) = MACHINES.into_iter().find(|it| it.0 != OWN).unwrap();
    dist.publish(other, &fs::read(busybox()).unwrap());
    dist.is_refused(&format!("eni-cni is a program for {OWN}, not for {other}"));
    let other = Dist::new();
    other.publish(OWN, &fs::read("/bin/true").unwrap());
    other.is_refused("eni-cni needs libraries, which the image does not have");
    assert!(!other.layout().exists());
    // The one that was there is whole.
    assert_eq!(fs::read(dist.layout().join("index.json")).unwrap(), index);
    let blob = digest.trim_start_matches("sha256:");
    assert!(dist.layout().join("blobs/sha256").join(blob).is_file());
}

#[test]
fn archives_that_are_no_image_together_are_refused() {
    let dist = Dist::of_both();
    let made = |name: &str| dist.0.path().join(format!("eni-cni-{name}.tar.gz"));
    fs::copy(made("0.1.0-x86_64"), made("0.2.0-x86_64")).unwrap();
    dist.is_refused("has no directory eni-cni-0.2.0-x86_64");
    fs::remove_file(made("0.2.0-x86_64")).unwrap();
    dist.publish_version("0.2.0", "x86_64", &fs::read(busybox()).unwrap());
    dist.is_refused("not one version with one archive an architecture");
    fs::remove_file(made("0.2.0-x86_64")).unwrap();
    fs::create_dir(dist.layout()).unwrap();
    fs::write(dist.layout().join("theirs"), "").unwrap();
    dist.is_refused("is not an image that this program has made");
    assert!(dist.layout().join("theirs").is_file());
}
