//! What the kubelet is offered at this moment, for whoever shows it: metrics, readiness, and a
//! file for the commands. And how the look that finds it out is woken.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::error::{Error, ErrorCode, Result};
use common::files::{file, format};
use serde::{Deserialize, Serialize};

use crate::vpc::ec2::Family;

/// Where the commands find it.
pub(crate) const PATH: &str = "/run/eni-cni/resources.json";
/// Whatever is larger is not such a file.
const LIMIT: u64 = 1 << 22;
/// How long until the next try to write it.
const PAUSE: Duration = Duration::from_secs(5);

/// One resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    /// Its name.
    pub(crate) name: String,
    /// The family of its addresses; nothing where it is of whole ENIs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) family: Option<Family>,
    /// Whether the kubelet has taken it, and listens to what becomes of it.
    pub(crate) registered: bool,
    /// Why it is not registered, or has fewer devices than it could.
    pub(crate) problems: Vec<String>,
    /// What it has.
    pub(crate) devices: Vec<Device>,
}

/// A device of a resource: room for an address, or a whole ENI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    /// The name that the kubelet knows it by.
    pub(crate) id: String,
    /// The ENI.
    pub(crate) eni: String,
    /// Why no pod can get it; nothing when one can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unhealthy: Option<String>,
    /// The NUMA node of the device, where the kernel tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) numa: Option<i64>,
}

impl Shown {
    /// How many devices a pod can have, and how many it cannot.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let healthy = self.devices.iter().filter(|one| one.unhealthy.is_none());
        let healthy = healthy.count();
        (healthy, self.devices.len() - healthy)
    }

    /// How many devices there are of each ENI, and how many of these a pod can have.
    pub(crate) fn by_eni(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut of: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for device in &self.devices {
            let (all, healthy) = of.entry(device.eni.as_str()).or_default();
            *all += 1;
            *healthy += usize::from(device.unhealthy.is_none());
        }
        of
    }
}

/// What an agent has written down of its resources; nothing where it offers none.
///
/// # Errors
/// Code 5 when the file cannot be read, 6 when it is not such a file.
pub(crate) fn read() -> Result<Vec<Shown>> {
    let text = match file::read_regular(Path::new(PATH), LIMIT) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|cause| Error::io(format!("failed to read {PATH}"), &cause))?,
    };
    if let Some(why) = format::newer(&text) {
        let msg = format!("{PATH} is a list of resources of a newer version");
        return Err(Error::new(ErrorCode::DECODING, msg).with_details(why));
    }
    serde_json::from_slice(&text).map_err(|cause| {
        let msg = format!("{PATH} is not a list of resources");
        Error::new(ErrorCode::DECODING, msg).with_details(cause.to_string())
    })
}

/// Removes what an agent before this one has written, which offered resources.
///
/// # Errors
/// Code 5 naming the file.
pub(crate) fn forget() -> Result<()> {
    let failed = |cause| Error::io(format!("failed to remove {PATH}"), &cause);
    file::remove(Path::new(PATH)).map_err(failed)
}

fn write(resources: &[Shown]) -> Result<()> {
    let failed = |cause| Error::io(format!("failed to write {PATH}"), &cause);
    let text = serde_json::to_vec(resources).map_err(|cause| failed(cause.into()))?;
    file::replace(Path::new(PATH), &text).map_err(failed)
}

/// The resources of an agent.
#[derive(Debug)]
pub(crate) struct Resources {
    known: Mutex<Known>,
    waker: Waker,
    woken: UnixStream,
}

#[derive(Debug, Default)]
struct Known {
    shown: Vec<Shown>,
    /// What this agent has tried last to write into the file.
    tried: Option<Vec<Shown>>,
    /// Why the file has something else, and when to try again.
    unwritten: Option<(String, Instant)>,
    /// Why nobody knows whether all of this is so still.
    unseen: Option<String>,
}

/// Wakes the look at the resources.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<UnixStream>);

impl Waker {
    /// Has the resources looked at again.
    pub(crate) fn wake(&self) {
        // Where the other end is full of these, the look is coming already.
        (&*self.0).write_all(&[0]).ok();
    }
}

impl Resources {
    /// Those of an agent that starts.
    ///
    /// # Errors
    /// Code 5 when there are no descriptors.
    pub(crate) fn new() -> Result<Self> {
        let pair = || {
            let (waker, woken) = UnixStream::pair()?;
            waker.set_nonblocking(true)?;
            woken.set_nonblocking(true)?;
            Ok((Waker(Arc::new(waker)), woken))
        };
        let failed = |cause: io::Error| Error::io("failed to make a pair of sockets", &cause);
        let (waker, woken) = pair().map_err(failed)?;
        Ok(Self {
            known: Mutex::default(),
            waker,
            woken,
        })
    }

    /// What wakes the look.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// What is readable when the look has been woken.
    pub(crate) fn woken(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// Forgets what has woken the look, which begins now.
    pub(crate) fn rest(&self) {
        let mut bytes = [0; 64];
        while (&self.woken)
            .read(&mut bytes)
            .is_ok_and(|length| length > 0)
        {}
    }

    /// Notes what the kubelet is offered; whether it is something else than before.
    pub(crate) fn note(&self, resources: &[Shown]) -> bool {
        let mut known = self.known();
        let is_other = known.shown != resources;
        resources.clone_into(&mut known.shown);
        is_other
    }

    /// Has the file say the same, if this agent is the one that serves: of the others, the
    /// kubelet has nothing. Returns when to try again what did not succeed. Until then only
    /// something else is tried: each try changes the directory, which wakes the look, and that
    /// whoever writes.
    pub(crate) fn write_down(&self, is_serving: bool, now: Instant) -> Option<Instant> {
        let mut known = self.known();
        if !is_serving {
            (known.tried, known.unwritten) = (None, None);
            return None;
        }
        let is_due = known.unwritten.as_ref().is_some_and(|(_, due)| *due <= now);
        if is_due || known.tried.as_ref() != Some(&known.shown) {
            let outcome = write(&known.shown);
            known.tried = Some(known.shown.clone());
            known.unwritten = outcome.err().map(|error| (error.to_string(), now + PAUSE));
        }
        known.unwritten.as_ref().map(|(_, due)| *due)
    }

    /// Notes why the node could not be looked at, or that it could; whether that is news.
    pub(crate) fn note_unseen(&self, why: Option<String>) -> bool {
        let mut known = self.known();
        let is_other = known.unseen != why;
        known.unseen = why;
        is_other
    }

    /// What is wrong with them.
    pub(crate) fn problems(&self) -> Vec<String> {
        let known = self.known();
        let of_one = |one: &Shown| {
            let name = one.name.clone();
            let say = move |problem: &String| format!("resource {name}: {problem}");
            one.problems.iter().map(say).collect::<Vec<_>>()
        };
        let problems = known.shown.iter().flat_map(of_one);
        let unwritten = known.unwritten.as_ref().map(|(why, _)| why.clone());
        problems.chain(unwritten).collect()
    }

    /// What is to be said of them to whoever asks whether the agent is ready.
    pub(crate) fn findings(&self) -> Vec<String> {
        let mut findings = self.problems();
        findings.extend(self.known().unseen.clone());
        findings
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
