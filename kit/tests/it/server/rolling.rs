//! All instances are restarted, one after the other, under load: real processes, a real Consul, and a client that
//! never asks twice.

use std::{
    env,
    net::{Ipv4Addr, TcpListener},
    num::NonZeroU32,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use kit::{
    client::{Client as KitClient, ClientConfig},
    discovery::{Consul, ConsulConfig, DiscoveryConfig, Source},
    endpoint::{Discovery, Watch},
    event::nobody,
    name::ServiceName,
    retry::RetryConfig,
    server::{registration, shutdown_signal},
};
use tokio::{
    process::{Child, Command},
    task::JoinSet,
    time::{interval, timeout},
};
use tower::ServiceExt;

use super::*;
use crate::support::consul::Agent;

const PATIENCE: Duration = Duration::from_secs(120);
/// What a process is to be: where it listens, its admin port, and where the agent is.
const INSTANCE: &str = "IT_INSTANCE";

fn service() -> ServiceName {
    "rolling".parse().unwrap()
}

/// One instance as a process of its own, for the test below.
#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn as_an_instance() {
    let Ok(told) = env::var(INSTANCE) else {
        return;
    };
    let told: Vec<_> = told.split(' ').collect();
    let mut config = ServerConfig {
        listen: told[0].parse().unwrap(),
        admin: Some(told[1].parse().unwrap()),
        ..ServerConfig::default()
    };
    // As long as a client may take to hear of it, and a check for its answer, on a machine that has other things to do.
    config.drain.watchers = Duration::from_secs(5);
    config.registration.check = kit::discovery::CheckConfig::Http {
        interval: Duration::from_millis(500),
        timeout: Duration::from_secs(30),
    };
    let discovery = DiscoveryConfig {
        consul: Some(ConsulConfig {
            address: told[2].parse().unwrap(),
            ..ConsulConfig::default()
        }),
        ..DiscoveryConfig::default()
    };
    let source = Source::from_config(&discovery, nobody()).unwrap();
    let listeners = Listeners::bind(&config).unwrap();
    let service = service();
    let registration = registration(&service, &listeners, &config, &source).await;
    let options = RunOptions {
        service,
        version: "1.2.3",
        config,
        registration: registration.unwrap(),
        readiness: Vec::new(),
    };
    run(listeners, app(), options, shutdown_signal())
        .await
        .unwrap();
}

struct Instance {
    /// Where it listens, and its admin port.
    addresses: [SocketAddr; 2],
    agent: String,
    child: Child,
}

impl Instance {
    fn start(agent: &Agent) -> Self {
        let addresses = [free(), free()];
        let agent = agent.address();
        Self {
            child: spawn(addresses, &agent),
            addresses,
            agent,
        }
    }

    /// Tells it to stop, waits until it has, and starts it again.
    async fn restart(&mut self, watch: &mut Watch) {
        let pid = self.child.id().unwrap().to_string();
        let kill = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(kill.unwrap().success());
        let ended = timeout(PATIENCE, self.child.wait()).await.unwrap();
        assert!(ended.unwrap().success(), "it drained to the end");
        self.known(watch, 2, false).await;
        self.child = spawn(self.addresses, &self.agent);
        self.known(watch, 3, true).await;
    }

    /// Waits until so many are known, and this one is among them or not.
    async fn known(&self, watch: &mut Watch, count: usize, is_one: bool) {
        let own = self.addresses[0].to_string();
        let reached = async {
            loop {
                let set = watch.see().unwrap_or_default();
                let found = set.iter().any(|endpoint| endpoint.address == own);
                if set.len() == count && found == is_one {
                    break;
                }
                watch.changed().await;
            }
        };
        let reached = timeout(PATIENCE, reached).await;
        reached.unwrap_or_else(|_| panic!("{count} with {own}: {is_one}; {watch:?}"));
    }
}

fn spawn([listen, admin]: [SocketAddr; 2], agent: &str) -> Child {
    let test = "server::rolling::as_an_instance";
    Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(INSTANCE, format!("{listen} {admin} {agent}"))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// A free port below those from which connections go out: nobody takes it while its instance is restarted.
fn free() -> SocketAddr {
    static NEXT: Mutex<u16> = Mutex::new(0);
    // Processes that run at the same time begin at different places.
    let begin = u16::try_from(std::process::id() * 37 % 1500).unwrap();
    loop {
        let mut next = NEXT.lock().unwrap();
        *next += 1;
        let address = (Ipv4Addr::LOCALHOST, 31_000 + (begin + *next) % 1500).into();
        if TcpListener::bind::<SocketAddr>(address).is_ok() {
            return address;
        }
    }
}

#[tokio::test]
async fn a_rolling_restart_loses_no_request_of_a_client_that_never_asks_twice() {
    let agent = Agent::start().await;
    let mut instances = [(); 3].map(|()| Instance::start(&agent));
    let config = ConsulConfig {
        address: agent.address().parse().unwrap(),
        ..ConsulConfig::default()
    };
    let consul = Consul::new(config, nobody()).unwrap();
    let mut watch = consul.watch(&service());
    instances[0].known(&mut watch, 3, true).await;

    let config = ClientConfig {
        // Nothing is mended here: what goes wrong once has gone wrong.
        retry: RetryConfig {
            attempts: NonZeroU32::MIN,
            ..RetryConfig::default()
        },
        timeout: PATIENCE,
        attempt_timeout: PATIENCE,
        connect_timeout: PATIENCE,
        ..ClientConfig::default()
    };
    let client = KitClient::new(&consul, service(), config, nobody());
    let failures = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&failures);
    let (stop, mut stopped) = oneshot::channel::<()>();
    // An open loop: whether or not there are answers, the next request comes.
    let load = tokio::spawn(async move {
        let mut asked = 0;
        let mut flying = JoinSet::new();
        let mut ticks = interval(Duration::from_millis(10));
        while stopped.try_recv().is_err() {
            ticks.tick().await;
            asked += 1;
            let (client, noted) = (client.clone(), Arc::clone(&noted));
            flying.spawn(async move {
                let request = Request::post("/echo").body(Body::full("hi")).unwrap();
                let failure = match client.oneshot(request).await {
                    Ok(answer) => match answer.into_body().collect().await {
                        Ok(body) => match &*body.to_bytes() {
                            b"hi" => return,
                            _ => "another answer".to_owned(),
                        },
                        Err(error) => error.to_string(),
                    },
                    Err(error) => kit::error::Chain(&*error).to_string(),
                };
                noted.lock().unwrap().push(failure);
            });
            while flying.try_join_next().is_some() {}
        }
        flying.join_all().await;
        asked
    });
    for instance in &mut instances {
        instance.restart(&mut watch).await;
    }
    stop.send(()).unwrap();
    let asked = load.await.unwrap();
    assert_eq!(
        *failures.lock().unwrap(),
        Vec::<String>::new(),
        "of {asked}"
    );
    assert!(asked > 500, "{asked}");
}
