//! Servers of names, asked by the crate `hickory-resolver`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, RecordType},
};
use tokio::sync::OnceCell;

use super::{Ask, DnsName, Record, Records};

/// How long one question takes before it is asked once more.
const TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn ask(server: Option<SocketAddr>) -> Arc<Ask> {
    let resolver = Arc::new(OnceCell::new());
    Arc::new(move |name| {
        let resolver = Arc::clone(&resolver);
        Box::pin(async move {
            // Not before it is needed, and again until the system's configuration can be read.
            let resolver = resolver.get_or_try_init(async || new(server)).await?;
            Ok(records(resolver, &name).await?)
        })
    })
}

fn new(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            let connections = connections.map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let server = NameServerConfig::new(server.ip(), true, connections.into());
            TokioResolver::builder_with_config(
                ResolverConfig::from_parts(None, Vec::new(), vec![server]),
                TokioRuntimeProvider::default(),
            )
        }
    };
    let options = builder.options_mut();
    // How long an answer is good is decided by who asks.
    options.cache_size = 0;
    options.timeout = TIMEOUT;
    options.attempts = 2;
    builder.build()
}

async fn records(resolver: &TokioResolver, name: &DnsName) -> Result<Records, NetError> {
    let host = Name::from_utf8(&name.host)?;
    if let Some(port) = name.port {
        return addresses(resolver, host, port, 0, 1).await;
    }
    let mut records = Records::default();
    let Some(lookup) = found(resolver.srv_lookup(host).await, &mut records)? else {
        return Ok(records);
    };
    records.ttl = Duration::from_secs(u64::from(u32::MAX));
    for answer in lookup.answers() {
        records.ttl = records.ttl.min(Duration::from_secs(answer.ttl.into()));
        // "." says that the service is decidedly not there.
        let RData::SRV(srv) = &answer.data else {
            continue;
        };
        if srv.target.is_root() {
            continue;
        }
        // Asked one after the other: they are few, and a server that is near mostly knows them.
        let target = srv.target.clone();
        let addresses = addresses(resolver, target, srv.port, srv.priority, srv.weight).await?;
        if !addresses.found.is_empty() {
            records.ttl = records.ttl.min(addresses.ttl);
        }
        records.found.extend(addresses.found);
    }
    Ok(records)
}

/// The addresses of a host, of both kinds.
async fn addresses(
    resolver: &TokioResolver,
    host: Name,
    port: u16,
    priority: u16,
    weight: u16,
) -> Result<Records, NetError> {
    let mut records = Records::default();
    let (v4, v6) = tokio::join!(
        resolver.lookup(host.clone(), RecordType::A),
        resolver.lookup(host, RecordType::AAAA),
    );
    let mut negative = Records::default();
    let lookups = [found(v4, &mut negative)?, found(v6, &mut negative)?];
    let answers = || lookups.iter().flatten().flat_map(Lookup::answers);
    for answer in answers() {
        let ip = match &answer.data {
            RData::A(ip) => ip.0.into(),
            RData::AAAA(ip) => ip.0.into(),
            _ => continue,
        };
        records.found.push(Record {
            address: SocketAddr::new(ip, port),
            priority,
            weight,
        });
    }
    let ttl = answers().map(|answer| answer.ttl).min();
    records.ttl = ttl.map_or(negative.ttl, |ttl| Duration::from_secs(ttl.into()));
    Ok(records)
}

/// What was found; `None`, and for how long that holds, if a server says that nothing is there.
fn found(
    result: Result<Lookup, NetError>,
    nothing: &mut Records,
) -> Result<Option<Lookup>, NetError> {
    match result {
        Ok(lookup) => Ok(Some(lookup)),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            nothing.ttl = Duration::from_secs(none.negative_ttl.unwrap_or(0).into());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
