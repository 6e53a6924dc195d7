//! How far the agent is: one value that its parts move, and that its parts wait for.
//!
//! In: word of each part that reached a phase, or that lent the kernel to another agent. Out: whoever waits for that goes on.
//!
//! Three tracks run beside each other. The phases of the first two are reached once and stay reached.
//!
//! ```text
//!  track of this agent                               track of its predecessor (all reached where none runs)
//!
//!   (start)                                           (serves)
//!      | enforce::endpoints: the kernel has all          | upgrade::successor: the predecessor takes nothing
//!      v protected endpoints                             v back while this agent lives
//!  EndpointsEnforced                                 PredecessorAgreed
//!      | app::initial_sync: every pod of the start       | upgrade::successor: the predecessor accepts no
//!      v is classified                                   v more connections, or is gone
//!  Synced                                            PredecessorStopped
//!      | app::initial_sync, after PredecessorAgreed:
//!      v programs of other map layouts are detached
//!  Established
//!
//!  track of the kernel write lease
//!
//!   held <-----> lent   upgrade::predecessor lends it to a successor, and takes it back where the upgrade fails;
//!                       upgrade::successor lends it for good where its predecessor keeps serving
//!
//!  (end)                app: the process stops; whoever still waits is told, and nobody holds the lease again
//! ```
//!
//! | who waits | for |
//! |---|---|
//! | `upgrade::successor` | Synced, and says so to the predecessor; Established, and has the predecessor stop |
//! | `app::initial_sync` | EndpointsEnforced, then PredecessorAgreed |
//! | the node's listener of a successor; the gateway | Established |
//! | the configured name of the admin socket, the reader of the kernel's events | PredecessorStopped |
//! | the upgrade socket, the checkpoint | Established and PredecessorStopped |
//! | `kernel::lease`, and by it all that change the kernel; `workload::pause` | the lease to be held |

use tokio::sync::watch;

/// A point that an agent passes once. The module's documentation has the diagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The kernel has all protected endpoints.
    EndpointsEnforced,
    /// And every pod that was there at the start is classified.
    Synced,
    /// And no kernel programs of other map layouts are attached.
    Established,
    /// The predecessor takes nothing back while this agent lives: its programs may be detached.
    PredecessorAgreed,
    /// The predecessor accepts no more connections and reads no more of the kernel's events.
    PredecessorStopped,
}

impl Phase {
    /// The phase with those before it on its track, as bits.
    fn bits(self) -> u8 {
        match self {
            Self::EndpointsEnforced => 0b1,
            Self::Synced => 0b11,
            Self::Established => 0b111,
            Self::PredecessorAgreed => 0b1_000,
            Self::PredecessorStopped => 0b11_000,
        }
    }
}

/// All three tracks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct State {
    reached: u8,
    lent: bool,
    /// How often the lease was lent or taken back.
    moves: u64,
    ended: bool,
}

impl State {
    fn has(self, phase: Phase) -> bool {
        self.reached & phase.bits() == phase.bits()
    }
}

/// The kernel write lease at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelLease {
    /// Another agent has it.
    pub lent: bool,
    /// How often it was lent or taken back.
    pub moves: u64,
    /// The process stops.
    pub ended: bool,
}

/// The agent stops, so that what was waited for does not come any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is stopping")]
pub struct Stopping;

/// Moves the phase; cheap to clone.
#[derive(Debug, Clone)]
pub struct PhaseControl(watch::Sender<State>);

impl PhaseControl {
    /// The start of an agent: a successor's where a predecessor runs.
    #[must_use]
    pub fn new(predecessor_runs: bool) -> Self {
        let reached = if predecessor_runs {
            0
        } else {
            Phase::PredecessorStopped.bits()
        };
        Self(watch::Sender::new(State {
            reached,
            ..State::default()
        }))
    }

    /// Where the phase can be waited for.
    #[must_use]
    pub fn watch(&self) -> PhaseWatch {
        PhaseWatch(self.0.subscribe())
    }

    /// A phase is reached, and with it those before it on its track. To reach one again changes nothing.
    pub fn reach(&self, phase: Phase) {
        self.change(|state| state.reached |= phase.bits());
    }

    /// Another agent changes the kernel from now on, and this one does not.
    pub fn lend(&self) {
        self.change(|state| {
            state.moves += u64::from(!state.lent);
            state.lent = true;
        });
    }

    /// This agent changes the kernel again. False where it did all the time.
    pub fn take_back(&self) -> bool {
        self.change(|state| {
            state.moves += u64::from(state.lent);
            state.lent = false;
        })
    }

