//! When a root is replaced: a state machine that does no I/O and reads no clock.
//!
//! In: the validity of the current root, what is known of the next one and of earlier ones, and the time. Out: the one step that
//! is due.
//!
//! A root goes through: current -> current and next in every bundle -> next signs, the earlier one stays in the bundles -> gone.

use std::time::{Duration, SystemTime};

use crate::authority::NODE_CA_LIFETIME;

/// How long both roots are in every bundle before the next one signs. A kubelet refreshes mounted ConfigMaps within two minutes, and
/// client-go of 1.36 and later reads `ca.crt` again within five (transport/ca_rotation.go). Older client-go, and Python's, Java's and
/// JavaScript's clients read it once, at their start. A day lets jobs end and daily restarts happen; a process that runs longer and
/// reads the file once has to be restarted within that day.
pub(crate) const OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// How far a clock may be off while certificates of an earlier root still count as valid somewhere.
const SKEW: Duration = Duration::from_secs(3600);

/// What is known of the roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RotationView {
    /// The root that signs: from when until when the certificate is valid.
    pub(crate) current: (SystemTime, SystemTime),
    /// A person asked for another root.
    pub(crate) requested: bool,
    /// The root that will sign, if there is one.
    pub(crate) next: Option<NextView>,
    /// Until when each earlier root stays in the bundles.
    pub(crate) retired: Vec<SystemTime>,
    /// Whether every bundle holds what it should hold now.
    pub(crate) published: bool,
}

/// What is known of the next root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextView {
    /// Since when every bundle has held it.
    pub(crate) published_at: Option<SystemTime>,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RotationStep {
    /// Make the next root.
    MakeNext,
    /// Write down that every bundle holds the next root.
    NotePublished,
    /// The next root signs from now on, and the current one stays in the bundles until then.
    Move { retire_until: SystemTime },
    /// Take the earlier roots out of the bundles whose time is over.
    DropRetired,
}

/// How far a rotation is, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RotationState {
    /// There is none.
    Idle,
    /// Some bundle lacks the next root.
    Publishing,
    /// Every bundle had the next root once; it does not sign yet.
    Overlap,
    /// The new root signs, and an earlier one is in the bundles still.
    Retiring,
    /// Whoever keeps the root has to replace it.
    Overdue,
}

impl RotationState {
    pub(crate) const ALL: [Self; 5] = [
        Self::Idle,
        Self::Publishing,
        Self::Overlap,
        Self::Retiring,
        Self::Overdue,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Publishing => "publishing",
            Self::Overlap => "overlap",
            Self::Retiring => "retiring",
            Self::Overdue => "overdue",
        }
    }
}

impl RotationView {
    /// The state of a root that the controller keeps itself.
    pub(crate) fn state(&self) -> RotationState {
        match self.next {
            Some(NextView { published_at: None }) => RotationState::Publishing,
            Some(_) => RotationState::Overlap,
            None if !self.retired.is_empty() => RotationState::Retiring,
            None => RotationState::Idle,
        }
    }
}

/// The step that is due, if any.
pub(crate) fn due(view: &RotationView, now: SystemTime) -> Option<RotationStep> {
    if view.retired.iter().any(|until| *until <= now) {
        return Some(RotationStep::DropRetired);
    }
    let (from, to) = view.current;
    let Some(next) = view.next else {
        let life = to.duration_since(from).unwrap_or_default();
        let is_old = now >= from + life * 2 / 3;
        return (view.requested || is_old).then_some(RotationStep::MakeNext);
    };
    let moving = RotationStep::Move {
        retire_until: retire_until(now),
    };
    // Nothing that an expired root signs is accepted: waiting would help nobody.
    if now >= to {
        return Some(moving);
    }
    // While a bundle lacks the next root, its pods would refuse what that root signs.
    if !view.published {
        return None;
    }
    match next.published_at {
        None => Some(RotationStep::NotePublished),
        Some(at) if now >= at + OVERLAP => Some(moving),
        Some(_) => None,
    }
}

/// Until when a root stays in the bundles that has signed until now: as long as the last node CA that it signed may be valid.
pub(crate) fn retire_until(now: SystemTime) -> SystemTime {
    now + NODE_CA_LIFETIME + SKEW
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::ROOT_LIFETIME;

    const HOUR: Duration = Duration::from_secs(3600);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn view() -> RotationView {
        RotationView {
            current: (start(), start() + ROOT_LIFETIME),
            requested: false,
            next: None,
            retired: Vec::new(),
            published: true,
        }
    }

    #[test]
    fn a_next_root_is_made_after_two_thirds_of_the_life_or_when_a_person_asks() {
        let two_thirds = start() + ROOT_LIFETIME * 2 / 3;
        assert_eq!(due(&view(), two_thirds - HOUR), None);
        assert_eq!(due(&view(), two_thirds), Some(RotationStep::MakeNext));
        let asked = RotationView {
            requested: true,
            ..view()
        };
        assert_eq!(due(&asked, start()), Some(RotationStep::MakeNext));
        let made = RotationView {
            next: Some(NextView { published_at: None }),
            published: false,
            ..asked
        };
        assert_eq!(due(&made, two_thirds), None, "one next root is enough");
    }

    #[test]
    fn the_overlap_begins_when_every_bundle_holds_the_next_root() {
        let mut made = RotationView {
            next: Some(NextView { published_at: None }),
            published: false,
            ..view()
        };
        assert_eq!(due(&made, start() + 100 * HOUR), None, "a bundle lacks it");
        assert_eq!(made.state(), RotationState::Publishing);
        made.published = true;
        assert_eq!(due(&made, start()), Some(RotationStep::NotePublished));

        made.next = Some(NextView {
            published_at: Some(start()),
        });
        assert_eq!(made.state(), RotationState::Overlap);
        assert_eq!(due(&made, start() + OVERLAP - HOUR), None);
        let moved = due(&made, start() + OVERLAP);
        let retire_until = start() + OVERLAP + NODE_CA_LIFETIME + SKEW;
        assert_eq!(moved, Some(RotationStep::Move { retire_until }));
        made.published = false;
        assert_eq!(due(&made, start() + OVERLAP), None, "a new namespace lacks it");
    }

    #[test]
    fn an_expired_root_gives_way_at_once() {
        let made = RotationView {
            next: Some(NextView { published_at: None }),
            published: false,
            ..view()
        };
        let end = start() + ROOT_LIFETIME;
        assert_eq!(due(&made, end - HOUR), None);
        assert!(matches!(due(&made, end), Some(RotationStep::Move { .. })));
        assert_eq!(due(&view(), end), Some(RotationStep::MakeNext));
    }

    #[test]
    fn an_earlier_root_goes_when_nothing_that_it_signed_can_be_valid() {
        let moved = start();
        let after = RotationView {
            retired: vec![retire_until(moved)],
            ..view()
        };
        assert_eq!(
            (after.state(), view().state()),
            (RotationState::Retiring, RotationState::Idle)
        );
        assert_eq!(
            due(&after, moved + NODE_CA_LIFETIME),
            None,
            "a clock may be behind"
        );
        assert_eq!(
            due(&after, moved + NODE_CA_LIFETIME + SKEW),
            Some(RotationStep::DropRetired)
        );
    }
}
