//! What functions take and give, as far as it can be told before they run.
//!
//! In: a function's name and the types of its arguments. Out: the type of what it comes to, or why the call cannot stand.

use std::ops::RangeInclusive;

/// A type, as far as it is known before an expression runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cel) enum Type {
    /// Not known: what is read of an object.
    Any,
    Bool,
    Bytes,
    Cidr,
    Double,
    Format,
    Int,
    Ip,
    /// A type itself.
    Kind,
    List,
    Map,
    Null,
    Optional,
    Quantity,
    Semver,
    Text,
    Uint,
    Url,
}

impl Type {
    /// Whether a value of this type may stand where one of another is wanted.
    pub(in crate::cel) fn fits(self, wanted: Self) -> bool {
        self == wanted || self == Self::Any || wanted == Self::Any
    }

    pub(in crate::cel) fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    /// As CEL calls it.
    pub(in crate::cel) fn name(self) -> &'static str {
        match self {
            Self::Any => "dyn",
            Self::Bool => "bool",
            Self::Bytes => "bytes",
            Self::Cidr => "net.CIDR",
            Self::Double => "double",
            Self::Format => "kubernetes.NamedFormat",
            Self::Int => "int",
            Self::Ip => "net.IP",
            Self::List => "list",
            Self::Map => "map",
            Self::Null => "null_type",
            Self::Optional => "optional_type",
            Self::Quantity => "kubernetes.Quantity",
            Self::Semver => "kubernetes.Semver",
            Self::Text => "string",
            Self::Kind => "type",
            Self::Uint => "uint",
            Self::Url => "kubernetes.URL",
        }
    }
}

/// How a function is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cel) enum Call {
    /// `f(x)`, or `name.f(x)` where the name has a point.
    Global,
    /// `x.f(y)`, where x is of a type.
    Of(Type),
}

/// One way to call a function.
#[derive(Debug, Clone)]
pub(in crate::cel) struct Signature {
    pub(in crate::cel) name: &'static str,
    pub(in crate::cel) call: Call,
    /// How many operands it takes, in the brackets.
    pub(in crate::cel) operands: RangeInclusive<usize>,
    pub(in crate::cel) gives: Type,
}

const fn global(name: &'static str, operands: RangeInclusive<usize>, gives: Type) -> Signature {
    Signature {
        name,
        call: Call::Global,
        operands,
        gives,
    }
}

const fn of(on: Type, name: &'static str, operands: RangeInclusive<usize>, gives: Type) -> Signature {
    Signature {
        name,
        call: Call::Of(on),
        operands,
        gives,
    }
}

