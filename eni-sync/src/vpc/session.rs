//! What the clients of AWS' services have in common: region, credentials, timeouts.

use std::sync::Arc;
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig, imds};
use aws_sdk_ec2::config::SharedHttpClient;
use tokio::runtime::Runtime;

const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// How long one attempt may take. EC2 is slow when much is asked of it, and an answer that
/// comes late is better than none.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a call may take with all its attempts. The kubelet gives up after minutes.
const CALL_DEADLINE: Duration = Duration::from_secs(45);

/// The parts of which clients of AWS' services are made.
pub(crate) struct Session {
    pub(crate) runtime: Arc<Runtime>,
    pub(super) http: SharedHttpClient,
    pub(super) imds: imds::Client,
    pub(super) region: String,
    pub(super) retries: RetryConfig,
}

impl Session {
    /// The configuration of a client, which loads new credentials. The SDK's variables and
    /// files apply, except for the region, which is that of the node unless `AWS_REGION` is
    /// set.
    pub(crate) fn configuration(&self) -> SdkConfig {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .operation_attempt_timeout(ATTEMPT_DEADLINE)
            .operation_timeout(CALL_DEADLINE)
            .build();
        let region = Region::new(self.region.clone());
        let provider = ProviderConfig::without_region()
            .with_http_client(self.http.clone())
            .with_region(Some(region.clone()));
        let credentials = DefaultCredentialsChain::builder()
            .configure(provider)
            .imds_client(self.imds.clone());
        self.runtime.block_on(async {
            aws_config::defaults(BehaviorVersion::latest())
                .http_client(self.http.clone())
                .region(region)
                .credentials_provider(credentials.build().await)
                .retry_config(self.retries.clone())
                .timeout_config(timeouts)
                .load()
                .await
        })
    }
}
