//! Trampolines: what a slot's code offset leads to.
//!
//! A trampoline is a monomorphised function of this file, named across processes by its
//! [`CodeOffset`]. It makes the user's function out of nothing, which is possible exactly because
//! that function captures nothing: its type has one value, of size zero.
#![allow(unsafe_code)] // Makes zero-sized functions.

use super::failure::{self, FailureRecord};
use super::task::{Batch, Invocation};
use crate::error::{Error, Step};
use crate::prim::Relaxed;
use crate::process::identity::CodeOffset;
use serde::{Serialize, de::DeserializeOwned};
use std::any::type_name;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

/// What a slot's code offset leads to.
pub(crate) type Trampoline = fn(Request<'_, '_>);

/// What is wanted of a trampoline.
#[derive(Debug)]
pub(crate) enum Request<'a, 'b> {
    /// Run the batch.
    Run(&'a mut Invocation<'b>),
    /// Say what the user's function is called.
    Name(&'a mut &'static str),
}

impl<'a, 'b> Request<'a, 'b> {
    /// The batch to run with a function of type `F`, if that is what is wanted.
    #[inline]
    fn into_run<F>(self) -> Option<&'a mut Invocation<'b>> {
        match self {
            Self::Run(invocation) => Some(invocation),
            Self::Name(name) => {
                *name = type_name::<F>();
                None
            }
        }
    }
}

/// The trampoline at `code`, which was made by one of the functions below.
pub(crate) fn resolve(code: CodeOffset) -> Option<Trampoline> {
    let address = code.resolve()?;
    // SAFETY: the offset was made from a `Trampoline` of this same program (the guardian compared
    // identities), and it lies in its code.
    Some(unsafe { std::mem::transmute::<usize, Trampoline>(address) })
}

/// What the user's function at `code` is called: its type's name.
pub(crate) fn name_of(code: CodeOffset) -> &'static str {
    let mut name = "";
    if let Some(trampoline) = resolve(code) {
        trampoline(Request::Name(&mut name));
    }
    name
}

/// Makes a function that captures nothing.
///
/// # Safety
/// A value of `F` exists in the program that named this trampoline.
pub(super) unsafe fn conjure<F>() -> F {
    const { check_captures_nothing::<F>() };
    // SAFETY: F has size zero, so its value has no bytes; the caller knows that one exists.
    unsafe { NonNull::<F>::dangling().read() }
}

/// Refuses, at compile time, what cannot be sent to another process.
pub(super) const fn check_captures_nothing<F>() {
    assert!(
        size_of::<F>() == 0,
        "a task must be a function or a closure that captures nothing, because it runs in another \
         process: pass what it needs as its argument, or share it with \
         `pool.with(&context).map(|context, x| ...)`"
    );
}

/// Names the trampoline for a function of one argument.
pub(crate) fn code_of<F, A, R>(_: &F) -> Result<CodeOffset, Error>
where
    F: Fn(A) -> R + Copy + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    const { check_captures_nothing::<F>() };
    CodeOffset::of(run::<F, A, R> as Trampoline as usize)
}

/// Names the trampoline for a function of a context and an argument.
pub(crate) fn code_with_context_of<F, C, A, R>(_: &F) -> Result<CodeOffset, Error>
where
    F: Fn(&C, A) -> R + Copy + 'static,
    C: DeserializeOwned + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    const { check_captures_nothing::<F>() };
    CodeOffset::of(run_with_context::<F, C, A, R> as Trampoline as usize)
}

/// Names the trampoline for a function of the worker's state and an argument.
pub(crate) fn code_with_state_of<F, S, A, R>(_: &F) -> Result<CodeOffset, Error>
where
    F: Fn(&mut S, A) -> R + Copy + 'static,
    S: 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    const { check_captures_nothing::<F>() };
    CodeOffset::of(run_with_state::<F, S, A, R> as Trampoline as usize)
}

fn run_with_state<F, S, A, R>(request: Request<'_, '_>)
where
    F: Fn(&mut S, A) -> R + Copy + 'static,
    S: 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    let Some(invocation) = request.into_run::<F>() else { return };
    // SAFETY: `code_with_state_of` had a value of F when it named this function.
    let function: F = unsafe { conjure() };
    let batch = Batch::<A, R>::open(invocation);
    match invocation.state.get::<S>() {
        Ok(state) => batch.run(|argument| function(state, argument)),
        Err(message) => batch.fail_all(&FailureRecord::Codec { step: Step::UseState, message }),
    }
}

/// Names the trampoline for a function of many arguments whose results are folded into one.
pub(crate) fn code_of_fold<F, G, A, R>(_: &F, _: &G) -> Result<CodeOffset, Error>
where
    F: Fn(A) -> R + Copy + 'static,
    G: Fn(R, R) -> R + Copy + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    const { check_captures_nothing::<F>() };
    const { check_captures_nothing::<G>() };
    CodeOffset::of(run_fold::<F, G, A, R> as Trampoline as usize)
}

fn run_fold<F, G, A, R>(request: Request<'_, '_>)
where
    F: Fn(A) -> R + Copy + 'static,
    G: Fn(R, R) -> R + Copy + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    let Some(invocation) = request.into_run::<F>() else { return };
    // SAFETY: `code_of_fold` had values of F and G when it named this function.
    let (function, fold): (F, G) = unsafe { (conjure(), conjure()) };
    Batch::<Vec<A>, R>::open(invocation).run(|chunk| {
        let folded = chunk.into_iter().map(function).reduce(fold);
        folded.unwrap_or_else(|| panic!("an empty chunk"))
    });
}

fn run<F, A, R>(request: Request<'_, '_>)
where
    F: Fn(A) -> R + Copy + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    let Some(invocation) = request.into_run::<F>() else { return };
    // SAFETY: `code_of` had a value of F when it named this function.
    let function: F = unsafe { conjure() };
    Batch::<A, R>::open(invocation).run(function);
}

fn run_with_context<F, C, A, R>(request: Request<'_, '_>)
where
    F: Fn(&C, A) -> R + Copy + 'static,
    C: DeserializeOwned + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    let Some(invocation) = request.into_run::<F>() else { return };
    // SAFETY: `code_with_context_of` had a value of F when it named this function.
    let function: F = unsafe { conjure() };
    let slot = invocation.slot;
    // Decoding the context may kill the worker: it counts as part of the next call.
    slot.progress.begin(slot.progress.done());
    let place = slot.context.load(Relaxed);
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        invocation.contexts.get::<C>(invocation.area, place).map(std::ptr::from_ref)
    }));
    match decoded {
        Ok(Ok(context)) => {
            // SAFETY: the cache keeps the context until it is asked for another, which is after
            // this batch.
            let context = unsafe { &*context };
            Batch::<A, R>::open(invocation).run(|argument| function(context, argument));
        }
        Ok(Err(message)) => {
            let record = FailureRecord::codec::<C>(Step::DecodeContext, message);
            Batch::<A, R>::open(invocation).fail_all(&record);
        }
        Err(panic) => {
            let record = failure::of_panic(&*panic);
            Batch::<A, R>::open(invocation).fail_all(&record);
        }
    }
}
