//! A balancer over a list of endpoints, alone: what talks to an endpoint is any tower service.

use http::{Request, Response, uri::Authority};
use kit::{
    BoxError,
    balance::{Balance, BalanceConfig},
    discovery::Fixed,
    endpoint::{Discovery, Endpoint},
    policy::Live,
};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

type Peer = BoxCloneSyncService<Request<()>, Response<()>, BoxError>;

/// Endpoints that answer, but for one that fails at once.
fn connect(endpoint: &Endpoint) -> Peer {
    let fails = endpoint.address == "b:80";
    BoxCloneSyncService::new(service_fn(move |_| async move {
        (!fails).then(Response::default).ok_or("failed".into())
    }))
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let addresses = ["a:80", "b:80", "c:80"].map(Authority::from_static);
    let discovery = Fixed::new([("users".parse()?, addresses.to_vec())]);
    let watch = discovery.watch(&"users".parse()?);
    let config = Live::new(BalanceConfig::default());
    let balance = Balance::new(watch, config, connect, |_: &Endpoint| ());

    let mut failed = 0;
    for _ in 0..300 {
        let answer = balance.clone().oneshot(Request::new(())).await;
        failed += u32::from(answer.is_err());
    }
    println!("{failed} of 300 calls failed: a fast failure attracts no traffic");
    assert!(failed < 10);
    Ok(())
}
