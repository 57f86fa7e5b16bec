//! kit's registry, key-value store and locks on a client of the crate `consulrs`, for those who hold one already.
//!
//! What kit itself uses is its own client; the README says why, and what this one cannot do.

use std::{collections::HashMap, fmt, future::Future, time::Duration};

use consulrs::{
    api::{
        self, Features,
        check::{common::AgentServiceCheck, requests::TtlCheckUpdateRequest},
        features::Blocking,
        kv::requests::{ReadKeyRequest, SetKeyRequest},
        service::{
            common::AgentWeights,
            requests::{ReadServiceRequest, RegisterServiceRequest},
        },
        session::{common::ServiceCheck, requests::CreateSessionRequest},
    },
    check,
    client::Client,
    error::ClientError,
    kv, service, session,
};
use kit::{
    BoxError,
    discovery::{
        Answer, Check, Found, Health, Instance, KeyValue, Locks, Registry, Session, Stored, Values,
    },
    name::EndpointId,
};
use serde::Deserialize;
use tokio::time::timeout;

/// `consulrs` waits for ever by itself.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a question for changes waits, in general.
const WAIT: Duration = Duration::from_secs(30);

/// A client of `consulrs` that is a [`Registry`], a [`KeyValue`] and [`Locks`].
pub struct Consulrs<C>(pub C);

impl<C> fmt::Debug for Consulrs<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consulrs").finish_non_exhaustive()
    }
}

/// What `consulrs` cannot say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("consulrs cannot tell Consul of {0}")]
pub struct Unsupported(&'static str);

/// What `consulrs` answered within its time.
async fn within<T>(
    time: Duration,
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, BoxError> {
    Ok(timeout(time, answer).await??)
}

/// What was asked for, or `None` if Consul answers with one of these codes, which say that it is not there.
fn unless<T>(codes: &[u16], answer: Result<T, BoxError>) -> Result<Option<T>, BoxError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) => match error.downcast_ref::<ClientError>() {
            Some(ClientError::APIError { code, .. }) if codes.contains(code) => Ok(None),
            _ => Err(error),
        },
    }
}

/// As opposed to any other failure of the agent.
fn is_unknown_check(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref::<ClientError>(),
        Some(ClientError::APIError { code: 500, message: Some(message) })
            if message.contains("does not have associated TTL")
    )
}

fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn check_id(id: &EndpointId) -> String {
    format!("service:{id}")
}

/// What matters of `/v1/agent/service/ID`. The crate's own type has texts where Consul has addresses with ports.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    address: String,
    // Consul takes any number here; what is no port makes no address.
    port: i64,
    #[serde(default)]
    meta: Option<HashMap<String, String>>,
}

impl<C: Client + 'static> Registry for Consulrs<C> {
    fn find<'a>(&'a self, id: &'a EndpointId) -> Answer<'a, Option<Found>> {
        Box::pin(async move {
            let request = ReadServiceRequest::builder().name(id.as_str()).build()?;
            let answer = within(TIMEOUT, api::exec_with_raw(&self.0, request)).await;
            let Some(answer) = unless(&[404], answer)? else {
                return Ok(None);
            };
            let Service {
                address,
                port,
                meta,
            } = serde_json::from_slice(&answer.response)?;
            let address = if address.contains(':') {
                format!("[{address}]:{port}")
            } else {
                format!("{address}:{port}")
            };
            Ok(Some(Found {
                address: address.parse().ok(),
                metadata: meta.unwrap_or_default().into_iter().collect(),
            }))
        })
    }

    fn is_alive<'a>(&'a self, id: &'a EndpointId) -> Answer<'a, bool> {
        Box::pin(async move {
            let checks = within(TIMEOUT, check::list(&self.0, None)).await?.response;
            let failed = checks.values().any(|check| {
                let maintenance = check
                    .check_id
                    .as_ref()
                    .is_some_and(|id| id.starts_with("_service_maintenance:"));
                // One that was not made yet has no output, and an answer of any status is a sign of life.
                let output = check.output.as_deref().unwrap_or_default();
                check.service_id.as_deref() == Some(id.as_str())
                    && check.status.as_deref() == Some("critical")
                    && !maintenance
                    && !output.is_empty()
                    && !output.starts_with("HTTP ")
            });
            Ok(!failed)
        })
    }

    fn register<'a>(&'a self, instance: &'a Instance, passing: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            let Instance {
                service,
                id,
                address,
                addresses,
                tags,
                metadata,
                weights,
                check,
                deregister_after,
            } = instance;
            if !addresses.is_empty() {
                return Err(Unsupported("more addresses than one").into());
            }
            let mut told = AgentServiceCheck {
                check_id: Some(check_id(id)),
                deregister_critical_service_after: Some(millis(*deregister_after)),
                status: passing.then(|| "passing".to_owned()),
                ..AgentServiceCheck::default()
            };
            match check {
                Check::Http {
                    uri,
                    interval,
                    timeout,
                } => {
                    told.http = Some(uri.to_string());
                    told.interval = Some(millis(*interval));
                    told.timeout = Some(millis(*timeout));
                }
                Check::Grpc {
                    address,
                    service,
                    tls,
                    interval,
                    timeout,
                } => {
                    told.grpc = Some(match service {
                        Some(service) => format!("{address}/{service}"),
                        None => address.to_string(),
                    });
                    told.grpc_use_tls = Some(*tls);
                    told.interval = Some(millis(*interval));
                    told.timeout = Some(millis(*timeout));
                }
                Check::Ttl { ttl } => told.ttl = Some(millis(*ttl)),
            }
            let mut request = RegisterServiceRequest::builder();
            request
                .id(id.as_str())
                .address(address.host().trim_matches(['[', ']']))
                .port(address.port_u16().unwrap_or(80))
                .tags(tags.clone())
                .meta(metadata.clone().into_iter().collect::<HashMap<_, _>>())
                .weights(AgentWeights {
                    passing: Some(weights.passing.into()),
                    warning: Some(weights.warning.into()),
                })
                .check(told);
            let name = service.as_str();
            within(
                TIMEOUT,
                service::register(&self.0, name, Some(&mut request)),
            )
            .await?;
            Ok(())
        })
    }

    fn report<'a>(&'a self, id: &'a EndpointId, health: &'a Health) -> Answer<'a, bool> {
        Box::pin(async move {
            let (status, output) = match health {
                Health::Passing => ("passing", ""),
                Health::Critical(why) => ("critical", &**why),
            };
            let mut request = TtlCheckUpdateRequest::builder();
            request.output(output);
            let check = check_id(id);
            let answer = check::set_status(&self.0, &check, status, Some(&mut request));
            match unless(&[404], within(TIMEOUT, answer).await) {
                // Older agents fail where later ones do not find.
                Err(error) if is_unknown_check(&*error) => Ok(false),
                answer => Ok(answer?.is_some()),
            }
        })
    }

    fn deregister<'a>(&'a self, id: &'a EndpointId) -> Answer<'a, ()> {
        Box::pin(async move {
            let answer = service::deregister(&self.0, id.as_str(), None);
            unless(&[404], within(TIMEOUT, answer).await)?;
            Ok(())
        })
    }
}

