//! Threads, which the system may refuse.

use super::fail;
use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// Starts a thread, with a stack of this size if one is given.
pub(crate) fn start<T: Send + 'static>(
    name: &str,
    stack_bytes: Option<usize>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    fail::attempt("pthread_create")?;
    let builder = Builder::new().name(name.to_owned());
    stack_bytes.into_iter().fold(builder, Builder::stack_size).spawn(run)
}

/// Starts a thread that ends before `scope` does.
pub(crate) fn start_scoped<'scope>(
    scope: &'scope Scope<'scope, '_>,
    run: impl FnOnce() + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, ()>> {
    fail::attempt("pthread_create")?;
    Builder::new().spawn_scoped(scope, run)
}
