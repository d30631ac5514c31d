//! What happens to workers and tasks, told to `tracing` if the feature of that name is on; else to nobody.
//!
//! Everything is told by the supervisor's thread.

/// An event of the crate's: a message, and fields.
#[cfg(feature = "tracing")]
macro_rules! event {
    ($level:ident, $message:literal $(, $field:ident = $value:expr)* $(,)?) => {
        tracing::event!(target: "procpool", tracing::Level::$level, $($field = $value,)* $message)
    };
}

/// Nothing; the fields are named as they would be.
#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($level:ident, $message:literal $(, $field:ident = $value:expr)* $(,)?) => {{
        $(let _ = &$value;)*
    }};
}

pub(super) use event;