impl<C: Client + 'static> KeyValue for Consulrs<C> {
    fn wait(&self) -> Duration {
        WAIT
    }

    /// Where nothing is, `consulrs` hides the index, so there it is asked as often as kit asks at all: twice a second.
    fn look<'a>(&'a self, prefix: &'a str, index: u64, wait: Duration) -> Answer<'a, Values> {
        Box::pin(async move {
            let mut request = ReadKeyRequest::builder();
            request.recurse(true);
            let mut time = TIMEOUT;
            if index > 0 {
                let blocking = Blocking {
                    index,
                    wait: Some(millis(wait)),
                };
                request.features(Features::builder().blocking(blocking).build()?);
                // The agent lengthens the wait by up to a sixteenth.
                time += wait + wait / 16;
            }
            let answer = within(time, kv::read(&self.0, prefix, Some(&mut request))).await;
            let Some(answer) = unless(&[404], answer)? else {
                return Ok(Values::default());
            };
            let index = answer.index.and_then(|index| index.parse().ok());
            let values = answer.response.into_iter().map(|pair| {
                Ok(Stored {
                    key: pair.key,
                    value: match pair.value {
                        Some(value) => value.try_into()?,
                        None => Vec::new(),
                    },
                    session: pair.session.filter(|session| !session.is_empty()),
                    modified: pair.modify_index,
                })
            });
            Ok(Values {
                values: values.collect::<Result<_, ClientError>>()?,
                index: index.unwrap_or(0),
            })
        })
    }
}

impl<C: Client + 'static> Locks for Consulrs<C> {
    fn open<'a>(&'a self, wanted: &'a Session) -> Answer<'a, String> {
        Box::pin(async move {
            let mut request = CreateSessionRequest::builder();
            request
                .name(wanted.name.clone())
                .ttl(millis(wanted.ttl))
                .lock_delay(millis(wanted.lock_delay))
                .behavior("release");
            if let Some(id) = &wanted.instance {
                request.service_checks(vec![ServiceCheck {
                    id: Some(check_id(id)),
                    namespace: None,
                }]);
            }
            let opened = within(TIMEOUT, session::create(&self.0, Some(&mut request))).await?;
            Ok(opened.response.id)
        })
    }

    fn renew<'a>(&'a self, session: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            let answer = within(TIMEOUT, session::renew(&self.0, session, None)).await;
            Ok(unless(&[404], answer)?.is_some())
        })
    }

    fn acquire<'a>(&'a self, key: &'a str, value: &'a str, session: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            let request = SetKeyRequest::builder()
                .key(key)
                .value(value.as_bytes())
                .acquire(session)
                .build()?;
            let answer = within(TIMEOUT, api::exec_with_result(&self.0, request)).await?;
            Ok(answer.response)
        })
    }

    fn release<'a>(&'a self, key: &'a str, session: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = SetKeyRequest::builder().key(key).release(session).build()?;
            within(TIMEOUT, api::exec_with_result(&self.0, request)).await?;
            Ok(())
        })
    }

    fn close<'a>(&'a self, session: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = api::session::requests::DeleteSessionRequest::builder()
                .uuid(session)
                .build()?;
            within(TIMEOUT, api::exec_with_raw(&self.0, request)).await?;
            Ok(())
        })
    }
}
