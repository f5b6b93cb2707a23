//! The commands that the documents show: a shell executes each block as it stands, in a copy of what
//! it uses. What would change the machine or needs a cluster is asked whether it knows these
//! options (`stub`), or a test that is named here executes it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use fixtures::documents::blocks::{Block, blocks};
use fixtures::documents::{pages, root};
use harness::kubernetes::{helms, kubectl};
use harness::{our_plugin, program};
use tempfile::TempDir;

/// What `stub` stands in for.
const STUBS: [&str; 9] = [
    "make",
    "eni-sync",
    "eni-lab",
    "helm",
    "kubectl",
    "install",
    "systemctl",
    "skopeo",
    "ctr",
];
/// What is executed as it is.
const TOOLS: [&str; 5] = ["sed", "tar", "grep", "cat", "bash"];
/// How commands begin that need a registry or a runtime, the test that executes
/// them, and what it has of them.
const ELSEWHERE: [(&str, &str, &str); 2] = [
    (
        "skopeo copy --all oci:",
        "host/image.rs",
        "\"copy\", \"--all\"",
    ),
    (
        "ctr --namespace k8s.io images import --base-name",
        "vm/machine/runtimes/daemon_set.rs",
        "\"--base-name\"",
    ),
];
/// What documents show of an output: how each line begins, and the test that has it.
const OUTPUTS: [(&str, &str, &str); 3] = [
    (
        "ENIs user-plane: 1 of 2 attached",
        "host/eni_sync/attach/holders.rs",
        "ENIs user: 1 of 2 attached",
    ),
    (
        "network card 0: 4 of 4 ENIs: ",
        "host/eni_sync/attach/holders.rs",
        "network card 0: 4 of 4 ENIs: ",
    ),
    ("time=", "host/host_local/log_file.rs", "milliseconds="),
];

/// A directory for a shell: what the commands use, and the programs that they may start.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a directory can be made");
        let at = scratch.path();
        for directory in ["bin", "dist/image", "root/etc/systemd/system"] {
            fs::create_dir_all(at.join(directory)).expect("it is writable");
        }
        let copied = Command::new("cp")
            .arg("-r")
            .arg(root().join("deploy"))
            .arg(at)
            .status();
        assert!(copied.is_ok_and(|status| status.success()));
        for name in STUBS {
            symlink(
                root().join("tests/host/documents/stub"),
                at.join("bin").join(name),
            )
            .expect("it is writable");
        }
        for tool in TOOLS {
            let path = ["/usr/bin", "/bin"].map(|directory| Path::new(directory).join(tool));
            let path = path
                .iter()
                .find(|path| path.exists())
                .expect("the tool exists");
            symlink(path, at.join("bin").join(tool)).expect("it is writable");
        }
        Self(scratch)
    }

    /// What is wrong with the commands; which programs they have started is in `used`.
    fn execute(&self, text: &str, helm: &Path) -> String {
        let at = self.0.path();
        let output = Command::new("/bin/bash")
            .args(["-e", "-o", "pipefail", "-c", text])
            .current_dir(at)
            // Those of a `make test` around this are about that.
            .env_remove("MAKEFLAGS")
            .env("MAKE_PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs([
                ("PATH", at.join("bin")),
                ("SCRATCH", at.to_owned()),
                ("WRONG", at.join("wrong")),
                ("ROOT", root()),
                ("KUBECTL", kubectl()),
                ("HELM", helm.to_owned()),
                ("ENI_SYNC", our_plugin("eni-sync")),
                ("ENI_LAB", program("eni-lab")),
            ])
            .output()
            .expect("there is a shell");
        let wrong = fs::read_to_string(at.join("wrong")).unwrap_or_default();
        match output.status.success() {
            true => wrong,
            false => format!("{wrong}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.0.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Whether the test of one of these has it.
fn has(table: &[(&str, &str, &str)], line: &str) -> bool {
    let row = table.iter().find(|row| line.starts_with(row.0));
    row.is_some_and(|(_, test, text)| {
        let code = fs::read_to_string(root().join("tests").join(test));
        code.expect("the test exists").contains(text)
    })
}

fn complaints(block: &Block) -> Vec<String> {
    let lines = block.text.lines();
    match block.language.as_str() {
        // `every_network_and_file_that_a_page_shows_is_an_example` compares these.
        "yaml" | "json" => Vec::new(),
        "console" => commands_of(block),
        // A real shell executes these with a real eni-lab.
        "sh" if is_of_eni_lab(block) => Vec::new(),
        "text" => lines
            .filter(|line| !has(&OUTPUTS, line))
            .map(str::to_owned)
            .collect(),
        language => vec![format!("nothing checks a block of {language:?}")],
    }
}

/// Whether the tests of eni-lab execute the block below this heading.
fn is_of_eni_lab(block: &Block) -> bool {
    let tests = ["host/eni_lab/program.rs", "vm/eni_lab.rs"];
    let mut codes = tests
        .map(|test| fs::read_to_string(root().join("tests").join(test)))
        .into_iter();
    block.place.contains("docs/eni-lab.md:")
        && codes.any(|code| code.expect("the test exists").contains(&block.heading))
}

fn commands_of(block: &Block) -> Vec<String> {
    let mut complaints = Vec::new();
    for helm in helms() {
        let scratch = Scratch::new();
        let wrong = scratch.execute(&block.text, &helm);
        complaints.extend(wrong.lines().map(str::to_owned));
        if scratch.lines("wrong.used").is_empty() {
            complaints.push("it starts none of the programs that are checked".to_owned());
        }
        let elsewhere = scratch.lines("wrong.elsewhere");
        complaints.extend(elsewhere.into_iter().filter(|line| !has(&ELSEWHERE, line)));
        if !block.text.contains("helm ") {
            break;
        }
    }
    complaints
}

#[test]
fn every_block_of_the_documents_is_executed_or_compared() {
    let mut found = Vec::new();
    let mut count = 0;
    let chart = root().join("deploy/helm/README.md");
    let mut pages = pages();
    let text = fs::read_to_string(&chart).expect("it can be read");
    pages.push((chart, text));
    // One is made of the sources, the other one of what the demo has printed.
    pages.retain(|(path, _)| !path.ends_with("messages.md") && !path.ends_with("demo.md"));
    for (path, page) in &pages {
        for block in blocks(&path.display().to_string(), page) {
            count += 1;
            let complaints = complaints(&block).into_iter();
            found.extend(complaints.map(|complaint| format!("{}: {complaint}", block.place)));
        }
    }
    assert!(count > 40, "only {count} blocks are found");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_command_that_a_program_does_not_take_is_found() {
    let page = "# A\n\n    make no-such-target\n\n```console\n\
        kubectl get pods --no-such-option | eni-sync doctor --nad -\n```\n\n```console\n\
        X=$(eni-sync no-such-command)\n```\n\n```console\nno-such-program\n```\n\n\
        ```console\nskopeo no-such-command\n```\n\n```text\nno such output\n```\n";
    let found: Vec<Vec<String>> = blocks("page", page).iter().map(complaints).collect();
    let words = [
        "target",
        "option",
        "no-such-command",
        "program",
        "skopeo",
        "output",
    ];
    assert_eq!(found.len(), words.len(), "{found:?}");
    for (found, word) in found.iter().zip(words) {
        assert!(found.join(" ").contains(word), "{word}: {found:?}");
    }
}
