//! Against a real Consul: what kit does with its own client, it does with this one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use consulrs::client::{ConsulClient, ConsulClientSettingsBuilder};
use kit::{
    discovery::{
        AddressTag, Check, Consul, ConsulConfig, Election, ElectionConfig, Instance, Registration,
        Registry, View, Weights,
    },
    endpoint::Discovery,
    event::{Event, Observer, nobody},
    policy::BudgetConfig,
};
use kit_consulrs::Consulrs;
use tokio::{sync::mpsc, time::timeout};

#[path = "../../tests/it/support/consul.rs"]
#[allow(
    dead_code,
    reason = "the support of kit's own tests, of which not all is needed"
)]
mod support;

use support::Agent;

const PATIENCE: Duration = Duration::from_secs(60);

fn consulrs(agent: &Agent) -> Arc<Consulrs<ConsulClient>> {
    let settings = ConsulClientSettingsBuilder::default()
        .address(agent.address())
        .build()
        .unwrap();
    Arc::new(Consulrs(ConsulClient::new(settings).unwrap()))
}

fn instance(port: u16) -> Instance {
    Instance {
        service: "users".parse().unwrap(),
        id: "users-1".parse().unwrap(),
        address: format!("127.0.0.1:{port}").parse().unwrap(),
        addresses: BTreeMap::new(),
        tags: vec!["test".into()],
        metadata: BTreeMap::from([("zone".into(), "a".into())]),
        weights: Weights {
            passing: 7,
            warning: 1,
        },
        check: Check::Ttl {
            ttl: Duration::from_secs(2),
        },
        deregister_after: Duration::from_secs(60),
    }
}

/// Sends what becomes of registrations.
struct Told(mpsc::UnboundedSender<String>);

impl Observer for Told {
    fn observe(&self, event: Event<'_>) {
        let _ = match event {
            Event::Registered { .. } => self.0.send("registered".to_owned()),
            Event::RegistrationFailed { error, .. } => self.0.send(error.to_string()),
            _ => Ok(()),
        };
    }
}

/// What became of a registration, where it begins like this.
async fn until_told(told: &mut mpsc::UnboundedReceiver<String>, text: &str) {
    let reached = async { while !told.recv().await.unwrap().starts_with(text) {} };
    timeout(PATIENCE, reached).await.unwrap();
}

#[tokio::test]
async fn an_instance_is_registered_kept_and_taken_out() {
    let mut agent = Agent::start().await;
    let config = ConsulConfig {
        address: agent.address().parse().unwrap(),
        ..ConsulConfig::default()
    };
    let own = Consul::new(config, nobody()).unwrap();
    let mut watch = own.watch(&"users".parse().unwrap());
    let mut until = async |count: usize| {
        let reached = async {
            while watch.see().is_none_or(|set| set.len() != count) {
                watch.changed().await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap();
        watch.current().unwrap()
    };
    let (sender, mut told) = mpsc::unbounded_channel();
    let observer = Arc::new(Told(sender));
    let registered = Registration::new(consulrs(&agent), instance(1), observer).start();
    until_told(&mut told, "registered").await;
    let set = until(1).await;
    assert_eq!((set[0].weight, &*set[0].metadata["zone"]), (7, "a"));

    let (sender, mut refused) = mpsc::unbounded_channel();
    let observer = Arc::new(Told(sender));
    let intruder = Registration::new(consulrs(&agent), instance(2), observer).start();
    let text = "another process at 127.0.0.1:1 is registered as users-1";
    until_told(&mut refused, text).await;
    intruder.deregister().await.unwrap();

    // One that forgot everything is told again.
    agent.kill().await;
    agent.start_again().await;
    until_told(&mut told, "registered").await;
    until(1).await;
    registered.deregister().await.unwrap();
    until(0).await;

    let elsewhere = Instance {
        addresses: BTreeMap::from([(AddressTag::Wan, "203.0.113.7:80".parse().unwrap())]),
        ..instance(1)
    };
    let error = consulrs(&agent).register(&elsewhere, false).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "consulrs cannot tell Consul of more addresses than one"
    );
}

#[tokio::test]
async fn a_value_is_followed() {
    let agent = Agent::start().await;
    let first = BudgetConfig::default();
    let mut view = View::new(consulrs(&agent), "kit/budget", first, nobody());
    for (value, floor) in [("floor = 9", 9), (r#"{"floor": 8}"#, 8), ("", first.floor)] {
        agent.put_with("/v1/kv/kit/budget", value).await.unwrap();
        let reached = async {
            while view.get().floor != floor {
                view.changed().await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap();
    }
}

#[tokio::test]
async fn one_of_two_leads() {
    let agent = Agent::start().await;
    let leading = Arc::new(AtomicUsize::new(0));
    let (sender, mut leaders) = mpsc::unbounded_channel();
    let mut candidates = BTreeMap::new();
    for name in ["a", "b"] {
        let config = ElectionConfig {
            ttl: Duration::from_secs(10),
            lock_delay: Duration::from_secs(1),
            ..ElectionConfig::new("kit/leader", name)
        };
        let (leading, sender) = (Arc::clone(&leading), sender.clone());
        let election = Election::new(consulrs(&agent), config, nobody());
        let candidate = election.stand(move |leadership| {
            struct Leads(Arc<AtomicUsize>);
            impl Drop for Leads {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, SeqCst);
                }
            }
            assert_eq!(leading.fetch_add(1, SeqCst), 0, "two lead");
            let leads = Leads(Arc::clone(&leading));
            sender.send((name, leadership.fencing)).unwrap();
            async move {
                let _leads = leads;
                std::future::pending().await
            }
        });
        candidates.insert(name, candidate);
    }
    let (first, number) = timeout(PATIENCE, leaders.recv()).await.unwrap().unwrap();
    candidates.remove(first).unwrap().stop().await;
    let (second, greater) = timeout(PATIENCE, leaders.recv()).await.unwrap().unwrap();
    assert_ne!(first, second);
    assert!(number < greater);
    candidates.remove(second).unwrap().stop().await;
    assert_eq!(leading.load(SeqCst), 0);
}
