//! The state behind the lab's lock: the world with its history, the log, the faults and
//! the credentials. Also decides calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use time::{Date, Month, OffsetDateTime, Time};

use super::change::Change;
use super::error::Ec2Error;
use super::event::{DROPPED, Event, MUTATIONS, OK, Target};
use super::fault::{Armed, Fault, Hold};
use super::id::{EniId, InstanceId};
use super::identity::Identities;
use super::query::Query;
use super::rules::{Bucket, Rules};
use super::wires::Wires;
use super::world::World;
use super::{REGION, describe, mutate};

/// The number of former worlds that are kept for delayed descriptions.
const HISTORY: usize = 1024;

/// By how many seconds the time of a request may differ from EC2's clock.
const LARGEST_SKEW: i64 = 300;

/// The key that is always accepted, for calls by a user.
pub(super) const OPEN_KEY: &str = "AKIDLAB";

#[derive(Debug)]
pub(super) struct State {
    pub(super) world: World,
    /// Former worlds and the time from which each was current, oldest first.
    history: VecDeque<(Instant, World)>,
    pub(super) rules: Rules,
    pub(super) faults: Vec<Armed>,
    pub(super) holds: BTreeMap<String, Hold>,
    pub(super) held: usize,
    /// How often the calls that were held went on.
    pub(super) passes: u64,
    pub(super) calls: BTreeMap<String, u64>,
    pub(super) imds_calls: BTreeMap<String, u64>,
    pub(super) events: Vec<Event>,
    /// How requests differed from EC2's service model.
    pub(super) malformed: Vec<String>,
    buckets: BTreeMap<String, (f64, Instant)>,
    pub(super) allowed_keys: BTreeSet<String>,
    /// The generation of credentials that IMDS returns; those of earlier generations have
    /// expired.
    pub(super) key_generation: u64,
    pub(super) role: Option<String>,
    pub(super) identities: Identities,
    /// Tokens of IMDS, and when each expires.
    pub(super) tokens: BTreeMap<String, Instant>,
    /// Increases with every change, for threads that wait for one.
    pub(super) version: u64,
    /// The data plane, if the lab has one.
    pub(super) wires: Option<Wires>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            world: World::default(),
            history: VecDeque::from([(Instant::now(), World::default())]),
            rules: Rules::default(),
            faults: Vec::new(),
            holds: BTreeMap::new(),
            held: 0,
            passes: 0,
            calls: BTreeMap::new(),
            imds_calls: BTreeMap::new(),
            events: Vec::new(),
            malformed: Vec::new(),
            buckets: BTreeMap::new(),
            allowed_keys: BTreeSet::from([OPEN_KEY.to_owned()]),
            key_generation: 1,
            role: Some("eni-lab-node".to_owned()),
            identities: Identities::default(),
            tokens: BTreeMap::new(),
            version: 0,
            wires: None,
        }
    }

    /// Applies every delayed change that is due.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some(due) = self.world.next_due().filter(|due| *due <= now) {
            self.world.settle(due, &mut self.events);
            self.remember(due);
        }
    }

    fn remember(&mut self, from: Instant) {
        self.history.push_back((from, self.world.clone()));
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        self.version += 1;
        self.rewire();
    }

    /// Updates the data plane, if there is one, from the world.
    pub(super) fn rewire(&mut self) {
        if let Some(wires) = &mut self.wires {
            wires.follow(&self.world);
        }
    }

    /// The world as it was this long ago.
    pub(super) fn world_before(&self, lag: Duration) -> &World {
        let then = Instant::now().checked_sub(lag);
        let known = |then| self.history.iter().rev().find(|h| h.0 <= then);
        let at = then.and_then(known);
        at.or(self.history.front()).map_or(&self.world, |h| &h.1)
    }

    /// Makes everything that has happened so far older.
    pub(super) fn age(&mut self, by: Duration) {
        for (at, _) in &mut self.history {
            *at = at.checked_sub(by).unwrap_or(*at);
        }
        let worlds = self.history.iter_mut().map(|(_, world)| world);
        worlds.chain([&mut self.world]).for_each(|w| w.age(by));
    }

    pub(super) fn change(&self, by: Option<InstanceId>) -> Change<'_> {
        Change {
            world: self.world.clone(),
            rules: &self.rules,
            now: Instant::now(),
            by,
            events: Vec::new(),
        }
    }

    /// Applies a finished change.
    pub(super) fn commit(&mut self, world: World, events: Vec<Event>) {
        self.world = world;
        self.events.extend(events);
        self.remember(Instant::now());
    }

    /// Logs a call that a fault has decided instead of EC2's rules.
    pub(super) fn fault_call(&mut self, call: &Call, outcome: &str) {
        let node = self.signer(call).ok().flatten();
        let target = self.world.target(call.eni());
        let event = call.event(node, target, outcome);
        self.events.push(event);
        self.version += 1;
    }

    /// Decides a call, carries it out and logs it.
    pub(super) fn perform(&mut self, call: &Call) -> Result<Value, Ec2Error> {
        self.settle(Instant::now());
        let signer = self.check_clock(call).and_then(|()| self.signer(call));
        let node = signer.as_ref().ok().cloned().flatten();
        let target = self.world.target(call.eni());
        let admitted = signer.and_then(|_| self.throttle(call));
        let decided = admitted.and_then(|()| self.decide(call, node.clone(), target.as_ref()));
        let (result, world, events) = match decided {
            Ok((value, world, events)) => (Ok(value), Some(world), events),
            Err(error) => (Err(error), None, Vec::new()),
        };
        let outcome = result.as_ref().map_or_else(|e| e.code.as_str(), |_| OK);
        let called = call.event(node, target, outcome);
        self.events.push(called);
        match world {
            Some(world) => self.commit(world, events),
            None => self.version += 1,
        }
        result
    }

    /// Checks permission and parameters, in the order that the rules set, and carries the
    /// call out on a copy.
    fn decide(
        &mut self,
        call: &Call,
        node: Option<InstanceId>,
        target: Option<&Target>,
    ) -> Result<(Value, World, Vec<Event>), Ec2Error> {
        let permitted = self.authorise(call, target);
        if self.rules.authorise_before_validate {
            permitted.clone()?;
        }
        if call.query.flag("DryRun") && !MUTATIONS.contains(&call.action.as_str()) {
            permitted?;
            let message = "Request would have succeeded, but DryRun flag is set.";
            return Err(Ec2Error::new(412, "DryRunOperation", message));
        }
        let mut change = self.change(node);
        let shown = self.shown(&call.action);
        let result = mutate::run(&mut change, &call.action, &call.query)
            .or_else(|| describe::run(shown, &self.rules, &call.action, &call.query));
        let unknown = || {
            let action = &call.action;
            let message = format!("The action {action} is not valid for this web service.");
            Err(Ec2Error::bad("InvalidAction", message))
        };
        let (result, world, events) = (result.unwrap_or_else(unknown), change.world, change.events);
        match result.and_then(|value| permitted.map(|()| value)) {
            Ok(value) => Ok((value, world, events)),
            Err(error) => {
                // Of a failed call, only an attempt to change a primary address is logged
                // as an event.
                let attempts = |event: &Event| matches!(event, Event::PrimaryTouched { .. });
                self.events.extend(events.into_iter().filter(attempts));
                Err(error)
            }
        }
    }

    /// The world that a description shows.
    fn shown(&self, action: &str) -> &World {
        match action {
            "DescribeNetworkInterfaces" | "DescribeInstances" => {
                self.world_before(self.rules.describe_lag)
            }
            _ => &self.world,
        }
    }

    /// Refuses a request whose signing time differs too much from EC2's clock.
    fn check_clock(&self, call: &Call) -> Result<(), Ec2Error> {
        let here = now() + self.rules.clock_ahead;
        let is_right = call
            .signed_at
            .is_none_or(|time| (here - time).abs() <= LARGEST_SKEW);
        match is_right {
            true => Ok(()),
            false => {
                let message = "AWS was not able to validate the provided access credentials";
                Err(Ec2Error::new(401, &self.rules.clock_code, message))
            }
        }
    }

    /// Checks the IAM policy of the role.
    fn authorise(&self, call: &Call, target: Option<&Target>) -> Result<(), Ec2Error> {
        let untagged = self.rules.tag_condition
            && MUTATIONS.contains(&call.action.as_str())
            && target.is_some_and(|t| !t.unmanaged);
        if untagged || self.rules.denied_actions.contains(&call.action) {
            return Err(Ec2Error::unauthorized());
        }
        Ok(())
    }

    /// The instance whose credentials signed the call; `None` for a key that is always
    /// accepted, or of a service account.
    fn signer(&self, call: &Call) -> Result<Option<InstanceId>, Ec2Error> {
        let unknown = || {
            let message = "AWS was not able to validate the provided access credentials";
            Ec2Error::new(401, "AuthFailure", message)
        };
        let key = call.access_key().ok_or_else(unknown)?;
        if self.allowed_keys.contains(key) {
            return Ok(None);
        }
        match self.identities.is_valid(key) {
            Some(true) => return Ok(None),
            Some(false) => return Err(self.expired()),
            None => {}
        }
        for instance in self.world.instances.keys() {
            for generation in 1..=self.key_generation {
                if access_key(instance, generation) != key {
                    continue;
                }
                return if generation == self.key_generation {
                    Ok(Some(instance.clone()))
                } else {
                    Err(self.expired())
                };
            }
        }
        Err(unknown())
    }

    pub(super) fn expired(&self) -> Ec2Error {
        Ec2Error::bad(&self.rules.expired_code, "Request has expired.")
    }

    /// Takes a token from the action's bucket.
    fn throttle(&mut self, call: &Call) -> Result<(), Ec2Error> {
        let Some(buckets) = self.rules.token_buckets else {
            return Ok(());
        };
        let bucket = match (call.reads(), call.is_limited()) {
            (false, _) => buckets.mutating,
            (true, true) => buckets.describing,
            (true, false) => buckets.unfiltered,
        };
        let Bucket { burst, per_second } = bucket;
        let now = Instant::now();
        let entry = self.buckets.entry(call.action.clone());
        let (tokens, since) = entry.or_insert((burst, now));
        let refilled = *tokens + (now - *since).as_secs_f64() * per_second;
        (*tokens, *since) = (refilled.min(burst), now);
        if *tokens < 1.0 {
            return Err(Ec2Error::throttled());
        }
        *tokens -= 1.0;
        Ok(())
    }
}

