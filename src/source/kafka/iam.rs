//! Tokens by which Amazon MSK knows an AWS identity: a URL, signed by the keys of the AWS chain, valid for 15 minutes.
//!
//! Floor 3: uses `clock`, `store`, `error`. The keys come from the chain that S3 uses, or from the profile or the role that
//! the login module names, and are asked for anew for each token: librdkafka wants one each quarter of an hour at most.

use std::fmt;
use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_types::region::Region;
use tokio::sync::OnceCell;

use crate::clock::{self, Clock};
use crate::error::{Error, Result};
use crate::store::identity::{Identity, Purpose, may_come};
use crate::store::{root_cause, world_hint};

/// The session's name is that of AWS's own signers.
const PURPOSE: Purpose =
    Purpose { of: "the Kafka cluster", region_option: "kafka.aws.region", session: "MSKSASLDefaultSession" };
/// librdkafka wants a name beside the token. The broker takes the identity from the token alone.
const PRINCIPAL: &str = "pinsql";

/// Makes tokens.
#[derive(Debug)]
pub struct Signer {
    iam: Identity,
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
    pub fn new(iam: &Identity) -> Result<Self> {
        if !iam.is_whole() {
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
        let config = self.iam.config(PURPOSE).await?;
        let (Some(provider), Some(region)) = (config.credentials_provider(), config.region().cloned()) else {
            return Err(Error::internal("an identity without keys or region"));
        };
        Ok(Chain { provider, region })
    }
}

/// Why there are no keys.
fn no_credentials(error: CredentialsError) -> Error {
    let passes = may_come(&error);
    let cause = root_cause(&error);
    let cause = cause.lines().next().unwrap_or_default();
    let failed = Error::world(format!("there are no AWS credentials for the Kafka cluster: {cause}"))
        .hint(world_hint("credentials"))
        .caused_by(error);
    if passes { failed.passing() } else { failed }
}
