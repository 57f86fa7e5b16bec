//! What it costs when the endpoints of a service are other ones, or when they are told again.

use kit::{
    balance::{Balance, BalanceConfig},
    circuit_breaker::Circuit,
    endpoint::{Endpoint, Snapshot, Watch},
    policy::Live,
};
use tokio::sync::watch;
use tower::Service;

use crate::{
    Bare, Inner, context,
    kit_layers::{circuit, snapshot, upstream},
    request,
};

/// How many endpoints there are.
pub const ENDPOINTS: usize = 10_000;

/// A balancer whose endpoints change.
#[derive(Debug)]
pub struct Update {
    balance: Balance<Bare, Circuit>,
    set: watch::Sender<Option<Snapshot>>,
    /// Two lists that differ in one endpoint.
    lists: [Snapshot; 2],
    turn: usize,
}

impl Update {
    /// A balancer that knows its endpoints.
    pub fn new(config: BalanceConfig) -> Self {
        let (set, watch) = Watch::channel(upstream());
        let list = snapshot(ENDPOINTS);
        let other = Endpoint::at("192.168.0.1:80".parse().expect("host and port")).into();
        let replaced = list.iter().skip(1).cloned().chain([other]).collect();
        set.send_replace(Some(list.clone()));
        let connect = |_: &Endpoint| Bare(Inner::AtOnce);
        Self {
            balance: Balance::new(watch, Live::new(config), connect, |_: &Endpoint| circuit()),
            set,
            lists: [list, replaced],
            turn: 0,
        }
    }

    /// The source tells of another list, in which one endpoint is replaced.
    pub fn replace_one(&mut self) {
        self.turn += 1;
        self.tell_again();
    }

    /// The source tells of the same list as before.
    pub fn tell_again(&mut self) {
        let list = self.lists[self.turn % 2].clone();
        self.set.send_replace(Some(list));
    }

    /// A call; the first one after endpoints were told of makes the next set of endpoints.
    pub fn call(&mut self) {
        drop(self.balance.call(request(&context())));
    }
}
