//! What is published: `deploy/dist`, with the plugins that are tested. eni-sync is left out,
//! because only its unoptimised build is here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use harness::{our_plugin, repository};
use serde_json::Value;
use tempfile::TempDir;

use crate::arm64::ARM64;

/// The program, which is also the name of its crate.
const PROGRAM: &str = "eni-cni";
/// The other names of the program.
const NAMES: [&str; 6] = [
    "eni-host-device",
    "eni-host-local",
    "eni-ipvlan",
    "host-device",
    "host-local",
    "ipvlan",
];

fn root() -> PathBuf {
    repository().to_owned()
}

/// What a command prints.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().expect("it can be started");
    let diagnostics = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{diagnostics}");
    String::from_utf8(output.stdout).expect("it is text")
}

/// The published files.
fn dist() -> TempDir {
    let directory = TempDir::new().expect("a temporary directory can be made");
    output(&mut publish(
        &directory,
        &[PROGRAM],
        &[&our_plugin(PROGRAM)],
    ));
    directory
}

/// What publishes these programs, of the builds that these files are in.
fn publish(directory: &TempDir, programs: &[&str], builds: &[&Path]) -> Command {
    let mut command = Command::new(root().join("deploy/dist"));
    command.arg(directory.path()).args(programs).arg("--");
    command.args(builds.iter().filter_map(|program| program.parent()));
    command
}

fn files(directory: &TempDir) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory.path()).expect("it can be listed");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    paths
        .map(|path| {
            let name = path.file_name().expect("it has a name").to_string_lossy();
            (name.into_owned(), fs::read(&path).expect("it is a file"))
        })
        .collect()
}

/// The one file whose name ends so.
fn one(directory: &TempDir, end: &str) -> PathBuf {
    let names = files(directory).into_keys();
    let mut names = names.filter(|name| name.ends_with(end));
    let name = names.next().expect("there is one");
    assert_eq!(names.next(), None);
    directory.path().join(name)
}

fn listed(archive: &Path, options: &str) -> Vec<String> {
    let list = output(
        Command::new("tar")
            .args(["--numeric-owner", options])
            .arg(archive),
    );
    list.lines().map(str::to_owned).collect()
}

/// What makes and checks this very archive, beside the sources of the program, and what makes a picture and a site of the documents.
const OF_SOURCE: [&str; 12] = [
    "deploy/cross",
    "deploy/dist",
    "deploy/image",
    "deploy/manual",
    "deploy/reproducible",
    "docs/book.css",
    "docs/book.py",
    "docs/look",
    "docs/messages.py",
    "docs/page",
    "docs/record",
    "docs/picture.py",
];

/// This directory of the repository and all that is in it, as tar names them.
fn below(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(directory)).expect("it can be listed");
    let mut names = vec![format!("{directory}/")];
    for entry in entries {
        let entry = entry.expect("it can be listed");
        let name = format!("{directory}/{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => names.extend(below(&name)),
            false => names.push(name),
        }
    }
    names
}

#[test]
fn the_archive_has_the_programs_and_all_that_a_node_needs() {
    let dist = dist();
    let archive = one(&dist, ".tar.gz");
    let paths = listed(&archive, "-tf");
    let (top, _) = paths[0].split_once('/').expect("all is in one directory");
    let mut expected: BTreeSet<String> = ["deploy", "docs", "examples"]
        .into_iter()
        .flat_map(below)
        .filter(|name| !OF_SOURCE.contains(&name.as_str()) && !name.starts_with("deploy/bundle"))
        .collect();
    expected.extend(["", "LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md"].map(str::to_owned));
    let policies = ["", "-attach", "-vpcs"];
    expected.extend(policies.map(|suffix| format!("iam-policy{suffix}.json")));
    expected.insert(PROGRAM.to_owned());
    expected.extend(NAMES.map(str::to_owned));
    let expected: Vec<String> = expected
        .iter()
        .map(|name| format!("{top}/{name}"))
        .collect();
    let mut found = paths.clone();
    found.sort();
    assert_eq!(found, expected);
}

/// Where `make install` and the archive have them, which leaves eni-sync out here.
#[test]
fn manual_pages_and_completions_are_where_programs_look_for_them() {
    let share = TempDir::new().expect("a temporary directory can be made");
    let mut manual = Command::new(root().join("deploy/manual"));
    output(manual.arg(share.path()).arg(our_plugin("eni-sync")));
    for (path, text) in [
        ("man/man1/eni-sync.1", ".TH eni-sync 1"),
        ("man/man1/eni-sync-release.1", ".TH eni-sync-release 1"),
        ("bash-completion/completions/eni-sync", "complete -F"),
        ("zsh/site-functions/_eni-sync", "#compdef eni-sync"),
        (
            "fish/vendor_completions.d/eni-sync.fish",
            "complete -c eni-sync",
        ),
    ] {
        let path = share.path().join(path);
        let found = fs::read_to_string(&path).expect("it is written");
        assert!(found.contains(text), "{path:?}");
        let mode = fs::metadata(&path).expect("it is there").permissions();
        assert_eq!(mode.mode() & 0o7777, 0o644, "{path:?}");
    }
}

