//! Methods with a longest time of their own.

use std::time::Duration;

use http::Request;
use kit::{Body, Code, Context, Error, Rejection, context::Deadline};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

/// Takes its time.
#[kit::service]
pub(crate) trait Slow {
    #[kit(idempotent, timeout = "500ms")]
    async fn bounded(&self, ctx: Context, millis: u64) -> Result<(), Error>;
    async fn unbounded(&self, ctx: Context, millis: u64) -> Result<(), Error>;
}

/// Fails if its deadline is not that many milliseconds away.
#[derive(Clone, Debug)]
struct Sleeper {
    left: Option<u64>,
}

impl Sleeper {
    async fn work(&self, ctx: Context, millis: u64) -> Result<(), Error> {
        let left = ctx
            .deadline
            .map(|deadline| deadline.remaining(Instant::now()));
        assert_eq!(left, self.left.map(Duration::from_millis));
        sleep(Duration::from_millis(millis)).await;
        Ok(())
    }
}

impl Slow for Sleeper {
    async fn bounded(&self, ctx: Context, millis: u64) -> Result<(), Error> {
        self.work(ctx, millis).await
    }

    async fn unbounded(&self, ctx: Context, millis: u64) -> Result<(), Error> {
        self.work(ctx, millis).await
    }
}

fn server(left: Option<u64>) -> SlowServer<Sleeper> {
    SlowServer::new(Sleeper { left })
}

#[tokio::test(start_paused = true)]
async fn a_server_takes_no_longer_for_a_method_than_the_trait_says() {
    let call = |path: &str, millis: u64, deadline: Option<u64>, left: Option<u64>| {
        let body = Body::full(format!(r#"{{"millis": {millis}}}"#));
        let mut request = Request::post(path).body(body).unwrap();
        request.extensions_mut().insert(Context {
            deadline: deadline.map(|millis| Deadline::after(Duration::from_millis(millis))),
            ..Context::new()
        });
        server(left).oneshot(request)
    };
    let response = call("/bounded", 499, None, Some(500)).await.unwrap();
    assert_eq!(response.status(), 200);

    let start = Instant::now();
    let response = call("/bounded", 600, None, Some(500)).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(500));
    assert_eq!(response.status(), 504);
    let error = response.extensions().get::<Error>().unwrap();
    assert_eq!(error.rejection(), Some(&Rejection::DeadlineExceeded));
    let method = response.extensions().get::<&'static kit::name::Method>();
    assert_eq!(method, Some(&&slow::METHODS[0]));

    // The earlier one counts.
    let start = Instant::now();
    let response = call("/bounded", 600, Some(200), Some(200)).await.unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!(start.elapsed(), Duration::from_millis(200));
    let response = call("/bounded", 600, Some(900), Some(500)).await.unwrap();
    assert_eq!(response.status(), 504);

    // Nothing said, nothing changed.
    let response = call("/unbounded", 9000, None, None).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_counts_into_the_time_of_a_method() {
    let never = futures_util::stream::pending::<Result<http_body::Frame<bytes::Bytes>, Error>>();
    let request = Request::post("/bounded")
        .body(http_body_util::StreamBody::new(never))
        .unwrap();
    let start = Instant::now();
    let response = server(None).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!(start.elapsed(), Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_as_long_as_the_trait_says_unless_its_caller_says_otherwise() {
    for (deadline, left) in [(None, 500), (Some(300), 300), (Some(900), 500)] {
        for client in [
            SlowClient::json(server(Some(left))),
            SlowClient::grpc(server(Some(left))),
        ] {
            let ctx = Context {
                deadline: deadline.map(|millis| Deadline::after(Duration::from_millis(millis))),
                ..Context::new()
            };
            client.bounded(ctx.clone(), 0).await.unwrap();
            if left == 500 {
                let error = client.bounded(ctx, 501).await.unwrap_err();
                assert_eq!(error.code(), Code::DeadlineExceeded);
            }
        }
    }

    // What the stack sees.
    let sent = |deadline: Option<u64>| async move {
        let (tell, told) = tokio::sync::oneshot::channel();
        let tell = std::sync::Arc::new(std::sync::Mutex::new(Some(tell)));
        let stack = tower::service_fn(move |request: Request<Body>| {
            let ctx = Context::of(request.extensions());
            tell.lock()
                .unwrap()
                .take()
                .unwrap()
                .send(ctx.deadline)
                .unwrap();
            std::future::ready(Err::<http::Response<Body>, kit::BoxError>("seen".into()))
        });
        let ctx = Context {
            deadline: deadline.map(|millis| Deadline::after(Duration::from_millis(millis))),
            ..Context::new()
        };
        SlowClient::json(stack).bounded(ctx, 1).await.unwrap_err();
        told.await.unwrap().unwrap().remaining(Instant::now())
    };
    assert_eq!(sent(None).await, Duration::from_millis(500));
    assert_eq!(sent(Some(900)).await, Duration::from_millis(900));
}
