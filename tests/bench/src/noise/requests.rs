//! A pod that sends requests at full speed, each as soon as the one before is answered, whatever the answer says.

use anyhow::Result;
use http_body_util::BodyExt;

use super::PAUSE;
use crate::load::client::{Ask, Dialer};

/// Connections, each with one request at once.
const CONNECTIONS: usize = 32;

/// Starts all connections.
pub(super) fn start(dialer: &Dialer, path: &str) {
    let ask = Ask::get(path);
    for _ in 0..CONNECTIONS {
        let (dialer, ask) = (dialer.clone(), ask.clone());
        tokio::spawn(async move {
            loop {
                // It ends by an error only, after which it is dialled anew.
                let _ = send(&dialer, &ask).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}

async fn send(dialer: &Dialer, ask: &Ask) -> Result<()> {
    let mut connection = dialer.dial().await?;
    loop {
        connection.ask(ask).await?.into_body().collect().await?;
    }
}
