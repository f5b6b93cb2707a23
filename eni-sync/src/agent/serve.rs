//! Serves the plugins that connect to the agent's socket, each on a thread of its own. The
//! limits on their number and time are in `limits`.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::error::{Error, ErrorCode, Result};
use common::say;
use tracing::warn;

use crate::agent::handover::{Handover, Role};
use crate::agent::news::News;
use crate::agent::shared::{Agent, Work};
use crate::deadline::Deadline;
use crate::ledger::Refusal;
use crate::limits;
use crate::plugin::attachment::TIME;
use crate::plugin::socket::{self, Answer, Ask};
use crate::registration::choose::choose;
use crate::registration::desired::Wanted;
use crate::registration::register;
use crate::registration::request::Request;
use crate::registration::without;
use crate::vpc::clients::Aws;
use crate::vpc::environment;
use crate::vpc::inventory;

/// The pause after an error of the socket.
const SOCKET_PAUSE: Duration = Duration::from_millis(100);

/// How often an agent checks whether it still serves.
const LOOK: Duration = Duration::from_secs(1);

/// Counts a connected plugin until it is dropped.
struct Place(Arc<Agent>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.update(|work| work.plugins -= 1);
    }
}

impl Agent {
    /// Serves plugins, each on a thread of its own: by the ledger, requests at the same time
    /// become batches. When the agent ends, the plugins in the queue are still served; later
    /// ones find no agent here.
    pub(super) fn serve(self: &Arc<Self>, mut handover: Handover) {
        let (mut looked, mut news) = (Instant::now(), News::default());
        loop {
            let is_ending = self.work().is_ending;
            match self.serve_next(&handover) {
                Ok(false) if is_ending => break,
                Ok(_) => {}
                Err(error) => {
                    say!("a plugin could not be served: {error}");
                    // Missing descriptors or memory will still be missing in the next moment.
                    thread::sleep(SOCKET_PAUSE);
                }
            }
            if looked.elapsed() >= LOOK && !is_ending {
                looked = Instant::now();
                for finding in news.among(self.look(&mut handover)) {
                    say!("{finding}");
                }
            }
        }
        drop(handover);
        self.update(|work| work.is_closed = true);
    }

    /// Updates the role of this agent. If it serves, writes its settings for reaching AWS for
    /// the plugins. Returns messages about failures.
    fn look(&self, handover: &mut Handover) -> Vec<String> {
        let found = handover.look(self.health.has_reconciled());
        self.note_handover(handover);
        match found {
            Ok(()) if handover.role() == Role::Serving => environment::leave(),
            Ok(()) => Vec::new(),
            Err(error) => vec![format!("{error}; trying again")],
        }
    }

    /// Starts to serve the next plugin, if one connects soon. Returns whether one did.
    fn serve_next(self: &Arc<Self>, handover: &Handover) -> Result<bool> {
        let stream = handover.accept(LOOK);
        let stream = stream.map_err(|cause| Error::internal("accept").because(&cause))?;
        stream.map_or(Ok(false), |new| self.start_serving(new).map(|()| true))
    }

    /// Starts to serve a plugin. If too many are connected, the connection is closed, and the
    /// plugin does the work itself.
    fn start_serving(self: &Arc<Self>, stream: UnixStream) -> Result<()> {
        let Some(place) = self.reserve_place() else {
            return Ok(());
        };
        self.start("request", move |agent| {
            agent.answer(&stream);
            drop(place);
        })
    }

    fn reserve_place(self: &Arc<Self>) -> Option<Place> {
        let mut work = self.work();
        if work.plugins >= limits::PLUGINS {
            return None;
        }
        work.plugins += 1;
        Some(Place(Arc::clone(self)))
    }

