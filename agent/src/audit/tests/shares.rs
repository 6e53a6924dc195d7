//! What waits for the file is bounded in bytes, whoever filled it.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::audit::stats::WAITING_BYTES;

#[tokio::test]
async fn lines_that_wait_count_in_bytes_and_too_many_refuse_what_comes() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    let waiting = Arc::clone(&log.stats().waiting_bytes);
    let record = log.begin(received(&"x".repeat(10_000))).await.expect("room");
    assert!(record.size() > 10_000);
    record.finish(EndReason::Completed);
    log.flush().await.expect("written");
    assert_eq!(waiting.load(Relaxed), 0, "what is written waits no more");

    waiting.fetch_add(WAITING_BYTES, Relaxed);
    let refused = log.begin(received("/full")).await;
    assert!(matches!(refused, Err(AuditError::Full)));
    let begin = log.begin(received("/patient"));
    tokio::pin!(begin);
    let early = tokio::time::timeout(Duration::from_millis(50), begin.as_mut()).await;
    assert!(early.is_err(), "it waits");
    waiting.fetch_sub(WAITING_BYTES, Relaxed);
    begin.await.expect("room").finish(EndReason::Completed);
}
