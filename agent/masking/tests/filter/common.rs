//! Random bodies, random pieces, and which items are hidden.

use picket_masking::{Counts, Filter, FilterError, ItemHead};

/// Stands in every hidden item, and nowhere else.
pub(crate) const MARKER: &str = "MUST-NOT-BE-SEEN";

/// xorshift64: the same numbers in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % limit as u64) as usize
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            all.swap(at, self.below(at + 1));
        }
    }
}

/// What an item says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) namespace: &'static str,
    pub(crate) name: String,
    pub(crate) labels: Vec<(&'static str, &'static str)>,
}

impl Sample {
    pub(crate) fn new(random: &mut Random) -> Sample {
        let labels = [("app", "web"), ("tier", "open"), ("tier", "secret"), ("a/b", "")];
        Sample {
            namespace: random.pick(&["default", "dev", "hidden", ""]),
            name: format!("{}-{}", random.pick(&["web", "x", "db"]), random.below(100)),
            labels: (0..random.below(3)).map(|_| random.pick(&labels)).collect(),
        }
    }

    pub(crate) fn is_hidden(&self) -> bool {
        is_hidden(self.namespace, &self.name, self.labels.iter().copied())
    }
}

fn is_hidden<'a>(namespace: &str, name: &str, mut labels: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
    namespace == "hidden" || name.starts_with("x-") || labels.any(|label| label == ("tier", "secret"))
}

pub(crate) fn hides(head: &ItemHead<'_>) -> bool {
    let labels = head
        .labels
        .iter()
        .map(|(key, value)| (key.as_ref(), value.as_ref()));
    is_hidden(head.namespace, head.name, labels)
}

/// The whole body in pieces that `random` cuts, one byte each at times.
pub(crate) fn run(
    mut filter: Filter,
    body: &[u8],
    random: &mut Random,
) -> (Vec<u8>, Result<Counts, FilterError>) {
    let most = random.pick(&[1, 3, 70, 1000, usize::MAX]);
    let mut out = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let size = match most {
            usize::MAX => rest.len(),
            most => (1 + random.below(most)).min(rest.len()),
        };
        let (piece, after) = rest.split_at(size);
        if let Err(error) = filter.push(piece, &mut hides, &mut out) {
            assert_eq!(filter.push(b"", &mut hides, &mut out), Err(error));
            assert_eq!(filter.finish(), Err(error));
            return (out, Err(error));
        }
        rest = after;
    }
    (out, filter.finish())
}

pub(crate) fn contains_marker(out: &[u8]) -> bool {
    String::from_utf8_lossy(out).contains(MARKER)
}
