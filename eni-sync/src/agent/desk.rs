//! Reads what may take long, for those who ask over HTTP: one at a time, on a thread that
//! keeps nobody else waiting, and nobody waits for it longer than they have time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How many questions are answered on threads of their own.
pub(crate) const DESKS: usize = 3;

/// What is read from the ledger for those who ask: none waits for another.
#[derive(Debug, Default)]
pub(crate) struct Desks {
    pub(crate) metrics: Desk,
    pub(crate) readiness: Desk,
    pub(crate) page: Desk,
}

/// Where one kind of question is answered.
#[derive(Debug)]
pub(crate) struct Desk(Arc<Semaphore>);

impl Default for Desk {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Desk {
    /// The answer of `read`; nothing where it takes longer than `patience`, or where the
    /// questions before it do.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        patience: Duration,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let asked = async {
            let turn = Arc::clone(&self.0).acquire_owned().await.ok()?;
            // Whoever stops waiting does not end the thread, which keeps the turn.
            let answer = spawn_blocking(move || {
                let answer = read();
                drop(turn);
                answer
            });
            answer.await.ok()
        };
        timeout(patience, asked).await.ok().flatten()
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
    fn a_question_that_takes_long_keeps_no_other_desk_waiting() {
        runtime().block_on(async {
            let (slow, quick) = (Desk::default(), Desk::default());
            let (go_on, wait) = channel::<()>();
            let never = move || wait.recv().is_ok();
            assert_eq!(slow.ask(SHORT, never).await, None);
            // Its thread is busy still: neither a second one nor a third is started for it.
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
            let desk = Desk::default();
            let failed = desk.ask(LONG, || assert!(std::env::args().count() == usize::MAX));
            assert_eq!(failed.await, None);
            assert_eq!(desk.ask(LONG, || true).await, Some(true));
        });
    }
}
