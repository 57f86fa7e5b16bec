//! Ports for processes that are restarted on the same one.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the ports from which connections go out, so that no connection takes the port of an instance that is down.
const FIRST: u16 = 21_000;
const COUNT: u16 = 10_000;

/// A port on loopback that nobody uses, and that this function gives nobody else in this process.
pub(crate) fn free() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time begin at different places.
    let begin = u16::try_from(std::process::id() % u32::from(COUNT)).expect("less than COUNT");
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (begin.wrapping_mul(37).wrapping_add(next)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
