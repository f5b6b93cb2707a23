//! Python environments with packages from PyPI, which are installed once, into the cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::run_tool;

/// The path of the Python interpreter of an environment with exactly these packages, which
/// is in the cache under this name and version.
pub fn python_with(name: &str, version: &str, packages: &[&str]) -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = cache.or(home).expect("HOME is set");
    let parent = cache.join("eni-cni").join(name);
    let place = parent.join(version);
    if !place.exists() {
        fs::create_dir_all(&parent).expect("the cache is writable");
        let staged = tempfile::Builder::new().prefix(".new-").tempdir_in(&parent);
        let staged = staged.expect("the cache is writable");
        install(&staged.path().join("venv"), &place, packages);
        // If another process was faster, its environment is used.
        fs::rename(staged.path().join("venv"), &place).ok();
    }
    place.join("bin/python")
}

fn install(venv: &Path, place: &Path, packages: &[&str]) {
    let listed = packages.join(" ");
    let help = format!(
        "{listed} cannot be installed; make PyPI reachable, or do on a machine that reaches it:\n\
         python3 -m venv {place:?} && {place:?}/bin/python -m pip install {listed}"
    );
    let run = |program: &str, arguments: &[&str]| {
        let output = run_tool(program, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        let said = format!("{}{said}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{help}\n{program} said: {said}");
    };
    run("python3", &["-m", "venv", &venv.display().to_string()]);
    let python = venv.join("bin/python").display().to_string();
    let quietly = ["-m", "pip", "install", "-q", "--disable-pip-version-check"];
    run(&python, &[&quietly[..], packages].concat());
}
