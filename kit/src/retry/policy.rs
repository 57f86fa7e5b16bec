//! Whether a call is made again, and when: no clock, no tower.

use std::{num::NonZeroU32, time::Duration};

use http::Request;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    classify::{self, Verdict},
    context::{Context, Deadline},
    policy::{Backoff, BudgetConfig},
};

/// How often and how soon a call is made again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Attempts in all, the first one included; 1 retries nothing. Default 3.
    pub attempts: NonZeroU32,
    /// The waits between them. Default: up to 25 ms, 50 ms, 100 ms, ... 250 ms.
    pub backoff: Backoff,
    /// A peer that asks, in `Retry-After` or by gRPC's pushback, to be left alone for longer than this is not asked
    /// again. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub max_retry_after: Duration,
    /// What a budget for these calls is made from, see [`Budget::new`](super::Budget::new).
    pub budget: BudgetConfig,
    /// The bytes of a request's body that are kept for another attempt; a request with a longer one is not made
    /// again once somebody has read of it. Default 64 KiB.
    pub replay_limit: usize,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: NonZeroU32::new(3).expect("not zero"),
            backoff: Backoff::default(),
            max_retry_after: Duration::from_secs(5),
            budget: BudgetConfig::default(),
            replay_limit: 64 * 1024,
        }
    }
}

/// What matters of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    idempotent: bool,
    deadline: Option<Deadline>,
    /// Attempts before the present one.
    previous_attempts: u32,
}

impl Call {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let context = request.extensions().get::<Context>();
        Self {
            idempotent: classify::is_idempotent(request),
            deadline: context.and_then(|context| context.deadline),
            previous_attempts: context.map_or(0, |context| context.previous_attempts),
        }
    }

    /// Whether making it again after this verdict does no harm.
    pub(super) fn may_be_repeated(&self, verdict: &Verdict) -> bool {
        match verdict.retry {
            classify::Retry::No => false,
            classify::Retry::IfIdempotent => self.idempotent,
            classify::Retry::Always => true,
        }
    }

    /// How long to wait before the next attempt, or `None` if there shall be none.
    pub(super) fn backoff(
        &self,
        verdict: &Verdict,
        config: &RetryConfig,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Option<Duration> {
        if !self.may_be_repeated(verdict) || self.previous_attempts + 1 >= config.attempts.get() {
            return None;
        }
        let asked = verdict.pushback.or(verdict.retry_after);
        if asked > Some(config.max_retry_after) {
            return None;
        }
        // Pushback is the wait itself; `Retry-After` is the least that it may be.
        let backoff = verdict.pushback.unwrap_or_else(|| {
            let own = config.backoff.full_jitter(self.previous_attempts, rng);
            own.max(verdict.retry_after.unwrap_or_default())
        });
        // An answer that comes too late is no answer.
        match self.deadline {
            Some(deadline) if deadline.remaining(now) <= backoff => None,
            _ => Some(backoff),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::{classify::Outcome, name, wire::IDEMPOTENCY_KEY};

    static PAY: name::Method = name::Method {
        service: "bank.Bank",
        name: "Pay",
        grpc_path: "/bank.Bank/Pay",
        http_method: Method::POST,
        http_path: "/pay",
        idempotent: false,
        streaming: false,
        transport: name::Transport::Both,
        access: name::Access::Anyone,
        priority: name::Priority::Normal,
        timeout: None,
    };
    static LOOK: name::Method = name::Method {
        service: "bank.Bank",
        name: "Look",
        grpc_path: "/bank.Bank/Look",
        http_method: Method::POST,
        http_path: "/look",
        idempotent: true,
        streaming: false,
        transport: name::Transport::Both,
        access: name::Access::Anyone,
        priority: name::Priority::Normal,
        timeout: None,
    };

    fn verdict(retry: classify::Retry) -> Verdict {
        Verdict {
            outcome: Outcome::Failure,
            retry,
            retry_after: None,
            pushback: None,
        }
    }

    fn backoff(call: Call, verdict: &Verdict) -> Option<Duration> {
        let config = RetryConfig::default();
        call.backoff(verdict, &config, Instant::now(), &mut rand::rng())
    }

    fn request(http: Method, of: Option<&'static name::Method>) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = http;
        Context::of_mut(request.extensions_mut()).method = of;
        request
    }

    #[test]
    fn only_what_is_idempotent_is_made_again_when_the_peer_may_have_acted() {
        for (request, expected) in [
            (request(Method::GET, None), true),
            (request(Method::PUT, None), true),
            (request(Method::POST, None), false),
            (request(Method::POST, Some(&LOOK)), true),
            (request(Method::POST, Some(&PAY)), false),
            // The trait knows better.
            (request(Method::GET, Some(&PAY)), false),
        ] {
            let call = Call::of(&request);
            let again = |retry| backoff(call, &verdict(retry)).is_some();
            assert_eq!(
                again(classify::Retry::IfIdempotent),
                expected,
                "{request:?}"
            );
            assert!(again(classify::Retry::Always));
            assert!(!again(classify::Retry::No));
        }
    }

    #[test]
    fn a_key_makes_a_call_idempotent() {
        let again = |request| {
            let verdict = verdict(classify::Retry::IfIdempotent);
            backoff(Call::of(&request), &verdict).is_some()
        };
        let mut by_header = request(Method::POST, Some(&PAY));
        let key = http::HeaderValue::from_static("k");
        by_header.headers_mut().insert(IDEMPOTENCY_KEY, key);
        assert!(again(by_header));
        let mut by_context = request(Method::POST, Some(&PAY));
        Context::of_mut(by_context.extensions_mut()).idempotency_key = Some("k".parse().unwrap());
        assert!(again(by_context));
    }

    #[test]
    fn it_waits_as_long_as_the_peer_asks_but_not_for_ever() {
        let call = Call::of(&request(Method::GET, None));
        let asked = |seconds| Verdict {
            retry_after: Some(Duration::from_secs(seconds)),
            ..verdict(classify::Retry::IfIdempotent)
        };
        assert_eq!(backoff(call, &asked(5)), Some(Duration::from_secs(5)));
        assert_eq!(backoff(call, &asked(6)), None);
    }

    #[test]
    fn it_waits_exactly_as_long_as_the_peer_pushes_back() {
        let call = Call::of(&request(Method::GET, None));
        let pushed = |pushback| Verdict {
            retry_after: Some(Duration::from_secs(1)),
            pushback: Some(pushback),
            ..verdict(classify::Retry::IfIdempotent)
        };
        for wait in [Duration::ZERO, Duration::from_secs(5)] {
            assert_eq!(backoff(call, &pushed(wait)), Some(wait));
        }
        assert_eq!(backoff(call, &pushed(Duration::from_secs(6))), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_attempt_is_begun_behind_the_deadline() {
        let mut request = request(Method::GET, None);
        let context = Context::of_mut(request.extensions_mut());
        context.deadline = Some(Deadline::after(Duration::from_secs(1)));
        let asked = |millis| Verdict {
            retry_after: Some(Duration::from_millis(millis)),
            ..verdict(classify::Retry::IfIdempotent)
        };
        let call = Call::of(&request);
        assert!(backoff(call, &asked(999)).is_some());
        assert!(backoff(call, &asked(1_000)).is_none());
    }
}
