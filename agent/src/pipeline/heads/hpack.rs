//! Finds a `:path` in a block of HPACK that h2 would not hand on as it is, and moves its value into a field of its own.
//!
//! In: a header block (RFC 7541). Out: a block that decodes to the same fields, but for the path. Such a path is long, or has a
//! fragment ([`fragment`]). Each representation says where it ends, so few have to be understood. An entry that is larger than
//! the table empties it (section 4.4). So a path of the table's size has the same effect on the table as the longer one.
//!
//! A literal may take its name from the dynamic table, so that [`Names`] follows that table: which entries are paths. It must
//! hold the entries that h2 holds. A block that it cannot follow ends the connection.

/// From here on a value may be too long for a URI when it is decoded: 65,534 characters of at least 5 bits each.
const LONG_VALUE: usize = 40_000;

/// The largest table that we let a client have (SETTINGS_HEADER_TABLE_SIZE, its default).
const TABLE: usize = 4096;

/// What an entry takes beside its name and value (RFC 7541 section 4.1), and so the most entries of a table.
const OVERHEAD: usize = 32;
const ENTRIES: usize = TABLE / OVERHEAD;

/// Lengths of the names of the static table, from index 1 (RFC 7541 appendix A).
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13,
    12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3,
    16,
];

/// `:path` in the static table.
const PATH_INDICES: [usize; 2] = [4, 5];

/// `:path` as Huffman's codes of 29 bits.
const PATH_CODES: [u8; 4] = [0xb9, 0x58, 0xd3, 0x38];

/// The first octet of a literal with incremental indexing and the name `:path`, and of one without indexing.
const PATH_INDEXED: u8 = 0x44;
const PATH_NOT_INDEXED: u8 = 0x04;

/// The first octet of a literal without indexing whose name follows.
const NEW_NAME: u8 = 0x00;

/// A field's name: its decoded length, and whether it is `:path`.
#[derive(Clone, Copy, Default)]
struct Name {
    length: u16,
    is_path: bool,
}

/// The names in a connection's dynamic table, the newest [`ENTRIES`]. Entries that the table evicted may still be here: h2
/// refuses to look them up.
#[derive(Clone)]
pub(super) struct Names {
    names: [Name; ENTRIES],
    /// Where the next one goes.
    next: usize,
    /// What the client lets the table hold.
    size: usize,
}

/// A literal `:path` that is to be moved.
pub(super) struct Path {
    begin: usize,
    /// Where its value begins, with its length.
    value: usize,
    end: usize,
    indexed: bool,
    /// Its decoded length where it has a fragment; `None` of a long one.
    fragment: Option<usize>,
}

/// Where a path goes that is moved.
pub(super) struct Destination<'a> {
    /// The field for its value.
    pub(super) name: &'a str,
    /// What stands in the place of a long one.
    pub(super) path: &'a str,
}

impl Names {
    pub(super) fn new() -> Names {
        Names {
            names: [Name::default(); ENTRIES],
            next: 0,
            size: TABLE,
        }
    }

    /// Follows a whole block, and finds the paths that are to be moved. `None` of a block that h2 refuses as well.
    pub(super) fn follow(&mut self, block: &[u8]) -> Option<Vec<Path>> {
        let (mut paths, mut begin) = (Vec::new(), 0);
        while let Some(first) = block.get(begin) {
            begin = match first {
                0x80.. => integer(block, begin, 7)?.1,
                0x20..0x40 => {
                    let (size, end) = integer(block, begin, 5)?;
                    self.size = (size <= TABLE).then_some(size)?;
                    end
                }
                _ => self.literal(block, begin, *first >= 0x40, &mut paths)?,
            };
        }
        Some(paths)
    }

