//! The binary: hands over to the command line.

use std::process::ExitCode;

/// Sessions over several shards take and give back many small pieces of memory a statement; the C library's own allocator
/// was a fifth of their time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ostrakon::cli::main()
}
