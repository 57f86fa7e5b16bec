//! Values that live in the registry.

use kit::discovery::View;

use super::*;

impl World {
    /// Writes a value.
    pub(super) async fn say(&self, key: &str, value: &str) {
        let path = format!("/v1/kv/{key}");
        assert_eq!(self.agent.put_with(&path, value).await.unwrap(), "true");
    }

    fn view(&self, key: &str) -> View<ClientConfig> {
        let (kv, observer) = (self.consul.key_value(), self.observer());
        View::new(kv, key, ClientConfig::default(), observer)
    }

    /// An observer whose events come out of [`World::event`].
    pub(super) fn observer(&self) -> kit::event::SharedObserver {
        Arc::new(Names(self.sender.clone()))
    }
}

async fn until_attempts(view: &mut View<ClientConfig>, attempts: u32) {
    let reached = async {
        while view.get().retry.attempts.get() != attempts {
            view.changed().await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap();
}

#[tokio::test]
async fn the_last_good_value_stays_until_there_is_a_better_one_or_none() {
    let mut world = World::new().await;
    let mut view = world.view("kit/users");
    assert_eq!(*view.get(), ClientConfig::default());
    world
        .say("kit/users", r#"{"retry": {"attempts": 7}}"#)
        .await;
    until_attempts(&mut view, 7).await;
    // What begins alike is another one's.
    world.say("kit/users2", "retry.attempts = 1").await;
    for bad in ["retry.attempts = 0", "retries = 1", "{", "nonsense"] {
        world.say("kit/users", bad).await;
        world.event("ConfigRejected").await;
        assert_eq!(view.get().retry.attempts.get(), 7, "{bad}");
    }
    world.say("kit/users", "retry.attempts = 5").await;
    until_attempts(&mut view, 5).await;
    world.say("kit/users/retry/attempts", "4").await;
    until_attempts(&mut view, 4).await;

    // An agent that lost all of it is not believed at once.
    world.agent.kill().await;
    world.event("ConfigFailed").await;
    world.agent.start_again().await;
    assert_eq!(view.get().retry.attempts.get(), 4);
    world.say("kit/users", "retry.attempts = 6").await;
    until_attempts(&mut view, 6).await;
    world
        .agent
        .send("DELETE", "/v1/kv/kit/users", "", "")
        .await
        .unwrap();
    until_attempts(&mut view, ClientConfig::default().retry.attempts.get()).await;
}

#[tokio::test]
async fn slashes_around_a_key_do_not_count() {
    let world = World::new().await;
    world.say("kit/users/retry/attempts", "4").await;
    for key in ["/kit/users", "kit/users/", "//kit/users//"] {
        until_attempts(&mut world.view(key), 4).await;
    }
}
