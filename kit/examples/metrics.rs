//! Metrics, alone in a tower stack: rate, errors and duration of requests, for Prometheus.

use std::convert::Infallible;

use http::{Request, Response, StatusCode};
use kit::{BoxError, metrics};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let recorded = metrics::install();
    let service = ServiceBuilder::new()
        .layer(metrics::MetricsLayer::inbound(&"shop".parse()?))
        .service(service_fn(async |request: Request<()>| {
            let mut response = Response::new(());
            if request.uri().path() == "/down" {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            Ok::<_, Infallible>(response)
        }));

    for path in ["/", "/", "/down"] {
        let request = Request::get(path).body(())?;
        service.clone().oneshot(request).await?;
    }

    let counted = |status: &str| {
        let text = recorded.render();
        let mut lines = text.lines().filter(|line| line.contains("_count{"));
        let line = lines.find(|line| line.contains("\"shop\"") && line.contains(status));
        line.map(|line| line.to_owned()).unwrap_or_default()
    };
    println!("{}\n{}", counted("200"), counted("503"));
    assert!(counted("200").ends_with(" 2") && counted("503").ends_with(" 1"));
    Ok(())
}
