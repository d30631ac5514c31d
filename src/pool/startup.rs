//! What a worker does before its first task and after its last one, and the state that it keeps between.
//!
//! # Rules
//! R1. The initialiser runs before the worker takes part in anything, a successor's while it waits for its
//!     turn. What it returns is the worker's state, which tasks may use one after the other.
//! R2. One that fails leaves a note and ends its worker. The note is a block of the worker's own, named in
//!     its ledger: the supervisor reads it before it settles.
//! R3. The finaliser runs in a worker that leaves by itself, recycled or because the pool is shut down.
//!
//! # If a process dies
//! In its initialiser: it has not started, which the supervisor counts. Later: its state goes with it,
//! without a finaliser.
#![allow(unsafe_code)] // Makes zero-sized functions, and calls them by their checked addresses.

use super::area::Area;
use super::context::{self, Context};
use super::failure::{self, FailureRecord};
use super::trampolines::{check_captures_nothing, conjure};
use crate::error::Error;
use crate::prim::{AtomicU64, Relaxed};
use crate::process::identity::CodeOffset;
use crate::shm::{Arena, Offset, ParticipantId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Makes a worker's state, or says why not.
type Begin = fn(&Area, u32) -> Result<WorkerState, String>;
/// Ends it.
type End = fn(WorkerState);

/// What a worker keeps between tasks.
#[derive(Debug, Default)]
pub(crate) struct WorkerState {
    value: Option<Box<dyn Any>>,
    of: &'static str,
}

impl WorkerState {
    fn new<S: 'static>(value: S) -> Self {
        Self { value: Some(Box::new(value)), of: type_name::<S>() }
    }

    /// The state, if it is an `S`.
    pub(crate) fn get<S: 'static>(&mut self) -> Result<&mut S, String> {
        let of = self.of;
        let Some(value) = &mut self.value else {
            return Err(format!(
                "the task wants a {}, and the pool has no initializer",
                type_name::<S>()
            ));
        };
        value.downcast_mut().ok_or_else(|| {
            format!("the task wants a {}, and the initializer made a {of}", type_name::<S>())
        })
    }
}

/// An initialiser, its argument and a finaliser, as a builder has them.
#[derive(Clone, Default)]
pub(crate) struct Startup {
    begin: Option<Initialiser>,
    end: Option<Finaliser>,
}

#[derive(Clone)]
struct Initialiser {
    code: Result<CodeOffset, Error>,
    argument: Arc<dyn Fn(Area, u64, ParticipantId) -> Result<Context, Error> + Send + Sync>,
    makes: (TypeId, &'static str),
}

#[derive(Clone)]
struct Finaliser {
    code: Result<CodeOffset, Error>,
    takes: (TypeId, &'static str),
}

impl Startup {
    /// Sets an initialiser that may fail.
    pub(crate) fn set_initialiser<F, A, S, E>(&mut self, _: &F, argument: A)
    where
        F: Fn(A) -> Result<S, E> + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        S: 'static,
        E: fmt::Display,
    {
        const { check_captures_nothing::<F>() };
        let argument = move |area, id, user| Context::create(area, id, &argument, user);
        self.begin = Some(Initialiser {
            code: CodeOffset::of(try_begin::<F, A, S, E> as Begin as usize),
            argument: Arc::new(argument),
            makes: (TypeId::of::<S>(), type_name::<S>()),
        });
    }

    /// Sets an initialiser that fails by panicking only.
    pub(crate) fn set_infallible_initialiser<F, A, S>(&mut self, _: &F, argument: A)
    where
        F: Fn(A) -> S + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        S: 'static,
    {
        const { check_captures_nothing::<F>() };
        let argument = move |area, id, user| Context::create(area, id, &argument, user);
        self.begin = Some(Initialiser {
            code: CodeOffset::of(begin::<F, A, S> as Begin as usize),
            argument: Arc::new(argument),
            makes: (TypeId::of::<S>(), type_name::<S>()),
        });
    }

    pub(crate) fn set_finaliser<F, S>(&mut self, _: &F)
    where
        F: Fn(S) + Copy + Send + 'static,
        S: 'static,
    {
        const { check_captures_nothing::<F>() };
        self.end = Some(Finaliser {
            code: CodeOffset::of(end::<F, S> as End as usize),
            takes: (TypeId::of::<S>(), type_name::<S>()),
        });
    }