    /// Reads a literal, and says where it ends.
    fn literal(&mut self, block: &[u8], begin: usize, indexed: bool, paths: &mut Vec<Path>) -> Option<usize> {
        let (index, mut value) = integer(block, begin, if indexed { 6 } else { 4 })?;
        let name = if index == 0 {
            let text = value;
            value = skip(block, text)?;
            // The name of no entry is needed that does not come to be one.
            read_name(&block[text..value], indexed)?
        } else {
            self.name(index)?
        };
        let end = skip(block, value)?;
        let text = &block[value..end];
        let fragment = match name.is_path && text.len() < LONG_VALUE {
            true => fragment(text),
            false => None,
        };
        if fragment.is_some() || name.is_path && text.len() >= LONG_VALUE {
            paths.push(Path {
                begin,
                value,
                end,
                indexed,
                fragment,
            });
        }
        if indexed && fits(text, self.size.checked_sub(OVERHEAD + usize::from(name.length)))? {
            self.names[self.next] = name;
            self.next = (self.next + 1) % ENTRIES;
        }
        Some(end)
    }

    /// The name at an index (section 2.3.3).
    fn name(&self, index: usize) -> Option<Name> {
        match index.checked_sub(STATIC_NAMES.len() + 1) {
            None => Some(Name {
                length: STATIC_NAMES[index - 1].into(),
                is_path: PATH_INDICES.contains(&index),
            }),
            Some(age) if age < ENTRIES => Some(self.names[(self.next + ENTRIES - 1 - age) % ENTRIES]),
            Some(_) => None,
        }
    }
}

/// A name that stands in the block. Its length is looked up only where that is `needed`.
fn read_name(text: &[u8], needed: bool) -> Option<Name> {
    let coded = text.first()? & 0x80 != 0;
    let is_path = match (coded, text) {
        (false, text) => text == b"\x05:path",
        // Any padding counts: it is h2's to refuse.
        (true, &[_, a, b, c, d, ..]) => [a, b, c, d & 0xf8] == PATH_CODES && length(text)? == 5,
        _ => false,
    };
    let length = if needed { length(text)? } else { 0 };
    Some(Name {
        // No entry of the table has a longer one.
        length: length.min(TABLE) as u16,
        is_path,
    })
}

/// Whether a string has at most so many characters when it is decoded, which it seldom has to be for that.
fn fits(text: &[u8], most: Option<usize>) -> Option<bool> {
    let Some(most) = most else { return Some(false) };
    let (bytes, _) = integer(text, 0, 7)?;
    // Huffman's codes have 5 to 30 bits, and at most 7 bits are padding.
    if bytes * 8 / 5 <= most {
        return Some(true);
    }
    if (bytes * 8).saturating_sub(7) / 30 > most {
        return Some(false);
    }
    Some(length(text)? <= most)
}

/// The block with its paths' values in fields of their own, and others in their place.
pub(super) fn move_paths(block: &[u8], paths: &[Path], long: &Destination<'_>, fragments: &str) -> Vec<u8> {
    let mut moved = Vec::with_capacity(block.len() + TABLE);
    let mut at = 0;
    for path in paths {
        moved.extend_from_slice(&block[at..path.begin]);
        moved.push(if path.indexed {
            PATH_INDEXED
        } else {
            PATH_NOT_INDEXED
        });
        let stand_in = match path.fragment {
            Some(length) => unreadable(length),
            None if path.indexed => format!("{}{}", long.path, "x".repeat(TABLE)),
            None => long.path.to_owned(),
        };
        string(&stand_in, &mut moved);
        at = path.end;
    }
    moved.extend_from_slice(&block[at..]);
    for path in paths {
        moved.push(NEW_NAME);
        let name = path.fragment.map_or(long.name, |_| fragments);
        string(name, &mut moved);
        moved.extend_from_slice(&block[path.value..path.end]);
    }
    moved
}

/// A path of a length that no stage can read. It takes as much of the table as the one that it stands for, and a client that
/// refers to it there is refused too.
fn unreadable(length: usize) -> String {
    match length {
        0 | 1 => "*".to_owned(),
        length => format!("/{}", "\\".repeat(length - 1)),
    }
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
    if !text.windows(2).any(runs) {
        return None;
    }
    let (length, found) = decoded(text)?;
    found.then_some(length)
}

/// The decoded length of a string.
fn length(value: &[u8]) -> Option<usize> {
    let (length, begin) = integer(value, 0, 7)?;
    if value.first()? & 0x80 == 0 {
        return Some(length);
    }
    decoded(value.get(begin..)?).map(|(length, _)| length)
}

