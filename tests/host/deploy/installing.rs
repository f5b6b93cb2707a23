//! How a container of the image installs the plugins of the image: `eni-sync install`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use harness::{Call, our_plugin};

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
