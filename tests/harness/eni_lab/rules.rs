//! Switches for behaviour of AWS that is not known, and for how slow, limited or strict the
//! simulation is. "Not documented" marks behaviour that no document of AWS describes: eni-sync
//! must pass with both positions of such a switch.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::id::InstanceId;
use super::limits::Limits;

/// How long EC2 takes for a change, and for a look: medians, measured for the design.
pub const CHANGE: Duration = Duration::from_millis(350);
pub const LOOK: Duration = Duration::from_millis(120);

/// The effect of assigning an address explicitly that the interface already has (not
/// documented).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It succeeds and changes nothing; the response lists only what is new.
    Accept,
    /// `InvalidParameterValue`, and the whole call fails.
    Refuse,
}

/// One token bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// How many calls may be made at once.
    pub burst: f64,
    /// How many tokens are added per second.
    pub per_second: f64,
}

/// The token buckets of an account and region, one for each action (not documented).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Buckets {
    /// For each action that changes something.
    pub mutating: Bucket,
    /// For each action that only reads.
    pub describing: Bucket,
    /// For reading calls with neither filter, ids nor pagination.
    pub unfiltered: Bucket,
}

impl Default for Buckets {
    fn default() -> Self {
        let bucket = |burst, per_second| Bucket { burst, per_second };
        Self {
            mutating: bucket(100.0, 5.0),
            describing: bucket(100.0, 20.0),
            unfiltered: bucket(50.0, 10.0),
        }
    }
}

/// The behaviour of the simulated VPC. The default is immediate, unlimited and strict.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The effect of repeating an explicit assignment (not documented).
    pub repeat_assign: Repeat,
    /// How long after a successful reassignment the address moves; until then
    /// describes and IMDS show the old owner.
    pub reassign_delay: Duration,
    /// `DescribeNetworkInterfaces` and `DescribeInstances` show everything as it was this long
    /// ago. Source: Amazon EC2 Developer Guide, "Eventual consistency".
    pub describe_lag: Duration,
    /// Instances that `DescribeInstances` does not find, whatever their state is. Source: the
    /// same: a description may not yet show an object that exists.
    pub hidden_instances: BTreeSet<InstanceId>,
    /// How many seconds EC2's clock is ahead of this machine's; less than 0 when it is behind. A
    /// request whose time differs by more than five minutes is refused.
    pub clock_ahead: i64,
    /// The error code of that refusal; EC2 has several.
    pub clock_code: String,
    /// IMDS shows interfaces and addresses as they were this long ago.
    pub imds_lag: Duration,
    /// How long IMDS answers 404 below an interface's MAC after it was attached; the list of
    /// MACs shows it immediately.
    pub imds_404_after_attach: Duration,
    /// The response to a token request never arrives, as in a pod with hop limit 1.
    pub imds_unreachable_token: bool,
    /// IMDS closes the connection of every request.
    pub imds_down: bool,
    /// IMDS closes the connection of every request for a path with this end.
    pub imds_down_for: Option<String>,
    /// The responses of IMDS never end, except those to token requests.
    pub imds_endless: bool,
    /// Whether permissions are checked before parameters (not documented).
    pub authorise_before_validate: bool,
    /// The delay before every EC2 call is carried out.
    pub latency: Duration,
    /// The delay for single actions, in place of `latency`.
    pub latency_of: BTreeMap<String, Duration>,
    /// Throttling: `RequestLimitExceeded` with HTTP status 503.
    pub token_buckets: Option<Buckets>,
    /// The published IAM policy: the four calls that change addresses are allowed only for
    /// interfaces with the tag `node.k8s.amazonaws.com/no_manage=true`, and otherwise fail with
    /// `UnauthorizedOperation`.
    pub tag_condition: bool,
    /// Actions that the role has no permission for.
    pub denied_actions: BTreeSet<String>,
    /// Addresses that EC2 does not remove from an interface, for a reason that no
    /// description shows: a call with one of them fails as a whole.
    pub pinned: BTreeSet<IpAddr>,
    /// Limits of instance types, in place of EC2's or for invented types.
    pub limit_overrides: BTreeMap<String, Limits>,
    /// The code of an IPv6 assignment of an address that another interface has (not documented).
    pub ipv6_conflict_code: String,
    /// The code of an IPv6 assignment over the limit (not documented).
    pub ipv6_limit_code: String,
    /// Whether `DescribeNetworkInterfaces` without pagination, ids and any of the
    /// required filters fails, as for accounts with many interfaces.
    pub describe_needs_filter: bool,
    /// Instances whose VPC CNI adopts every interface that is attached without the tag that
    /// keeps it away, at once; in reality it takes a minute.
    pub vpc_cni: BTreeSet<InstanceId>,
    /// The code of a call with expired credentials (not documented).
    pub expired_code: String,
    /// The lifetime of credentials that are issued to a service account.
    pub session_life: Duration,
    /// How long a terminated instance is `shutting-down` with its interfaces in use
    /// and its addresses taken.
    pub shutting_down: Duration,
    /// How long an interface is `detaching`, and in use, after it was to be detached.
    pub detaching: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            repeat_assign: Repeat::Accept,
            reassign_delay: Duration::ZERO,
            describe_lag: Duration::ZERO,
            hidden_instances: BTreeSet::new(),
            clock_ahead: 0,
            clock_code: "AuthFailure".to_owned(),
            imds_lag: Duration::ZERO,
            imds_404_after_attach: Duration::ZERO,
            imds_unreachable_token: false,
            imds_down: false,
            imds_down_for: None,
            imds_endless: false,
            authorise_before_validate: true,
            latency: Duration::ZERO,
            latency_of: BTreeMap::new(),
            token_buckets: None,
            tag_condition: false,
            denied_actions: BTreeSet::new(),
            pinned: BTreeSet::new(),
            limit_overrides: BTreeMap::new(),
            ipv6_conflict_code: "InvalidParameterValue".to_owned(),
            ipv6_limit_code: "PrivateIpAddressLimitExceeded".to_owned(),
            describe_needs_filter: true,
            vpc_cni: BTreeSet::new(),
            expired_code: "RequestExpired".to_owned(),
            session_life: Duration::from_secs(60 * 60),
            shutting_down: Duration::ZERO,
            detaching: Duration::ZERO,
        }
    }
}
