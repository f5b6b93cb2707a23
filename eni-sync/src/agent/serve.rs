//! What the agent does for the plugins that connect to its socket, each on a thread of its
//! own. How many there may be, and for how long, is in `limits`.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::error::{Error, ErrorCode, Result};
use common::say;
use tracing::warn;

use crate::agent::handover::{Post, Role};
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

/// How long until the next try after an error of the socket.
const SOCKET_PAUSE: Duration = Duration::from_millis(100);

/// How often an agent finds out whether it is the one that serves.
const LOOK: Duration = Duration::from_secs(1);

/// The place of a plugin that is connected.
struct Place(Arc<Agent>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.update(|work| work.plugins -= 1);
    }
}

impl Agent {
    /// Serves plugins, each on a thread of its own: the ledger makes batches of what they
    /// want at the same time. When the agent ends, those that are in the queue are served
    /// still, and the next ones find nobody here.
    pub(super) fn serve(self: &Arc<Self>, mut post: Post) {
        let (mut looked, mut news) = (Instant::now(), News::default());
        loop {
            let is_ending = self.work().is_ending;
            match self.serve_next(&post) {
                Ok(false) if is_ending => break,
                Ok(_) => {}
                Err(error) => {
                    say!("a plugin could not be served: {error}");
                    // What is lacking, descriptors or memory, is not there in the next moment.
                    thread::sleep(SOCKET_PAUSE);
                }
            }
            if looked.elapsed() >= LOOK && !is_ending {
                looked = Instant::now();
                for finding in news.among(self.look(&mut post)) {
                    say!("{finding}");
                }
            }
        }
        drop(post);
        self.update(|work| work.is_closed = true);
    }

    /// Finds out what this agent is from now on, and leaves plugins the way to AWS of the one
    /// that serves. Returns what keeps it from that.
    fn look(&self, post: &mut Post) -> Vec<String> {
        let found = post.look(self.health.has_reconciled());
        self.note_post(post);
        match found {
            Ok(()) if post.role() == Role::Serving => environment::leave(),
            Ok(()) => Vec::new(),
            Err(error) => vec![format!("{error}; trying again")],
        }
    }

    /// Starts to serve the next plugin, if one comes soon; whether one has come.
    fn serve_next(self: &Arc<Self>, post: &Post) -> Result<bool> {
        let stream = post.accept(LOOK);
        let stream = stream.map_err(|cause| Error::internal("accept").because(&cause))?;
        stream.map_or(Ok(false), |new| self.welcome(new).map(|()| true))
    }

    /// Starts to serve a plugin. Where too many are connected, this one finds its
    /// connection closed, and does the work itself.
    fn welcome(self: &Arc<Self>, stream: UnixStream) -> Result<()> {
        let Some(place) = self.find_place() else {
            return Ok(());
        };
        self.start("request", move |agent| {
            agent.answer(&stream);
            drop(place);
        })
    }

    fn find_place(self: &Arc<Self>) -> Option<Place> {
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
        // Who waits for an answer learns now that there will be one.
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
            // The plugin has given up. Its DEL will give back what it has got.
            say!("an answer could not be delivered: {cause}");
        }
        if let (Some((wanted, request)), Answer::Refused(refusal)) = (attachment, answer) {
            self.tell_unclaimed(&wanted, &request, &refusal);
        }
    }

    /// Does what an attachment needs; nothing where the agent ends before its turn comes.
    fn serve_attachment(
        &self,
        request: &Request,
        time: Duration,
        serve: impl FnOnce(&Aws) -> Result<Answer>,
    ) -> Option<Answer> {
        let (since, deadline) = (Instant::now(), Deadline::after(time.min(TIME)));
        let outcome = self.during_request(|| match request.owner.is_alive() {
            _ if deadline.is_over() => Err(Deadline::missed("the agent, which serves others")),
            // What cannot be looked at from here is the plugin's own work.
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
            // EC2 may have no address left.
            self.resources.waker().wake();
            Answer::Refused(Refusal::of(&error))
        });
        match &answer {
            Answer::Done | Answer::Chosen { .. } => self.metrics.note_answer(0, since.elapsed()),
            Answer::Refused(refusal) => self.metrics.note_answer(refusal.code, since.elapsed()),
            // The plugin goes on by itself.
            Answer::Unseen => {}
        }
        Some(answer)
    }

    /// Tells of an attachment that does not insist on its addresses, and that has some which can
    /// never be on its ENI: the ledger knows those that EC2 has refused, and not these.
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

    /// Serves a request as soon as there are not too many; nothing when the agent ends.
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
