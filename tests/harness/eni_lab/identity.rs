//! Roles of service accounts: STS issues credentials for the token of a service account
//! (IRSA), and so does the agent of EKS Pod Identity, on a link-local address of each node.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use hyper::Response;
use serde_json::{Value, json};

use super::ACCOUNT;
use super::describe::timestamp;
use super::error::Ec2Error;
use super::imds::CANARY;
use super::query::Query;
use super::server::{Body, response};
use super::state::State;

/// STS's action that exchanges the token of a service account for credentials.
pub(super) const ASSUME: &str = "AssumeRoleWithWebIdentity";
/// The path in the address that EKS passes to pods.
const PATH: &str = "/v1/credentials";

/// The tokens and credentials of service accounts.
#[derive(Debug, Default)]
pub(super) struct Identities {
    tokens: BTreeMap<String, Token>,
    /// Access keys that were issued for a token, and when each expires.
    sessions: BTreeMap<String, Instant>,
}

#[derive(Debug)]
struct Token {
    expires: Instant,
    /// How often credentials were issued for it.
    uses: u64,
}

impl Identities {
    /// Issues a token that is valid for this time.
    pub(super) fn issue(&mut self, life: Duration) -> String {
        let name = format!("{CANARY}.token-of-service-account.{}", self.tokens.len());
        let token = Token {
            expires: Instant::now() + life,
            uses: 0,
        };
        self.tokens.insert(name.clone(), token);
        name
    }

    /// Makes all tokens expire that were issued so far.
    pub(super) fn expire_tokens(&mut self) {
        let now = Instant::now();
        self.tokens
            .values_mut()
            .for_each(|token| token.expires = now);
    }

    /// Makes all credentials expire that were issued so far.
    pub(super) fn expire_sessions(&mut self) {
        let now = Instant::now();
        self.sessions
            .values_mut()
            .for_each(|expires| *expires = now);
    }

    pub(super) fn uses(&self, token: &str) -> u64 {
        self.tokens.get(token).map_or(0, |token| token.uses)
    }

    /// Whether credentials with this access key are valid; `None` when the key was never
    /// issued.
    pub(super) fn is_valid(&self, key: &str) -> Option<bool> {
        let expires = self.sessions.get(key)?;
        Some(Instant::now() < *expires)
    }

    /// New credentials for a token.
    fn session(&mut self, name: &str, life: Duration) -> Result<Session, Ec2Error> {
        let message = "No OpenIDConnect provider found in your account for the token";
        let unknown = || Ec2Error::bad("InvalidIdentityToken", message);
        let token = self.tokens.get_mut(name).ok_or_else(unknown)?;
        if token.expires <= Instant::now() {
            let message =
                "Token expired: current date/time must be before the expiration date/time";
            return Err(Ec2Error::bad("ExpiredTokenException", message));
        }
        token.uses += 1;
        let number = self.sessions.len();
        let key = format!("ASIALABROLE{number:09}");
        self.sessions.insert(key.clone(), Instant::now() + life);
        let secret = |what: &str| format!("{CANARY}+{what}/{number}");
        Ok(Session {
            key,
            secret: secret("key"),
            token: secret("token"),
            expiration: timestamp(SystemTime::now() + life),
        })
    }
}

/// Credentials that expire.
struct Session {
    key: String,
    secret: String,
    token: String,
    expiration: String,
}

impl State {
    /// Carries out a call of STS.
    pub(super) fn assume(&mut self, action: &str, query: &Query) -> Result<Value, Ec2Error> {
        if action != ASSUME {
            let message = format!("Could not find operation {action} for version 2011-06-15");
            return Err(Ec2Error::bad("InvalidAction", message));
        }
        let role = query.require("RoleArn")?;
        let name = query.require("RoleSessionName")?;
        let token = query.require("WebIdentityToken")?;
        if self.rules.denied_actions.contains(ASSUME) {
            let message = format!("Not authorized to perform sts:{ASSUME}");
            return Err(Ec2Error::new(403, "AccessDenied", message));
        }
        let session = self.identities.session(token, self.rules.session_life)?;
        let role = role.rsplit('/').next().unwrap_or_default();
        Ok(json!({
            "Credentials": {
                "AccessKeyId": session.key,
                "SecretAccessKey": session.secret,
                "SessionToken": session.token,
                "Expiration": session.expiration,
            },
            "SubjectFromWebIdentityToken": "system:serviceaccount:kube-system:eni-sync",
            "AssumedRoleUser": {
                "AssumedRoleId": format!("AROALABROLE:{name}"),
                "Arn": format!("arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{name}"),
            },
            "Provider": "arn:aws:iam::123456789012:oidc-provider/oidc.eks.us-west-2.amazonaws.com/id/LAB",
            "Audience": "sts.amazonaws.com",
        }))
    }

    /// The response of Pod Identity's agent to a request with this token.
    pub(super) fn pod_identity(&mut self, path: &str, token: Option<&str>) -> Response<Body> {
        let refused = |status, why: &str| response(status, "text/plain", format!("{why}\n"));
        if path != PATH {
            return refused(404, "404 page not found");
        }
        let Some(token) = token else {
            let why = "Service account token cannot be empty";
            return refused(400, why);
        };
        let session = self.identities.session(token, self.rules.session_life);
        self.version += 1;
        match session {
            Ok(session) => {
                let document = json!({
                    "AccessKeyId": session.key,
                    "SecretAccessKey": session.secret,
                    "Token": session.token,
                    "Expiration": session.expiration,
                    "AccountId": ACCOUNT,
                });
                response(200, "application/json", document.to_string())
            }
            Err(error) => refused(
                error.status,
                &format!("[{}]: (no trace id), {}", error.code, error.message),
            ),
        }
    }
}
