//! Endpoints come and go while calls are made.

use super::*;

#[tokio::test(start_paused = true)]
async fn all_clones_follow_the_endpoints() {
    let mut world = World::new(&["a:1"], answer);
    let mut clone = World {
        balance: world.balance.clone(),
        set: world.set.clone(),
        gates: Arc::clone(&world.gates),
    };
    let pending = world.call(Request::new(()));
    assert_eq!(clone.in_flight(), 1);
    world.endpoints(&["b:1"]);
    assert_eq!(clone.ask().await.unwrap(), "b:1");
    assert_eq!(world.ask().await.unwrap(), "b:1");
    // Whoever was on the way to an endpoint that is gone still arrives.
    assert_eq!(pending.await.unwrap().into_body(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn the_last_endpoints_of_a_source_that_is_gone_are_used() {
    for known_before in [false, true] {
        let mut world = World::unknown(answer);
        if known_before {
            world.endpoints(&["a:1"]);
            world.refresh();
        }
        let mut call = (!known_before).then(|| task::spawn(world.call(Request::new(()))));
        if let Some(call) = &mut call {
            assert_pending!(call.poll());
        }
        world.endpoints(&["b:1"]);
        let (gone, _) = watch::channel(None);
        drop(std::mem::replace(&mut world.set, gone));
        if let Some(call) = &mut call {
            assert_eq!(assert_ready_ok!(call.poll()).into_body(), "b:1");
        }
        assert_eq!(world.ask().await.unwrap(), "b:1");
    }
}

/// Says when it is dropped whether a set is being made.
struct Witness {
    shared: Arc<OnceLock<Weak<Watched>>>,
    free: Arc<Mutex<Vec<bool>>>,
}

type Watched = Shared<Peer, Witness>;

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.get().and_then(Weak::upgrade) {
            let free = shared.replacing.try_lock().is_ok();
            self.free.lock().unwrap().push(free);
        }
    }
}

impl Admit for Witness {
    type Permit = ();

    fn is_available(&self, _: Instant) -> bool {
        true
    }

    fn admit(&self, _: Instant) -> Result<(), Rejection> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_with_an_endpoint_may_look_at_the_others() {
    let (set, watch) = Watch::channel("users".parse().unwrap());
    let (shared, free) = <(Arc<OnceLock<_>>, Arc<Mutex<Vec<_>>>)>::default();
    let gate = {
        let (shared, free) = (Arc::clone(&shared), Arc::clone(&free));
        move |_: &Endpoint| Witness {
            shared: Arc::clone(&shared),
            free: Arc::clone(&free),
        }
    };
    let mut balance = Balance::new(watch, Live::new(BalanceConfig::default()), answer, gate);
    shared.set(Arc::downgrade(&balance.shared)).unwrap();
    for addresses in [["a:1"], ["b:1"]] {
        set.send_replace(Some(snapshot(&addresses)));
        balance.call(Request::new(())).await.unwrap();
    }
    assert_eq!(*free.lock().unwrap(), [true]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_who_connects_does_not_freeze_the_endpoints() {
    let fails = AtomicBool::new(true);
    let connect = move |endpoint: &Endpoint| {
        assert!(
            endpoint.address != "b:1" || !fails.swap(false, SeqCst),
            "on purpose"
        );
        answer(endpoint)
    };
    let mut world = World::new(&["a:1"], connect);
    world.endpoints(&["b:1"]);
    let refresh = std::panic::AssertUnwindSafe(|| world.refresh());
    assert!(std::panic::catch_unwind(refresh).is_err());
    assert_eq!(world.ask().await.unwrap(), "b:1");
    let mut seen = 0;
    world.balance.for_each_endpoint(|_, _| seen += 1);
    assert_eq!(seen, 1);
}

#[test]
fn who_looks_after_the_endpoints_sees_them_as_they_are_now() {
    let mut world = World::new(&["a:1"], answer);
    world.endpoints(&["b:1"]);
    let mut seen = Vec::new();
    let look = |endpoint: &Arc<Endpoint>, _: &Gate| seen.push(endpoint.address.clone());
    world.balance.for_each_endpoint(look);
    assert_eq!(seen, ["b:1"]);
}