    fn answer(&self, stream: &UnixStream) {
        if !socket::is_of_root(stream) {
            say!("a process that is not root's has been refused");
            return;
        }
        let ask = socket::read(stream);
        // A plugin that waits for an answer is told now that there will be one.
        let ask = match ask {
            Ok(Ask::Look) => {
                self.announce();
                return;
            }
            ask => ask.and_then(|ask| socket::take(stream).map(|()| ask)),
        };
        let mut attachment = None;
        let answer = match ask {
            Ok(Ask::Register {
                wanted,
                request,
                patience,
            }) => {
                let time = patience.map_or(TIME, Duration::from_millis);
                let answer = self.serve_attachment(&request, time, |aws| {
                    register::register_all(aws, &self.ledger, &self.shared, &wanted, &request)
                        .map(|()| Answer::Done)
                });
                attachment = Some((wanted, request));
                answer
            }
            Ok(Ask::Choose {
                choice,
                request,
                patience,
            }) => self.serve_attachment(&request, Duration::from_millis(patience), |aws| {
                choose(aws, &self.ledger, &self.shared, &choice, &request)
                    .map(|addresses| Answer::Chosen { addresses })
            }),
            Ok(Ask::Status) => Some(match self.clients.run(inventory::require_usable) {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Refused(Refusal::of(&error)),
            }),
            Ok(Ask::Ping | Ask::Look) => Some(Answer::Done),
            Err(cause) => {
                say!("a request could not be read: {cause}");
                return;
            }
        };
        let Some(answer) = answer else { return };
        if let Err(cause) = socket::send(stream, &answer) {
            // The plugin has given up. Its DEL will release the addresses.
            say!("an answer could not be delivered: {cause}");
        }
        if let (Some((wanted, request)), Answer::Refused(refusal)) = (attachment, answer) {
            self.tell_unclaimed(&wanted, &request, &refusal);
        }
    }

    /// Serves the request of an attachment; `None` if the agent ends before that.
    fn serve_attachment(
        &self,
        request: &Request,
        time: Duration,
        serve: impl FnOnce(&Aws) -> Result<Answer>,
    ) -> Option<Answer> {
        let (since, deadline) = (Instant::now(), Deadline::after(time.min(TIME)));
        let outcome = self.during_request(|| match request.owner.is_alive() {
            _ if deadline.is_over() => Err(Deadline::missed("the agent, which serves others")),
            // An attachment that cannot be examined from here is left to its plugin.
            Ok(false) | Err(_) => Ok(Answer::Unseen),
            Ok(true) => self.clients.run_until(deadline, serve),
        })?;
        let answer = outcome.unwrap_or_else(|error| {
            let owner = &request.owner;
            warn!(
                pod = owner.pod,
                network = owner.network,
                container = owner.container_id,
                interface = owner.ifname,
                code = error.code.0,
                "{owner}: {error}"
            );
            self.note_refusal(&error);
            // The subnet may have no free address left.
            self.resources.waker().wake();
            Answer::Refused(Refusal::of(&error))
        });
        match &answer {
            Answer::Done | Answer::Chosen { .. } => self.metrics.note_answer(0, since.elapsed()),
            Answer::Refused(refusal) => self.metrics.note_answer(refusal.code, since.elapsed()),
            // The plugin continues without the agent.
            Answer::Unseen => {}
        }
        Some(answer)
    }

    /// Reports an attachment that is not strict and has addresses which can never be on its
    /// ENI: the ledger only has those that EC2 has refused.
    fn tell_unclaimed(&self, wanted: &Wanted, request: &Request, refusal: &Refusal) {
        if !request.best_effort || refusal.code != ErrorCode::NETWORK_CONFIG.0 {
            return;
        }
        let found = self
            .clients
            .run(|aws| Ok(without::unclaimed(aws, wanted, &request.owner)));
        for without in found.into_iter().flatten() {
            without.log();
            self.events.tell(without);
        }
    }

    /// Serves a request as soon as there are not too many; `None` when the agent ends.
    fn during_request<T>(&self, serve: impl FnOnce() -> T) -> Option<T> {
        let is_full = |work: &mut Work| work.requests >= limits::SERVED && !work.is_ending;
        let mut work = self
            .changed
            .wait_while(self.work(), is_full)
            .unwrap_or_else(PoisonError::into_inner);
        if work.requests >= limits::SERVED {
            return None;
        }
        work.requests += 1;
        drop(work);
        let answer = serve();
        self.update(|work| {
            work.requests -= 1;
            work.is_news = true;
        });
        Some(answer)
    }
}
