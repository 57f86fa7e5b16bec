//! A bucket for each caller, or whatever else a request is told apart by.

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::rate::Rate;
use crate::{
    BoxError, clock,
    policy::Live,
    rejection::{Rejection, ResponseFuture},
};

/// How many requests each key may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyedRate {
    /// The rate of each key.
    pub rate: Rate,
    /// How many keys have a bucket of their own at once, in 64 parts with an equal share each; a key whose bucket is
    /// full needs none. Keys for which there is no room share one bucket per part. Default 10,000, a few hundred
    /// kilobytes at most.
    #[serde(default = "max_keys")]
    pub max_keys: NonZeroUsize,
}

fn max_keys() -> NonZeroUsize {
    NonZeroUsize::new(10_000).expect("not zero")
}

impl KeyedRate {
    /// `rate` for each key, and the default number of keys.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            max_keys: max_keys(),
        }
    }
}

/// So many locks that two requests seldom want the same one, unless they have the same key.
const SHARDS: usize = 64;

/// A bucket of tokens for each key. Clones share them.
///
/// A key is known by its hash with a seed of this process: it is not kept, and nobody can look for two that fall
/// together. A bucket that is full again is as good as none, so forgetting it grants nobody anything.
#[derive(Clone, Debug)]
pub struct KeyedRateLimiter {
    config: Live<KeyedRate>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// In nanoseconds of [`clock::nanos`].
    epoch: u64,
    seed: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// All moments are in nanoseconds since the epoch.
#[derive(Debug, Default)]
struct Shard {
    /// When the bucket of a key will be full again.
    full_at: BTreeMap<u64, u64>,
    /// The same for the keys for which there is no room.
    others_full_at: u64,
    /// Before this, no bucket can be full again.
    sweep_at: u64,
}

impl KeyedRateLimiter {
    /// Full buckets for all.
    pub fn new(config: KeyedRate, now: Instant) -> Self {
        Self {
            config: Live::new(config),
            shared: Arc::new(Shared {
                epoch: clock::nanos(now),
                seed: RandomState::new(),
                shards: std::array::from_fn(|_| Mutex::default()),
            }),
        }
    }

    /// The handle that replaces rate and number of keys. What was taken stays taken.
    pub fn config(&self) -> &Live<KeyedRate> {
        &self.config
    }

    /// How many keys have a bucket now, those included whose bucket is full by now and was not missed yet.
    pub fn keys(&self) -> usize {
        let shards = self.shared.shards.iter();
        shards
            .map(|shard| shard.lock().expect("no panic while locked").full_at.len())
            .sum()
    }

    /// Takes one token out of the bucket of `key`, or returns how long it takes until there is one.
    pub fn take(&self, key: &impl Hash, now: Instant) -> Result<(), Duration> {
        let config = **self.config.get();
        let now = clock::nanos(now).saturating_sub(self.shared.epoch);
        let key = self.shared.seed.hash_one(key);
        let shard = &self.shared.shards[key as usize % SHARDS];
        let mut shard = shard.lock().expect("no panic while locked");
        let full_at = shard.bucket(key, now, config.max_keys.get().div_ceil(SHARDS));
        *full_at = config.rate.take(*full_at, now)?;
        Ok(())
    }
}

impl Shard {
    /// The bucket of `key`; if there is none and no room for one, that of the others.
    fn bucket(&mut self, key: u64, now: u64, room: usize) -> &mut u64 {
        let is_known = self.full_at.contains_key(&key);
        if !is_known && self.full_at.len() >= room && self.sweep_at <= now {
            self.full_at.retain(|_, full_at| *full_at > now);
            // They only become full later than they are now.
            self.sweep_at = self.full_at.values().copied().min().unwrap_or_default();
        }
        if is_known || self.full_at.len() < room {
            // It may have been one of the others until now.
            self.full_at.entry(key).or_insert(self.others_full_at)
        } else {
            &mut self.others_full_at
        }
    }
}

/// Finds the key that a request is limited by. Any `Fn(&Request) -> Option<impl Hash>` is one.
pub trait RateKey<Req>: Clone {
    /// What tells requests apart.
    type Key: Hash;

