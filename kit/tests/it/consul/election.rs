//! Locks that live in the registry, and who has them.

use std::sync::Mutex;

use kit::discovery::{Candidate, Election, ElectionConfig};

use super::*;

/// How many lead at this moment, the most that ever did, and the numbers of their leaderships.
#[derive(Clone, Default)]
struct Leaders(Arc<Mutex<(usize, usize, Vec<u64>)>>);

impl Leaders {
    /// A job that never ends by itself.
    async fn lead(self, fencing: u64) {
        struct Leads(Leaders);
        impl Drop for Leads {
            fn drop(&mut self) {
                self.0.0.lock().unwrap().0 -= 1;
            }
        }
        let _leads = {
            let mut leaders = self.0.lock().unwrap();
            leaders.0 += 1;
            leaders.1 = leaders.1.max(leaders.0);
            leaders.2.push(fencing);
            drop(leaders);
            Leads(self.clone())
        };
        std::future::pending().await
    }

    fn now(&self) -> usize {
        self.0.lock().unwrap().0
    }

    fn terms(&self) -> Vec<u64> {
        self.0.lock().unwrap().2.clone()
    }

    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let reached = async {
            while !is(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let reached = timeout(2 * PATIENCE, reached).await;
        reached.unwrap_or_else(|_| panic!("{what}: {:?}", self.0));
    }

    /// Never two at once, and each with a greater number than the one before.
    fn were_in_order(&self) {
        let (_, most, terms) = &*self.0.lock().unwrap();
        assert_eq!(*most, 1);
        assert!(terms.is_sorted_by(|a, b| a < b), "{terms:?}");
    }
}

const LOCK: &str = "kit/users/clean-up";

impl World {
    fn stand(&self, name: &str, leaders: &Leaders) -> Candidate {
        self.stand_with(ElectionConfig::new(LOCK, name), leaders)
    }

    fn stand_with(&self, config: ElectionConfig, leaders: &Leaders) -> Candidate {
        let config = ElectionConfig {
            ttl: Duration::from_secs(10),
            lock_delay: Duration::from_secs(3),
            ..config
        };
        let leaders = leaders.clone();
        Election::new(self.consul.locks(), config, self.observer())
            .stand(move |leadership| leaders.clone().lead(leadership.fencing))
    }

    /// Who has the lock: the session and the value.
    async fn holder(&self) -> (String, String) {
        let entry = self.agent.get(&format!("/v1/kv/{LOCK}")).await.unwrap();
        let entry: serde_json::Value = serde_json::from_str(&entry).unwrap();
        let session = entry[0]["Session"].as_str().unwrap_or_default();
        let name = self.agent.get(&format!("/v1/kv/{LOCK}?raw")).await.unwrap();
        (session.to_owned(), name)
    }
}

#[tokio::test]
async fn one_of_two_leads_and_the_other_one_when_its_session_is_lost_or_given_back() {
    let world = World::new().await;
    let leaders = Leaders::default();
    let mut candidates = BTreeMap::from(["a", "b"].map(|name| (name, world.stand(name, &leaders))));
    leaders
        .until("one leads", |leaders| leaders.now() == 1)
        .await;
    for round in 2..4 {
        let (session, _) = world.holder().await;
        world
            .agent
            .put(&format!("/v1/session/destroy/{session}"))
            .await
            .unwrap();
        leaders
            .until("one leads again", |leaders| leaders.terms().len() == round)
            .await;
        leaders.were_in_order();
    }
    let (session, name) = world.holder().await;
    let leader = candidates.remove(&*name).unwrap();
    leader.stop().await;
    assert_ne!(
        world.holder().await.0,
        session,
        "it is given back, not left to end"
    );
    leaders
        .until("the other one leads", |leaders| leaders.terms().len() == 4)
        .await;
    let (_, other) = world.holder().await;
    assert_ne!(other, name);
    // Dropped, it gives the lock back too.
    candidates.clear();
    leaders
        .until("nobody leads", |leaders| leaders.now() == 0)
        .await;
    let free = async { while !world.holder().await.0.is_empty() {} };
    timeout(PATIENCE, free).await.unwrap();
    leaders.were_in_order();
}

#[tokio::test]
async fn a_leader_that_cannot_renew_stops_by_itself_and_leads_again_later() {
    let mut world = World::new().await;
    let leaders = Leaders::default();
    let candidate = world.stand("a", &leaders);
    leaders
        .until("it leads", |leaders| leaders.now() == 1)
        .await;
    world.agent.kill().await;
    leaders
        .until("it stops", |leaders| leaders.now() == 0)
        .await;
    world.event("Deposed").await;
    world.agent.start_again().await;
    leaders
        .until("it leads again", |leaders| leaders.now() == 1)
        .await;
    candidate.stop().await;
    assert_eq!(leaders.now(), 0);
}

#[tokio::test]
async fn a_leader_whose_instance_fails_its_check_does_not_lead() {
    let world = World::new().await;
    let leaders = Leaders::default();
    let healthy = Healthy::listen().await;
    let mut registered = world.register(healthy.instance("users-1"));
    registered.registered().await;
    let config = ElectionConfig {
        instance: Some("users-1".parse().unwrap()),
        ..ElectionConfig::new(LOCK, "a")
    };
    let candidate = world.stand_with(config, &leaders);
    leaders
        .until("it leads", |leaders| leaders.now() == 1)
        .await;
    healthy.well.store(false, SeqCst);
    leaders
        .until("it stops", |leaders| leaders.now() == 0)
        .await;
    healthy.well.store(true, SeqCst);
    leaders
        .until("it leads again", |leaders| leaders.now() == 1)
        .await;
    leaders.were_in_order();
    candidate.stop().await;
}

#[tokio::test]
async fn a_job_that_ends_gives_the_leadership_back() {
    let world = World::new().await;
    let config = ElectionConfig::new(LOCK, "a");
    let done = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&done);
    let mut candidate = Election::new(world.consul.locks(), config, nobody()).stand(move |_| {
        count.fetch_add(1, SeqCst);
        std::future::ready(())
    });
    timeout(PATIENCE, candidate.ended()).await.unwrap();
    assert_eq!(done.load(SeqCst), 1);
    assert_eq!(world.holder().await.0, "");
}

#[tokio::test]
async fn a_job_that_panics_gives_the_leadership_back_too() {
    let world = World::new().await;
    let config = ElectionConfig::new(LOCK, "a");
    let mut candidate = Election::new(world.consul.locks(), config, nobody())
        .stand(async |_| panic!("as a job does that has a bug"));
    timeout(PATIENCE, candidate.ended()).await.unwrap();
    assert_eq!(world.holder().await.0, "");
}
