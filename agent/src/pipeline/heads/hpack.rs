//! Finds a long `:path` in a block of HPACK and moves its value into a field of its own, without decoding anything.
//!
//! In: a header block (RFC 7541). Out: a block that decodes to the same fields, but for the path. Each representation says where
//! it ends, so none has to be understood; and since an entry that is larger than the table empties it (section 4.4), a path
//! of as little as the table's size has the same effect on it as the one it stands for.

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

/// The block with a long path's value in a field `name`, and `path` in its place; `None` where no path is long or the block
/// cannot be read.
pub(super) fn move_path(block: &[u8], name: &str, path: &str) -> Option<Vec<u8>> {
    let mut at = 0;
    while at < block.len() {
        let field = field(block, at)?;
        if let Some(value) = field.path.filter(|value| value.len() >= LONG_VALUE) {
            let mut moved = block[..at].to_vec();
            moved.push(if field.indexed {
                PATH_INDEXED
            } else {
                PATH_NOT_INDEXED
            });
            let padding = if field.indexed { TABLE } else { 0 };
            let mut path = path.to_owned();
            path.push_str(&"x".repeat(padding));
            string(&path, &mut moved);
            moved.extend_from_slice(&block[field.end..]);
            moved.push(NEW_NAME);
            string(name, &mut moved);
            moved.extend_from_slice(value);
            return Some(moved);
        }
        at = field.end;
    }
    None
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
        is_path = block[name..end] == *b"\x05:path";
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
            let moved = move_path(&block, "moved", "/stand-in").expect("moved");
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
        assert_eq!(move_path(&short, "m", "/"), None);
        let mut value = vec![0x04];
        string(&"a".repeat(50_000), &mut value);
        for cut in [1, 2, 3, 4, 1000, 50_003] {
            assert_eq!(move_path(&value[..cut], "m", "/"), None, "{cut}");
        }
    }
}
