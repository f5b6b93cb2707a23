//! Assertions 56 to 60: many at once, commands that overlap, processes that are killed,
//! and disks that take no more.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use harness::{Call, Output};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::assertion::{About, Assertion, Verdict, ensure};
use crate::held::{Held, PROMPTLY, spawn_waiting_for_ipam, until, while_held, while_ipam_is_asked};
use crate::plugin::Plugin;
use crate::scene::{IFNAME, Scene, answer, unlike, with};
use crate::strace;

/// As many as start at once on a node that has been drained.
const MANY: usize = 200;

/// A page of a small disk.
const PAGE: usize = 4096;

pub(crate) const ASSERTIONS: &[Assertion] = &[
    Assertion {
        number: 56,
        sentence: "200 ADDs at once get 200 addresses of the range; beside DELs none is lost",
        about: About::Store,
        apply: many_at_once_get_different_addresses,
    },
    Assertion {
        number: 57,
        sentence: "a DEL that overlaps with its ADD leaves nothing when both have ended",
        about: About::Any,
        apply: del_during_add_leaves_nothing,
    },
    Assertion {
        number: 58,
        sentence: "a GC that overlaps with ADDs leaves each of them whole or undone",
        about: About::Speaks110,
        apply: gc_during_add_leaves_no_half,
    },
    Assertion {
        number: 59,
        sentence: "after a process was killed wherever it was, the next call goes on at once",
        about: About::Any,
        apply: killed_process_stops_nobody,
    },
    Assertion {
        number: 60,
        sentence: "an ADD that cannot write is code 5 and leaves no part of a file",
        about: About::Any,
        apply: unwritable_disk_is_reported,
    },
];

/// What calls give that are run at once, after those were repeated that say to try again, as often
/// as the plugin is given.
fn repeated(scene: &Scene<'_>, plugin: &Plugin, calls: &[Call]) -> Vec<Output> {
    let mut outputs = at_once(scene, calls);
    for _ in 0..plugin.repeat {
        let again: Vec<usize> = (0..outputs.len())
            .filter(|nth| says_try_again(&outputs[*nth]))
            .collect();
        let calls: Vec<Call> = again.iter().map(|nth| calls[*nth].clone()).collect();
        for (nth, output) in again.into_iter().zip(at_once(scene, &calls)) {
            outputs[nth] = output;
        }
    }
    outputs
}

/// Source: CNI specification, "Error": code 11.
fn says_try_again(output: &Output) -> bool {
    let document = serde_json::from_str::<Value>(&output.stdout);
    output.status != Some(0) && document.is_ok_and(|document| document["code"] == 11)
}

/// Runs calls on a node, all at once.
fn at_once(scene: &Scene<'_>, calls: &[Call]) -> Vec<Output> {
    scene.node.inside(|| {
        thread::scope(|scope| {
            let running: Vec<_> = calls
                .iter()
                .map(|call| scope.spawn(|| call.run()))
                .collect();
            running
                .into_iter()
                .filter_map(|thread| thread.join().ok())
                .collect()
        })
    })
}

fn of_container(scene: &Scene<'_>, command: &str, number: usize) -> Call {
    let call = scene.call(command, &scene.conf());
    call.env("CNI_CONTAINERID", &format!("c{number}"))
}

/// The addresses that some ADDs were given, which must all have succeeded.
fn addresses(outputs: &[Output]) -> Result<BTreeSet<String>, String> {
    let mut addresses = BTreeSet::new();
    for output in outputs {
        let result = output
            .try_ok()
            .map_err(|cause| unlike("success", &cause, output))?;
        if let Some(address) = result["ips"][0]["address"].as_str() {
            addresses.insert(address.to_owned());
        }
    }
    Ok(addresses)
}

