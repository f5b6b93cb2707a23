//! An agent that has the role of its service account, by STS (IRSA) or by EKS Pod Identity, on a
//! node without a role: tokens that are replaced, that have expired, and that are refused.

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fixtures::handover::serving;
use harness::vpc::{Agent, Vpc, VpcNode, eventually};
use harness::{Host, Pod};
use serde_json::json;
use tempfile::TempDir;

use super::doctor::examine_with;
use super::equipped::Equipped;
use super::status_check::status_call;

const ASSUME: &str = "AssumeRoleWithWebIdentity";
const ROLE: &str = "arn:aws:iam::123456789012:role/eni-sync";
/// Where the agent of Pod Identity is on each node. Source: Amazon EKS User Guide, "EKS Pod
/// Identity Agent".
const POD_IDENTITY: &str = "169.254.170.23";
/// Longer than any test takes.
const LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// How a pod gets the role of its service account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    WebIdentity,
    PodIdentity,
}

impl Way {
    /// What is said of a refusal with these words. What Pod Identity's agent says in the body of
    /// its answer, the SDK does not tell.
    fn refusal(self, words: &'static str) -> &'static str {
        match self {
            Self::WebIdentity => words,
            Self::PodIdentity => {
                "Non-success status from HTTP credential provider: StatusCode(400)"
            }
        }
    }
}

const WAYS: [Way; 2] = [Way::WebIdentity, Way::PodIdentity];

/// A node without a role, and the service account of its agent.
pub struct Account<'a> {
    pub(super) host: Equipped<'a>,
    /// Where the token is.
    directory: TempDir,
}

impl<'a> Account<'a> {
    pub fn new(node: &'a VpcNode, way: Way) -> Self {
        node.lab.no_role();
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token").display().to_string();
        let variables = match way {
            Way::WebIdentity => vec![
                ("AWS_ROLE_ARN", ROLE.to_owned()),
                ("AWS_WEB_IDENTITY_TOKEN_FILE", token),
                ("AWS_ENDPOINT_URL_STS", serve_sts(node)),
            ],
            Way::PodIdentity => vec![
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token),
                (
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                    serve_pod_identity(node),
                ),
            ],
        };
        let host = Equipped { node, variables };
        let account = Self { host, directory };
        account.rotate();
        account
    }

    /// Replaces the token, as the kubelet does, by one that is valid; returns it.
    fn rotate(&self) -> String {
        let token = self.host.node.lab.issue_token(LIFE);
        self.write(&token);
        token
    }

    fn write(&self, token: &str) {
        let temporary = self.directory.path().join("new");
        fs::write(&temporary, token).unwrap();
        fs::rename(temporary, self.directory.path().join("token")).unwrap();
    }
}

fn serve_sts(node: &VpcNode) -> String {
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = node.node.netns.run(listen);
    let url = format!("http://{}", listener.local_addr().unwrap());
    node.lab.serve_sts(listener);
    url
}

fn serve_pod_identity(node: &VpcNode) -> String {
    let netns = &node.node.netns;
    netns.ip(&["address", "add", POD_IDENTITY, "dev", "lo"]);
    let listen = || TcpListener::bind((POD_IDENTITY, 80)).unwrap();
    node.lab.serve_pod_identity(netns.run(listen));
    format!("http://{POD_IDENTITY}/v1/credentials")
}

