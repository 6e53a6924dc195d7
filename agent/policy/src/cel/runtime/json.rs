//! JSON as values of the interpreter, without a copy.
//!
//! In: JSON that outlives the evaluation. Out: values that borrow it. An object's field is looked up when an expression selects it,
//! and a list's elements become values when an expression loops over them: what is not looked at costs nothing.
//!
//! A field that is `null` is not there. So the API server reads it, and an object with `"a": null` must not pass a rule that one
//! without `a` does not pass. Only in maps of texts, such as labels, does the API server read `null` as an empty text.

use std::sync::OnceLock;

use ::cel::ExecutionError;
use ::cel::common::traits::{self, Adder, Container, Indexer, Iterable, Sizer, Zeroer};
use ::cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelNull, CelString, CelUInt, LIST_TYPE, MAP_TYPE, Type,
};
use ::cel::common::value::{CowVal, Val};
use serde_json::{Map, Value as Json};

use super::budget;

/// Fields of Kubernetes' objects that are maps of texts.
const TEXT_MAPS: [&str; 7] = [
    "annotations",
    "binaryData",
    "data",
    "labels",
    "matchLabels",
    "nodeSelector",
    "stringData",
];

/// Whether the object in a field of this name is a map of texts, in which `null` is an empty text.
pub(in crate::cel) fn is_text_map(field: &str) -> bool {
    TEXT_MAPS.contains(&field)
}

type Items<'v> = OnceLock<Box<[Box<dyn Val + 'v>]>>;

/// The value that some JSON is. Whole numbers are `int`, as the API server has them, and others `double`.
pub(in crate::cel) fn of_json<'v>(json: &'v Json) -> Box<dyn Val + 'v> {
    of_field(json, false)
}

fn of_field<'v>(json: &'v Json, is_text_map: bool) -> Box<dyn Val + 'v> {
    match json {
        Json::Null => Box::new(CelNull),
        Json::Bool(value) => Box::new(CelBool::from(*value)),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Box::new(CelInt::from(whole)),
            None => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Json::String(text) => Box::new(CelString::from(text.as_str())),
        Json::Array(items) => Box::new(JsonList {
            items,
            values: OnceLock::new(),
        }),
        Json::Object(fields) => Box::new(JsonMap {
            fields,
            is_text_map,
            keys: OnceLock::new(),
        }),
    }
}

/// A list of JSON.
#[derive(Debug)]
struct JsonList<'v> {
    items: &'v [Json],
    values: Items<'v>,
}

/// An object of JSON.
#[derive(Debug)]
struct JsonMap<'v> {
    fields: &'v Map<String, Json>,
    /// Whether its `null` is an empty text.
    is_text_map: bool,
    keys: Items<'v>,
}

struct Elements<'b, 'v>(std::slice::Iter<'b, Box<dyn Val + 'v>>);

impl<'b, 'v: 'w, 'w> traits::Iterator<'b, 'w> for Elements<'b, 'v> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'w)> {
        self.0.next().map(|item| item.as_ref() as &(dyn Val + 'w))
    }
}

impl<'v> JsonList<'v> {
    fn values(&self) -> &[Box<dyn Val + 'v>] {
        self.values
            .get_or_init(|| self.items.iter().map(of_json).collect())
    }
}

impl Val for JsonList<'_> {
    fn get_type(&self) -> &Type {
        &LIST_TYPE
    }

    fn cel_type() -> &'static Type {
        &LIST_TYPE
    }

    fn as_adder<'b, 'w>(&'b self) -> Option<&'b (dyn Adder + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_iterable<'b, 'w>(&'b self) -> Option<&'b (dyn Iterable + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn as_zeroer(&self) -> Option<&dyn Zeroer> {
        Some(self)
    }

    fn equals(&self, other: &dyn Val) -> bool {
        super::compare::equal(self, other).unwrap_or(false)
    }

    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w>
    where
        Self: 'w,
    {
        Box::new(JsonList {
            items: self.items,
            values: OnceLock::new(),
        })
    }
}

impl Adder for JsonList<'_> {
    fn add<'b, 'w>(&'b self, rhs: &(dyn Val + 'w)) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        let mut list: Vec<Box<dyn Val + 'w>> = Vec::with_capacity(self.items.len());
        for item in self.items {
            list.push(of_json(item));
        }
        let mut added = list_of(rhs)?.iter();
        while let Some(item) = added.next() {
            list.push(item.clone_as_boxed());
        }
        Ok(CowVal::owned(CelList::from(list)))
    }
}

impl Container for JsonList<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        super::compare::is_in(value, self)
    }
}

