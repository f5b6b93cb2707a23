//! Where the threads of one process wait for each other before one of them locks the entries of
//! an ENI. A wait for a lock of other processes tries again and again; here a thread sleeps until
//! it is its turn.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::error::{Error, ErrorCode, Result};
use common::files::lock::Lock;

/// One of the functions that take a lock within a time.
pub(super) type TakeLock = fn(&Path, Duration) -> Result<Lock>;

/// The queues of all ENIs, by their ids.
#[derive(Debug, Default)]
pub(super) struct Queues {
    of_enis: Mutex<BTreeMap<String, Arc<Queue>>>,
}

/// The queue of one ENI.
#[derive(Debug, Default)]
pub(super) struct Queue {
    is_taken: Mutex<bool>,
    left: Condvar,
}

/// The place at the head of a queue, until it is dropped.
#[derive(Debug)]
struct Place(Arc<Queue>);

/// A lock that also no other thread of this process has. The lock is dropped before the place,
/// which is for the next lock.
#[derive(Debug)]
pub(super) struct Held {
    _lock: Lock,
    _place: Place,
}

impl Queues {
    pub(super) fn of_eni(&self, id: &str) -> Arc<Queue> {
        let of_enis = self.of_enis.lock();
        let mut of_enis = of_enis.unwrap_or_else(PoisonError::into_inner);
        Arc::clone(of_enis.entry(id.to_owned()).or_default())
    }
}

impl Queue {
    /// Takes a lock. The threads of this process wait for each other first, so that one at a time
    /// polls the lock of the file.
    ///
    /// # Errors
    /// Code 11 when the lock is not free in time, and those of `take`.
    pub(super) fn lock(
        self: &Arc<Self>,
        path: &Path,
        deadline: Duration,
        take: TakeLock,
    ) -> Result<Held> {
        let start = Instant::now();
        let place = self.take(deadline).ok_or_else(|| {
            let msg = format!("timed out waiting for the lock {path:?}");
            let details = format!("other work of this process has held it for {deadline:?}");
            Error::new(ErrorCode::TRY_AGAIN, msg).with_details(details)
        })?;
        Ok(Held {
            _lock: take(path, deadline.saturating_sub(start.elapsed()))?,
            _place: place,
        })
    }

    /// Waits until no other thread is at the head; `None` when the time is over.
    fn take(self: &Arc<Self>, deadline: Duration) -> Option<Place> {
        let waited = self
            .left
            .wait_timeout_while(self.is_taken(), deadline, |is_taken| *is_taken);
        let (mut is_taken, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let is_free = !*is_taken;
        *is_taken = true;
        is_free.then(|| Place(Arc::clone(self)))
    }

    /// A thread that has ended in the middle has left nothing half done here.
    fn is_taken(&self) -> MutexGuard<'_, bool> {
        self.is_taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.is_taken() = false;
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    #[test]
    fn one_thread_at_a_time_is_at_the_head_and_each_comes_to_it() {
        let queues = Queues::default();
        let inside = AtomicUsize::new(0);
        let enter = || {
            let place = queues.of_eni("eni-1").take(DEADLINE).unwrap();
            let others = inside.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
            drop(place);
            others
        };
        thread::scope(|scope| {
            let threads = [0; 8].map(|_| scope.spawn(enter));
            assert_eq!(threads.map(|thread| thread.join().unwrap()), [0; 8]);
        });
    }

    #[test]
    fn who_comes_too_late_leaves_the_head_to_the_one_that_has_it() {
        let queues = Queues::default();
        let queue = queues.of_eni("eni-1");
        let place = queue.take(Duration::ZERO).unwrap();
        assert!(queue.take(Duration::ZERO).is_none());
        assert!(queues.of_eni("eni-2").take(Duration::ZERO).is_some());
        drop(place);
        assert!(queue.take(Duration::ZERO).is_some());
    }
}