fn many_at_once_get_different_addresses(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let adds: Vec<Call> = (0..MANY).map(|n| of_container(&scene, "ADD", n)).collect();
    let first = addresses(&repeated(&scene, plugin, &adds))?;
    ensure!(
        first.len() == MANY,
        "expected {MANY} different addresses, came {}",
        first.len()
    );
    let is_inside = |address: &String| address.starts_with("10.9.0.") && address.ends_with("/24");
    ensure!(
        first.iter().all(is_inside),
        "expected addresses of 10.9.0.0/24, came {first:?}"
    );

    let half = MANY / 2;
    let dels: Vec<Call> = (0..MANY).map(|n| of_container(&scene, "DEL", n)).collect();
    addresses(&repeated(&scene, plugin, &dels[half..]))?;
    let mixed = [&dels[..half], &adds[half..]].concat();
    let second = addresses(&repeated(&scene, plugin, &mixed))?;
    let files = scene.files().len();
    ensure!(
        second.len() == half && files == half,
        "expected {half} addresses and files beside DELs, came {} and {files}",
        second.len()
    );
    Ok(())
}

fn del_during_add_leaves_nothing(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let del = scene.call("DEL", &scene.conf());
    if plugin.recipe.is_main() {
        while_ipam_is_asked(&scene, &del)?;
        scene.is_as(&before, "after DEL while ADD waited for IPAM")?;
    }
    let scene = Scene::new(plugin);
    let before = scene.state();
    let add = Held::start(&scene, &scene.call("ADD", &scene.conf()))?;
    while_held(add, || scene.node.run(&scene.call("DEL", &scene.conf())))?;
    scene.is_as(&before, "after DEL while ADD delivered its result")
}

fn gc_during_add_leaves_no_half(plugin: &Plugin) -> Verdict {
    if plugin.recipe.is_main() {
        return gc_during_add_of_interface(plugin);
    }
    let scene = Scene::new(plugin);
    let listed: Vec<Value> = (0..30)
        .map(|n| json!({"containerID": format!("c{n}"), "ifname": IFNAME}))
        .collect();
    let conf = with(&scene.conf(), &json!({"cni.dev/valid-attachments": listed}));
    addresses(&[scene.node.run(&of_container(&scene, "ADD", 30))])?;
    let mut calls: Vec<Call> = (0..30).map(|n| of_container(&scene, "ADD", n)).collect();
    calls.push(scene.bare_call("GC").conf(&conf));
    let came = addresses(&at_once(&scene, &calls))?;
    let files = scene.files();
    ensure!(
        came.len() == 30 && (plugin.recipe.store.is_none() || files.len() == 30),
        "expected the 30 reservations that are listed, came {files:?}"
    );
    Ok(())
}

fn gc_during_add_of_interface(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let conf = with(&scene.conf(), &json!({"cni.dev/valid-attachments": []}));
    while_ipam_is_asked(&scene, &scene.bare_call("GC").conf(&conf))?;
    let has_link = scene.pod.netns.link(IFNAME).is_some();
    let has_address = !scene.ipam.reserved().is_empty();
    ensure!(
        has_link == has_address,
        "expected an interface with an address or neither, came {has_link} and {has_address}"
    );
    scene.del(&scene.conf())?;
    scene.is_as(&before, "after GC that overlapped with ADD, and DEL")
}

fn killed_process_stops_nobody(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let add = scene.call("ADD", &scene.conf());
    let count = scene.node.inside(|| strace::count(&add));
    scene.del(&scene.conf())?;
    for nth in strace::points(count) {
        let (scene, other) = (Scene::new(plugin), harness::Pod::new("c2"));
        let add = scene.call("ADD", &scene.conf());
        scene.node.inside(|| strace::killed_at(&add, nth));
        // An ipvlan interface cannot have an address that another one has.
        let mut second = answer(plugin.version());
        second["ips"][0]["address"] = json!("10.9.0.6/24");
        scene.ipam.answer(&second);
        let next = scene.call("ADD", &scene.nth_conf(1)).pod(&other, IFNAME);
        let output = scene
            .node
            .inside(|| next.run_under("timeout", &["-s", "KILL", "120"]));
        output
            .try_ok()
            .map_err(|cause| unlike("the next ADD to succeed", &cause, &output))?;
    }
    if plugin.recipe.is_main() {
        return killed_plugin_whose_delegate_lives(plugin);
    }
    Ok(())
}

