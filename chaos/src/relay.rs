//! A service that does nothing but ask the next one: a hop of a chain.

use std::path::Path;

use anyhow::Result;
use http::uri::Authority;
use kit::{Context, Error, Message};
use serde::{Deserialize, Serialize};

use crate::Instance;

/// What each hop of a chain does.
#[kit::service]
pub trait Relay {
    /// Asks the next hop, where there is one.
    #[kit(idempotent)]
    async fn ask(&self, ctx: Context) -> Result<Hops, Error>;
}

/// How many hops there are behind the one that answers, and itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct Hops {
    /// At least 1.
    pub hops: u32,
}

impl Instance {
    /// Starts a hop, `chaos relay`, of kit's server and client, that asks the one at `next`, with whatever else is in
    /// its `environment`; waits until it says that it is ready. `program` is this crate's.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn relay(
        program: &Path,
        next: Option<&Authority>,
        environment: &[(&'static str, &str)],
    ) -> Result<Self> {
        let next = next.map(|next| ("KIT_DISCOVERY__FIXED__RELAY", next.to_string()));
        let own = environment
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        Self::launch(program, Some("relay"), next.into_iter().chain(own)).await
    }

    /// Starts a hop without another one behind it, that is found through the agent at `agent`.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn found(
        program: &Path,
        agent: &str,
        environment: &[(&'static str, &str)],
    ) -> Result<Self> {
        let mut all = vec![("KIT_DISCOVERY__CONSUL__ADDRESS", agent)];
        all.extend_from_slice(environment);
        Self::relay(program, None, &all).await
    }
}