#[test]
fn the_archive_belongs_to_root_and_only_programs_can_be_executed() {
    for line in listed(&one(&dist(), ".tar.gz"), "-tvf") {
        let mut fields = line.split_whitespace();
        let (mode, owner) = (fields.next(), fields.next());
        assert_eq!(owner, Some("0/0"), "{line}");
        // A second name of a file is shown with the first.
        let path = fields.nth(3).expect("a path is shown");
        let name = path.rsplit('/').next().expect("a path has a name");
        let is_program = name == PROGRAM || NAMES.contains(&name);
        let mode = mode.map(|mode| mode.replace('h', "-"));
        let expected = match (path.ends_with('/'), is_program) {
            (true, _) => "drwxr-xr-x",
            (false, true) => "-rwxr-xr-x",
            (false, false) => "-rw-r--r--",
        };
        assert_eq!(mode.as_deref(), Some(expected), "{line}");
    }
}

#[test]
fn made_again_it_is_the_same_to_the_byte() {
    assert!(files(&dist()) == files(&dist()));
}

#[test]
fn the_sums_are_those_of_all_files() {
    let dist = dist();
    let check = || {
        let mut command = Command::new("sha256sum");
        command
            .args(["--check", "--strict", "SHA256SUMS"])
            .current_dir(dist.path());
        command.output().expect("it can be started")
    };
    let checked = check();
    assert!(checked.status.success());
    let checked = String::from_utf8_lossy(&checked.stdout).lines().count();
    assert_eq!(checked, files(&dist).len() - 1);
    fs::write(one(&dist, ".eni-cni.cdx.json"), "{}").expect("it can be written");
    assert!(!check().status.success());
}

/// In place of cargo: it fails where another one builds at the same time.
const CARGO: &str = r#"#!/bin/sh
mkdir "$XDG_CACHE_HOME/building" || exit 1
sleep 0.3
while [ "$1" != --root ]; do shift; done
mkdir -p "$2/bin"
printf '#!/bin/sh\n' >"$2/bin/tool"
chmod +x "$2/bin/tool"
rmdir "$XDG_CACHE_HOME/building"
echo built >>"$XDG_CACHE_HOME/log"
"#;

#[test]
fn a_tool_that_many_want_at_once_is_built_once() {
    let cache = TempDir::new().expect("a temporary directory can be made");
    let cargo = cache.path().join("cargo");
    fs::write(&cargo, CARGO).expect("it can be written");
    fs::set_permissions(&cargo, Permissions::from_mode(0o755)).expect("it can be executed");
    let path = std::env::var("PATH").expect("there is a path");
    let path = format!("{}:{path}", cache.path().display());
    let want = || {
        let mut tool = Command::new(root().join("tests/tool"));
        tool.args(["tool", "1.0.0"]).env("PATH", &path);
        output(tool.env("XDG_CACHE_HOME", cache.path()))
    };
    thread::scope(|scope| {
        let wanting: Vec<_> = (0..4).map(|_| scope.spawn(want)).collect();
        for tool in wanting {
            let tool = tool.join().expect("every one succeeds");
            assert!(Path::new(tool.trim()).is_file(), "{tool}");
        }
    });
    let log = fs::read_to_string(cache.path().join("log")).expect("it was built");
    assert_eq!(log, "built\n");
}

/// Names and versions of packages.
type Packages = BTreeSet<(String, String)>;

/// What cargo builds crates from, together, and what runs in the compiler meanwhile.
fn dependencies(crates: &[&str]) -> Packages {
    let target = output(Command::new("rustc").arg("--print").arg("host-tuple"));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root());
    cargo.args(["tree", "--locked", "--edges", "normal", "--prefix", "none"]);
    cargo.args(["--target", target.trim()]);
    cargo.args(crates.iter().flat_map(|name| ["--package", *name]));
    let tree = output(&mut cargo);
    let packages = tree.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        let version = words.next()?.strip_prefix('v')?.to_owned();
        Some((name, version))
    });
    packages
        .filter(|(package, _)| !crates.contains(&package.as_str()))
        .collect()
}

/// The sums in Cargo.lock.
fn locked() -> BTreeMap<(String, String), String> {
    let text = fs::read_to_string(root().join("Cargo.lock")).expect("it can be read");
    let packages = text.split("[[package]]").filter_map(|package| {
        let value = |key: &str| {
            let line = package.lines().find(|line| line.starts_with(key))?;
            Some(line.split('"').nth(1)?.to_owned())
        };
        Some(((value("name")?, value("version")?), value("checksum")?))
    });
    packages.collect()
}

/// What rustix needs where it calls the C library, as it does not on Linux: cargo-cyclonedx
/// does not tell these cases apart.
const OF_ANOTHER_BACKEND: &str = "errno";

