//! The current offer to the kubelet, for metrics, readiness, and the commands, which read it
//! from a file. Also wakes the thread that examines the node.

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

/// The file for the commands.
pub(crate) const PATH: &str = "/run/eni-cni/resources.json";
/// The size limit of the file in bytes.
const LIMIT: u64 = 1 << 22;
/// The pause after a failure to write the file.
const PAUSE: Duration = Duration::from_secs(5);

/// A resource as it is offered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    /// Its name.
    pub(crate) name: String,
    /// The family of its addresses; `None` for whole ENIs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) family: Option<Family>,
    /// Whether the kubelet has accepted it and listens to its list.
    pub(crate) registered: bool,
    /// Why it is not registered, or has fewer devices than it could.
    pub(crate) problems: Vec<String>,
    /// Its devices.
    pub(crate) devices: Vec<Device>,
}

/// A device of a resource: room for an address, or a whole ENI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    /// Its id in the device plugin API.
    pub(crate) id: String,
    /// The ENI.
    pub(crate) eni: String,
    /// Why no pod can get it; `None` when a pod can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unhealthy: Option<String>,
    /// The NUMA node of the device, if the kernel knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) numa: Option<i64>,
}

impl Shown {
    /// How many devices are healthy, and how many are not.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let healthy = self.devices.iter().filter(|one| one.unhealthy.is_none());
        let healthy = healthy.count();
        (healthy, self.devices.len() - healthy)
    }

    /// How many devices each ENI has, and how many of these are healthy.
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

/// The resources that an agent has written into the file; empty if it offers none.
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

/// Removes the file of an earlier agent that offered resources.
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
    file::require_readable(&text, LIMIT).map_err(failed)?;
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
    /// What this agent last tried to write into the file.
    tried: Option<Vec<Shown>>,
    /// Why that failed, and when to try again.
    unwritten: Option<(String, Instant)>,
    /// Why the state of the node is not known at this time.
    unseen: Option<String>,
}

/// Wakes the thread that examines the node.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<UnixStream>);

impl Waker {
    /// Has the node examined again.
    pub(crate) fn wake(&self) {
        // If the buffer of the other end is full, the thread is about to wake anyway.
        (&*self.0).write_all(&[0]).ok();
    }
}

impl Resources {
    /// The resources of an agent that starts.
    ///
    /// # Errors
    /// Code 5 when no descriptor is free.
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

    /// The waker of the thread that examines the node.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// The descriptor that becomes readable when the thread is woken.
    pub(crate) fn woken(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// Clears pending wakes, before the node is examined.
    pub(crate) fn clear_wakes(&self) {
        let mut bytes = [0; 64];
        while (&self.woken)
            .read(&mut bytes)
            .is_ok_and(|length| length > 0)
        {}
    }

    /// Notes what the kubelet is offered. Returns whether it has changed.
    pub(crate) fn note(&self, resources: &[Shown]) -> bool {
        let mut known = self.known();
        let is_other = known.shown != resources;
        resources.clone_into(&mut known.shown);
        is_other
    }

    /// Writes the resources into the file, if this agent serves plugins: the kubelet has
    /// nothing of other agents. Returns when to try again after a failure. Until then only a
    /// changed list is tried: each attempt changes the directory, which wakes the thread that
    /// examines the node.
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

    /// Notes why the node could not be examined, or that it could. Returns whether that has
    /// changed.
    pub(crate) fn note_unseen(&self, why: Option<String>) -> bool {
        let mut known = self.known();
        let is_other = known.unseen != why;
        known.unseen = why;
        is_other
    }

    /// The problems of the resources.
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

    /// The problems that the readiness probe reports.
    pub(crate) fn findings(&self) -> Vec<String> {
        let mut findings = self.problems();
        findings.extend(self.known().unseen.clone());
        findings
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
