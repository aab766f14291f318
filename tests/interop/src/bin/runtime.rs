//! Northstar 0.9.2's runtime, started as its program does, but without a log, and in the namespaces
//! of the caller.
//!
//!     runtime CONFIGURATION

use anyhow::{anyhow, Context, Result};
use northstar_runtime::runtime::Runtime;
use std::{env, fs};
use tokio::signal::unix::{signal, SignalKind};

fn main() -> Result<()> {
    let path = env::args()
        .nth(1)
        .ok_or_else(|| anyhow!("usage: runtime CONFIGURATION"))?;
    let text = fs::read_to_string(&path).context(path)?;
    // It forks a helper, which must be done while there is one thread.
    let runtime = Runtime::new(toml::from_str(&text)?)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run(runtime))
}

async fn run(created: Runtime) -> Result<()> {
    let mut runtime = created.start().await?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => runtime.shutdown().await?,
        stopped = runtime.stopped() => stopped?,
    }
    // Threads of the pool that still read something would be waited for.
    std::process::exit(0)
}
