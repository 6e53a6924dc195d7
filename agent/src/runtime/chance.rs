//! Numbers by chance, so that nodes that learn of something together do not act together.
//!
//! In: nothing. Out: a number from 0 to 1. It is no secret and keeps none.

/// A number from 0 to 1.
#[must_use]
pub fn chance() -> f64 {
    f64::from(u32::try_from(uuid::Uuid::new_v4().as_u128() & 0xffff_ffff).unwrap_or_default())
        / f64::from(u32::MAX)
}
