//! One request over shared connections, sent again where the API server surely did not take it.
//!
//! In: a request as it is to be sent, and a body that can be sent again. Out: the first response, or why there is none. A
//! request that may have been carried out is not repeated, unless it changes nothing.

use std::sync::Arc;
use std::time::Duration;

use http::Response;

use super::body::RequestBody;
use super::counted::UpstreamBody;
use super::credential::UsedCredential;
use super::outgoing::{Failure, Outgoing};
use super::pool::{ConnectionLease, PodKey, Pool};
use super::replay::Replay;
use super::{SendError, received};

/// How often a request that was not taken is sent again; Go's HTTP/2 client stops after as many
/// (golang.org/x/net/http2 transport.go, `RoundTripOpt`).
const RETRIES: u32 = 6;

/// The pause before the second retry, doubled before each further one. A connection that went away is followed by a fresh one,
/// so the first retry is made at once; all pauses together are a third of a second.
const PAUSE: Duration = Duration::from_millis(10);

/// How often a request that changes nothing is sent again after its connection broke. Once: a request that breaks every
/// connection must not be a weapon.
const REPEATS: u32 = 1;

/// Sends a request of this pod; `used` gets the credential of the connection that was used last.
pub(super) async fn send(
    pool: &Arc<Pool>,
    pod: PodKey,
    mut outgoing: Outgoing,
    replay: Replay,
    used: &mut Option<UsedCredential>,
) -> Result<Response<UpstreamBody>, SendError> {
    let mut body = replay.first();
    let (mut retries, mut repeats) = (0, 0);
    loop {
        let lease = pool.lease(pod).await?;
        *used = Some(lease.credential().clone());
        let again = outgoing.clone();
        let failure = match exchange(pool, lease, outgoing, body, &replay).await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        let more = match &failure {
            Failure::NotTaken(_) => {
                retries += 1;
                if retries > 1 {
                    tokio::time::sleep(PAUSE * 2_u32.pow(retries - 2)).await;
                }
                retries <= RETRIES
            }
            Failure::Broken(_) => {
                repeats += 1;
                again.is_safe() && repeats <= REPEATS
            }
            Failure::Malformed(_) | Failure::NoLongerPermitted => false,
        };
        body = match replay.again().filter(|_| more) {
            Some(body) => body,
            None => return Err(failure.into_error(&again)),
        };
        outgoing = again;
        tracing::debug!(error = %failure, "a request to the API server is sent again");
    }
}

/// One try over one lease. What is no longer permitted is not sent: a lease may have taken a while.
async fn exchange(
    pool: &Pool,
    mut lease: ConnectionLease,
    outgoing: Outgoing,
    body: RequestBody,
    replay: &Replay,
) -> Result<Response<UpstreamBody>, Failure> {
    let authority = &pool.connector().authority;
    let answer = match &mut lease {
        ConnectionLease::Http2(stream) => {
            let request = outgoing.http2(authority, body)?;
            permitted(replay)?;
            stream.sender().try_send_request(request).await
        }
        ConnectionLease::Http1(connection) => {
            let request = outgoing.http1(authority, body)?;
            let sender = connection.sender();
            sender.ready().await.map_err(Failure::NotTaken)?;
            permitted(replay)?;
            sender.try_send_request(request).await
        }
    };
    match answer {
        Ok(response) => Ok(received(response, Some(lease))),
        // What comes back was not sent.
        Err(error) if error.message().is_some() => Err(Failure::NotTaken(error.into_error())),
        Err(error) => Err(Failure::of(error.into_error())),
    }
}

fn permitted(replay: &Replay) -> Result<(), Failure> {
    if replay.is_permitted() {
        Ok(())
    } else {
        Err(Failure::NoLongerPermitted)
    }
}