/// The number of characters that a string of Huffman's codes has, and whether `#` is among them.
fn decoded(text: &[u8]) -> Option<(usize, bool)> {
    let (mut characters, mut found) = (0, false);
    let (mut code, mut bits) = (0u32, 0u32);
    for byte in text {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            bits += 1;
            if code < *LIMITS.get(bits as usize)? {
                found |= (bits, code) == FRAGMENT_CODE;
                characters += 1;
                (code, bits) = (0, 0);
            }
        }
    }
    Some((characters, found))
}

/// Where the codes of each length end: bits that begin with no shorter code are one where they are below.
const LIMITS: [u32; 31] = {
    let mut limits = [0; 31];
    let (mut first, mut before, mut at) = (0, 0, 0);
    while at < CODES.len() {
        let (length, count) = CODES[at];
        first = (first << (length - before)) + count;
        limits[length as usize] = first;
        before = length;
        at += 1;
    }
    limits
};

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
        let paths = Names::new().follow(block)?;
        let moved = || move_paths(block, &paths, &Destination { name, path }, "fragments");
        (!paths.is_empty()).then(moved)
    }

    /// Value and end of the literal `:path` at `at`, and whether it is indexed.
    fn path(block: &[u8], at: usize) -> (&[u8], usize, bool) {
        assert!([PATH_INDEXED, PATH_NOT_INDEXED].contains(&block[at]));
        let end = skip(block, at + 1).expect("a value");
        (&block[at + 1..end], end, block[at] == PATH_INDEXED)
    }

    /// A string of Huffman's codes, given as bits.
    fn coded(bits: &str) -> Vec<u8> {
        let padded = format!("{bits}{}", "1".repeat((8 - bits.len() % 8) % 8));
        let bytes = padded.as_bytes().chunks(8);
        let bytes = bytes.map(|byte| u8::from_str_radix(std::str::from_utf8(byte).expect("bits"), 2));
        let bytes: Vec<u8> = bytes.map(|byte| byte.expect("a byte")).collect();
        // A string as long as these bytes, whose octets are replaced.
        let mut out = Vec::new();
        string(&"x".repeat(bytes.len()), &mut out);
        out[0] |= 0x80;
        let begin = out.len() - bytes.len();
        out[begin..].copy_from_slice(&bytes);
        out
    }

    #[test]
    fn a_path_with_a_fragment_moves_and_takes_as_much_of_the_table() {
        // `/seed#x` and `/seed`, as RFC 7541's appendix B codes them.
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
                let moved = moved_to(&block, "moved", "/stand-in").expect("moved");
                let (stand_in, end, indexed) = path(&moved, 1);
                assert_eq!(stand_in, b"\x07/\\\\\\\\\\\\");
                assert_eq!(indexed, first[0] & 0xc0 == 0x40);
                assert_eq!(moved[end], 0x87);
                assert_eq!(moved[end + 1..], [&b"\x00\x09fragments"[..], &value].concat());
            }
        }
        // A path without one, one that ends in a code with as many ones (`>`), and a fragment in another field.
        for value in [coded(seed), coded(&format!("{seed}111111111011"))] {
            let block = [&[0x82, 0x04][..], &value].concat();
            assert_eq!(moved_to(&block, "m", "/"), None);
        }
        let mut other = vec![0x82, 0x41];
        string("kubernetes#", &mut other);
        assert_eq!(moved_to(&other, "m", "/"), None);
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
            let (stand_in, end, indexed) = path(&moved, before.len());
            assert_eq!(indexed, first == 0x44);
            assert!(stand_in.windows(9).any(|window| window == b"/stand-in"));
            assert_eq!(
                end - before.len() > TABLE,
                first == 0x44,
                "it empties the table as well"
            );
            assert_eq!(moved[end..][..behind.len()], behind);
            let last = &moved[end + behind.len()..];
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

    #[test]
    fn each_path_of_a_block_moves() {
        let mut value = Vec::new();
        string("/a#b", &mut value);
        // A good one, and two that take the name from the table.
        let block = [&b"\x44\x01/\x7e"[..], &value, b"\x0f\x30", &value, b"\x82"].concat();
        let moved = moved_to(&block, "m", "/").expect("moved");
        let field = [&b"\x00\x09fragments"[..], &value].concat();
        let stand_ins = &b"\x44\x01/\x44\x04/\\\\\\\x04\x04/\\\\\\\x82"[..];
        assert_eq!(moved, [stand_ins, &field, &field].concat());
    }

    #[test]
    fn a_name_that_is_coded_with_any_padding_is_known() {
        for (last, is_path) in [(0x38, true), (0x3f, true), (0x30, false)] {
            let name = [0x84, 0xb9, 0x58, 0xd3, last];
            assert_eq!(read_name(&name, true).is_some_and(|name| name.is_path), is_path);
        }
        assert!(read_name(b"\x85\xb9\x58\xd3\x3f\xff", true).is_some_and(|name| name.is_path));
        assert!(read_name(b"\x85\xb9\x58\xd3\x38\xff", true).is_some_and(|name| !name.is_path));
        assert!(read_name(b"\x06:paths", true).is_some_and(|name| !name.is_path && name.length == 6));
    }

    /// The table as RFC 7541 describes it, with the whole entries' sizes.
    #[derive(Default)]
    struct Table {
        entries: std::collections::VecDeque<(Name, usize)>,
        most: usize,
    }

    impl Table {
        fn shrink(&mut self, most: usize) {
            while self.entries.iter().map(|(_, size)| size).sum::<usize>() > most {
                self.entries.pop_back();
            }
        }

        fn insert(&mut self, name: Name, value: usize) {
            let size = OVERHEAD + usize::from(name.length) + value;
            self.shrink(self.most.saturating_sub(size));
            if size <= self.most {
                self.entries.push_front((name, size));
            } else {
                self.entries.clear();
            }
        }
    }

    #[test]
    fn names_are_those_of_the_table_whatever_a_client_makes_of_it() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |most: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % most as u64) as usize
        };
        let (mut names, mut table) = (
            Names::new(),
            Table {
                most: TABLE,
                ..Table::default()
            },
        );
        let mut paths = 0;
        for _ in 0..20_000 {
            let mut block = Vec::new();
            if below(20) == 0 {
                table.most = [0, 40, 300, TABLE, TABLE, TABLE][below(6)];
                table.shrink(table.most);
                integer_of(table.most, 5, 0x20, &mut block);
            }
            let index = 62 + table.entries.len();
            let index = if below(3) == 0 { 4 } else { below(index) };
            let length = [0, 3, 30, 60, 4000, 4050, 4090][below(7)] + below(20);
            let name = match index {
                0 => Name {
                    length: length.min(900) as u16,
                    is_path: false,
                },
                62.. => table.entries[index - 62].0,
                _ => names.name(index).expect("a static name"),
            };
            integer_of(index, 6, 0x40, &mut block);
            if index == 0 {
                block.extend(coded(
                    &["11111000", "00011", "111111111111100"][below(3)].repeat(length.min(900)),
                ));
            }
            let value = [0, 10, 200, 4000, 4035][below(5)] + below(40);
            block.extend(match below(3) {
                0 => coded(&"00011".repeat(value)),
                1 => coded(&"111111111111100".repeat(value)),
                _ => {
                    let mut plain = Vec::new();
                    string(&"a".repeat(value), &mut plain);
                    plain
                }
            });
            table.insert(name, value);
            assert!(names.follow(&block).is_some_and(|paths| paths.is_empty()));
            for (at, (name, _)) in table.entries.iter().enumerate() {
                let here = names.name(62 + at).expect("an entry");
                assert_eq!((here.length, here.is_path), (name.length, name.is_path));
                paths += usize::from(name.is_path);
            }
        }
        assert!(paths > 5_000, "{paths}");
    }

    fn integer_of(value: usize, prefix: u32, first: u8, out: &mut Vec<u8>) {
        let most = (1 << prefix) - 1;
        if value < most {
            return out.push(first | value as u8);
        }
        out.push(first | most as u8);
        let mut rest = value - most;
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
}
