//! The quickstart of eni-lab, as it stands in its document: a shell on a node of a VPC, a pod in it,
//! and what eni-sync says. What `make lab` builds is there when the tests run, so what it then
//! executes is executed. That the demo needs no VM here is the Makefile's other look at the kernel.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use fixtures::documents::blocks::commands;
use fixtures::documents::{recipe, root};
use harness::program;

/// The arguments with which `make lab` starts eni-lab, once all is built.
fn shell() -> Vec<String> {
    let text = recipe("lab");
    let last = text.lines().last().expect("it does something");
    let (path, arguments) = last.split_once(' ').expect("it has arguments");
    assert!(path.ends_with("/eni-lab"), "{text}");
    assert!(text.contains("cargo build --locked -p eni-lab"), "{text}");
    arguments.split(' ').map(str::to_owned).collect()
}

/// Lets the shell that `make lab` opens read these lines.
fn in_shell(lines: &str) -> Output {
    let mut lab = Command::new(program("eni-lab"));
    lab.args(shell())
        .env("SHELL", "/bin/sh")
        .current_dir(root());
    lab.stdin(Stdio::piped());
    lab.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut lab = lab.spawn().expect("eni-lab can be executed");
    let mut stdin = lab.stdin.take().expect("it is piped");
    stdin.write_all(lines.as_bytes()).expect("the shell reads");
    drop(stdin);
    lab.wait_with_output().expect("the shell ends")
}

#[test]
fn the_quickstart_ends_with_a_pod_that_has_an_address() {
    let page = commands("docs/eni-lab.md", "## Quickstart");
    let [make, rest @ ..] = page.as_slice() else {
        panic!("the quickstart has no commands")
    };
    assert_eq!((make.as_str(), rest.len()), ("make lab", 2), "{page:?}");
    let output = in_shell(&format!(
        "{}\necho\nip -n pod-1 -brief -4 address show net1\neni-lab pod --delete {}\n\
         ip netns list | wc -l\n",
        rest.join("\n"),
        rest[0].rsplit(' ').next().unwrap_or_default(),
    ));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    // The kernel's word for the address of the pod, and eni-sync's for the same.
    let (shown, kernel) = said.rsplit_once("\n\n").unwrap_or((&said, ""));
    let address = kernel.split_whitespace().find(|word| word.contains('/'));
    let address = address.unwrap_or_else(|| panic!("net1 has no address:\n{said}"));
    let address = address.split('/').next().unwrap_or_default();
    assert!(address.starts_with("10.0.4."), "{said}");
    let status = shown
        .lines()
        .find(|line| line.trim_start().starts_with(address));
    let status = status.unwrap_or_else(|| panic!("status does not show {address}:\n{said}"));
    assert!(status.contains("default/pod-1"), "{said}");
    assert!(said.ends_with("\n0\n"), "the pod has not ended:\n{said}");
}

#[test]
fn the_demo_of_ipvlan_needs_no_vm_where_the_kernel_has_ipvlan() {
    let text = recipe("demo");
    let native = text
        .lines()
        .find(|line| line.ends_with("/demo across ipvlan"));
    assert!(
        native.is_some_and(|line| !line.contains("vm/run")),
        "{text}"
    );
}
