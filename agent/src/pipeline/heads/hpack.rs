//! Finds a `:path` in a block of HPACK that h2 would not hand on as it is, and moves its value into a field of its own.
//!
//! In: a header block (RFC 7541). Out: a block that decodes to the same fields, but for the path. Such a path is long, or has a
//! fragment ([`fragment`]). Each representation says where it ends, so none has to be understood. An entry that is larger than
//! the table empties it (section 4.4). So a path of the table's size has the same effect on the table as the longer one.

/// From here on a value may be too long for a URI when it is decoded: 65,534 characters of at least 5 bits each.
const LONG_VALUE: usize = 40_000;

/// The largest table that we let a client have (SETTINGS_HEADER_TABLE_SIZE, its default).
const TABLE: usize = 4096;

/// `:path` in the static table (RFC 7541 appendix A).
const PATH_INDICES: [usize; 2] = [4, 5];

/// The first octet of a literal with incremental indexing and the name `:path`, and of one without indexing.
const PATH_INDEXED: u8 = 0x44;
const PATH_NOT_INDEXED: u8 = 0x04;

/// The first octet of a literal without indexing whose name follows.
const NEW_NAME: u8 = 0x00;

/// One representation.
struct Field<'a> {
    end: usize,
    /// The value of a literal `:path` as it stands, with its length.
    path: Option<&'a [u8]>,
    indexed: bool,
}

/// Where a path goes that is moved.
pub(super) struct Destination<'a> {
    /// The field for its value.
    pub(super) name: &'a str,
    /// What stands in the place of a long one.
    pub(super) path: &'a str,
}

/// The block with a path's value in a field of its own, and another in its place: a long path, or one with a fragment. `None`
/// where there is none, or the block cannot be read.
pub(super) fn move_path(block: &[u8], long: &Destination<'_>, fragments: &str) -> Option<Vec<u8>> {
    let mut at = 0;
    while at < block.len() {
        let field = field(block, at)?;
        let (name, path) = match field.path {
            Some(value) if value.len() >= LONG_VALUE => {
                let padding = if field.indexed { TABLE } else { 0 };
                (long.name, format!("{}{}", long.path, "x".repeat(padding)))
            }
            Some(value) => match fragment(value) {
                Some(length) => (fragments, unreadable(length)),
                None => return None,
            },
            None => {
                at = field.end;
                continue;
            }
        };
        let mut moved = block[..at].to_vec();
        moved.push(if field.indexed {
            PATH_INDEXED
        } else {
            PATH_NOT_INDEXED
        });
        string(&path, &mut moved);
        moved.extend_from_slice(&block[field.end..]);
        moved.push(NEW_NAME);
        string(name, &mut moved);
        moved.extend_from_slice(field.path?);
        return Some(moved);
    }
    None
}

/// Whether the path of a block has a fragment.
pub(super) fn has_fragment(block: &[u8]) -> bool {
    let mut at = 0;
    while let Some(field) = field(block, at) {
        if let Some(value) = field.path {
            return fragment(value).is_some();
        }
        at = field.end;
    }
    false
}

/// A path of a length that no stage can read. It takes as much of the table as the one that it stands for, and a client that
/// refers to it there is refused too.
fn unreadable(length: usize) -> String {
    match length {
        0 | 1 => "*".to_owned(),
        length => format!("/{}", "\\".repeat(length - 1)),
    }
}

/// The representation that begins at `at` (section 6).
fn field(block: &[u8], at: usize) -> Option<Field<'_>> {
    let first = *block.get(at)?;
    let (prefix, literal) = match first {
        0x80.. => (7, false),
        0x40.. => (6, true),
        0x20.. => (5, false),
        _ => (4, true),
    };
    let (index, mut end) = integer(block, at, prefix)?;
    if !literal {
        return Some(Field {
            end,
            path: None,
            indexed: false,
        });
    }
    let mut is_path = PATH_INDICES.contains(&index);
    if index == 0 {
        let name = end;
        end = skip(block, name)?;
        is_path = [&b"\x05:path"[..], b"\x84\xb9\x58\xd3\x3f"].contains(&&block[name..end]);
    }
    let value = end;
    end = skip(block, value)?;
    Some(Field {
        end,
        path: is_path.then(|| &block[value..end]),
        indexed: first >= 0x40,
    })
}

