//! One of three instances is killed under load and comes back.
#![allow(
    clippy::unwrap_used,
    reason = "a scenario that cannot go on says where by panicking"
)]

use std::{path::Path, sync::Arc, time::Duration};

use chaos::{Agent, Instance, Ledger, Load, Outcome, Pace, Trap, eventually};
use kit::{
    Context, Error, Message,
    client::{Client, ClientConfig},
    context::IdempotencyKey,
    endpoint::{Discovery, Watch},
};
use serde::{Deserialize, Serialize};

/// What this test knows of users; they meet over the wire only.
#[kit::service]
trait Users {
    async fn create(&self, ctx: Context, email: String) -> Result<User, Error>;
    #[kit(idempotent)]
    async fn get(&self, ctx: Context, id: String) -> Result<User, Error>;
}

/// A user, as the service gives it.
#[derive(Clone, Debug, Serialize, Deserialize, Message)]
struct User {
    id: String,
    email: String,
    created_at: String,
}

const PATIENCE: Duration = Duration::from_secs(60);

/// 100 requests a second, whatever happens. Every second one creates a user, with an idempotency key, as a caller
/// does who wants to be able to ask again; the others read a user that was acknowledged before.
fn load(users: impl Users + Clone, ledger: &Arc<Ledger>) -> Load {
    let pace = Pace {
        every: Duration::from_millis(10),
        in_flight: 500,
    };
    let ledger = Arc::clone(ledger);
    Load::start(pace, move |number| {
        let (users, ledger) = (users.clone(), Arc::clone(&ledger));
        async move {
            let half = usize::try_from(number).unwrap() / 2;
            let read = (number % 2 == 1).then(|| ledger.pick(half)).flatten();
            let done = match read {
                Some((id, email)) => read_back(&users, id, email).await,
                None => create(&users, &ledger, number).await,
            };
            done.map_or_else(Outcome::Failure, |()| Outcome::Success)
        }
    })
}

async fn create(users: &impl Users, ledger: &Ledger, number: u64) -> Result<(), String> {
    let email = format!("user-{number}@example.org");
    let key: IdempotencyKey = format!("create-{number}").parse().unwrap();
    let ctx = Context::new().with_idempotency_key(key);
    let user = users.create(ctx, email.clone()).await;
    let user = user.map_err(|error| format!("create: {error}"))?;
    if user.email != email {
        return Err(format!(
            "create: {email} was asked for, {} was made",
            user.email
        ));
    }
    ledger.acknowledge(user.id, email);
    Ok(())
}

async fn read_back(users: &impl Users, id: String, email: String) -> Result<(), String> {
    let user = users.get(Context::new(), id).await;
    let user = user.map_err(|error| format!("get: {error}"))?;
    if user.email != email {
        return Err("get: it is another user's address".to_owned());
    }
    Ok(())
}

/// Waits until discovery knows so many instances.
async fn known(watch: &Watch, count: usize) {
    let what = format!("{count} instances are known");
    eventually(&what, PATIENCE, async || {
        (watch.current()?.len() == count).then_some(())
    })
    .await
    .unwrap();
}

/// Waits until the load has made so many more requests.
async fn more(load: &Load, count: u64) {
    let goal = load.ended() + count;
    eventually("the load goes on", PATIENCE, async || {
        (load.ended() >= goal).then_some(())
    })
    .await
    .unwrap();
}

/// An instance that takes its time, so that many calls are under way in it when it is killed. Each of them is one that
/// may be made again: a caller without retries would notice them all.
async fn start(program: &Path, agent: &Agent, data: &Path) -> Instance {
    let slow = [
        ("KIT_SERVER__FAULT__DELAY__RATIO", "1"),
        ("KIT_SERVER__FAULT__DELAY__DURATION", "300ms"),
        ("KIT_SERVER__DEADLINE__TIMEOUT", "60s"),
    ];
    Instance::start(program, agent, data, &slow).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_loses_nothing_gets_nothing_and_is_used_again_when_it_is_back() {
    let data = tempfile::tempdir().unwrap();
    let program = chaos::program("users", data.path()).unwrap();
    let agent = Agent::start().await.unwrap();
    let mut victim = start(&program, &agent, data.path()).await;
    let others = [
        start(&program, &agent, data.path()).await,
        start(&program, &agent, data.path()).await,
    ];

    let discovery = agent.discovery().unwrap();
    let service: kit::name::ServiceName = "users".parse().unwrap();
    let watch = discovery.watch(&service);
    let client = Client::new(
        &discovery,
        service,
        // A disk on which others build stands still for seconds. Who is killed says so at once.
        ClientConfig {
            timeout: PATIENCE,
            attempt_timeout: PATIENCE / 3,
            ..ClientConfig::default()
        },
        kit::event::nobody(),
    );
    known(&watch, 3).await;

    let ledger = Arc::new(Ledger::default());
    let load = load(UsersClient::json(client), &ledger);
    more(&load, 300).await;
    for instance in others.iter().chain([&victim]) {
        assert!(
            instance.requests().await.unwrap() > 0,
            "{} gets nothing",
            instance.address()
        );
    }

    victim.kill().await.unwrap();
    // Ejected: the registry has noticed, and the client has heard of it.
    known(&watch, 2).await;
    let trap = Trap::at(victim.address()).await.unwrap();
    more(&load, 300).await;
    let visitors = trap.close().await;

    victim.restart().await.unwrap();
    known(&watch, 3).await;
    // Used and not only probed. How soon is the balancer's to decide, which trusts a newcomer little at first.
    let used = eventually("the victim is used again", PATIENCE, async || {
        let served = victim.requests().await.ok()?;
        (served >= 50).then_some(())
    })
    .await;

    // Enough for a thousandth to be a number of requests.
    more(&load, 2000u64.saturating_sub(load.ended())).await;
    let report = load.finish().await;
    println!("{report}\n{} users acknowledged", ledger.len());
    let database = data.path().join("users.db");
    let audit = ledger
        .audit(&database, "SELECT id, email FROM users")
        .await
        .unwrap();

    assert_eq!(audit.missing, Vec::<String>::new(), "acknowledged and lost");
    assert_eq!(audit.doubled, Vec::<String>::new(), "made twice");
    assert!(audit.stored >= ledger.len());
    assert!(report.total() >= 2000 && ledger.len() > 900, "{report}");
    assert!(report.success_rate() >= 0.999, "{report}");
    assert_eq!(
        visitors, 0,
        "the killed instance was still called after it was ejected"
    );
    used.unwrap();
}
