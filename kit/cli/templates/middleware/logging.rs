//! `logging`, around the methods of __service__: a line for each call.

use std::{future::Future, time::Instant};

__uses__

/// Logs what becomes of each call, then passes it on. Arguments stay out of it: nobody knows who reads logs.
#[derive(Clone, Debug)]
pub(crate) struct Logging<T> {
    /// What it stands around.
    pub(crate) inner: T,
}

impl<T: __Trait__> __Trait__ for Logging<T> {
__methods__}

/// Waits for the end of a call, and tells how long that took and how it ended.
async fn logged<R>(
    method: &'static str,
    call: impl Future<Output = Result<R, Error>>,
) -> Result<R, Error> {
    let begun = Instant::now();
    let result = call.await;
    let took = begun.elapsed();
    match &result {
        Ok(_) => tracing::info!(method, ?took, "done"),
        Err(error) => tracing::warn!(method, ?took, %error, "failed"),
    }
    result
}