    /// The process stops.
    pub fn end(&self) {
        self.change(|state| state.ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> bool {
        self.0.send_if_modified(|state| {
            let before = *state;
            change(state);
            *state != before
        })
    }
}

/// Waits for phases; cheap to clone.
#[derive(Debug, Clone)]
pub struct PhaseWatch(watch::Receiver<State>);

impl PhaseWatch {
    /// Waits until the phase is reached.
    ///
    /// # Errors
    /// [`Stopping`] where the agent stops before that.
    pub async fn reached(&self, phase: Phase) -> Result<(), Stopping> {
        self.until(|state| state.has(phase)).await
    }

    /// Whether the phase is reached.
    #[must_use]
    pub fn has_reached(&self, phase: Phase) -> bool {
        self.0.borrow().has(phase)
    }

    /// Whether the agent stops.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.borrow().ended
    }

    /// The kernel write lease now.
    #[must_use]
    pub fn lease(&self) -> KernelLease {
        let State {
            lent, moves, ended, ..
        } = *self.0.borrow();
        KernelLease { lent, moves, ended }
    }

    /// Waits until the lease is lent, or held.
    ///
    /// # Errors
    /// [`Stopping`] where the agent stops before that.
    pub async fn lent(&self, lent: bool) -> Result<(), Stopping> {
        self.until(|state| state.lent == lent).await
    }

    /// Waits until the lease was lent or taken back another time than these.
    ///
    /// # Errors
    /// [`Stopping`] where the agent stops before that.
    pub async fn moved(&self, moves: u64) -> Result<(), Stopping> {
        self.until(|state| state.moves != moves).await
    }

    async fn until(&self, is: impl Fn(&State) -> bool) -> Result<(), Stopping> {
        let mut state = self.0.clone();
        match state.wait_for(|state| is(state) || state.ended).await {
            Ok(state) if is(&state) => Ok(()),
            _ => Err(Stopping),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::time::timeout;

    use super::*;

    const ALL: [Phase; 5] = [
        Phase::EndpointsEnforced,
        Phase::Synced,
        Phase::Established,
        Phase::PredecessorAgreed,
        Phase::PredecessorStopped,
    ];

    fn reached(watch: &PhaseWatch) -> Vec<Phase> {
        ALL.into_iter()
            .filter(|phase| watch.has_reached(*phase))
            .collect()
    }

    #[test]
    fn each_track_goes_its_way_and_never_back() {
        let control = PhaseControl::new(true);
        let watch = control.watch();
        assert_eq!(reached(&watch), []);
        control.reach(Phase::Synced);
        control.reach(Phase::EndpointsEnforced);
        assert_eq!(reached(&watch), ALL[..2]);
        control.reach(Phase::PredecessorStopped);
        control.reach(Phase::PredecessorAgreed);
        assert_eq!(reached(&watch), [ALL[0], ALL[1], ALL[3], ALL[4]]);
        control.reach(Phase::Established);
        assert_eq!(reached(&watch), ALL);
        let alone = PhaseControl::new(false).watch();
        assert_eq!(reached(&alone), ALL[3..], "nobody to wait for");
    }

    #[tokio::test]
    async fn a_phase_wakes_whoever_waits_for_it_and_was_reached_for_who_comes_later() {
        let control = PhaseControl::new(true);
        let watch = control.watch();
        assert_eq!(watch.reached(Phase::Synced).now_or_never(), None);
        let waiting = tokio::spawn(async move { watch.reached(Phase::Synced).await });
        control.reach(Phase::Synced);
        let woken = timeout(Duration::from_secs(5), waiting).await;
        assert_eq!(woken.unwrap().unwrap(), Ok(()));
        let later = control.watch();
        assert_eq!(
            later.reached(Phase::EndpointsEnforced).now_or_never(),
            Some(Ok(()))
        );
    }

    #[test]
    fn the_lease_goes_and_comes_back_and_each_move_counts() {
        let control = PhaseControl::new(false);
        let watch = control.watch();
        assert!(!control.take_back(), "it was never lent");
        control.lend();
        control.lend();
        assert_eq!((watch.lease().lent, watch.lease().moves), (true, 1));
        assert_eq!(watch.lent(false).now_or_never(), None);
        assert!(control.take_back());
        assert_eq!((watch.lease().lent, watch.lease().moves), (false, 2));
        assert_eq!(watch.lent(false).now_or_never(), Some(Ok(())));
        assert_eq!(watch.moved(2).now_or_never(), None);
        assert_eq!(watch.moved(0).now_or_never(), Some(Ok(())));
    }

    #[tokio::test]
    async fn where_the_agent_stops_nobody_waits_on_and_what_was_reached_stays_so() {
        let control = PhaseControl::new(false);
        let watch = control.watch();
        let waiting = {
            let watch = watch.clone();
            tokio::spawn(async move { watch.reached(Phase::Established).await })
        };
        control.end();
        let woken = timeout(Duration::from_secs(5), waiting).await;
        assert_eq!(woken.unwrap().unwrap(), Err(Stopping));
        assert_eq!(watch.lent(true).await, Err(Stopping));
        assert_eq!(watch.reached(Phase::PredecessorStopped).await, Ok(()));
        assert!(watch.has_ended() && watch.lease().ended);
    }
}