#[test]
fn the_sbom_of_a_program_names_every_dependency_with_its_sum() {
    let dist = dist();
    let locked = locked();
    // Built together, one program makes another one's dependencies larger.
    let of_all = dependencies(&["eni-sync", PROGRAM]);
    let text = fs::read(one(&dist, ".eni-cni.cdx.json")).expect("it can be read");
    let sbom: Value = serde_json::from_slice(&text).expect("it is JSON");
    assert_eq!(sbom["bomFormat"], "CycloneDX");
    let components = sbom["components"].as_array().expect("it has components");
    let package = |component: &Value| {
        let text = |key: &str| component[key].as_str().unwrap_or_default().to_owned();
        (text("name"), text("version"))
    };
    let mut found: Packages = components.iter().map(package).collect();
    let of_program = dependencies(&[PROGRAM]);
    assert!(of_program.len() > 20, "{of_program:?}");
    assert!(found.is_superset(&of_program), "{found:?}");
    found.retain(|(name, _)| name != OF_ANOTHER_BACKEND);
    assert!(found.is_subset(&of_all), "{found:?}");
    for component in components {
        let sum = component["hashes"][0]["content"].as_str();
        let expected = locked.get(&package(component)).map(String::as_str);
        assert_eq!(sum, expected, "{:?}", package(component));
    }
}

#[test]
fn a_program_without_an_sbom_is_not_published() {
    let [from, directory] = [(); 2].map(|()| TempDir::new().expect("a temporary directory"));
    for name in [PROGRAM, "other"] {
        fs::copy(our_plugin(PROGRAM), from.path().join(name)).expect("it can be copied");
    }
    let mut command = publish(
        &directory,
        &[PROGRAM, "other"],
        &[&from.path().join(PROGRAM)],
    );
    let output = command.output().expect("it can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{:?}", files(&directory).keys());
    assert!(
        said.contains("no crate of this workspace makes other"),
        "{said}"
    );
    assert!(!files(&directory).contains_key("SHA256SUMS"));
}

/// A program for each architecture. On arm64, where nothing is built for another one, that for
/// amd64 only says so, in the header of its file.
fn builds(scratch: &TempDir) -> [(&'static str, PathBuf); 2] {
    const MACHINE: usize = 18;
    const X86_64: u8 = 62;
    let own = our_plugin(PROGRAM);
    if cfg!(target_arch = "x86_64") {
        return [("x86_64", own), ("aarch64", our_plugin(ARM64))];
    }
    let mut program = fs::read(&own).expect("it can be read");
    program[MACHINE] = X86_64;
    let path = scratch.path().join(PROGRAM);
    fs::write(&path, program).expect("it can be written");
    [("x86_64", path), ("aarch64", own)]
}

#[test]
fn each_architecture_has_an_archive_that_is_named_for_it() {
    let [scratch, directory] = [(); 2].map(|()| TempDir::new().expect("a temporary directory"));
    let builds = builds(&scratch);
    let paths = builds.each_ref().map(|(_, program)| program.as_path());
    output(&mut publish(&directory, &[PROGRAM], &paths));
    let mut expected = vec!["SHA256SUMS".to_owned()];
    for (machine, program) in &builds {
        let name = format!("eni-cni-{}-{machine}", env!("CARGO_PKG_VERSION"));
        let archive = directory.path().join(format!("{name}.tar.gz"));
        let mut tar = Command::new("tar");
        tar.arg("-xOf").arg(&archive);
        let packed = tar.arg(format!("{name}/{PROGRAM}")).output();
        let packed = packed.expect("it can be started").stdout;
        assert!(
            packed == fs::read(program).expect("it can be read"),
            "{name}"
        );
        expected.extend([".eni-cni.cdx.json", ".tar.gz"].map(|end| name.clone() + end));
    }
    expected.sort();
    assert!(
        files(&directory).into_keys().eq(expected.clone()),
        "{expected:?}"
    );
    let sums = fs::read_to_string(directory.path().join("SHA256SUMS")).expect("it is there");
    assert_eq!(sums.lines().count(), expected.len() - 1, "{sums}");
}

#[test]
fn programs_for_two_architectures_are_not_in_one_archive() {
    let [scratch, from, directory] =
        [(); 3].map(|()| TempDir::new().expect("a temporary directory"));
    for ((_, program), name) in builds(&scratch).iter().zip([PROGRAM, "eni-sync"]) {
        fs::copy(program, from.path().join(name)).expect("it can be copied");
    }
    let mut command = publish(
        &directory,
        &[PROGRAM, "eni-sync"],
        &[&from.path().join(PROGRAM)],
    );
    let output = command.output().expect("it can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("are not all for amd64 or all for arm64"),
        "{said}"
    );
    assert!(files(&directory).is_empty());
}

#[test]
fn nothing_that_is_published_names_a_directory_of_this_machine() {
    let home = std::env::var("HOME").expect("there is a home");
    for (name, content) in files(&dist()) {
        if !name.ends_with(".gz") {
            let text = String::from_utf8_lossy(&content);
            assert!(
                !text.contains(&format!("{home}/.cargo")) && !text.contains("/tmp"),
                "{name}"
            );
        }
    }
    let content = fs::read(our_plugin(PROGRAM)).expect("it can be read");
    let text = String::from_utf8_lossy(&content);
    assert!(text.contains("/cargo/registry"));
    assert!(!text.contains("/.cargo/registry"));
}
