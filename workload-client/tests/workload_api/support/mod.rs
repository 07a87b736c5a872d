//! What the tests stand on: a clock, an authority, a Workload API.

pub(crate) mod ca;
pub(crate) mod clock;
pub(crate) mod jwt;
pub(crate) mod server;

/// Lets everything else run until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
