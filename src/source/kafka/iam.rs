//! Tokens by which Amazon MSK knows an AWS identity: a URL, signed by the keys of the AWS chain, valid for 15 minutes.
//!
//! Floor 3: uses `clock`, `store`, `error`. The keys come from the chain that S3 uses, or from the profile or the role that
//! the login module names, and are asked for anew for each token: librdkafka wants one each quarter of an hour at most.

use std::fmt;
use std::sync::Arc;

use aws_config::BehaviorVersion;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_types::SdkConfig;
use aws_types::region::Region;
use tokio::sync::OnceCell;

use super::settings::Iam;
use crate::clock::{self, Clock};
use crate::error::{Error, Result};
use crate::store::{root_cause, world_hint};

/// The name of the session of a role where none is said; AWS's own signers use it.
const SESSION: &str = "MSKSASLDefaultSession";
/// librdkafka wants a name beside the token. The broker takes the identity from the token alone.
const PRINCIPAL: &str = "pinsql";

/// Makes tokens.
#[derive(Debug)]
pub struct Signer {
    iam: Iam,
    clock: Arc<dyn Clock>,
    chain: OnceCell<Chain>,
}

/// Where keys come from, and for which region tokens are.
#[derive(Debug)]
struct Chain {
    provider: SharedCredentialsProvider,
    region: Region,
}

/// A token.
#[derive(Clone)]
pub struct Token {
    /// What is sent to the broker. Whoever has it is let in.
    pub text: String,
    /// From when on it is of no use, in milliseconds since 1970: that of the token or of the keys, whichever is earlier.
    pub expires_at_ms: i64,
    /// A name for the client's own log.
    pub principal: String,
}

impl fmt::Debug for Token {
    /// Without the token's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires_at_ms", &self.expires_at_ms).finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer. The chain is not asked yet: nothing leaves the machine before the first token.
    pub fn new(iam: &Iam) -> Result<Self> {
        if iam.role_arn.is_none() && (iam.role_session.is_some() || iam.role_external_id.is_some()) {
            return Err(Error::config("a session or an external id is given for a role that is not")
                .hint("add awsRoleArn=\"arn:aws:iam::…:role/…\" to `sasl.jaas.config`"));
        }
        Ok(Self { iam: iam.clone(), clock: clock::system(), chain: OnceCell::new() })
    }

    /// A new token.
    pub async fn token(&self) -> Result<Token> {
        let chain = self.chain.get_or_try_init(|| self.find_chain()).await?;
        let credentials = chain.provider.provide_credentials().await.map_err(no_credentials)?;
        let end_of_keys = self.end_of(&credentials)?;
        let provider = SharedCredentialsProvider::new(credentials);
        let signed =
            aws_msk_iam_sasl_signer::generate_auth_token_from_credentials_provider(chain.region.clone(), provider);
        let (text, end_of_token) = signed
            .await
            .map_err(|error| Error::internal(format!("a token for the Kafka cluster cannot be made: {error}")))?;
        let expires_at_ms = end_of_keys.map_or(end_of_token, |end| end.min(end_of_token));
        Ok(Token { text, expires_at_ms, principal: PRINCIPAL.to_owned() })
    }

    /// When the keys end, in milliseconds; an error if they already have.
    fn end_of(&self, credentials: &Credentials) -> Result<Option<i64>> {
        let Some(end) = credentials.expiry() else { return Ok(None) };
        let end = chrono::DateTime::<chrono::Utc>::from(end);
        if end <= self.clock.now() {
            return Err(Error::world(format!("the AWS credentials for the Kafka cluster ended at {end}"))
                .hint("log in again: aws sso login, or renew the keys"));
        }
        Ok(Some(end.timestamp_millis()))
    }

    async fn find_chain(&self) -> Result<Chain> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(profile) = &self.iam.profile {
            loader = loader.profile_name(profile);
        }
        let config = loader.load().await;
        let said = self.iam.region.clone().map(Region::new);
        let region = said.or_else(|| config.region().cloned()).ok_or_else(|| {
            Error::config("the region of the Kafka cluster is not known")
                .hint("say `kafka.aws.region`, or set AWS_REGION")
        })?;
        let config = config.into_builder().region(region.clone()).build();
        let provider = self.provider(&config, &region).await?;
        Ok(Chain { provider, region })
    }

    /// The chain's keys or the profile's; of the role, where one is to be assumed.
    async fn provider(&self, config: &SdkConfig, region: &Region) -> Result<SharedCredentialsProvider> {
        let provider = match &self.iam.profile {
            // The chain would take keys from the environment before those of the profile that was asked for.
            Some(profile) => {
                let config = ProviderConfig::without_region().with_region(Some(region.clone()));
                let builder = ProfileFileCredentialsProvider::builder().configure(&config).profile_name(profile);
                SharedCredentialsProvider::new(builder.build())
            }
            None => config.credentials_provider().ok_or_else(|| {
                Error::world("there are no AWS credentials for the Kafka cluster").hint(world_hint("credentials"))
            })?,
        };
        let Some(role) = &self.iam.role_arn else { return Ok(provider) };
        let sts_region = self.iam.sts_region.clone().map_or_else(|| region.clone(), Region::new);
        let mut builder = AssumeRoleProvider::builder(role)
            .configure(config)
            .region(sts_region)
            .session_name(self.iam.role_session.as_deref().unwrap_or(SESSION));
        if let Some(id) = &self.iam.role_external_id {
            builder = builder.external_id(id);
        }
        Ok(SharedCredentialsProvider::new(builder.build_from_provider(provider).await))
    }
}

/// Why there are no keys. A service that gave no answer may give one in a moment; a file that is not there stays away.
fn no_credentials(error: CredentialsError) -> Error {
    let passes = matches!(error, CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_));
    let cause = root_cause(&error);
    let cause = cause.lines().next().unwrap_or_default();
    let failed = Error::world(format!("there are no AWS credentials for the Kafka cluster: {cause}"))
        .hint(world_hint("credentials"))
        .caused_by(error);
    if passes { failed.passing() } else { failed }
}
