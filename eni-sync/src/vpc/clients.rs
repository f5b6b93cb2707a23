//! The clients of AWS: one HTTP client and one async runtime behind blocking functions. They
//! are made when a command first needs AWS: making them costs more than most commands, and a
//! process that waits for its turn would hold a megabyte for nothing.

use std::cell::OnceCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_ec2::config::SharedHttpClient;
use common::error::{Error, ErrorCode, Result};
use tokio::runtime::{Builder, Runtime};

use crate::deadline::Deadline;
use crate::vpc::ec2::Ec2;
use crate::vpc::environment;
use crate::vpc::failure;
use crate::vpc::http;
use crate::vpc::imds::Imds;
use crate::vpc::rate_limit::RateLimit;
use crate::vpc::session::Session;

/// How often a request is sent at most. The pauses between are the SDK's, which are
/// random and double each time.
const ATTEMPTS: u32 = 6;
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// How long the metadata may take to answer a question that can be left open. They answer in a
/// millisecond.
const SOON: Duration = Duration::from_secs(2);

/// A pool of clients for a process with many threads: as many clients as threads that ask AWS
/// at the same time, each with its connections. A thread that waits for its turn has none.
pub(crate) struct Clients {
    pool: Arc<Pool>,
}

/// What the threads have in common.
struct Pool {
    idle: Mutex<Vec<Parts>>,
    rate_limit: Arc<RateLimit>,
}

impl Clients {
    /// Clients that share one rate limit.
    pub(crate) fn new(rate_limit: Arc<RateLimit>) -> Self {
        let idle = Mutex::default();
        Self {
            pool: Arc::new(Pool { idle, rate_limit }),
        }
    }

    /// The rate limit of all of them.
    pub(crate) fn rate_limit(&self) -> &RateLimit {
        &self.pool.rate_limit
    }

    /// Calls `work` with clients that no other thread uses meanwhile.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) fn run<T>(&self, work: impl FnOnce(&Aws) -> Result<T>) -> Result<T> {
        self.run_until(Deadline::default(), work)
    }

    /// The same, with a deadline for all that `work` waits for.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) fn run_until<T>(
        &self,
        deadline: Deadline,
        work: impl FnOnce(&Aws) -> Result<T>,
    ) -> Result<T> {
        work(&Aws::of(Some(Arc::clone(&self.pool))).until(deadline))
    }
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Vec<Parts>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clients of one process or thread, made or taken from the pool when they are needed
/// first.
pub(crate) struct Aws {
    parts: OnceCell<Parts>,
    pool: Option<Arc<Pool>>,
    deadline: Deadline,
}

/// What all clients share, and that of EC2.
struct Parts {
    runtime: Arc<Runtime>,
    http: SharedHttpClient,
    imds: Imds,
    ec2: OnceCell<Ec2>,
}

impl Parts {
    fn new() -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|cause| Error::internal("failed to start the runtime").because(&cause))?;
        let http = http::for_services()?;
        let provider = ProviderConfig::without_region().with_http_client(http::for_metadata());
        let runtime = Arc::new(runtime);
        Ok(Self {
            imds: Imds::new(Arc::clone(&runtime), &provider),
            runtime,
            http,
            ec2: OnceCell::new(),
        })
    }
}

/// Returns the clients to the pool, also after an error: they know how far the node's clock is
/// off, and renew credentials and connections by themselves.
impl Drop for Aws {
    fn drop(&mut self) {
        if let (Some(pool), Some(parts)) = (&self.pool, self.parts.take()) {
            pool.idle().push(parts);
        }
    }
}

impl Aws {
    /// Clients without a pool. Each part is made when it is first needed.
    pub(crate) fn open() -> Self {
        Self::of(None)
    }

    fn of(pool: Option<Arc<Pool>>) -> Self {
        Self {
            parts: OnceCell::new(),
            pool,
            deadline: Deadline::default(),
        }
    }

    /// The same clients, with the deadline of a command.
    #[must_use]
    pub(crate) fn until(mut self, deadline: Deadline) -> Self {
        self.deadline = deadline;
        self
    }

    /// The deadline of the command that uses the clients.
    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }

    fn rate_limit(&self) -> Option<&Arc<RateLimit>> {
        self.pool.as_ref().map(|pool| &pool.rate_limit)
    }

    fn parts(&self) -> Result<&Parts> {
        if let Some(parts) = self.parts.get() {
            return Ok(parts);
        }
        let idle = self.pool.as_ref().and_then(|pool| pool.idle().pop());
        let parts = idle.map_or_else(Parts::new, Ok)?;
        Ok(self.parts.get_or_init(|| parts))
    }

    /// Waits until the node's budget allows a registration. A plugin without an agent has no
    /// budget and does not wait.
    pub(crate) fn await_budget(&self) {
        if let Some(rate_limit) = self.rate_limit() {
            rate_limit.await_registration();
        }
    }

    /// The node's own metadata.
    ///
    /// # Errors
    /// Code 999 when the runtime cannot be made, 5 or 6 naming the file of
    /// `AWS_CA_BUNDLE`.
    pub(crate) fn imds(&self) -> Result<&Imds> {
        let imds = &self.parts()?.imds;
        imds.set_deadline(self.deadline());
        Ok(imds)
    }

    /// The same for a question that can be left open: it takes two seconds at most.
    ///
    /// # Errors
    /// As for [`Aws::imds`].
    pub(crate) fn imds_soon(&self) -> Result<&Imds> {
        let imds = self.imds()?;
        imds.set_deadline(Deadline::after(self.deadline.left_of(SOON)));
        Ok(imds)
    }

    /// EC2 in the region of this node.
    ///
    /// # Errors
    /// As for [`Aws::imds`].
    pub(crate) fn ec2(&self, region: &str) -> Result<&Ec2> {
        let session = self.session(region)?;
        let ec2 = &self.parts()?.ec2;
        let ec2 = ec2.get_or_init(|| Ec2::new(session, self.rate_limit().cloned()));
        ec2.set_deadline(self.deadline());
        Ok(ec2)
    }

    /// Whether there are credentials to sign a request with.
    ///
    /// # Errors
    /// Code 11 when the SDK finds none, and those of [`Aws::imds`].
    pub(crate) fn require_credentials(&self, region: &str) -> Result<()> {
        let missing = || Error::new(ErrorCode::TRY_AGAIN, "there are no AWS credentials");
        let session = self.session(region)?;
        let configuration = session.configuration();
        let provider = configuration.credentials_provider().ok_or_else(missing)?;
        let found = session.runtime.block_on(provider.provide_credentials());
        let found = found.map_err(|cause| missing().with_details(failure::chain(&cause)));
        found.map(drop)
    }

    fn session(&self, region: &str) -> Result<Session> {
        let parts = self.parts()?;
        // An agent decides itself when to try again: see `rate_limit`.
        let retries = match self.pool {
            Some(_) => RetryConfig::disabled(),
            None => RetryConfig::standard()
                .with_max_attempts(ATTEMPTS)
                .with_max_backoff(LONGEST_PAUSE),
        };
        Ok(Session {
            runtime: Arc::clone(&parts.runtime),
            http: parts.http.clone(),
            imds: parts.imds.client(),
            region: environment::region().unwrap_or_else(|| region.to_owned()),
            retries,
        })
    }
}