/// All of them.
pub(in crate::cel) const SIGNATURES: &[Signature] = &[
    global("bool", 1..=1, Type::Bool),
    global("bytes", 1..=1, Type::Bytes),
    global("cidr", 1..=1, Type::Cidr),
    global("double", 1..=1, Type::Double),
    global("dyn", 1..=1, Type::Any),
    global("format.byte", 0..=0, Type::Format),
    global("format.date", 0..=0, Type::Format),
    global("format.datetime", 0..=0, Type::Format),
    global("format.dns1035Label", 0..=0, Type::Format),
    global("format.dns1035LabelPrefix", 0..=0, Type::Format),
    global("format.dns1123Label", 0..=0, Type::Format),
    global("format.dns1123LabelPrefix", 0..=0, Type::Format),
    global("format.dns1123Subdomain", 0..=0, Type::Format),
    global("format.dns1123SubdomainPrefix", 0..=0, Type::Format),
    global("format.labelValue", 0..=0, Type::Format),
    global("format.named", 1..=1, Type::Optional),
    global("format.qualifiedName", 0..=0, Type::Format),
    global("format.uri", 0..=0, Type::Format),
    global("format.uuid", 0..=0, Type::Format),
    global("int", 1..=1, Type::Int),
    global("ip", 1..=1, Type::Ip),
    global("ip.isCanonical", 1..=1, Type::Bool),
    global("isCIDR", 1..=1, Type::Bool),
    global("isIP", 1..=1, Type::Bool),
    global("isQuantity", 1..=1, Type::Bool),
    global("isSemver", 1..=2, Type::Bool),
    global("isURL", 1..=1, Type::Bool),
    global("matches", 2..=2, Type::Bool),
    global("optional.none", 0..=0, Type::Optional),
    global("optional.of", 1..=1, Type::Optional),
    global("optional.ofNonZeroValue", 1..=1, Type::Optional),
    global("quantity", 1..=1, Type::Quantity),
    global("semver", 1..=2, Type::Semver),
    global("sets.contains", 2..=2, Type::Bool),
    global("sets.equivalent", 2..=2, Type::Bool),
    global("sets.intersects", 2..=2, Type::Bool),
    global("size", 1..=1, Type::Int),
    global("string", 1..=1, Type::Text),
    global("strings.quote", 1..=1, Type::Text),
    global("type", 1..=1, Type::Kind),
    global("uint", 1..=1, Type::Uint),
    global("url", 1..=1, Type::Url),
    of(Type::Any, "size", 0..=0, Type::Int),
    of(Type::Cidr, "containsCIDR", 1..=1, Type::Bool),
    of(Type::Cidr, "containsIP", 1..=1, Type::Bool),
    of(Type::Cidr, "ip", 0..=0, Type::Ip),
    of(Type::Cidr, "masked", 0..=0, Type::Cidr),
    of(Type::Cidr, "prefixLength", 0..=0, Type::Int),
    of(Type::Format, "validate", 1..=1, Type::Optional),
    of(Type::Ip, "family", 0..=0, Type::Int),
    of(Type::Ip, "isGlobalUnicast", 0..=0, Type::Bool),
    of(Type::Ip, "isLinkLocalMulticast", 0..=0, Type::Bool),
    of(Type::Ip, "isLinkLocalUnicast", 0..=0, Type::Bool),
    of(Type::Ip, "isLoopback", 0..=0, Type::Bool),
    of(Type::Ip, "isUnspecified", 0..=0, Type::Bool),
    of(Type::List, "indexOf", 1..=1, Type::Int),
    of(Type::List, "isSorted", 0..=0, Type::Bool),
    of(Type::List, "join", 0..=1, Type::Text),
    of(Type::List, "lastIndexOf", 1..=1, Type::Int),
    of(Type::List, "max", 0..=0, Type::Any),
    of(Type::List, "min", 0..=0, Type::Any),
    of(Type::List, "sum", 0..=0, Type::Any),
    of(Type::Optional, "hasValue", 0..=0, Type::Bool),
    of(Type::Optional, "or", 1..=1, Type::Optional),
    of(Type::Optional, "orValue", 1..=1, Type::Any),
    of(Type::Optional, "value", 0..=0, Type::Any),
    of(Type::Quantity, "add", 1..=1, Type::Quantity),
    of(Type::Quantity, "asApproximateFloat", 0..=0, Type::Double),
    of(Type::Quantity, "asInteger", 0..=0, Type::Int),
    of(Type::Quantity, "compareTo", 1..=1, Type::Int),
    of(Type::Quantity, "isGreaterThan", 1..=1, Type::Bool),
    of(Type::Quantity, "isInteger", 0..=0, Type::Bool),
    of(Type::Quantity, "isLessThan", 1..=1, Type::Bool),
    of(Type::Quantity, "sign", 0..=0, Type::Int),
    of(Type::Quantity, "sub", 1..=1, Type::Quantity),
    of(Type::Semver, "compareTo", 1..=1, Type::Int),
    of(Type::Semver, "isGreaterThan", 1..=1, Type::Bool),
    of(Type::Semver, "isLessThan", 1..=1, Type::Bool),
    of(Type::Semver, "major", 0..=0, Type::Int),
    of(Type::Semver, "minor", 0..=0, Type::Int),
    of(Type::Semver, "patch", 0..=0, Type::Int),
    of(Type::Text, "charAt", 1..=1, Type::Text),
    of(Type::Text, "contains", 1..=1, Type::Bool),
    of(Type::Text, "endsWith", 1..=1, Type::Bool),
    of(Type::Text, "find", 1..=1, Type::Text),
    of(Type::Text, "findAll", 1..=2, Type::List),
    of(Type::Text, "format", 1..=1, Type::Text),
    of(Type::Text, "indexOf", 1..=2, Type::Int),
    of(Type::Text, "lastIndexOf", 1..=2, Type::Int),
    of(Type::Text, "lowerAscii", 0..=0, Type::Text),
    of(Type::Text, "matches", 1..=1, Type::Bool),
    of(Type::Text, "replace", 2..=3, Type::Text),
    of(Type::Text, "reverse", 0..=0, Type::Text),
    of(Type::Text, "split", 1..=2, Type::List),
    of(Type::Text, "startsWith", 1..=1, Type::Bool),
    of(Type::Text, "substring", 1..=2, Type::Text),
    of(Type::Text, "trim", 0..=0, Type::Text),
    of(Type::Text, "upperAscii", 0..=0, Type::Text),
    of(Type::Url, "getEscapedPath", 0..=0, Type::Text),
    of(Type::Url, "getHost", 0..=0, Type::Text),
    of(Type::Url, "getHostname", 0..=0, Type::Text),
    of(Type::Url, "getPort", 0..=0, Type::Text),
    of(Type::Url, "getQuery", 0..=0, Type::Map),
    of(Type::Url, "getScheme", 0..=0, Type::Text),
];
