//! Values that only the libraries' own functions read, such as an address.
//!
//! In: such a value. Out: the same value, with its type and equality.

use std::any::Any;
use std::fmt::Debug;

use ::cel::common::types::Type;
use ::cel::common::value::{CowVal, StaticVal, Val};

/// What such a value holds.
pub(super) trait Named: Debug + Clone + PartialEq + Send + Sync + 'static {
    /// Its type, by the name that Kubernetes has for it.
    fn named() -> &'static Type;
}

/// A value of a library.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Opaque<T>(pub(super) T);

impl<T: Named> Val for Opaque<T> {
    fn get_type(&self) -> &Type {
        T::named()
    }

    fn cel_type() -> &'static Type {
        T::named()
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Self>().is_some_and(|other| other == self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl<T: Named> StaticVal for Opaque<T> {}

pub(super) fn opaque<'b, 'v, T: Named>(value: T) -> CowVal<'b, 'v> {
    CowVal::owned(Opaque(value))
}
