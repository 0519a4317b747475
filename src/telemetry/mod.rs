//! Logs: where they go and how they look. Metrics will live here, all in one file.

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error. `RUST_LOG` decides what is seen; without it, what changes state
/// or needs attention. A second call changes nothing.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // It fails only when a subscriber is set already, which is as good.
    let _already_set =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).try_init();
}