/// This machine's time in seconds since 1970.
pub(super) fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// `20260131T120000Z` in seconds since 1970.
fn seconds(date: &str) -> Option<i64> {
    let number = |from: usize, length: usize| date.get(from..from + length)?.parse::<u16>().ok();
    let small = |from: usize| u8::try_from(number(from, 2)?).ok();
    let month = Month::try_from(small(4)?).ok()?;
    let day = Date::from_calendar_date(i32::from(number(0, 4)?), month, small(6)?).ok()?;
    let time = Time::from_hms(small(9)?, small(11)?, small(13)?).ok()?;
    Some(day.with_time(time).assume_utc().unix_timestamp())
}

/// The access key of an instance: unique, and a new one after the earlier ones have
/// expired.
pub(super) fn access_key(instance: &InstanceId, generation: u64) -> String {
    let id = instance.as_str();
    let tail = &id[id.len().saturating_sub(10)..];
    format!("ASIALAB{generation:03}{}", tail.to_uppercase())
}

/// A request to EC2.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) action: String,
    pub(super) query: Query,
    /// `Credential=…` with everything after it, from the header or the URL. The signature
    /// itself is not verified.
    pub(super) credential: Option<String>,
    /// When it was signed, in seconds since 1970, if a header contains that.
    pub(super) signed_at: Option<i64>,
}

