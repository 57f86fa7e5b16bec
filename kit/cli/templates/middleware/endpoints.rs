//! `endpoints`, around every request of __service__ and inside of the stack in `app`: a line for how long the method
//! itself took. The stack has the rest: a line for each request with its trace, and numbers for Prometheus.

use std::{future::Future, time::Instant};

use tower::{Service, ServiceExt};

/// Logs how long `server` takes for the head of each answer, where the filter of logs lets `debug` through. Other
/// things to do with every endpoint go here.
pub(crate) fn logged<S, R>(
    server: S,
) -> impl Service<
    R,
    Response = S::Response,
    Error = S::Error,
    Future = impl Future<Output = Result<S::Response, S::Error>> + Send,
> + Clone
where
    S: Service<R, Future: Send> + Clone,
{
    server.map_future(async |answer| {
        let begun = Instant::now();
        let answer = answer.await;
        tracing::debug!(took = ?begun.elapsed(), "endpoint is done");
        answer
    })
}
