//! Certificates for servers, made with `openssl` when a test needs one, so that no key is
//! part of the repository.

use std::fs;
use std::net::IpAddr;

use crate::run_tool;

/// A server's certificate and the authority that has signed it, in PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The authority that a client has to trust, as in `SSL_CERT_FILE`.
    pub authority: Vec<u8>,
    /// The server's certificate.
    pub chain: Vec<u8>,
    /// The server's private key.
    pub key: Vec<u8>,
}

impl Certificate {
    /// A certificate for this name, such as `ec2.us-west-2.amazonaws.com`, or this address,
    /// by an authority of its own.
    pub fn new(host: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let file = |name: &str| directory.path().join(name).display().to_string();
        let make = |name: &str, subject: &str, more: &[&str]| {
            let (key, certificate) = (file(&format!("{name}.key")), file(&format!("{name}.pem")));
            let key_kind = "ec_paramgen_curve:prime256v1";
            let common = [
                "req", "-x509", "-newkey", "ec", "-pkeyopt", key_kind, "-nodes",
            ];
            let output = [
                "-keyout",
                &key,
                "-out",
                &certificate,
                "-days",
                "2",
                "-subj",
                subject,
            ];
            let made = run_tool("openssl", &[&common, &output[..], more].concat());
            let said = String::from_utf8_lossy(&made.stderr);
            assert!(made.status.success(), "openssl made no certificate: {said}");
            let read = |path: &str| fs::read(path).expect("openssl has written it");
            (read(&certificate), read(&key))
        };
        let (authority, _) = make("authority", "/CN=eni-lab", &[]);
        let (authority_key, authority_file) = (file("authority.key"), file("authority.pem"));
        let kind = match host.parse::<IpAddr>() {
            Ok(_) => "IP",
            Err(_) => "DNS",
        };
        let name = format!("subjectAltName={kind}:{host}");
        let signed = ["-CA", &authority_file, "-CAkey", &authority_key];
        let leaf = [
            "-addext",
            &name,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        let (chain, key) = make("server", "/CN=server", &[&signed[..], &leaf].concat());
        Self {
            authority,
            chain,
            key,
        }
    }
}
