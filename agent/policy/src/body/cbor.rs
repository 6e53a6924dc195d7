//! CBOR that every reader takes for the same value (RFC 8949, KEP-4222).
//!
//! In: bytes. Out: the value that an API server would find in them (k8s.io/apimachinery pkg/runtime/serializer/cbor, internal/modes).
//! What goes upstream is JSON, so that no API server needs to take CBOR.
//!
//! Refused besides what is no CBOR: a key that stands twice; an integer beyond 64 bits and a float that JSON has no text for; lengths that
//! are not told; and every tag but two, since what others mean depends on the field that they stand in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use super::json::refuse_folded_keys;
use super::{BodyError, MAX_DEPTH, MAX_VALUES};

/// The mark that a body in CBOR may begin with: the tag 55799, which has no meaning of its own.
const MARK: &[u8] = b"\xD9\xD9\xF7";

/// The tag of bytes that are base64 where they are text, as in JSON. client-go writes it for every field of bytes.
const AS_BASE64: u64 = 22;

/// What the first three bits of a value say.
mod major {
    pub(super) const POSITIVE: u8 = 0;
    pub(super) const NEGATIVE: u8 = 1;
    pub(super) const BYTES: u8 = 2;
    pub(super) const TEXT: u8 = 3;
    pub(super) const LIST: u8 = 4;
    pub(super) const MAP: u8 = 5;
    pub(super) const TAG: u8 = 6;
}

const SHORT: BodyError = BodyError::Cbor("it ends within a value");
const INTEGER: BodyError = BodyError::Cbor("it has an integer beyond 64 bits");

/// The value that CBOR stands for.
pub(super) fn read(bytes: &[u8]) -> Result<Value, BodyError> {
    let mut reader = Reader {
        rest: bytes.strip_prefix(MARK).unwrap_or(bytes),
        depth: 0,
        values: MAX_VALUES,
    };
    let value = reader.value()?;
    if !reader.rest.is_empty() {
        return Err(BodyError::Cbor("something follows the value"));
    }
    // It goes upstream as JSON, where these count.
    refuse_folded_keys(&value)?;
    Ok(value)
}

struct Reader<'a> {
    rest: &'a [u8],
    /// How many lists and maps are open.
    depth: usize,
    /// How many values still may come.
    values: usize,
}

/// The start of a value.
struct Head {
    major: u8,
    /// The last five bits.
    info: u8,
    /// The number that they stand for: a value, a length, a count or a tag.
    number: u64,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Result<Value, BodyError> {
        self.values = self.values.checked_sub(1).ok_or(BodyError::Values)?;
        let head = self.head()?;
        match head.major {
            major::POSITIVE => Ok(i64::try_from(head.number).map_err(|_| INTEGER)?.into()),
            // It is written as how far it is below -1.
            major::NEGATIVE => Ok((-1 - i64::try_from(head.number).map_err(|_| INTEGER)?).into()),
            major::BYTES | major::TEXT => Ok(self.text(&head)?.into()),
            major::LIST => self.nested(|reader| reader.list(head.number)),
            major::MAP => self.nested(|reader| reader.map(head.number)),
            major::TAG => self.tagged(head.number),
            _ => simple(&head),
        }
    }