/// A delegate may have inherited whatever the plugin had open, such as a lock.
fn killed_plugin_whose_delegate_lives(plugin: &Plugin) -> Verdict {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let mut add = spawn_waiting_for_ipam(&scene)?;
    let has_entered = until(PROMPTLY, || scene.ipam.path("entered").exists());
    add.kill()
        .and_then(|()| add.wait())
        .map_err(|cause| cause.to_string())?;
    let del = scene.call("DEL", &scene.conf());
    let output = scene
        .node
        .inside(|| del.run_under("timeout", &["-s", "KILL", "120"]));
    let is_clean = scene.is_as(
        &before,
        "after DEL of an ADD that was killed while its delegate lives",
    );
    scene.ipam.write("gate", "");
    ensure!(
        has_entered,
        "expected ADD to ask IPAM, it did not within {PROMPTLY:?}"
    );
    output
        .try_ok()
        .map_err(|cause| unlike("DEL to go on", &cause, &output))?;
    is_clean
}

fn unwritable_disk_is_reported(plugin: &Plugin) -> Verdict {
    let mut scene = Scene::new(plugin);
    let before = scene.state();
    scene.node.read_only("/var/lib/cni");
    let call = scene.call("ADD", &scene.conf());
    let output = scene.node.run(&call);
    if output.status == Some(0) {
        // What keeps nothing has nothing to fail at.
        ensure!(
            plugin.recipe.store.is_none(),
            "expected an error on a read-only disk, came success"
        );
        ensure!(
            scene.files().is_empty(),
            "expected no files, came {:?}",
            scene.files()
        );
        return Ok(());
    }
    scene.fails_with(5, &call)?;
    scene.is_as(&before, "after an ADD on a read-only disk")?;
    (1..10)
        .map(|pages| on_a_disk_of(plugin, pages))
        .find(|end| *end != Ok(false))
        .map_or(Ok(()), |end| end.map(drop))
}

/// Whether an ADD has succeeded on a disk of so many pages, where it otherwise has to
/// fail in the right way.
fn on_a_disk_of(plugin: &Plugin, pages: usize) -> Result<bool, String> {
    let scene = Scene::new(plugin);
    let before = scene.state();
    let call = scene.call("ADD", &scene.conf());
    let (output, left) = scene.node.inside(|| {
        let (tmpfs, size) = (Some("tmpfs"), format!("size={}", pages * PAGE));
        mount(
            tmpfs,
            "/var/lib/cni",
            tmpfs,
            MsFlags::empty(),
            Some(size.as_str()),
        )
        .map_err(|errno| format!("cannot mount a small disk: {errno}"))?;
        let output = call.run();
        Ok::<_, String>((output, files_below(Path::new("/var/lib/cni"))))
    })?;
    if output.status == Some(0) {
        return Ok(true);
    }
    let error = output
        .try_error()
        .map_err(|cause| unlike("an error", &cause, &output))?;
    ensure!(
        error.code == 5,
        "expected code 5 on a full disk, came {error:?}"
    );
    let marks = plugin.recipe.store.iter().flat_map(|store| &store.marks);
    let marks: Vec<&String> = marks.collect();
    let is_mark = |file: &String| marks.iter().any(|mark| crate::scene::matches(mark, file));
    ensure!(
        left.iter().all(is_mark),
        "expected no part of a file, came {left:?}"
    );
    scene.is_as(&before, "after an ADD on a full disk")?;
    Ok(false)
}

/// The names of the files below a directory, but for dot-files.
fn files_below(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            files.extend(files_below(&entry.path()));
        } else if !name.starts_with('.') {
            files.push(name);
        }
    }
    files
}