    /// The key of `request`; without one it is not limited.
    fn key(&self, request: &Req) -> Option<Self::Key>;
}

impl<Req, K, F> RateKey<Req> for F
where
    F: Fn(&Req) -> Option<K> + Clone,
    K: Hash,
{
    type Key = K;

    fn key(&self, request: &Req) -> Option<K> {
        self(request)
    }
}

/// The key is the value of this header, such as one in which a gateway names the caller. What the caller itself can
/// choose is no key: it would choose another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByHeader(pub HeaderName);

impl<B> RateKey<http::Request<B>> for ByHeader {
    type Key = HeaderValue;

    fn key(&self, request: &http::Request<B>) -> Option<HeaderValue> {
        request.headers().get(&self.0).cloned()
    }
}

/// Limits the rate of each key through all services that it, or a clone of it, builds: they share the buckets.
///
/// Where there is a limit for all together too, it belongs inside: what this one refuses then costs no token there.
#[derive(Clone, Debug)]
pub struct KeyedRateLimitLayer<K> {
    limiter: KeyedRateLimiter,
    key: K,
}

impl<K> KeyedRateLimitLayer<K> {
    /// Admits the requests of each key that `key` finds at its own rate, beginning with a full burst.
    pub fn new(config: KeyedRate, key: K) -> Self {
        Self {
            limiter: KeyedRateLimiter::new(config, Instant::now()),
            key,
        }
    }

    /// The buckets, and the handle that replaces the rate.
    pub fn limiter(&self) -> &KeyedRateLimiter {
        &self.limiter
    }
}

impl<S, K: Clone> Layer<S> for KeyedRateLimitLayer<K> {
    type Service = KeyedRateLimit<S, K>;