    fn head(&mut self) -> Result<Head, BodyError> {
        let [first] = self.array()?;
        let (major, info) = (first >> 5, first & 0x1F);
        let number = match info {
            0..=23 => u64::from(info),
            24 => u64::from(u8::from_be_bytes(self.array()?)),
            25 => u64::from(u16::from_be_bytes(self.array()?)),
            26 => u64::from(u32::from_be_bytes(self.array()?)),
            27 => u64::from_be_bytes(self.array()?),
            31 => return Err(BodyError::Cbor("it has a value of indefinite length")),
            _ => return Err(BodyError::Cbor("a value has no valid first byte")),
        };
        Ok(Head { major, info, number })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BodyError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*array)
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8], BodyError> {
        let length = usize::try_from(length).map_err(|_| SHORT)?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(SHORT)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A text. client-go writes each as bytes, which need not be checked to be UTF-8.
    fn text(&mut self, head: &Head) -> Result<String, BodyError> {
        let bytes = self.bytes(head.number)?;
        let text = std::str::from_utf8(bytes);
        let text = text.map_err(|_| BodyError::Cbor("a text is not valid UTF-8"))?;
        Ok(text.to_owned())
    }

    fn nested(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<Value, BodyError>,
    ) -> Result<Value, BodyError> {
        if self.depth == MAX_DEPTH {
            return Err(BodyError::Cbor("it nests too many lists and maps"));
        }
        self.depth += 1;
        let value = inner(self);
        self.depth -= 1;
        value
    }

    fn list(&mut self, count: u64) -> Result<Value, BodyError> {
        // The count is the client's word, for which no memory is taken.
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(self.value()?);
        }
        Ok(Value::Array(list))
    }

    fn map(&mut self, count: u64) -> Result<Value, BodyError> {
        let mut map = Map::new();
        for _ in 0..count {
            let head = self.head()?;
            if !matches!(head.major, major::BYTES | major::TEXT) {
                return Err(BodyError::Cbor("a key is no text"));
            }
            match map.entry(self.text(&head)?) {
                Entry::Vacant(entry) => entry.insert(self.value()?),
                Entry::Occupied(_) => return Err(BodyError::Cbor("a key stands twice in one map")),
            };
        }
        Ok(Value::Object(map))
    }

    fn tagged(&mut self, tag: u64) -> Result<Value, BodyError> {
        let tagged = BodyError::Cbor("it has a tag other than that of bytes as base64");
        if tag != AS_BASE64 {
            return Err(tagged);
        }
        let head = self.head()?;
        if head.major != major::BYTES {
            return Err(tagged);
        }
        Ok(STANDARD.encode(self.bytes(head.number)?).into())
    }
}

/// `false`, `true`, `null`, or a float.
fn simple(head: &Head) -> Result<Value, BodyError> {
    let float = match head.info {
        20 => return Ok(Value::Bool(false)),
        21 => return Ok(Value::Bool(true)),
        22 => return Ok(Value::Null),
        25 => half(head.number),
        26 => u32::try_from(head.number).ok().map(f32::from_bits).map(f64::from),
        27 => Some(f64::from_bits(head.number)),
        _ => return Err(BodyError::Cbor("it has a value that JSON does not have")),
    };
    let float = float.and_then(Number::from_f64);
    Ok(Value::Number(
        float.ok_or(BodyError::Cbor("a float is no number"))?,
    ))
}

