//! The file that a run leaves behind: on what machine, with what code, and the table.

use super::Table;
use std::fs;
use std::io;
use std::process::Command;

/// The bench that runs: the name of its file.
const BENCH: &str = env!("CARGO_CRATE_NAME");

/// Writes the table to `path`, under what one must know to read it.
pub(super) fn write(path: &str, table: &Table, notes: &[String]) -> io::Result<()> {
    let mut text = format!(
        "# Results of `benches/{BENCH}.rs`\n\n\
         Written by `benches/record`. What each row measures, and what it does not tell, stands at\n\
         the top of `benches/{BENCH}.rs` and of the files of its rows. A cell is the median of the\n\
         rounds (fastest to slowest). Times are per call.\n\n",
    );
    for (name, value) in facts() {
        text.push_str(&format!("- {name}: {value}\n"));
    }
    for note in notes {
        text.push_str(&format!("- {note}\n"));
    }
    text.push_str(&format!("\n{table}"));
    fs::write(path, text)
}

fn facts() -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        ("processor", format!("{}, {cores} usable cores", processor())),
        ("kernel", kernel.trim().to_owned()),
        ("compiler", answer("rustc", &["-V"])),
        ("date", answer("date", &["-u", "+%Y-%m-%d"])),
        ("commit", commit()),
    ]
}

/// The name in `/proc/cpuinfo`, or at least the architecture.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = text.lines().find(|line| line.starts_with("model name"));
    let name = named.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

/// The commit, marked if the tree differs from it in more than the results.
fn commit() -> String {
    let head = answer("git", &["rev-parse", "--short", "HEAD"]);
    let paths = ["--", ".", ":!benches/RESULTS.md"];
    let changed = answer("git", &[&["status", "--porcelain"], &paths[..]].concat());
    if changed.is_empty() { head } else { format!("{head}+dirty") }
}

/// What a program prints; "unknown" if it cannot run.
fn answer(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}
