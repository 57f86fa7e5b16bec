//! Registration with a registry that is only a map.

use std::{collections::BTreeMap, sync::Mutex};

use tokio::time::advance;

use super::*;
use crate::{event::nobody, name::EndpointId};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Map {
    instances: Mutex<BTreeMap<EndpointId, Instance>>,
    /// How each registration was made: whether it was said to be well.
    registrations: Mutex<Vec<bool>>,
    is_dead: Mutex<bool>,
    hangs: Mutex<bool>,
}

impl Map {
    fn process(&self) -> Option<String> {
        let instances = self.instances.lock().unwrap();
        Some(instances.values().next()?.metadata[PROCESS].clone())
    }

    fn registrations(&self) -> usize {
        self.registrations.lock().unwrap().len()
    }

    fn answer<T: Send + 'static>(&self, answer: T) -> Answer<'static, T> {
        let hangs = *self.hangs.lock().unwrap();
        Box::pin(async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok(answer)
        })
    }
}

impl Registry for Map {
    fn find<'a>(&'a self, id: &'a EndpointId) -> Answer<'a, Option<Found>> {
        let instances = self.instances.lock().unwrap();
        let found = instances.get(id).map(|instance| Found {
            address: Some(instance.address.clone()),
            metadata: instance.metadata.clone(),
        });
        self.answer(found)
    }

    fn is_alive<'a>(&'a self, _: &'a EndpointId) -> Answer<'a, bool> {
        let is_alive = !*self.is_dead.lock().unwrap();
        self.answer(is_alive)
    }

    fn register<'a>(&'a self, instance: &'a Instance, passing: bool) -> Answer<'a, ()> {
        let (id, instance) = (instance.id.clone(), instance.clone());
        self.instances.lock().unwrap().insert(id, instance);
        self.registrations.lock().unwrap().push(passing);
        self.answer(())
    }

    fn report<'a>(&'a self, _: &'a EndpointId, _: &'a Health) -> Answer<'a, bool> {
        self.answer(true)
    }

    fn deregister<'a>(&'a self, id: &'a EndpointId) -> Answer<'a, ()> {
        self.instances.lock().unwrap().remove(id);
        self.answer(())
    }
}

fn registration(map: &Arc<Map>, address: &'static str) -> Registration {
    let instance = Instance {
        service: "users".parse().unwrap(),
        id: "users-1".parse().unwrap(),
        address: Authority::from_static(address),
        addresses: BTreeMap::new(),
        tags: Vec::new(),
        metadata: BTreeMap::new(),
        weights: Weights::default(),
        check: Check::Http {
            uri: "http://a:2/readyz".parse().unwrap(),
            interval: SECOND,
            timeout: SECOND,
        },
        deregister_after: 60 * SECOND,
    };
    Registration::new(Arc::<Map>::clone(map), instance, nobody())
}

#[tokio::test(start_paused = true)]
async fn of_two_at_one_address_the_later_one_has_it_and_neither_pushes_for_ever() {
    let map = Arc::new(Map::default());
    let mut first = registration(&map, "a:1").start();
    first.registered().await;
    let before = map.process();
    let mut second = registration(&map, "a:1").start();
    second.registered().await;
    let after = map.process();
    assert_ne!(before, after);
    sleep(120 * SECOND).await;
    assert_eq!(map.process(), after);
    assert_eq!(map.registrations(), 2);
    // When the later one leaves, the earlier one is there.
    second.deregister().await.unwrap();
    sleep(10 * SECOND).await;
    assert_eq!(map.process(), before);
}

#[tokio::test(start_paused = true)]
async fn who_is_found_dead_once_keeps_his_id_and_who_stays_dead_loses_it() {
    let map = Arc::new(Map::default());
    let first = registration(&map, "a:1");
    map.register(first.instance(), false).await.unwrap();
    let before = map.process();
    let mut second = registration(&map, "b:1").start();
    sleep(60 * SECOND).await;
    for _ in 0..10 {
        *map.is_dead.lock().unwrap() = true;
        sleep(GRACE - 3 * SECOND).await;
        *map.is_dead.lock().unwrap() = false;
        sleep(3 * SECOND).await;
    }
    assert_eq!(map.process(), before);
    *map.is_dead.lock().unwrap() = true;
    timeout(GRACE + 3 * SECOND, second.registered())
        .await
        .unwrap();
    assert_ne!(map.process(), before);
}

#[tokio::test(start_paused = true)]
async fn who_is_forgotten_comes_back_as_well_as_he_is() {
    let map = Arc::new(Map::default());
    let ready = Arc::new(Mutex::new(true));
    let says = Arc::clone(&ready);
    let mut registered = registration(&map, "a:1")
        .reporting(move || {
            let ready = *says.lock().unwrap();
            async move { if ready { Ok(()) } else { Err("not now".into()) } }
        })
        // Whoever reports has said it already.
        .or_reporting(async || Err("never".into()))
        .start();
    registered.registered().await;
    for is_ready in [true, false] {
        *ready.lock().unwrap() = is_ready;
        map.instances.lock().unwrap().clear();
        sleep(5 * SECOND).await;
    }
    assert_eq!(*map.registrations.lock().unwrap(), [false, true, false]);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_does_not_wait_for_a_registry_that_hangs() {
    let map = Arc::new(Map::default());
    let mut registered = registration(&map, "a:1").start();
    registered.registered().await;
    *map.hangs.lock().unwrap() = true;
    for under_way in [false, true] {
        if under_way {
            // It has begun to ask whether it is still there.
            advance(3 * SECOND).await;
            tokio::task::yield_now().await;
        }
        let begin = Instant::now();
        let registered = std::mem::replace(&mut registered, registration(&map, "a:1").start());
        assert!(registered.deregister().await.is_err());
        assert!(begin.elapsed() <= 2 * FAREWELL, "{:?}", begin.elapsed());
    }
}
