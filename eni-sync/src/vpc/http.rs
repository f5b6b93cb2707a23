//! The HTTP clients for AWS, the metadata service and the cluster's API server: which
//! authorities they trust, whether they use a proxy, and how much of an answer they read.
//! `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case, and `AWS_CA_BUNDLE`
//! count as for every other client of AWS. Services of the node itself, at link-local or
//! loopback addresses, are never asked through a proxy.

use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector, HttpClientError};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::{
    RuntimeComponents, RuntimeComponentsBuilder,
};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use common::error::{Error, ErrorCode};
use common::files::file::read_regular;
use http_body_util::Limited;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// How many bytes of any answer are read. A page of 1000 ENIs with 50 addresses of each family
/// is half as long.
const LONGEST_ANSWER: usize = 32 << 20;
/// The size limit of a file of certificate authorities, in bytes.
pub(super) const LONGEST_BUNDLE: u64 = 16 << 20;
/// The variable that names a file of certificate authorities, which replace those of the
/// system. Source: AWS SDKs and Tools Reference Guide, "General configuration".
pub(crate) const BUNDLE: &str = "AWS_CA_BUNDLE";
const PROXIES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The client for AWS' services.
///
/// # Errors
/// Code 5 or 6 naming the file of `AWS_CA_BUNDLE`; 7 where the node has no authorities.
pub(crate) fn for_services() -> common::error::Result<SharedHttpClient> {
    let tls = || Provider::Rustls(CryptoMode::Ring);
    let trust = trust()?;
    let has_proxy = PROXIES.iter().any(|name| env::var_os(name).is_some());
    let proxied = has_proxy.then(|| {
        let trust = trust.clone();
        Builder::new().build_with_connector_fn(move |settings, components| {
            let mut connector = Connector::builder();
            connector.set_connector_settings(settings.cloned());
            connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
            let connector = connector.proxy_config(ProxyConfig::from_env());
            connector
                .tls_provider(tls())
                .tls_context(trust.clone())
                .build()
        })
    });
    let direct = Builder::new().tls_provider(tls()).tls_context(trust);
    Ok(SharedHttpClient::new(Client {
        direct: direct.build_https(),
        proxied,
    }))
}

/// The client for the metadata service of the node, which is never behind a proxy.
pub(crate) fn for_metadata() -> SharedHttpClient {
    SharedHttpClient::new(Client {
        direct: Builder::new().build_http(),
        proxied: None,
    })
}

/// The connections to the cluster's API server, which has its own certificate authority and is
/// never behind a proxy.
///
/// # Errors
/// Code 5 or 6 naming the file of the authority.
pub(crate) fn for_cluster(authority: &Path) -> common::error::Result<SharedHttpConnector> {
    let file = format!("{authority:?}");
    let pem = certificates(read(authority, &file)?, &file)?;
    let direct = Connector::builder()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(trusting(pem)?)
        .build();
    let direct = SharedHttpConnector::new(direct);
    let proxied = None;
    Ok(SharedHttpConnector::new(Connections { direct, proxied }))
}

/// The authorities that are trusted. The SDK ends the process when a file is not a list of
/// certificates, so the file is checked here first.
fn trust() -> common::error::Result<TlsContext> {
    if let Some(path) = env::var_os(BUNDLE).filter(|path| !path.is_empty()) {
        return trusting(authorities(Path::new(&path), None)?);
    }
    require_native()?;
    TlsContext::builder()
        .build()
        .map_err(|cause| failed(&cause))
}

/// Trusts these certificates only.
fn trusting(pem: Vec<u8>) -> common::error::Result<TlsContext> {
    let store = TrustStore::empty().with_pem_certificate(pem);
    let context = TlsContext::builder().with_trust_store(store);
    context.build().map_err(|cause| failed(&cause))
}

fn failed(cause: &HttpClientError) -> Error {
    Error::internal("failed to prepare TLS").with_details(cause.to_string())
}

/// Checks that this node has certificate authorities: without any, the SDK ends the process.
fn require_native() -> common::error::Result<()> {
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        return Ok(());
    }
    let causes: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    let msg = "this node has no certificates of authorities";
    let cure = format!("install ca-certificates, or name a file by {BUNDLE}");
    let details = [vec![cure], causes].concat().join("; ");
    Err(Error::config(msg).with_details(details))
}