/// Does this on a node of its own for each way.
fn by_each_way(test: impl Fn(Way, &VpcNode, &Account<'_>) + Sync) {
    thread::scope(|scope| {
        for way in WAYS {
            let test = &test;
            scope.spawn(move || {
                let vpc = Vpc::new();
                let node = vpc.node();
                test(way, &node, &Account::new(&node, way));
            });
        }
    });
}

/// That plugins without a role can do nothing alone, and that STATUS says it.
#[track_caller]
fn assert_without_agent(node: &VpcNode) {
    let error = node.run(&status_call(node)).error_code(50);
    let said = "the agent of eni-sync does not answer, and its role is needed";
    assert_eq!(error.msg, said, "{error:?}");
    assert!(
        error.details.contains("there are no AWS credentials"),
        "{error:?}"
    );
}

#[test]
fn the_role_of_a_service_account_is_enough_for_a_node_without_a_role() {
    by_each_way(|way, node, account| {
        let token = account.rotate();
        let agent = Agent::start(&account.host, &json!({}));
        node.run(&status_call(node)).ok();
        node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
        assert!(node.lab.uses_of_token(&token) > 0, "{way:?}");
        agent.kill();
        assert_without_agent(node);
        node.del(&Pod::new("c1"));
    });
}

#[test]
fn a_token_that_was_replaced_is_read_anew_while_the_agent_runs() {
    by_each_way(|way, node, account| {
        // The SDK asks for others before they expire.
        let life = |seconds| {
            let life = Duration::from_secs(seconds);
            node.lab.rules(|rules| rules.session_life = life);
        };
        life(5);
        let agent = Agent::start(&account.host, &json!({}));
        node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
        node.lab.expire_tokens();
        let second = account.rotate();
        life(3600);
        node.add(&Pod::new("c2"), &["10.0.4.71"]).ok();
        let uses = node.lab.uses_of_token(&second);
        assert!(uses > 0, "{way:?}: {}", agent.log());
        // Somebody has ended the sessions of the role.
        node.lab.expire_tokens();
        node.lab.expire_credentials();
        let third = account.rotate();
        node.add(&Pod::new("c3"), &["10.0.4.72"]).ok();
        assert!(node.lab.uses_of_token(&third) > 0, "{way:?}");
        assert_eq!(node.lab.uses_of_token(&second), uses, "{way:?}");
    });
}

#[test]
fn an_expired_token_is_named_and_a_new_one_ends_it() {
    by_each_way(|way, node, account| {
        let agent = Agent::start(&account.host, &json!({}));
        node.add(&Pod::new("c1"), &["10.0.4.70"]).ok();
        node.lab.expire_tokens();
        node.lab.expire_credentials();
        let said = way.refusal("ExpiredTokenException");
        let pod = Pod::new("c2");
        let error = node.add(&pod, &["10.0.4.71"]).error_code(11);
        assert!(
            error.msg.contains("there are no valid AWS credentials"),
            "{error:?}"
        );
        assert!(error.details.contains(said), "{way:?}: {error:?}");
        let error = node.run(&status_call(node)).error_code(50);
        assert!(error.details.contains(said), "{way:?}: {error:?}");
        account.rotate();
        node.run(&status_call(node)).ok();
        node.add(&pod, &["10.0.4.71"]).ok();
        assert_eq!(node.addresses(), ["10.0.4.70", "10.0.4.71"]);
        drop(agent);
    });
}

/// What the agent says in one line, and what the doctor says in its place.
#[track_caller]
fn assert_refused(node: &VpcNode, account: &Account<'_>, said: &str) {
    let agent = Agent::start(&account.host, &json!({}));
    let is_said = || {
        let log = agent.log();
        let mut lines = log.lines();
        let kind = "there are no valid AWS credentials";
        lines.any(|line| line.contains(kind) && line.matches(said).count() == 1)
    };
    assert!(eventually(is_said), "{}", agent.log());
    let error = node.run(&status_call(node)).error_code(50);
    assert!(error.details.contains(said), "{error:?}");
    let diagnosis = examine_with(node, &account.host.eni_sync(), &[]);
    diagnosis.has("credentials", "error", said);
}

#[test]
fn who_refuses_a_token_is_quoted_by_the_agent_and_by_the_doctor() {
    by_each_way(|way, node, account| {
        account.write("nobody's");
        let said = way.refusal("No OpenIDConnect provider");
        assert_refused(node, account, said);
    });
}

#[test]
fn a_role_that_does_not_trust_the_service_account_is_named() {
    let vpc = Vpc::new();
    let node = vpc.node();
    let account = Account::new(&node, Way::WebIdentity);
    node.lab
        .rules(|rules| _ = rules.denied_actions.insert(ASSUME.to_owned()));
    let said = "AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity";
    assert_refused(&node, &account, said);
}

/// The path of a token is wrong, or its volume is not mounted.
#[test]
fn a_token_that_is_missing_is_named() {
    by_each_way(|_, node, account| {
        fs::remove_file(account.directory.path().join("token")).unwrap();
        assert_refused(node, account, "No such file or directory");
    });
}

#[test]
fn status_and_add_agree_while_agents_replace_each_other() {
    by_each_way(|_, node, account| {
        let first = Agent::start(&account.host, &json!({}));
        let is_over = AtomicBool::new(false);
        let ask = || {
            let mut asked = 0;
            while !is_over.load(Ordering::Relaxed) {
                node.run(&status_call(node)).ok();
                asked += 1;
            }
            asked
        };
        let start_pods = || {
            let pod = Pod::new("c1");
            let mut started = 0;
            while !is_over.load(Ordering::Relaxed) {
                node.add(&pod, &["10.0.4.70"]).ok();
                node.del(&pod);
                started += 1;
            }
            started
        };
        let (last, rounds) = thread::scope(|scope| {
            let (statuses, pods) = (scope.spawn(ask), scope.spawn(start_pods));
            let mut agent = first;
            for _ in 0..3 {
                let next = Agent::start(&account.host, &json!({}));
                assert!(eventually(|| serving(node) == Some(next.id())));
                assert_eq!(agent.stop(), Some(0));
                agent = next;
            }
            is_over.store(true, Ordering::Relaxed);
            let rounds = statuses.join().unwrap().min(pods.join().unwrap());
            (agent, rounds)
        });
        assert!(rounds > 3, "{rounds}");
        last.kill();
        assert_without_agent(node);
    });
}
