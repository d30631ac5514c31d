//! What all benches do before and after their rows.

use super::{Table, record};
use criterion::Criterion;
use std::process::ExitCode;
use std::time::Duration;

/// Criterion, with short measurements: the groups are many.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .without_plots()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .configure_from_args()
}

/// A table for the rows that are asked for: none when this is a test or a listing, or when
/// criterion is given options.
pub(crate) fn table() -> Option<Table> {
    let (bench, rest): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument == "--bench");
    match rest.as_slice() {
        _ if bench.is_empty() => None,
        [] => Some(Table::new(None)),
        [name] if !name.starts_with('-') => Some(Table::new(Some(name.clone()))),
        _ => None,
    }
}

/// Prints the table; a whole one also goes into the file that `PROCPOOL_RECORD` names.
pub(crate) fn finish(table: &Table, notes: &[String]) -> ExitCode {
    println!("\n{table}");
    let Some(path) = std::env::var("PROCPOOL_RECORD").ok().filter(|_| table.is_whole()) else {
        return ExitCode::SUCCESS;
    };
    match record::write(&path, table, notes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {path}: {error}");
            ExitCode::FAILURE
        }
    }
}
