//! A list of 10 MB, read again and again on one connection: how fast it comes, and what it costs the target in CPU time.
//!
//! The first one of each target is compared with the direct one, byte by byte.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::BodyExt;

use super::client::{Connection, Dialer};
use super::{Session, megabytes_per_second, on_one_thread, seconds_per_gigabyte};
use crate::plan::{Protocol, Target};
use crate::process;

const SPEED: &str = "list-10mb";
const CPU: &str = "list-10mb-cpu";

/// Reads the list from each target in turn.
pub(crate) fn measure(session: &mut Session) -> Result<()> {
    let lists = session.plan.extent.lists;
    let Some(path) = session.plan.paths.list.clone() else {
        return Ok(());
    };
    if lists == 0 || !session.wants(&[SPEED, CPU]) {
        return Ok(());
    }
    for protocol in session.plan.protocols.clone() {
        let mut expected = None;
        for target in session.plan.targets.clone() {
            let read = on_one_thread(read(&target, protocol, &path, lists, &mut expected))?;
            let (bytes, took, cpu) = read;
            session.add(
                SPEED,
                protocol,
                "MB/s",
                &target,
                megabytes_per_second(bytes, took),
            );
            if !target.pids.is_empty() {
                session.add(CPU, protocol, "s/GB", &target, seconds_per_gigabyte(cpu, bytes));
            }
        }
    }
    Ok(())
}

async fn read(
    target: &Target,
    protocol: Protocol,
    path: &str,
    lists: usize,
    expected: &mut Option<Bytes>,
) -> Result<(u64, Duration, Duration)> {
    let mut connection = Dialer::new(target, protocol)?.dial().await?;
    let body = connection.start(path).await?.into_body();
    let whole = body.collect().await.context("the list broke off")?.to_bytes();
    let expected = expected.get_or_insert_with(|| whole.clone());
    ensure!(
        *expected == whole,
        "{}: the list differs from the direct one",
        target.name
    );
    let (cpu, start) = (process::cpu_time(&target.pids)?, Instant::now());
    let mut sum = 0;
    for _ in 0..lists {
        let bytes = count(&mut connection, path).await?;
        ensure!(
            bytes == expected.len(),
            "{}: a list of {bytes} bytes",
            target.name
        );
        sum += bytes as u64;
    }
    let took = start.elapsed();
    Ok((sum, took, process::cpu_time(&target.pids)?.saturating_sub(cpu)))
}

async fn count(connection: &mut Connection, path: &str) -> Result<usize> {
    let mut body = connection.start(path).await?.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(bytes)
}
