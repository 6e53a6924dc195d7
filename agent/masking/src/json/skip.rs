//! Finds where a JSON object or array ends.
//!
//! In: bytes in pieces of any size. Out: the place after the bracket that closes the first one. 64 bytes are classified at a
//! time, in words of eight bytes, as simdjson does with wider registers (Langdale and Lemire, "Parsing Gigabytes of JSON per
//! Second", 2019). Brackets are counted, not paired by kind: the end of well-formed JSON is the same either way.

/// How many bytes are classified at a time: one bit each in a mask.
const BLOCK: usize = 64;
const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const ODD_BITS: u64 = 0xaaaa_aaaa_aaaa_aaaa;

/// A bit for each byte of a block.
#[derive(Default)]
struct Masks {
    quotes: u64,
    backslashes: u64,
    opens: u64,
    closes: u64,
}

const fn splat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The top bit of each byte that is zero.
fn zeros(word: u64) -> u64 {
    !(((word & LOW_BITS) + LOW_BITS) | word | LOW_BITS)
}

/// One bit for each top bit, the first byte's the lowest.
fn gather(tops: u64) -> u64 {
    (tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

fn classify(block: &[u8; BLOCK]) -> Masks {
    let mut masks = Masks::default();
    let (words, _) = block.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let shift = 8 * at;
        // Brackets and braces differ in the bit 0x20 only.
        let folded = word | splat(0x20);
        masks.quotes |= gather(zeros(word ^ splat(b'"'))) << shift;
        masks.opens |= gather(zeros(folded ^ splat(b'{'))) << shift;
        masks.closes |= gather(zeros(folded ^ splat(b'}'))) << shift;
        let backslashes = zeros(word ^ splat(b'\\'));
        if backslashes != 0 {
            masks.backslashes |= gather(backslashes) << shift;
        }
    }
    masks
}

/// Each bit becomes the parity of itself and all lower ones: set from an opening quote up to its closing one.
fn parity(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

/// How far into an object or array the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Skip {
    depth: u64,
    /// All ones inside a string.
    in_string: u64,
    /// 1 after a backslash that escapes what follows.
    escaped: u64,
}

impl Skip {
    /// Goes on. The place after the closing bracket, where it is among these bytes.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Option<usize> {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        for (at, block) in blocks.iter().enumerate() {
            if let Some(end) = self.block(block, BLOCK) {
                return Some(at * BLOCK + end);
            }
        }
        if rest.is_empty() {
            return None;
        }
        let mut padded = [b' '; BLOCK];
        padded[..rest.len()].copy_from_slice(rest);
        let end = self.block(&padded, rest.len())?;
        Some(blocks.len() * BLOCK + end)
    }

    /// One block, of whose bytes the first `length` count; the others are spaces.
    fn block(&mut self, block: &[u8; BLOCK], length: usize) -> Option<usize> {
        let masks = classify(block);
        let escaped = self.escapes(masks.backslashes, length);
        let in_string = parity(masks.quotes & !escaped) ^ self.in_string;
        self.in_string = 0u64.wrapping_sub(in_string >> 63);
        let opens = masks.opens & !in_string;
        let closes = masks.closes & !in_string;
        let closing = u64::from(closes.count_ones());
        if closing < self.depth {
            self.depth += u64::from(opens.count_ones());
            self.depth -= closing;
            return None;
        }
        let mut brackets = opens | closes;
        while brackets != 0 {
            let at = brackets.trailing_zeros();
            if opens >> at & 1 == 1 {
                self.depth += 1;
            } else {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return Some(at as usize + 1);
                }
            }
            brackets &= brackets - 1;
        }
        None
    }

    /// The bytes that a backslash escapes.
    fn escapes(&mut self, backslashes: u64, length: usize) -> u64 {
        let before = self.escaped;
        if backslashes == 0 {
            self.escaped = 0;
            return before;
        }
        let starts = backslashes & !before;
        let after = starts << 1;
        let escaping_or_last = ((after | ODD_BITS).wrapping_sub(starts)) ^ ODD_BITS;
        let escaped = escaping_or_last ^ (backslashes | before);
        self.escaped = match length {
            BLOCK => (escaping_or_last & backslashes) >> 63,
            _ => escaped >> length & 1,
        };
        escaped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One byte after the other.
    fn plain(bytes: &[u8]) -> Option<usize> {
        let (mut depth, mut in_string, mut escaped) = (0, false, false);
        for (at, byte) in bytes.iter().enumerate() {
            if escaped {
                escaped = false;
                continue;
            }
            match byte {
                b'\\' => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }

    #[test]
    fn agrees_with_one_byte_at_a_time_in_pieces_of_any_size() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let length = random() % 300;
            let mut text = b"{".to_vec();
            // Strings hold any of them; outside stand brackets only, as in JSON.
            let mut in_string = false;
            while (text.len() as u64) < length {
                match (in_string, random() % 8) {
                    (false, 0) => text.push(b'{'),
                    (false, 1) => text.push(b'}'),
                    (false, 2) => text.push(b'['),
                    (false, 3) => text.push(b']'),
                    (false, 4) | (true, 0) => {
                        text.push(b'"');
                        in_string = !in_string;
                    }
                    (true, 1) => text.extend(b"\\\""),
                    (true, 2) => text.extend(b"\\\\"),
                    (true, 3) => text.extend(b"}]"),
                    _ => text.push(b"aZ\xdb\xfd\x00 5,"[random() as usize % 8]),
                }
            }
            let expected = plain(&text);
            assert_eq!(Skip::default().advance(&text), expected);
            let (mut skip, mut at, mut found) = (Skip::default(), 0, None);
            while at < text.len() && found.is_none() {
                let size = (1 + random() as usize % 90).min(text.len() - at);
                found = skip.advance(&text[at..at + size]).map(|end| at + end);
                at += size;
            }
            assert_eq!(found, expected, "{}", String::from_utf8_lossy(&text));
        }
    }
}