/// Where the string ends that begins at `at` (section 5.2).
fn skip(block: &[u8], at: usize) -> Option<usize> {
    let (length, begin) = integer(block, at, 7)?;
    let end = begin.checked_add(length)?;
    (end <= block.len()).then_some(end)
}

/// An integer with a prefix of so many bits, and where it ends (section 5.1).
fn integer(block: &[u8], at: usize, prefix: u32) -> Option<(usize, usize)> {
    let most = (1usize << prefix) - 1;
    let first = usize::from(*block.get(at)?) & most;
    if first < most {
        return Some((first, at + 1));
    }
    let mut value = most;
    for (index, byte) in block.get(at + 1..)?.iter().take(4).enumerate() {
        value += usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, at + 2 + index));
        }
    }
    None
}

/// How many of Huffman's codes have each length (RFC 7541 appendix B). The codes of one length follow on another, and on those
/// that are shorter, so that these numbers say where each code ends.
const CODES: [(u32, u32); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];

/// The code of `#`, and how many ones follow on another in it; no run in a usual path is as long.
const FRAGMENT_CODE: (u32, u32) = (12, 0xffa);
const FRAGMENT_ONES: u32 = 9;

/// The decoded length of a string that has a `#`; `None` of one that has none, or cannot be read.
fn fragment(value: &[u8]) -> Option<usize> {
    let (length, begin) = integer(value, 0, 7)?;
    let text = value.get(begin..)?;
    if value.first()? & 0x80 == 0 {
        return memchr::memchr(b'#', text).map(|_| length);
    }
    let runs = |pair: &[u8]| pair[0].trailing_ones() + pair[1].leading_ones() >= FRAGMENT_ONES;
    text.windows(2).any(runs).then(|| decoded(text)).flatten()
}

/// The number of characters that a string of Huffman's codes has, where `#` is among them.
fn decoded(text: &[u8]) -> Option<usize> {
    let (mut characters, mut found) = (0, false);
    let (mut code, mut bits) = (0u32, 0u32);
    for byte in text {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            bits += 1;
            if is_code(bits, code) {
                found |= (bits, code) == FRAGMENT_CODE;
                characters += 1;
                (code, bits) = (0, 0);
            } else if bits > 30 {
                return None;
            }
        }
    }
    found.then_some(characters)
}

/// Whether bits that begin with no shorter code are one.
fn is_code(bits: u32, code: u32) -> bool {
    let (mut first, mut before) = (0u32, 0);
    for (length, count) in CODES {
        first <<= length - before;
        if length == bits {
            return code < first + count;
        }
        (first, before) = (first + count, length);
    }
    false
}

