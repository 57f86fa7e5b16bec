//! An answer that is whole.

use http::{HeaderMap, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use tower::util::ServiceExt;

use crate::{
    Body,
    client::Client,
    error::{Problem, Violation},
};

/// What came over HTTP.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, and after them its trailers.
    pub headers: HeaderMap,
    /// Its body, what is no UTF-8 in it replaced.
    pub body: String,
}

impl Answer {
    pub(super) async fn to(client: Client, request: Request<Body>) -> Self {
        let response = client.oneshot(request).await.expect("it answers");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("the answer is whole");
        let mut headers = head.headers;
        headers.extend(body.trailers().cloned().unwrap_or_default());
        Self {
            status: head.status,
            headers,
            body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        }
    }

    /// What it says went wrong, by RFC 9457.
    ///
    /// # Panics
    /// If it is no problem, or one with another status.
    pub fn problem(&self) -> Problem {
        let kind = self.headers.get(CONTENT_TYPE);
        assert_eq!(
            kind.map(|kind| kind.as_bytes()),
            Some(&b"application/problem+json"[..]),
            "{self:?}"
        );
        let problem: Problem = serde_json::from_str(&self.body).expect("it is a problem");
        assert_eq!(problem.status, self.status.as_u16(), "{self:?}");
        problem
    }

    /// The first field that its problem names, and the rule of that field; both empty where it names none.
    ///
    /// # Panics
    /// If it is no problem, or one with another status.
    pub fn violation(&self) -> (String, String) {
        let violation = self.problem().errors.into_iter().next();
        violation.map_or_else(Default::default, |Violation { field, rule }| (field, rule))
    }
}
