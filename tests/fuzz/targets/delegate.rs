//! What a delegate prints: the first byte is its exit status, a NUL ends its stdout and
//! begins its stderr. It becomes a result that can be printed, or an error that can be.
#![no_main]

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use common::cni::ipam::answer;
use common::cni::process::Output;
use common::cni::result::{Dns, Interface};
use common::cni::version::CniVersion;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Some((status, printed)) = data.split_first() else {
        return;
    };
    let mut parts = printed.splitn(2, |byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default().to_vec();
    let output = Output {
        status: ExitStatus::from_raw(i32::from(*status) << 8),
        stdout: next(),
        stderr: next(),
    };
    fuzz_error(&output);
    for version in CniVersion::ALL {
        fuzz_result(&output.stdout, version);
    }
});

/// The delegate's own error passes up unchanged, in valid JSON.
fn fuzz_error(output: &Output) {
    let error = answer::error(output);
    let text = error.to_json("1.0.0");
    let printed: Value = serde_json::from_str(&text).expect("an error is a JSON document");
    let passed_on = answer::error(&Output {
        status: output.status,
        stdout: text.into_bytes(),
        stderr: Vec::new(),
    });
    assert_eq!(
        (passed_on.code, passed_on.msg, passed_on.details),
        (error.code, error.msg, error.details)
    );
    assert!(printed["code"].is_u64());
}

fn fuzz_result(stdout: &[u8], version: CniVersion) {
    let result = match answer::result(stdout, version) {
        Ok(result) => result,
        Err(error) => return fuzz::assert_reportable(&error),
    };
    if result.ips.is_empty() {
        return;
    }
    let attached = result.attached(Interface::default(), Dns::default());
    let text = attached.to_json(version).expect("it has addresses");
    let again = answer::result(text.as_bytes(), version).expect("it is a result");
    assert_eq!(
        again.ips.first().map(|ip| ip.address),
        attached.ips.first().map(|ip| ip.address)
    );
}