impl Call {
    pub(super) fn new(query: Query, authorization: Option<&str>, date: Option<&str>) -> Self {
        let signed = |text: &&str| text.contains("Signature=");
        let header = authorization
            .and_then(|text| text.strip_prefix("AWS4-HMAC-SHA256 "))
            .filter(signed)
            .and_then(|text| text.split("Credential=").nth(1))
            .and_then(|text| text.split([',', ' ']).next());
        let presigned = query
            .text("X-Amz-Signature")
            .and(query.text("X-Amz-Credential"));
        Self {
            action: query.text("Action").unwrap_or_default().to_owned(),
            credential: header.or(presigned).map(str::to_owned),
            signed_at: date.and_then(seconds),
            query,
        }
    }

    /// The access key id, if the credential is for EC2 in this region.
    fn access_key(&self) -> Option<&str> {
        let parts: Vec<&str> = self.credential.as_deref()?.split('/').collect();
        match parts[..] {
            [key, _date, region, "ec2", "aws4_request"] if region == REGION => Some(key),
            _ => None,
        }
    }

    fn eni(&self) -> &str {
        self.query.text("NetworkInterfaceId").unwrap_or_default()
    }

    fn reads(&self) -> bool {
        self.action.starts_with("Describe") || self.action.starts_with("Get")
    }

    /// Whether anything limits the size of the response.
    fn is_limited(&self) -> bool {
        let ids = [
            "NetworkInterfaceId",
            "InstanceId",
            "InstanceType",
            "SubnetId",
            "VpcId",
        ];
        ids.iter().any(|id| !self.query.list(id).is_empty())
            || self.query.text("SubnetId").is_some()
            || self.query.text("MaxResults").is_some()
            || !self.query.filters().is_empty()
    }

    fn event(&self, node: Option<InstanceId>, target: Option<Target>, outcome: &str) -> Event {
        let named = ["PrivateIpAddress", "Ipv6Addresses"];
        let texts = named.iter().flat_map(|name| self.query.list(name));
        let addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
        Event::Called {
            action: self.action.clone(),
            node,
            eni: self.query.text("NetworkInterfaceId").map(EniId::from),
            addresses,
            outcome: outcome.to_owned(),
            target,
        }
    }
}

/// The error with which a fault decides a call instead of EC2's rules, if it does.
pub(super) fn fault_error(state: &State, fault: &Fault) -> Option<Ec2Error> {
    match fault {
        Fault::Error {
            status,
            code,
            message,
        } => Some(Ec2Error::new(*status, code, message)),
        Fault::Throttle => Some(Ec2Error::throttled()),
        Fault::ExpiredCredentials => Some(state.expired()),
        Fault::DropBeforeCommit => Some(Ec2Error::bad(DROPPED, "")),
        _ => None,
    }
}
