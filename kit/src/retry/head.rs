//! The head of a request, kept for another attempt that is seldom made: copied without allocating.

use std::cell::RefCell;

use http::{Extensions, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::context::{Context, Tried};

/// All of a request but its body. It is boxed, so that a future that is moved about is small, and the box and the
/// list of headers in it are used again by another call.
pub(super) struct Head(Option<Box<Parts>>);

#[derive(Default)]
struct Parts {
    method: Method,
    uri: Uri,
    version: Version,
    /// In a list, which is copied faster than a map.
    headers: Vec<(HeaderName, HeaderValue)>,
    extensions: Kept,
    tried: Tried,
}

enum Kept {
    /// There was nothing else, so the map and its boxes need no copies.
    Context(Context),
    All(Extensions),
}

impl Default for Kept {
    fn default() -> Self {
        Self::Context(Context::default())
    }
}

thread_local! {
    /// Boxes that are not used at the moment.
    #[allow(clippy::vec_box, reason = "to keep the boxes is what it is for")]
    static SPARE: RefCell<Vec<Box<Parts>>> = const { RefCell::new(Vec::new()) };
}

/// More boxes are not kept.
const SPARES: usize = 64;
/// A box with a longer list is not kept.
const LONGEST: usize = 64;

impl Head {
    /// A copy of the request's head, which from now on remembers where the call was tried.
    pub(super) fn of<B>(request: &mut Request<B>) -> Self {
        let mut parts = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        parts.tried.renew();
        let context = Context::of_mut(request.extensions_mut());
        parts.extensions = Kept::Context(context.clone());
        let tried = || parts.tried.clone();
        context.tried.get_or_insert_with(tried);
        if request.extensions().len() > 1 {
            parts.extensions = Kept::All(request.extensions().clone());
        }
        parts.method = request.method().clone();
        parts.uri = request.uri().clone();
        parts.version = request.version();
        let headers = request.headers().iter();
        parts
            .headers
            .extend(headers.map(|(name, value)| (name.clone(), value.clone())));
        Self(Some(parts))
    }

    /// The request again, as an attempt after so many others.
    #[cold]
    pub(super) fn request<B>(&self, body: B, previous_attempts: u32) -> Request<B> {
        let parts = self.0.as_ref().expect("taken only by drop");
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = parts.uri.clone();
        *request.version_mut() = parts.version;
        let headers = request.headers_mut();
        for (name, value) in &parts.headers {
            headers.append(name, value.clone());
        }
        match &parts.extensions {
            Kept::Context(context) => {
                request.extensions_mut().insert(context.clone());
            }
            Kept::All(extensions) => *request.extensions_mut() = extensions.clone(),
        }
        let context = Context::of_mut(request.extensions_mut());
        context.previous_attempts = previous_attempts;
        context.tried.get_or_insert_with(|| parts.tried.clone());
        request
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        let Some(mut parts) = self.0.take() else {
            return;
        };
        // Nothing of the call is held longer than the call.
        parts.uri = Uri::default();
        parts.headers.clear();
        parts.extensions = Kept::default();
        // An error says that the thread ends.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARES && parts.headers.capacity() <= LONGEST {
                spare.push(parts);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn pairs(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
        headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect()
    }

    #[test]
    fn another_attempt_has_the_same_head() {
        for others in [false, true] {
            let mut request = Request::put("/a?b")
                .version(Version::HTTP_2)
                .header("accept", "text/html")
                .header("x-tag", "1")
                .header("x-tag", "2")
                .body(())
                .unwrap();
            let context = Context::of_mut(request.extensions_mut());
            context.idempotency_key = Some("k".parse().unwrap());
            if others {
                request.extensions_mut().insert(7_u8);
            }
            // The box of the first one is used again by the second one.
            drop(Head::of(&mut request));
            let again = Head::of(&mut request).request((), 2);
            assert_eq!(again.method(), Method::PUT);
            assert_eq!(again.uri(), "/a?b");
            assert_eq!(again.version(), Version::HTTP_2);
            assert_eq!(pairs(again.headers()), pairs(request.headers()));
            let context = Context::of(again.extensions());
            assert_eq!(context.idempotency_key.unwrap().as_str(), "k");
            assert_eq!(context.previous_attempts, 2);
            assert_eq!(again.extensions().get::<u8>(), others.then_some(&7));
        }
    }
}
