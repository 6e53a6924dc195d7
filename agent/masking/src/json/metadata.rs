//! The metadata of a list.
//!
//! In: the value of the list's `metadata`. Out: the same without `remainingItemCount`, which counts what the client may not
//! see. What is no list's metadata is an error: then the response is another object.

use super::cursor::each_member;
use crate::error::FilterError;

/// `ListMeta` of meta.k8s.io/v1.
const KNOWN: [&str; 4] = ["selfLink", "resourceVersion", "continue", "shardInfo"];

/// Takes `remainingItemCount` out.
pub(super) fn without_count(metadata: &[u8]) -> Result<Vec<u8>, FilterError> {
    let mut out = Vec::with_capacity(metadata.len());
    let mut copied = 0;
    // What comes before the next member that stays: nothing of the separator goes with a member that was first.
    let mut stays = false;
    each_member(metadata, |member| {
        let key = member.key.as_ref();
        if key == "remainingItemCount" {
            if copied == 0 {
                out.extend_from_slice(&metadata[..member.place.start]);
            }
            copied = copied.max(member.place.end);
            return Ok(());
        }
        if !KNOWN.contains(&key) {
            return Err(FilterError::NotAList("its metadata has members that no list has"));
        }
        let between = &metadata[copied..member.place.start];
        match copied {
            0 => out.extend_from_slice(between),
            _ if stays => out.extend_from_slice(between),
            // All before it were taken out, and so is the comma after them.
            _ => {}
        }
        out.extend_from_slice(&metadata[member.place.clone()]);
        copied = member.place.end;
        stays = true;
        Ok(())
    })?;
    out.extend_from_slice(&metadata[copied..]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_goes_and_all_else_stays() {
        let cases = [
            (r#"{}"#, r#"{}"#),
            (r#"{"resourceVersion":"1"}"#, r#"{"resourceVersion":"1"}"#),
            (r#"{"remainingItemCount":5}"#, r#"{}"#),
            (r#"{ "remainingItemCount" : 5 }"#, r#"{  }"#),
            (
                r#"{"remainingItemCount":5,"continue":"a"}"#,
                r#"{"continue":"a"}"#,
            ),
            (
                r#"{"continue":"a","remainingItemCount":5}"#,
                r#"{"continue":"a"}"#,
            ),
            (
                r#"{"resourceVersion":"1", "remainingItemCount":5, "remaining\u0049temCount":6, "continue":"a"}"#,
                r#"{"resourceVersion":"1", "continue":"a"}"#,
            ),
            (
                r#"{"remainingItemCount":5,"remainingItemCount":6,"continue":"a"}"#,
                r#"{"continue":"a"}"#,
            ),
        ];
        for (given, expected) in cases {
            let out = without_count(given.as_bytes()).expect("list metadata");
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
        assert!(without_count(br#"{"name":"a"}"#).is_err());
    }
}
