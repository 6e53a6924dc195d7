//! Tokens that were verified, so that each is verified once.
//!
//! In: a token's hash, and the generation of the keys that it was verified with. Out: the [`VerifiedToken`], whose times the
//! caller checks again. A token is found again while the keys stay as they were; its text is not kept.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use parking_lot::{Mutex, RwLock};
use picket_policy::jwt::VerifiedToken;

/// How many tokens one half of the cache holds, and how many bytes of tokens. What tokens say takes several times their length.
const HALF_ENTRIES: usize = 2048;
const HALF_BYTES: usize = 2 * 1024 * 1024;

/// Counts the changes of the issuers and of their keys. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct KeyGeneration(Arc<Generation>);

#[derive(Default)]
struct Generation {
    count: AtomicU64,
    act: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for KeyGeneration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("KeyGeneration").field(&self.current()).finish()
    }
}

impl KeyGeneration {
    /// Which keys are in force.
    pub(super) fn current(&self) -> u64 {
        self.0.count.load(Ordering::Acquire)
    }

    /// Has `act` called after each change from now on. The first such act stays.
    pub(super) fn when_advanced(&self, act: impl Fn() + Send + Sync + 'static) {
        self.0.act.get_or_init(|| Box::new(act));
    }

    /// Other keys are in force now: what was verified before is forgotten. To be called after the change.
    pub(super) fn advance(&self) {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        if let Some(act) = self.0.act.get() {
            act();
        }
    }
}

/// A token by 128 bits, with keys that nobody outside knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenHash(u64, u64);

impl TokenHash {
    pub(super) fn of(token: &[u8]) -> Self {
        static KEYS: LazyLock<(RandomState, RandomState)> = LazyLock::new(Default::default);
        Self(KEYS.0.hash_one(token), KEYS.1.hash_one(token))
    }
}

/// The token that a connection showed last: found again without the lock that all connections share.
#[derive(Debug, Default)]
pub struct LastToken(Mutex<Option<(TokenHash, u64, Arc<VerifiedToken>)>>);

impl LastToken {
    /// The token, where it is this one and was verified with the keys of this generation; else what is known of this one by
    /// `tokens`, which is kept.
    pub(super) fn find(
        &self,
        tokens: &TokenCache,
        hash: TokenHash,
        generation: u64,
    ) -> Option<Arc<VerifiedToken>> {
        let mut last = self.0.lock();
        if let Some((of, with, token)) = &*last
            && (*of, *with) == (hash, generation)
        {
            return Some(Arc::clone(token));
        }
        let token = tokens.get(hash, generation)?;
        *last = Some((hash, generation, Arc::clone(&token)));
        Some(token)
    }
}

/// Tokens that were verified.
#[derive(Debug, Default)]
pub(super) struct TokenCache(RwLock<Halves>);

/// When the young half is full it becomes the old one, whose tokens are forgotten: those in use are put again.
#[derive(Debug, Default)]
struct Halves {
    generation: u64,
    young: HashMap<TokenHash, (Arc<VerifiedToken>, usize)>,
    young_bytes: usize,
    old: HashMap<TokenHash, (Arc<VerifiedToken>, usize)>,
}

impl TokenCache {
    /// A token that was verified with the keys of this generation.
    pub(super) fn get(&self, hash: TokenHash, generation: u64) -> Option<Arc<VerifiedToken>> {
        let halves = self.0.read();
        if halves.generation != generation {
            return None;
        }
        if let Some((token, _)) = halves.young.get(&hash) {
            return Some(Arc::clone(token));
        }
        let (token, length) = halves.old.get(&hash)?;
        let (token, length) = (Arc::clone(token), *length);
        drop(halves);
        self.put(hash, generation, Arc::clone(&token), length);
        Some(token)
    }

    /// Keeps a token of this length that was verified with the keys of this generation.
    pub(super) fn put(&self, hash: TokenHash, generation: u64, token: Arc<VerifiedToken>, length: usize) {
        let mut halves = self.0.write();
        if halves.generation > generation {
            return;
        }
        if halves.generation < generation {
            *halves = Halves {
                generation,
                ..Halves::default()
            };
        }
        if halves.young.len() >= HALF_ENTRIES || halves.young_bytes + length > HALF_BYTES {
            halves.old = std::mem::take(&mut halves.young);
            halves.young_bytes = 0;
        }
        if halves.young.insert(hash, (token, length)).is_none() {
            halves.young_bytes += length;
        }
    }

    /// Keeps everybody out for as long as the result lives.
    #[cfg(test)]
    pub(super) fn hold(&self) -> impl Drop + '_ {
        self.0.write()
    }

    /// How many tokens are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let halves = self.0.read();
        halves.young.len() + halves.old.len()
    }
}
