//! Who we are to AWS: the chain's keys, a profile's, or those of a role that they may assume.
//!
//! Uses `error`. Kinesis and the tokens of MSK are signed by what is found here; S3 takes the plain chain.

use std::fmt;

use aws_config::BehaviorVersion;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_types::SdkConfig;
use aws_types::region::Region;

use super::world_hint;
use crate::error::{Error, Result};

/// What a source says of who asks.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The region of what is asked. None: the region of the AWS chain.
    pub region: Option<String>,
    /// A profile of the AWS configuration.
    pub profile: Option<String>,
    /// A role to assume.
    pub role_arn: Option<String>,
    /// The name of the role's session.
    pub role_session: Option<String>,
    /// The external id that the role asks for.
    pub role_external_id: Option<String>,
    /// The region of the service that hands the role out.
    pub sts_region: Option<String>,
}

impl fmt::Debug for Identity {
    /// Without the external id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("region", &self.region)
            .field("profile", &self.profile)
            .field("role_arn", &self.role_arn)
            .field("role_session", &self.role_session)
            .field("sts_region", &self.sts_region)
            .finish_non_exhaustive()
    }
}

/// What an identity is for, in words.
#[derive(Debug, Clone, Copy)]
pub struct Purpose {
    /// `the Kafka cluster`
    pub of: &'static str,
    /// The option that says the region.
    pub region_option: &'static str,
    /// The name of a role's session where none is said.
    pub session: &'static str,
}

/// Whether keys that could not be had may come in a moment: a service that gave no answer may give one; a file that is not
/// there stays away.
pub fn may_come(error: &CredentialsError) -> bool {
    matches!(error, CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_))
}

impl Identity {
    /// A session's name or an external id without a role means nothing.
    pub fn is_whole(&self) -> bool {
        self.role_arn.is_some() || (self.role_session.is_none() && self.role_external_id.is_none())
    }

    /// The SDK's configuration with region and keys. No key is asked for yet, except by a role's provider.
    ///
    /// # Errors
    /// Config: the region is not known. World: there are no keys anywhere.
    pub async fn config(&self, purpose: Purpose) -> Result<SdkConfig> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = &self.region {
            // Otherwise the chain would ask the machine's metadata service where it is.
            loader = loader.region(Region::new(region.clone()));
        }
        let config = loader.load().await;
        let region = config.region().cloned().ok_or_else(|| {
            Error::config(format!("the region of {} is not known", purpose.of))
                .hint(format!("say `{}`, or set AWS_REGION", purpose.region_option))
        })?;
        let config = config.into_builder().region(region.clone()).build();
        let provider = self.provider(&config, &region, purpose).await?;
        Ok(config.into_builder().credentials_provider(provider).build())
    }

    /// The chain's keys or the profile's; of the role, where one is to be assumed.
    async fn provider(
        &self,
        config: &SdkConfig,
        region: &Region,
        purpose: Purpose,
    ) -> Result<SharedCredentialsProvider> {
        let provider = match &self.profile {
            // The chain would take keys from the environment before those of the profile that was asked for.
            Some(profile) => {
                let config = ProviderConfig::without_region().with_region(Some(region.clone()));
                let builder = ProfileFileCredentialsProvider::builder().configure(&config).profile_name(profile);
                SharedCredentialsProvider::new(builder.build())
            }
            None => config.credentials_provider().ok_or_else(|| {
                Error::world(format!("there are no AWS credentials for {}", purpose.of)).hint(world_hint("credentials"))
            })?,
        };
        let Some(role) = &self.role_arn else { return Ok(provider) };
        let sts_region = self.sts_region.clone().map_or_else(|| region.clone(), Region::new);
        let mut builder = AssumeRoleProvider::builder(role)
            .configure(config)
            .region(sts_region)
            .session_name(self.role_session.as_deref().unwrap_or(purpose.session));
        if let Some(id) = &self.role_external_id {
            builder = builder.external_id(id);
        }
        Ok(SharedCredentialsProvider::new(builder.build_from_provider(provider).await))
    }
}
