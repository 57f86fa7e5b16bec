//! Which calls over HTTP are the same.

use std::hash::{Hash, Hasher};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, Version};

use super::{CoalesceConfig, CoalesceLayer};
use crate::{Body, Context, body::Collected, classify::is_idempotent, context::IdempotencyKey};

/// All that a peer is told by a call that may be shared, by which it is known again: method, URI, version, all headers
/// (and so who asks, where one of them says that), the idempotency key and the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Same {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    key: Option<IdempotencyKey>,
    body: Bytes,
}

impl Same {
    /// `None` where the call is to be made each time: it is not idempotent, its answer is a stream, or its body is one
    /// that is still to come.
    pub fn of(request: &Request<Body>) -> Option<Self> {
        let context = request.extensions().get::<Context>();
        let method = context.and_then(|context| context.method);
        if !is_idempotent(request) || method.is_some_and(|method| method.streaming) {
            return None;
        }
        Some(Self {
            body: request.body().known()?,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            key: context.and_then(|context| context.idempotency_key.clone()),
        })
    }
}

impl Hash for Same {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Headers have no order, and seldom differ where all of this does not.
        (&self.method, &self.uri, &self.body).hash(state);
    }
}

/// A layer that makes one call of those that are the [`Same`].
pub type CoalesceSameLayer =
    CoalesceLayer<Same, Response<Collected>, fn(&Request<Body>) -> Option<Same>>;

impl CoalesceSameLayer {
    /// Idempotent calls over HTTP that are the [`Same`] to the last byte are one call. A
    /// [`CollectLayer`](super::CollectLayer) stands inside of it.
    pub fn same(config: CoalesceConfig) -> Self {
        Self::new(config, Same::of)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn get() -> Request<Body> {
        Request::get("/a?b=c")
            .header("authorization", "Bearer ann")
            .body(Body::empty())
            .unwrap()
    }

    #[test]
    fn calls_are_the_same_if_the_peer_is_told_the_same() {
        let same = Same::of(&get()).unwrap();
        assert_eq!(Same::of(&get()), Some(same.clone()));
        let changes: [fn(&mut Request<Body>); 6] = [
            |request| *request.method_mut() = Method::DELETE,
            |request| *request.uri_mut() = Uri::from_static("/a"),
            |request| *request.version_mut() = Version::HTTP_2,
            |request| {
                let bob = http::HeaderValue::from_static("Bearer bob");
                request.headers_mut().insert("authorization", bob);
            },
            |request| *request.body_mut() = Body::full("x"),
            |request| {
                let key = "k1".parse().unwrap();
                let context = Context::new().with_idempotency_key(key);
                request.extensions_mut().insert(context);
            },
        ];
        for change in changes {
            let mut other = get();
            change(&mut other);
            assert_ne!(Same::of(&other).unwrap(), same);
        }
        // Who asks until when, and as a part of what, is told to nobody else.
        let mut other = get();
        let context = Context::with_timeout(std::time::Duration::from_secs(1));
        other.extensions_mut().insert(context);
        assert_eq!(Same::of(&other), Some(same));
    }

    #[test]
    fn what_is_to_be_made_each_time_is_the_same_as_nothing() {
        let mut post = get();
        *post.method_mut() = Method::POST;
        assert_eq!(Same::of(&post), None);
        let mut streams = get();
        *streams.body_mut() = Body::stream(Full::new(Bytes::from_static(b"x")));
        assert_eq!(Same::of(&streams), None);
        let mut answered_by_a_stream = get();
        static WATCH: crate::name::Method = crate::name::Method {
            service: "users.Users",
            name: "Watch",
            grpc_path: "/users.Users/Watch",
            http_method: Method::GET,
            http_path: "/watch",
            idempotent: true,
            streaming: true,
            transport: crate::name::Transport::Both,
            access: crate::name::Access::Anyone,
            priority: crate::name::Priority::Normal,
            timeout: None,
        };
        let context = Context {
            method: Some(&WATCH),
            ..Context::new()
        };
        answered_by_a_stream.extensions_mut().insert(context);
        assert_eq!(Same::of(&answered_by_a_stream), None);
    }
}
