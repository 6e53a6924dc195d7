//! The right to use one stream of a connection, or a whole connection, for one request.
//!
//! In: a connection of the pool. Out: its sender and its credential, until the lease is dropped.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hyper::client::conn::{http1, http2};

use super::{Http1, Http2, Pool};
use crate::upstream::body::RequestBody;
use crate::upstream::credential::UsedCredential;

/// One stream of a connection, or a whole one; given back when dropped.
pub(in crate::upstream) enum ConnectionLease {
    Http2(Http2Lease),
    Http1(Http1Lease),
}

pub(in crate::upstream) struct Http2Lease {
    pub(super) pool: Arc<Pool>,
    pub(super) connection: Arc<Http2>,
}

pub(in crate::upstream) struct Http1Lease {
    pub(super) pool: Arc<Pool>,
    pub(super) connection: Http1,
}

impl ConnectionLease {
    /// The credential that the connection was made with.
    pub(in crate::upstream) fn credential(&self) -> &UsedCredential {
        match self {
            ConnectionLease::Http2(slot) => &slot.connection.credential,
            ConnectionLease::Http1(slot) => &slot.connection.credential,
        }
    }

    /// The response has ended as it should; the connection can serve another.
    pub(in crate::upstream) fn finished(self) {
        if let ConnectionLease::Http1(Http1Lease { pool, mut connection }) = self
            && !connection.sender.is_closed()
        {
            connection.idle_since = Instant::now();
            pool.http1.lock().push(connection);
        }
    }
}

impl Http2Lease {
    pub(in crate::upstream) fn sender(&self) -> http2::SendRequest<RequestBody> {
        self.connection.sender.clone()
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        if self.connection.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
            let now = self.pool.began.elapsed().as_millis() as u64;
            self.connection.idle_since.store(now, Ordering::Relaxed);
        }
        self.pool.hand_out();
    }
}

impl Http1Lease {
    pub(in crate::upstream) fn sender(&mut self) -> &mut http1::SendRequest<RequestBody> {
        &mut self.connection.sender
    }
}

impl fmt::Debug for ConnectionLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectionLease::Http2(_) => "Http2",
            ConnectionLease::Http1(_) => "Http1",
        })
    }
}