    fn layer(&self, inner: S) -> KeyedRateLimit<S, K> {
        KeyedRateLimit {
            inner,
            layer: self.clone(),
        }
    }
}

/// Fails with [`Rejection::RateLimited`] above the rate of the request's key. Clones share the buckets.
#[derive(Clone, Debug)]
pub struct KeyedRateLimit<S, K> {
    inner: S,
    layer: KeyedRateLimitLayer<K>,
}

impl<S, K, Req> Service<Req> for KeyedRateLimit<S, K>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    K: RateKey<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let taken = match self.layer.key.key(&request) {
            Some(key) => self.layer.limiter.take(&key, Instant::now()),
            None => Ok(()),
        };
        match taken {
            Ok(()) => ResponseFuture::called(self.inner.call(request)),
            // `inner` stays ready for the next call.
            Err(retry_after) => ResponseFuture::rejected(Rejection::RateLimited { retry_after }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, num::NonZeroU32};

    use proptest::prelude::*;
    use tower::ServiceExt;

    use super::*;

    fn config(burst: u32, millis: u64, max_keys: usize) -> KeyedRate {
        KeyedRate {
            rate: Rate {
                burst: NonZeroU32::new(burst).unwrap(),
                interval: Duration::from_millis(millis),
            },
            max_keys: NonZeroUsize::new(max_keys).unwrap(),
        }
    }

    proptest! {
        /// Against a limiter for each key that is never forgotten.
        #[test]
        fn each_key_has_a_bucket_of_its_own(
            burst in 1_u32..4,
            interval in 1_u64..1_000,
            steps in prop::collection::vec((0_u64..300, 0_u8..5), 1..200),
        ) {
            let mut now = Instant::now();
            // With room for five, forgetting those that are full, and no other.
            let limiter = KeyedRateLimiter::new(config(burst, interval, 5 * SHARDS), now);
            let mut model = HashMap::new();
            for (step, key) in steps {
                now += Duration::from_millis(step);
                let own = model.entry(key).or_insert_with(|| {
                    crate::rate_limit::RateLimiter::new(config(burst, interval, 1).rate, now)
                });
                prop_assert_eq!(limiter.take(&key, now), own.take(now));
            }
        }

        /// Whoever is forgotten, and whoever shares a bucket.
        #[test]
        fn with_too_many_keys_none_gets_more_than_its_rate(
            burst in 1_u32..4,
            interval in 1_u64..10_000,
            steps in prop::collection::vec((0_u64..100, 0_u16..1_000), 1..500),
        ) {
            let mut now = Instant::now();
            let limiter = KeyedRateLimiter::new(config(burst, interval, 1), now);
            let mut model = HashMap::new();
            for (step, key) in steps {
                now += Duration::from_millis(step);
                let own = model.entry(key).or_insert_with(|| {
                    crate::rate_limit::RateLimiter::new(config(burst, interval, 1).rate, now)
                });
                if limiter.take(&key, now).is_ok() {
                    prop_assert_eq!(own.take(now), Ok(()));
                }
                prop_assert!(limiter.keys() <= SHARDS);
            }
        }
    }

    #[test]
    fn keys_that_somebody_makes_up_do_not_pile_up_and_leave_those_that_are_known_alone() {
        let now = Instant::now();
        let limiter = KeyedRateLimiter::new(config(2, 1_000, SHARDS), now);
        assert_eq!(limiter.take(&"Ada", now), Ok(()));
        let admitted = (0..100_000)
            .filter(|n| limiter.take(n, now).is_ok())
            .count();
        // A burst for each that has a bucket, and for each bucket of the others.
        assert!(admitted <= 2 * 2 * SHARDS, "{admitted}");
        assert!(limiter.keys() <= SHARDS);
        assert_eq!(limiter.take(&"Ada", now), Ok(()));
        assert!(limiter.take(&"Ada", now).is_err());
        // Buckets that are full again make room.
        let later = now + Duration::from_secs(2);
        assert_eq!(limiter.take(&"Grace", later), Ok(()));
        for n in 0..100_000 {
            let _ = limiter.take(&n, later);
        }
        assert_eq!(limiter.take(&"Grace", later), Ok(()));
    }

    #[test]
    fn a_replaced_rate_of_keys_keeps_what_was_taken() {
        let now = Instant::now();
        let limiter = KeyedRateLimiter::new(config(1, 1_000, 10), now);
        assert_eq!(limiter.take(&1, now), Ok(()));
        limiter.config().set(config(1, 100, 10));
        assert_eq!(limiter.take(&1, now), Err(Duration::from_millis(100)));
        assert_eq!(limiter.take(&2, now), Ok(()));
    }

    #[test]
    fn threads_never_exceed_the_rate_of_a_key() {
        let now = Instant::now();
        let limiter = KeyedRateLimiter::new(config(100, 1_000, 10), now);
        let count = || {
            let takes = (0..1_000).map(|n| limiter.take(&(n % 3), now));
            takes.filter(Result::is_ok).count()
        };
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(admitted, 300);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_above_its_rate_leaves_the_tokens_of_all_to_the_others() {
        let all = crate::rate_limit::RateLimitLayer::new(config(3, 3_600_000, 1).rate);
        let callers = ByHeader(HeaderName::from_static("x-caller"));
        let each = KeyedRateLimitLayer::new(config(1, 3_600_000, 10), callers);
        let service = each.layer(all.layer(tower::service_fn(async |_| Ok::<_, BoxError>(()))));
        let ask = async |caller: Option<&str>| {
            let mut request = http::Request::new(());
            if let Some(caller) = caller {
                let caller = HeaderValue::from_str(caller).unwrap();
                request.headers_mut().insert("x-caller", caller);
            }
            service.clone().oneshot(request).await.is_ok()
        };
        assert!(ask(Some("Ada")).await);
        for _ in 0..10 {
            assert!(!ask(Some("Ada")).await);
        }
        assert!(ask(Some("Grace")).await);
        assert!(ask(None).await, "nobody's own rate");
        assert!(!ask(None).await, "the rate of all");
    }
}
