//! Opens a bucket with the AWS chain: environment, profile, SSO, web identity, container and instance roles.
//!
//! object_store's own chain knows neither profiles nor SSO, so the chain is `aws-config`'s, the same one for S3, Kinesis
//! and MSK IAM, and credentials are fetched when the first request needs them and again before they expire.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::BehaviorVersion;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential};
use object_store::{BackoffConfig, ClientOptions, CredentialProvider, RetryConfig};
use tokio::sync::Mutex;

use super::Settings;
use super::identity::may_come;
use crate::clock::{self, Clock};
use crate::error::{Error, Result};

/// Requests to one bucket that may be open at once; as many connections are kept.
const CONNECTIONS: usize = 512;
/// A credential is replaced this long before it expires.
const RENEW_SECONDS_BEFORE: i64 = 300;

/// Opens a bucket. Nothing is asked of it yet.
pub async fn open(bucket: &str, settings: &Settings) -> Result<AmazonS3> {
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let credentials = config
        .credentials_provider()
        .ok_or_else(|| Error::world("there are no AWS credentials").hint(super::world_hint("credentials")))?;
    let region = config.region().map_or_else(|| "us-east-1".to_owned(), ToString::to_string);
    let endpoint = settings.s3_endpoint.clone().or_else(|| config.endpoint_url().map(str::to_owned));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_credentials(Arc::new(Chain { provider: credentials, clock: clock::system(), cached: Mutex::default() }))
        .with_retry(retry())
        .with_client_options(client());
    if let Some(endpoint) = endpoint {
        builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
    }
    builder.build().map_err(|error| super::failed(format!("cannot open bucket `{bucket}`"), error))
}

fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: 10,
        retry_timeout: Duration::from_secs(60),
    }
}

fn client() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(10))
        .with_timeout(Duration::from_secs(120))
        .with_pool_max_idle_per_host(CONNECTIONS)
}

/// `aws-config`'s chain behind object_store's trait, with the credential kept until shortly before it expires.
#[derive(Debug)]
struct Chain {
    provider: SharedCredentialsProvider,
    clock: Arc<dyn Clock>,
    cached: Mutex<Option<(Credentials, Arc<AwsCredential>)>>,
}

impl Chain {
    /// Whether credentials are good for more than so many seconds.
    fn lasts(&self, credentials: &Credentials, seconds: i64) -> bool {
        credentials.expiry().is_none_or(|expiry| {
            chrono::DateTime::<chrono::Utc>::from(expiry) - self.clock.now() > chrono::Duration::seconds(seconds)
        })
    }
}

#[async_trait]
impl CredentialProvider for Chain {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut cached = self.cached.lock().await;
        if let Some((credentials, credential)) = &*cached
            && self.lasts(credentials, RENEW_SECONDS_BEFORE)
        {
            return Ok(Arc::clone(credential));
        }
        let credentials = match (self.provider.provide_credentials().await, &*cached) {
            (Ok(credentials), _) => credentials,
            // Who hands them out is away for a moment, and these are still good.
            (Err(_), Some((credentials, credential))) if self.lasts(credentials, 0) => {
                return Ok(Arc::clone(credential));
            }
            (Err(error), _) => return Err(no_credentials(error)),
        };
        let credential = Arc::new(AwsCredential {
            key_id: credentials.access_key_id().to_owned(),
            secret_key: credentials.secret_access_key().to_owned(),
            token: credentials.session_token().map(str::to_owned),
        });
        *cached = Some((credentials, Arc::clone(&credential)));
        Ok(credential)
    }
}

fn no_credentials(error: CredentialsError) -> object_store::Error {
    match may_come(&error) {
        // What is of no known kind passes.
        true => object_store::Error::Generic { store: "S3", source: Box::new(error) },
        false => object_store::Error::Unauthenticated { path: "AWS credentials".to_owned(), source: Box::new(error) },
    }
}
