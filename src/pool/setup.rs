//! What a worker's process is like, before it runs anything: its core, priority, environment, directory,
//! how much memory it may map, and what it may not do (`confine.rs`).
//!
//! # If it fails
//! The worker leaves a note and ends, as with an initialiser that fails (`startup.rs`).

use super::confine::Confinement;
use crate::error::Error;
use crate::sys;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;

/// Settings of a worker's process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Setup {
    /// Each worker stays on one of the cores that the program may use, by its number.
    pub(super) pinned: bool,
    pub(super) nice: i32,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) directory: Option<PathBuf>,
    /// Beyond what is mapped when the worker starts.
    pub(super) address_space_bytes: Option<u64>,
    pub(super) confinement: Confinement,
}

impl Setup {
    pub(super) fn validate(&self) -> Result<(), Error> {
        if !(-20..=19).contains(&self.nice) {
            return Err(Error::invalid(format!("nice is {}, outside -20..=19", self.nice)));
        }
        for (name, value) in &self.environment {
            let (name, value) = (name.as_encoded_bytes(), value.as_encoded_bytes());
            if name.is_empty() || name.contains(&b'=') || [name, value].concat().contains(&0) {
                return Err(Error::invalid(format!(
                    "env: {:?} cannot be the name of a variable, or its value has a NUL",
                    String::from_utf8_lossy(name)
                )));
            }
        }
        self.confinement.validate()
    }

    /// Makes the calling process so. It has one thread.
    pub(super) fn apply(&self, number: usize) -> Result<(), String> {
        let Self { pinned, nice, environment, directory, address_space_bytes, confinement } = self;
        let failed = |what: String| move |error| format!("cannot {what}: {error}");
        if *pinned {
            sys::process::pin_to_core(number).map_err(failed("pin it to a core".into()))?;
        }
        if *nice != 0 {
            sys::process::be_nice(*nice)
                .map_err(failed(format!("set its nice value to {nice}")))?;
        }
        if let Some(directory) = directory {
            sys::folder::work_in(directory)
                .map_err(|error| format!("cannot change to {}: {error}", directory.display()))?;
        }
        for (name, value) in environment {
            sys::process::set_variable(name, value);
        }
        if let Some(bytes) = address_space_bytes {
            sys::process::limit_address_space(*bytes)
                .map_err(failed(format!("limit its address space to {bytes} bytes more")))?;
        }
        // Last: the others may need what it takes away.
        confinement.apply()
    }
}
