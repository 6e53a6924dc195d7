//! The `picket` binary: the allocator, and a call of the library.
//!
//! In: the process's arguments. Out: the exit code of [`picket::cli`].

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// A request's futures and headers are pieces of some KB that come and go, which glibc's allocator takes from lists under a lock.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    picket::cli::main()
}
