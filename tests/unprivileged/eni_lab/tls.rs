//! EC2 over TLS, for a client that has resolved the name of EC2's own endpoint.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use fixtures::lab::{address, listener};
use harness::eni_lab::{Certificate, Lab};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const HOST: &str = "ec2.us-west-2.amazonaws.com";

#[test]
fn a_client_that_trusts_the_authority_is_answered() {
    let certificate = Certificate::new(HOST);
    let lab = Lab::new();
    let (listener, mut roots) = (listener(), RootCertStore::empty());
    let address = address(&listener);
    lab.serve_ec2_tls(listener, &certificate.chain, &certificate.key);
    let authority = CertificateDer::from_pem_slice(&certificate.authority).expect("it is PEM");
    roots.add(authority).expect("it is an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(HOST).expect("it is a name");
    let client = ClientConnection::new(Arc::new(config), name).expect("the name can be asked for");
    let stream = TcpStream::connect(address).expect("the lab listens");
    let mut stream = StreamOwned::new(client, stream);
    let request = format!("GET /lab/calls HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
