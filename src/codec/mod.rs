//! How arguments and results cross between processes.
//!
//! Plain numbers, small tuples of them and vectors of them are copied as bytes: both sides run the
//! same executable, so layout and byte order are the same. Everything else goes through `postcard`.
//!
//! # Layout
//! A **stream** holds the values of one batch, one after the other:
//!
//! ```text
//! one call          | value |
//! plain, n calls    | value 0 | value 1 | ...             each of the type's size
//! other, n calls    | end 0 | end 1 | ... (8 B each) | value 0 | value 1 | ...
//! ```
//!
//! The ends let a reader skip a value that it cannot decode, or that killed its first reader.
//!
//! # Errors
//! What arrives is checked: lengths against the stream, and decoding reports instead of panicking.
//! `postcard` does not carry the text of a type's own error, so messages name the type and the step;
//! only why a handle was refused is known.

#[cfg(all(test, not(any(loom, shuttle))))]
mod codec_fuzz;
pub(crate) mod kept;
pub(crate) mod plain;
pub(crate) mod stream;
pub(crate) mod writer;

pub(crate) use stream::Stream;
pub(crate) use writer::ArenaWriter;

use crate::sync::crossing::{Carried, carrying, text_of};
use serde::{Serialize, de::DeserializeOwned};

/// How values of a type cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Copied; every value has the same number of bytes.
    Plain,
    /// Encoded; each value has its own length.
    Varying,
}

/// How values of `T` cross.
#[inline]
pub(crate) fn shape_of<T: 'static>() -> Shape {
    if plain::is_plain::<T>() { Shape::Plain } else { Shape::Varying }
}

/// Appends a value to a stream. What holds the shared objects to which it carries handles is added to
/// `carried`.
#[inline]
pub(crate) fn encode<T: Serialize + 'static>(
    value: &T,
    writer: &mut ArenaWriter<'_>,
    carried: &mut Vec<Carried>,
) -> Result<(), EncodeError> {
    if let Some(bytes) = plain::bytes_of(value) {
        return writer.append(bytes);
    }
    let encoded = carrying(carried, || {
        postcard::serialize_with_flavor::<T, &mut ArenaWriter<'_>, ()>(value, writer)
    });
    match encoded {
        Ok(()) => Ok(()),
        Err(error) => {
            Err(writer.take_error().unwrap_or_else(|| EncodeError::Refused(text_of(error))))
        }
    }
}

/// Reads a value from exactly these bytes.
#[inline]
pub(crate) fn decode<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<T, String> {
    match plain::from_bytes(bytes) {
        plain::Read::Value(value) => Ok(value),
        plain::Read::WrongLength => {
            Err(format!("{} bytes are no whole number of values", bytes.len()))
        }
        plain::Read::NotPlain => match postcard::take_from_bytes(bytes) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(format!("{} of {} bytes are left over", rest.len(), bytes.len())),
            Err(error) => Err(text_of(error)),
        },
    }
}

/// Why a value could not be written.
#[derive(Debug)]
pub(crate) enum EncodeError {
    /// The type's `Serialize` refused.
    Refused(String),
    /// The arena has no room for it.
    Arena(crate::error::Error),
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(message) => formatter.write_str(message),
            Self::Arena(error) => error.fmt(formatter),
        }
    }
}