/// Writes a string as it is.
fn string(text: &str, out: &mut Vec<u8>) {
    let mut length = text.len();
    if length < 0x7f {
        out.push(length as u8);
    } else {
        out.push(0x7f);
        length -= 0x7f;
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
    }
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved_to(block: &[u8], name: &str, path: &str) -> Option<Vec<u8>> {
        move_path(block, &Destination { name, path }, "fragments")
    }

    #[test]
    fn a_path_with_a_fragment_moves_and_takes_as_much_of_the_table() {
        // `/seed#x` and `/seed`, as RFC 7541's appendix B codes them.
        let coded = |bits: &str| {
            let padded = format!("{bits}{}", "1".repeat((8 - bits.len() % 8) % 8));
            let bytes = padded.as_bytes().chunks(8);
            let bytes = bytes.map(|byte| u8::from_str_radix(std::str::from_utf8(byte).expect("bits"), 2));
            let bytes: Vec<u8> = bytes.map(|byte| byte.expect("a byte")).collect();
            [&[0x80 | bytes.len() as u8][..], &bytes].concat()
        };
        let seed = "011000010000010100101100100";
        let mut plain = Vec::new();
        string("/seed#x", &mut plain);
        for value in [plain, coded(&format!("{seed}1111111110101111001"))] {
            for first in [
                &[0x44][..],
                &[0x04],
                &[0x05],
                b"\x40\x05:path",
                b"\x10\x84\xb9\x58\xd3\x3f",
            ] {
                let block = [&[0x82], first, &value, &[0x87]].concat();
                assert!(has_fragment(&block), "{block:x?}");
                let moved = moved_to(&block, "moved", "/stand-in").expect("moved");
                let path = field(&moved, 1).expect("a path");
                assert_eq!(path.path.expect("a path"), b"\x07/\\\\\\\\\\\\");
                assert_eq!(path.indexed, first[0] & 0xc0 == 0x40);
                assert_eq!(moved[path.end], 0x87);
                assert_eq!(
                    moved[path.end + 1..],
                    [&b"\x00\x09fragments"[..], &value].concat()
                );
            }
        }
        // A path without one, one that ends in a code with as many ones (`>`), and a fragment in another field.
        for value in [coded(seed), coded(&format!("{seed}111111111011"))] {
            let block = [&[0x82, 0x04][..], &value].concat();
            assert!(!has_fragment(&block) && moved_to(&block, "m", "/").is_none());
        }
        let mut other = vec![0x82, 0x41];
        string("kubernetes#", &mut other);
        assert!(!has_fragment(&other));
        assert_eq!([0, 1, 2].map(unreadable), ["*", "*", "/\\"]);
    }

    #[test]
    fn integers_are_those_of_the_rfc() {
        // Appendix C.1.
        assert_eq!(integer(&[0b1110_1010], 0, 5), Some((10, 1)));
        assert_eq!(integer(&[0b0001_1111, 154, 10], 0, 5), Some((1337, 3)));
        assert_eq!(integer(&[0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 1], 0, 5), None);
        assert_eq!(integer(&[0x1f], 0, 5), None);
        for length in [0, 1, 126, 127, 128, 255, 4096, 100_000] {
            let mut out = Vec::new();
            string(&"x".repeat(length), &mut out);
            let (read, begin) = integer(&out, 0, 7).expect("an integer");
            assert_eq!((read, begin + length), (length, out.len()));
        }
    }

    #[test]
    fn a_long_path_moves_and_all_else_stays() {
        let mut value = Vec::new();
        string(&format!("/{}", "a".repeat(50_000)), &mut value);
        for first in [0x44, 0x04, 0x14] {
            // A table size update, :method GET, the path, a new name with a value.
            let before = [0x3f, 0xe1, 0x1f, 0x82];
            let behind = [0x40, 1, b'x', 2, b'y', b'z', 0x87];
            let block = [&before[..], &[first], &value, &behind].concat();
            let moved = moved_to(&block, "moved", "/stand-in").expect("moved");
            assert!(moved.starts_with(&before) && moved.len() < block.len() + TABLE + 100);
            let path = field(&moved, before.len()).expect("a path");
            assert_eq!(path.indexed, first == 0x44);
            assert!(
                path.path
                    .expect("a path")
                    .windows(9)
                    .any(|window| window == b"/stand-in")
            );
            assert_eq!(
                path.end - before.len() > TABLE,
                first == 0x44,
                "it empties the table as well"
            );
            assert_eq!(moved[path.end..][..behind.len()], behind);
            let last = &moved[path.end + behind.len()..];
            assert_eq!(last[..7], *b"\x00\x05moved");
            assert_eq!(last[7..], value);
        }
    }

    #[test]
    fn what_is_short_or_broken_is_left_alone() {
        let mut short = vec![0x82, 0x04];
        string("/short", &mut short);
        assert_eq!(moved_to(&short, "m", "/"), None);
        let mut value = vec![0x04];
        string(&"a".repeat(50_000), &mut value);
        for cut in [1, 2, 3, 4, 1000, 50_003] {
            assert_eq!(moved_to(&value[..cut], "m", "/"), None, "{cut}");
        }
    }
}