    /// Encodes the argument into a pool's area.
    ///
    /// # Errors
    /// A function cannot be named, the argument not be encoded; a finaliser takes something else than the
    /// initialiser makes.
    pub(crate) fn prepare(
        &self,
        area: Area,
        id: u64,
        user: ParticipantId,
    ) -> Result<Option<Prepared>, Error> {
        let Some(begin) = &self.begin else {
            return match &self.end {
                None => Ok(None),
                Some(end) => Err(Error::invalid(format!(
                    "the finalizer takes a {}, and there is no initializer that makes one",
                    end.takes.1
                ))),
            };
        };
        if let Some(end) = &self.end
            && end.takes.0 != begin.makes.0
        {
            return Err(Error::invalid(format!(
                "the finalizer takes a {}, and the initializer makes a {}",
                end.takes.1, begin.makes.1
            )));
        }
        let end = match &self.end {
            Some(end) => Some(end.code.clone()?),
            None => None,
        };
        let argument = (begin.argument)(area, id, user)?;
        Ok(Some(Prepared { begin: begin.code.clone()?, end, argument }))
    }
}

/// A pool's initialiser and finaliser.
#[derive(Debug)]
pub(crate) struct Prepared {
    begin: CodeOffset,
    end: Option<CodeOffset>,
    argument: Context,
}

impl Prepared {
    pub(crate) fn to_spec(&self) -> StartupSpec {
        let Self { begin, end, argument } = self;
        StartupSpec { begin: *begin, end: *end, argument: argument.to_raw() }
    }
}

/// What a worker is told of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StartupSpec {
    begin: CodeOffset,
    end: Option<CodeOffset>,
    argument: u32,
}

impl StartupSpec {
    pub(crate) fn has_finalizer(&self) -> bool {
        self.end.is_some()
    }

    /// Runs the initialiser.
    pub(crate) fn begin(&self, area: &Area) -> Result<WorkerState, String> {
        let Some(address) = self.begin.resolve() else { return Err("it has no code".into()) };
        // SAFETY: the offset was made from a `Begin` of this same program, and lies in its code.
        let begin = unsafe { std::mem::transmute::<usize, Begin>(address) };
        let begun = catch_unwind(AssertUnwindSafe(|| begin(area, self.argument)));
        begun.unwrap_or_else(|panic| Err(failure::of_panic(&*panic).to_string()))
    }

    /// Runs the finaliser, if there is one.
    pub(crate) fn end(&self, state: WorkerState) {
        let Some(address) = self.end.and_then(CodeOffset::resolve) else { return };
        // SAFETY: the offset was made from an `End` of this same program, and lies in its code.
        let end = unsafe { std::mem::transmute::<usize, End>(address) };
        // A panic has been reported on standard error, and nobody is left to be told.
        let _ = catch_unwind(AssertUnwindSafe(|| end(state)));
    }
}

fn argument<A: DeserializeOwned + 'static>(area: &Area, raw: u32) -> Result<A, String> {
    context::decode::<A>(area, raw)
        .map_err(|why| format!("cannot decode its argument: {}: {why}", type_name::<A>()))
}

fn begin<F, A, S>(area: &Area, raw: u32) -> Result<WorkerState, String>
where
    F: Fn(A) -> S + Copy + 'static,
    A: DeserializeOwned + 'static,
    S: 'static,
{
    // SAFETY: `set_infallible_initialiser` had a value of F when it named this function.
    let function: F = unsafe { conjure() };
    Ok(WorkerState::new(function(argument(area, raw)?)))
}

fn try_begin<F, A, S, E>(area: &Area, raw: u32) -> Result<WorkerState, String>
where
    F: Fn(A) -> Result<S, E> + Copy + 'static,
    A: DeserializeOwned + 'static,
    S: 'static,
    E: fmt::Display,
{
    // SAFETY: `set_initialiser` had a value of F when it named this function.
    let function: F = unsafe { conjure() };
    function(argument(area, raw)?).map(WorkerState::new).map_err(|error| error.to_string())
}

fn end<F, S>(state: WorkerState)
where
    F: Fn(S) + Copy + 'static,
    S: 'static,
{
    // SAFETY: `set_finaliser` had a value of F when it named this function.
    let function: F = unsafe { conjure() };
    if let Some(Ok(state)) = state.value.map(|state| state.downcast::<S>()) {
        function(*state);
    }
}

impl fmt::Display for FailureRecord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic { message, location } => {
                write!(formatter, "panicked at {location}: {message}")
            }
            Self::Codec { step, message } => write!(formatter, "cannot {step}: {message}"),
        }
    }
}

/// Leaves a note of why this worker did not start (R2).
pub(crate) fn leave_note(arena: &Arena, me: ParticipantId, note: &str) {
    const BYTES_MAX: usize = 4096;
    let note = &note.as_bytes()[..note.len().min(BYTES_MAX)];
    let Ok(block) = arena.allocate(8 + note.len() as u64, me) else { return };
    let length: Option<&AtomicU64> = arena.at(Offset::new(block.offset));
    let to = arena.bytes_at(block.offset + 8, note.len() as u64);
    if let (Some(length), Some(to)) = (length, to) {
        length.store(note.len() as u64, Relaxed);
        // SAFETY: the block is new and ours, and has room.
        unsafe { std::ptr::copy_nonoverlapping(note.as_ptr(), to.as_ptr(), note.len()) };
        // SYNC(note): pairs with the Acquire in `note_of`; carries the text.
        arena.participant(me).ledger.note.publish(block.offset);
    }
}

/// The note that a dead worker has left.
pub(crate) fn note_of(arena: &Arena, dead: ParticipantId) -> Option<String> {
    // SYNC(note): pairs with the Release in `leave_note`.
    let block = arena.participant(dead).ledger.note.get()?;
    let length: &AtomicU64 = arena.at(Offset::new(block))?;
    let length = length.load(Relaxed);
    let start = arena.bytes_at(block + 8, length)?;
    // SAFETY: inside the arena, and its writer is dead.
    let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), length as usize) };
    Some(String::from_utf8_lossy(bytes).into_owned())
}
