//! Runs slow reads for HTTP requests: one of each kind at a time, on a thread of its own. A
//! request waits no longer than its time limit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// The number of kinds of reads, each with a thread of its own.
pub(crate) const READERS: usize = 3;

/// The reads of the ledger for HTTP requests. Different kinds do not wait for each other.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    pub(crate) metrics: Reader,
    pub(crate) readiness: Reader,
    pub(crate) page: Reader,
}

/// Runs the reads of one kind, one at a time.
#[derive(Debug)]
pub(crate) struct Reader(Arc<Semaphore>);

impl Default for Reader {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Reader {
    /// The result of `read`; `None` if it, or the reads before it, take longer than `time`.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        time: Duration,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let asked = async {
            let permit = Arc::clone(&self.0).acquire_owned().await.ok()?;
            // The end of the wait does not end the thread, which keeps the permit until it is
            // done.
            let answer = spawn_blocking(move || {
                let answer = read();
                drop(permit);
                answer
            });
            answer.await.ok()
        };
        timeout(time, asked).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(30);

    fn runtime() -> Runtime {
        Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2)
            .build()
            .unwrap()
    }

    #[test]
    fn a_question_that_takes_long_keeps_no_other_reader_waiting() {
        runtime().block_on(async {
            let (slow, quick) = (Reader::default(), Reader::default());
            let (go_on, wait) = channel::<()>();
            let never = move || wait.recv().is_ok();
            assert_eq!(slow.ask(SHORT, never).await, None);
            // Its thread is still busy: neither a second one nor a third is started for it.
            assert_eq!(slow.ask(SHORT, || true).await, None);
            assert_eq!(slow.ask(SHORT, || true).await, None);
            assert_eq!(quick.ask(LONG, || true).await, Some(true));
            go_on.send(()).unwrap();
            assert_eq!(slow.ask(LONG, || true).await, Some(true));
        });
    }

    #[test]
    fn a_question_that_ends_in_a_panic_gives_the_turn_back() {
        runtime().block_on(async {
            let reader = Reader::default();
            let failed = reader.ask(LONG, || assert!(std::env::args().count() == usize::MAX));
            assert_eq!(failed.await, None);
            assert_eq!(reader.ask(LONG, || true).await, Some(true));
        });
    }
}