impl Indexer for JsonList<'_> {
    fn get<'b, 'w>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        let place = match (index.downcast_ref::<CelInt>(), index.downcast_ref::<CelUInt>()) {
            (Some(place), _) => usize::try_from(*place.inner()).ok(),
            (None, Some(place)) => usize::try_from(*place.inner()).ok(),
            (None, None) => return Err(unexpected(index, "int")),
        };
        let item = place.and_then(|place| self.items.get(place));
        let item = item.ok_or(ExecutionError::IndexOutOfBounds(::cel::Value::Null))?;
        Ok(CowVal::Owned(of_json(item)))
    }

    fn steal<'w>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

impl Iterable for JsonList<'_> {
    fn iter<'b, 'w>(&'b self) -> Box<dyn traits::Iterator<'b, 'w> + 'b>
    where
        Self: 'w,
    {
        Box::new(Elements(self.values().iter()))
    }
}

impl Sizer for JsonList<'_> {
    fn size(&self) -> CelInt {
        CelInt::from(self.items.len() as i64)
    }
}

impl Zeroer for JsonList<'_> {
    fn is_zero_value(&self) -> bool {
        self.items.is_empty()
    }
}

impl<'v> JsonMap<'v> {
    fn find(&self, key: &dyn Val) -> Result<Option<Box<dyn Val + 'v>>, ExecutionError> {
        let Some(key) = key.downcast_ref::<CelString>() else {
            return Err(unexpected(key, "string"));
        };
        let key = key.inner();
        Ok(match self.fields.get(key) {
            Some(Json::Null) if self.is_text_map => Some(Box::new(CelString::from(""))),
            None | Some(Json::Null) => None,
            Some(field) => Some(of_field(field, is_text_map(key))),
        })
    }

    fn is_there(&self, field: &Json) -> bool {
        self.is_text_map || !field.is_null()
    }

    fn keys(&self) -> &[Box<dyn Val + 'v>] {
        self.keys.get_or_init(|| {
            let there = self.fields.iter().filter(|(_, field)| self.is_there(field));
            there
                .map(|(key, _)| Box::new(CelString::from(key.as_str())) as Box<dyn Val + 'v>)
                .collect()
        })
    }
}

impl Val for JsonMap<'_> {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_iterable<'b, 'w>(&'b self) -> Option<&'b (dyn Iterable + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn as_zeroer(&self) -> Option<&dyn Zeroer> {
        Some(self)
    }

    fn equals(&self, other: &dyn Val) -> bool {
        super::compare::equal(self, other).unwrap_or(false)
    }

    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w>
    where
        Self: 'w,
    {
        Box::new(JsonMap {
            fields: self.fields,
            is_text_map: self.is_text_map,
            keys: OnceLock::new(),
        })
    }
}

impl Container for JsonMap<'_> {
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        self.find(key).map(|found| found.is_some())
    }
}

impl Indexer for JsonMap<'_> {
    fn get<'b, 'w>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        match self.find(key)? {
            Some(value) => Ok(CowVal::Owned(value)),
            None => Err(ExecutionError::no_such_key("")),
        }
    }

    fn steal<'w>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

impl Iterable for JsonMap<'_> {
    fn iter<'b, 'w>(&'b self) -> Box<dyn traits::Iterator<'b, 'w> + 'b>
    where
        Self: 'w,
    {
        Box::new(Elements(self.keys().iter()))
    }
}

impl Sizer for JsonMap<'_> {
    fn size(&self) -> CelInt {
        let there = self.fields.values().filter(|field| self.is_there(field));
        CelInt::from(there.count() as i64)
    }
}

impl Zeroer for JsonMap<'_> {
    fn is_zero_value(&self) -> bool {
        *self.size().inner() == 0
    }
}

/// The elements of a list.
pub(in crate::cel) fn list_of<'b, 'v>(
    value: &'b (dyn Val + 'v),
) -> Result<&'b (dyn Iterable + 'v), ExecutionError> {
    let is_list = value.get_type() == &LIST_TYPE;
    value
        .as_iterable()
        .filter(|_| is_list)
        .ok_or_else(|| unexpected(value, "list"))
}

/// A value of another type than was expected. The value is not repeated.
pub(in crate::cel) fn unexpected(value: &dyn Val, want: &str) -> ExecutionError {
    ExecutionError::UnexpectedType {
        got: value.get_type().name().to_owned(),
        want: want.to_owned(),
    }
}

/// The length of a list, which is taken off the budget.
pub(in crate::cel) fn spend_length(list: &dyn Val) -> Result<(), ExecutionError> {
    budget::spend(1 + budget::length(list))
}
