//! The interface of the lab for tests and for the binary: serving, rules, faults and queries.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::change::VPC_CNI;
use super::event::{Event, violations};
use super::fault::{Armed, Fault, Hold};
use super::id::{EniId, InstanceId, SubnetId, VpcId};
use super::neighbours::Solicitations;
use super::rules::Rules;
use super::server::{Service, serve};
use super::shared::Shared;
use super::state::access_key;
use super::world::{Attachment, Eni};
use crate::Namespace;

/// A simulated VPC, in [`REGION`](super::REGION). A clone is the same VPC; the servers stop
/// when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Lab {
    pub(super) shared: Arc<Shared>,
    runtime: Arc<Runtime>,
}

impl Lab {
    /// An account without a VPC.
    pub fn new() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("eni-lab")
            .enable_all()
            .build()
            .expect("a thread can be started");
        Self {
            shared: Arc::new(Shared::new()),
            runtime: Arc::new(runtime),
        }
    }

    /// Serves EC2 on this listener, and the state of the lab below `/lab/`.
    pub fn serve_ec2(&self, listener: TcpListener) {
        self.serve(listener, Service::Ec2, None);
    }

    /// Serves EC2 over TLS with this certificate chain and key in PEM, for a client that has
    /// resolved the name of EC2's real endpoint.
    pub fn serve_ec2_tls(&self, listener: TcpListener, cert_chain_pem: &[u8], key_pem: &[u8]) {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert_chain_pem).collect();
        let key = PrivateKeyDer::from_pem_slice(key_pem).expect("the key is PEM");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks the default versions of TLS")
            .with_no_client_auth()
            .with_single_cert(chain.expect("the certificates are PEM"), key)
            .expect("the key belongs to the certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        self.serve(listener, Service::Ec2, Some(acceptor));
    }

    /// Serves the instance's metadata service on this listener.
    pub fn serve_imds(&self, listener: TcpListener, instance: &InstanceId) {
        self.serve(listener, Service::Imds(instance.clone()), None);
    }

    /// Serves STS on this listener.
    pub fn serve_sts(&self, listener: TcpListener) {
        self.serve(listener, Service::Sts, None);
    }

    /// Serves the agent of EKS Pod Identity on this listener, at `/v1/credentials`.
    pub fn serve_pod_identity(&self, listener: TcpListener) {
        self.serve(listener, Service::PodIdentity, None);
    }

    fn serve(&self, listener: TcpListener, service: Service, tls: Option<TlsAcceptor>) {
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn(serve(shared, listener, service, tls));
    }

    /// Starts the tasks that a data plane needs: one applies delayed changes when they are
    /// due, one answers neighbour solicitations.
    pub(super) fn run_data_plane(&self, vpc: &VpcId, network: &Namespace) {
        let shared = Arc::clone(&self.shared);
        self.runtime
            .spawn(async move { shared.follow_time().await });
        let (shared, vpc) = (Arc::clone(&self.shared), vpc.clone());
        let solicitations = Solicitations::of(network);
        self.runtime.spawn(solicitations.answer(shared, vpc));
    }

    /// Changes the rules.
    pub fn rules(&self, change: impl FnOnce(&mut Rules)) {
        self.shared.update(|state| change(&mut state.rules));
    }

    /// Makes everything that has happened so far older, so that delayed descriptions show it, and
    /// the attachments of interfaces as well.
    pub fn age(&self, by: Duration) {
        self.shared.update(|state| state.age(by));
    }

    /// Makes the next `n` calls of the action fail.
    pub fn fail_next(&self, action: &str, n: u64, fault: Fault) {
        self.arm(action, 0, n, fault);
    }

    /// Makes one call of the action fail: 1 is the next one.
    pub fn fail_nth(&self, action: &str, nth: u64, fault: Fault) {
        self.arm(action, nth.saturating_sub(1), 1, fault);
    }

    fn arm(&self, action: &str, skip: u64, times: u64, fault: Fault) {
        let action = action.to_owned();
        let armed = Armed {
            action,
            skip,
            times,
            fault,
        };
        self.shared.update(|state| state.faults.push(armed));
    }

    /// Removes every fault that has not been used up.
    pub fn clear_faults(&self) {
        self.shared.update(|state| state.faults.clear());
    }

    /// Makes calls of the action wait until [`release_held`](Self::release_held).
    pub fn hold(&self, action: &str, hold: Hold) {
        self.shared
            .update(|state| state.holds.insert(action.to_owned(), hold));
    }

    /// Continues all calls that wait, and lets no further call wait.
    pub fn release_held(&self) {
        self.shared.update(|state| state.holds.clear());
        self.shared.released.notify_waiters();
    }

    /// Continues all calls that wait now; later calls still wait.
    pub fn pass_held(&self) {
        self.shared.update(|state| state.passes += 1);
        self.shared.released.notify_waiters();
    }

    /// How many calls wait now.
    pub fn held(&self) -> usize {
        self.shared.lock().held
    }

    /// Accepts this access key id for every call, without an instance that it belongs to;
    /// `AKIDLAB` is always accepted.
    pub fn allow_key(&self, access_key_id: &str) {
        self.shared
            .update(|state| state.allowed_keys.insert(access_key_id.to_owned()));
    }

    /// The access key id that IMDS now returns to the instance.
    pub fn access_key(&self, instance: &InstanceId) -> String {
        access_key(instance, self.shared.lock().key_generation)
    }

    /// Makes all credentials of instances and service accounts expire; new ones are available
    /// immediately.
    pub fn expire_credentials(&self) {
        self.shared.update(|state| {
            state.key_generation += 1;
            state.identities.expire_sessions();
        });
    }

    /// A new token of a service account, which STS and Pod Identity accept for this time.
    pub fn issue_token(&self, life: Duration) -> String {
        self.shared.update(|state| state.identities.issue(life))
    }

    /// Makes all tokens of service accounts expire.
    pub fn expire_tokens(&self) {
        self.shared.update(|state| state.identities.expire_tokens());
    }

    /// How often credentials were issued for a token of a service account.
    pub fn uses_of_token(&self, token: &str) -> u64 {
        self.shared.lock().identities.uses(token)
    }

    /// Makes all tokens of IMDS expire.
    pub fn expire_imds_tokens(&self) {
        self.shared.update(|state| state.tokens.clear());
    }

    /// Removes the role from all instances: IMDS has no credentials.
    pub fn no_role(&self) {
        self.shared.update(|state| state.role = None);
    }

    /// The interface's secondary IPv4 addresses and its IPv6 addresses, sorted; empty when it
    /// does not exist.
    pub fn addresses(&self, eni: &EniId) -> Vec<IpAddr> {
        let state = self.shared.lock();
        let found = state.world.eni(eni.as_str());
        let mut addresses = found.map_or_else(|_| Vec::new(), |eni| eni.addresses.clone());
        addresses.sort();
        addresses
    }

    /// The prefixes that are delegated to the interface, sorted; empty when it does not exist.
    pub fn prefixes(&self, eni: &EniId) -> Vec<String> {
        let state = self.shared.lock();
        let found = state.world.eni(eni.as_str());
        let mut prefixes = found.map_or_else(|_| Vec::new(), |eni| eni.prefixes.clone());
        prefixes.sort();
        prefixes.iter().map(ToString::to_string).collect()
    }

    /// The interface's primary address.
    #[track_caller]
    pub fn primary(&self, eni: &EniId) -> IpAddr {
        match self.shared.lock().world.eni(eni.as_str()) {
            Ok(eni) => eni.primary().expect("the subnet has an IPv4 range"),
            Err(error) => panic!("{error}"),
        }
    }

    /// The interface's MAC, in lower case.
    #[track_caller]
    pub fn mac(&self, eni: &EniId) -> String {
        match self.shared.lock().world.eni(eni.as_str()) {
            Ok(eni) => eni.mac.clone(),
            Err(error) => panic!("{error}"),
        }
    }

    /// The interface of the VPC that has the address, primary or secondary.
    pub fn owner(&self, vpc: &VpcId, address: IpAddr) -> Option<EniId> {
        let state = self.shared.lock();
        state.world.owner(vpc, address).map(|eni| eni.id.clone())
    }

    /// The interfaces of the instance by network card and device index.
    pub fn enis(&self, instance: &InstanceId) -> Vec<EniId> {
        let state = self.shared.lock();
        let attached = state.world.attached(instance);
        attached.values().map(|eni| eni.id.clone()).collect()
    }

    /// Every interface, with its tags and its attachment.
    pub fn all_enis(&self) -> Vec<Shown> {
        let state = self.shared.lock();
        state
            .world
            .enis
            .values()
            .map(|eni| Shown::of(eni))
            .collect()
    }

    /// The number of requests to EC2 by action, including failed ones.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.shared.lock().calls.clone()
    }

    /// The number of requests to IMDS by path.
    pub fn imds_calls(&self) -> BTreeMap<String, u64> {
        self.shared.lock().imds_calls.clone()
    }

    /// Sets the numbers of requests to zero.
    pub fn reset_calls(&self) {
        self.shared.update(|state| {
            state.calls.clear();
            state.imds_calls.clear();
        });
    }

    /// The log, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.shared.lock().events.clone()
    }

    /// Everything in the log that must never happen; see [`violations`].
    pub fn invariant_violations(&self) -> Vec<String> {
        violations(&self.shared.lock().events)
    }

    /// How the requests so far differ from EC2's service model.
    pub fn malformed_requests(&self) -> Vec<String> {
        self.shared.lock().malformed.clone()
    }

    /// Waits until there were this many requests of the action. Returns whether that happened
    /// in time.
    pub fn wait_for_call(&self, action: &str, count: u64, time: Duration) -> bool {
        self.wait_until(time, |lab| {
            let calls = &lab.shared.lock().calls;
            calls.get(action).copied().unwrap_or_default() >= count
        })
    }

    /// Waits until the condition holds, which is checked after each change. Returns whether
    /// that happened in time.
    pub fn wait_until(&self, time: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let deadline = Instant::now() + time;
        loop {
            let version = self.shared.lock().version;
            if condition(self) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            self.shared.wait_for_change(version, deadline);
        }
    }
}

/// An interface as [`Lab::all_enis`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its id.
    pub id: EniId,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its security groups.
    pub groups: Vec<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The instance to which it is attached.
    pub instance: Option<InstanceId>,
    /// The network card, and the device index on that.
    pub place: Option<(u32, u32)>,
    /// Whether it is deleted when the instance is terminated.
    pub delete_on_termination: bool,
}

impl Shown {
    fn of(eni: &Eni) -> Self {
        let attachment = eni.attachment.as_ref();
        Self {
            id: eni.id.clone(),
            subnet: eni.subnet.clone(),
            groups: eni.groups.clone(),
            tags: eni.tags.clone(),
            instance: attachment.map(|a| a.instance.clone()),
            place: attachment.map(Attachment::place),
            delete_on_termination: attachment.is_some_and(|a| a.delete_on_termination),
        }
    }

    /// Whether the VPC CNI treats it as its own.
    pub fn is_of_vpc_cni(&self) -> bool {
        self.tags.contains_key(VPC_CNI)
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}