/// A float of 16 bits: a sign, five bits of exponent, ten of fraction.
fn half(bits: u64) -> Option<f64> {
    let bits = u32::try_from(bits).ok()?;
    let (exponent, fraction) = (bits >> 10 & 0x1F, bits & 0x3FF);
    let size = match exponent {
        // Steps of 2 to the power of -24.
        0 => f64::from(fraction) / 16_777_216.0,
        31 => return None,
        // The same float of 32 bits: its exponent counts from -127 and not from -15, and its fraction has 23 bits.
        exponent => f64::from(f32::from_bits((exponent + 112) << 23 | fraction << 13)),
    };
    Some(if bits & 0x8000 == 0 { size } else { -size })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{json, write};
    use super::*;

    fn why(bytes: &[u8]) -> String {
        let error = read(bytes).expect_err("refused");
        assert_eq!(error.code(), "cbor", "{error}");
        error.to_string()
    }

    /// What `cbor.NewSerializer` of k8s.io/apimachinery writes, and the examples of RFC 8949, appendix A.
    #[test]
    fn values_are_what_the_standard_says() {
        let cases: [(&[u8], Value); 24] = [
            (b"\x00", json!(0)),
            (b"\x17", json!(23)),
            (b"\x18\x18", json!(24)),
            (b"\x19\x03\xe8", json!(1000)),
            (b"\x1a\x00\x0f\x42\x40", json!(1_000_000)),
            (b"\x1b\x7f\xff\xff\xff\xff\xff\xff\xff", json!(i64::MAX)),
            (b"\x20", json!(-1)),
            (b"\x39\x03\xe7", json!(-1000)),
            (b"\x3b\x7f\xff\xff\xff\xff\xff\xff\xff", json!(i64::MIN)),
            (b"\xf4", json!(false)),
            (b"\xf5", json!(true)),
            (b"\xf6", json!(null)),
            (b"\xf9\x3c\x00", json!(1.0)),
            (b"\xf9\x7b\xff", json!(65504.0)),
            (b"\xf9\x00\x01", json!(5.960_464_477_539_063e-8)),
            (b"\xf9\xc4\x00", json!(-4.0)),
            (b"\xfa\x47\xc3\x50\x00", json!(100_000.0)),
            (b"\xfb\x3f\xf1\x99\x99\x99\x99\x99\x9a", json!(1.1)),
            (b"\x63\xe6\xb0\xb4", json!("水")),
            (b"\x43\xe6\xb0\xb4", json!("水")),
            (b"\xd6\x44\x01\x02\x03\x04", json!("AQIDBA==")),
            (b"\x83\x01\x82\x02\x03\x80", json!([1, [2, 3], []])),
            (b"\xa2\x61a\x01\x41b\x81\xa0", json!({"a": 1, "b": [{}]})),
            (b"\xd9\xd9\xf7\xa1\x44kind\x43Pod", json!({"kind": "Pod"})),
        ];
        for (bytes, expected) in cases {
            let value = read(bytes);
            assert_eq!(value.as_ref(), Ok(&expected), "{bytes:x?}");
            assert_eq!(json::read(&write(&expected)).as_ref(), Ok(&expected));
        }
    }

    #[test]
    fn what_readers_take_differently_is_refused() {
        let cases: [(&[u8], &str); 22] = [
            (b"\xa2\x61a\x01\x41a\x02", "twice"),
            (b"\xa1\x01\x02", "a key is no text"),
            (b"\xa1\xd6\x41a\x02", "a key is no text"),
            (b"\x1b\x80\x00\x00\x00\x00\x00\x00\x00", "64 bits"),
            (b"\x3b\x80\x00\x00\x00\x00\x00\x00\x00", "64 bits"),
            (b"\xc2\x41\x01", "a tag"),
            (b"\xc0\x64time", "a tag"),
            (b"\xd6\x61a", "a tag"),
            (b"\xd9\xd9\xf7\xd9\xd9\xf7\x01", "a tag"),
            (b"\xf9\x7e\x00", "no number"),
            (b"\xf9\x7c\x00", "no number"),
            (b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00", "no number"),
            (b"\xf7", "JSON does not have"),
            (b"\xe0", "JSON does not have"),
            (b"\xf8\x14", "JSON does not have"),
            (b"\x9f\x01\xff", "indefinite"),
            (b"\x1c", "first byte"),
            (b"\x61\xff", "UTF-8"),
            (b"\x41\xff", "UTF-8"),
            (b"\x62a", "ends within"),
            (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", "ends within"),
            (b"\x01\x01", "follows"),
        ];
        for (bytes, expected) in cases {
            let why = why(bytes);
            assert!(why.contains(expected), "{bytes:x?}: {why}");
        }
        let folded = read(b"\xa1\x64Kind\x63Pod").expect_err("refused");
        assert_eq!(folded.code(), "folded_key");
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let nested = |depth: usize| [vec![0x81; depth], vec![0x00]].concat();
        assert!(read(&nested(MAX_DEPTH)).is_ok());
        assert!(why(&nested(MAX_DEPTH + 1)).contains("nests"));
        // Lists beside each other are not in each other.
        let beside = [[0x98, 0xff].as_slice(), &[0x80; 255]].concat();
        assert!(read(&beside).is_ok());
        let list = |count: usize| {
            let head = u32::try_from(count).expect("few").to_be_bytes();
            [[0x9a].as_slice(), &head, &vec![0x00; count]].concat()
        };
        assert!(read(&list(MAX_VALUES - 1)).is_ok());
        assert_eq!(read(&list(MAX_VALUES)), Err(BodyError::Values));
    }
}