/// Reads the file of `AWS_CA_BUNDLE`, and checks that its certificates can be used unless its
/// content is `known`, which has been checked before. The file may be behind symbolic links, as
/// those of a mounted ConfigMap are.
///
/// # Errors
/// Code 5 or 6 naming the file.
pub(crate) fn authorities(path: &Path, known: Option<&[u8]>) -> common::error::Result<Vec<u8>> {
    let file = format!("{path:?}, which {BUNDLE} names");
    let pem = read(path, &file)?;
    match known {
        Some(known) if known == pem => Ok(pem),
        _ => certificates(pem, &file),
    }
}

/// The content of a file of certificates, which the errors call `file`.
fn read(path: &Path, file: &str) -> common::error::Result<Vec<u8>> {
    let read = || read_regular(&fs::canonicalize(path)?, LONGEST_BUNDLE);
    read().map_err(|cause| Error::io(format!("failed to read {file}"), &cause))
}

/// Returns the same text if it has certificates and all of them can be used.
fn certificates(pem: Vec<u8>, file: &str) -> common::error::Result<Vec<u8>> {
    let refused = |details: String| {
        let msg = format!("{file} is not a list of certificates in PEM");
        Error::new(ErrorCode::DECODING, msg).with_details(details)
    };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|cause| refused(cause.to_string()))?;
        let added = store.add(certificate);
        added.map_err(|cause| refused(cause.to_string()))?;
    }
    match store.is_empty() {
        true => Err(refused("it has none".to_owned())),
        false => Ok(pem),
    }
}

/// The variable that names a proxy, if one does.
pub(crate) fn proxy() -> Option<&'static str> {
    let is_set = |name: &&str| env::var_os(name).is_some_and(|value| !value.is_empty());
    PROXIES.into_iter().find(|name| is_set(name))
}

/// Whether a URI is that of a service on the node: the metadata service or a provider of
/// credentials, at AWS' addresses for them, on loopback, or at the metadata endpoint that the
/// environment names.
fn is_local(uri: &str) -> bool {
    let metadata = env::var("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_default();
    if !metadata.is_empty() && uri.starts_with(&metadata) {
        return true;
    }
    let host = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let host = host.split(['/', '?']).next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    match host.and_then(|host| host.parse().ok()) {
        Some(IpAddr::V4(v4)) => v4.is_link_local() || v4.is_loopback(),
        Some(IpAddr::V6(v6)) => v6.segments()[..2] == [0xfd00, 0xec2] || v6.is_loopback(),
        None => false,
    }
}

/// A client that limits the length of answers, with and without a proxy.
#[derive(Debug)]
struct Client {
    direct: SharedHttpClient,
    proxied: Option<SharedHttpClient>,
}

impl Client {
    fn clients(&self) -> impl Iterator<Item = &SharedHttpClient> {
        std::iter::once(&self.direct).chain(&self.proxied)
    }
}

impl HttpClient for Client {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let connector = |client: &SharedHttpClient| client.http_connector(settings, components);
        SharedHttpConnector::new(Connections {
            direct: connector(&self.direct),
            proxied: self.proxied.as_ref().map(connector),
        })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        configuration: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.clients().try_for_each(|client| {
            HttpClient::validate_base_client_config(client, components, configuration)
        })
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        configuration: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.clients().try_for_each(|client| {
            HttpClient::validate_final_config(client, components, configuration)
        })
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.direct.connector_metadata()
    }
}

/// The connections of a client.
#[derive(Debug)]
struct Connections {
    direct: SharedHttpConnector,
    proxied: Option<SharedHttpConnector>,
}

impl HttpConnector for Connections {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let proxied = self.proxied.as_ref().filter(|_| !is_local(request.uri()));
        let answer = proxied.unwrap_or(&self.direct).call(request);
        HttpConnectorFuture::new(async { answer.await.map(bounded) })
    }
}

fn bounded(answer: HttpResponse) -> HttpResponse {
    answer.map(|body| SdkBody::from_body_1_x(Limited::new(body, LONGEST_ANSWER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_credentials_on_the_node_is_local_and_ec2_is_not() {
        for local in [
            "http://169.254.169.254/latest/meta-data",
            "http://169.254.170.23:80/v1/credentials",
            "http://127.0.0.1:4711/latest/api/token",
            "http://[fd00:ec2::254]/latest",
            "http://[fd00:ec2::23]:80/v1/credentials?x=y",
        ] {
            assert!(is_local(local), "{local}");
        }
        for other in [
            "https://ec2.us-west-2.amazonaws.com/",
            "https://sts.eu-west-1.amazonaws.com:443",
            "http://10.0.0.1/?x=169.254.169.254",
            "http://[fd00:ec3::1]/",
        ] {
            assert!(!is_local(other), "{other}");
        }
    }
}
