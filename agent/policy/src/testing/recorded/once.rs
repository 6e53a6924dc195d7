//! Which lines of a log are looked at, so that each request counts once.
//!
//! In: records in the order of the log. Out: whether a record stands for its request.

use std::collections::HashSet;

use super::event::AuditEvent;

/// Most sessions that are under way at once and are known by their first line: ten times what a node carries. Of a further one both
/// lines count.
const MOST_OPEN: usize = 65_536;

/// Takes each request once: by its last line, or a session's by the first line that says how it was decided.
#[derive(Debug, Default)]
pub struct Once {
    open: HashSet<String>,
}

impl Once {
    /// Whether this record stands for its request. Refused connections, alarms and other lines stand for none.
    pub fn takes(&mut self, event: &AuditEvent) -> bool {
        if event.kind != "Event" || event.request_uri.is_empty() || event.stage == "RequestReceived" {
            return false;
        }
        if event.stage == "ResponseStarted" {
            // The API server has such a line for watches alone, and it has no field that says so.
            let is_new = !self.open.contains(&event.audit_id);
            if is_new && self.open.len() < MOST_OPEN && !event.audit_id.is_empty() {
                self.open.insert(event.audit_id.clone());
            }
            return is_new;
        }
        !self.open.remove(&event.audit_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: impl ToString, stage: &str) -> AuditEvent {
        let mut event = AuditEvent::default();
        event.kind = "Event".to_owned();
        event.audit_id = id.to_string();
        event.stage = stage.to_owned();
        event.request_uri = "/api/v1/pods?watch=1".to_owned();
        event
    }

    #[test]
    fn sessions_that_cannot_be_told_apart_each_count() {
        let mut once = Once::default();
        let stages = ["ResponseStarted", "ResponseStarted", "ResponseComplete"];
        assert_eq!(stages.map(|stage| once.takes(&line("", stage))), [true; 3]);
    }

    #[test]
    fn a_session_beyond_those_that_are_known_counts_by_both_lines() {
        let mut once = Once::default();
        for number in 0..MOST_OPEN {
            assert!(once.takes(&line(number, "ResponseStarted")));
        }
        assert!(once.takes(&line("more", "ResponseStarted")));
        assert_eq!(once.open.len(), MOST_OPEN);
        assert!(once.takes(&line("more", "ResponseComplete")));
        assert!(!once.takes(&line(7, "ResponseComplete")));
    }
}
