//! Every kind of socket, dialled at a door.

use crate::Test;

pub(crate) const TESTS: &[Test] = &[];
