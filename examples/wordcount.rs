//! Counts the words in all UTF-8 files below some folders, with a pool and then in one process.
//!
//! `cargo run --release --example wordcount [DIR ...]`
//!
//! Without a folder it takes this repository, leaving out hidden folders and build output (folders
//! called `target` or `target-...`) directly below it. Of a folder that is named it leaves out
//! nothing: hidden files count. Symbolic links below a folder are not followed. Files that are not
//! UTF-8, or cannot be read, are skipped and counted as such.
//!
//! A word is a longest run of bytes other than space, tab, newline, vertical tab, form feed and
//! carriage return; the end of a file ends a word. The total is what this prints:
//!
//! ```sh
//! find -H DIR -type f -exec env LC_ALL=C.UTF-8 grep -axvLZ '.*' {} + |
//!     LC_ALL=C xargs -0r sed -s '$a\' | LC_ALL=C tr -c '[:space:]' x | wc -w
//! ```
//!
//! `grep` lists the files that are UTF-8, `sed` ends each with a newline, and `tr` turns all that is
//! not white space into letters: GNU `wc -w` 9.1 alone does not count words without an ASCII letter,
//! digit or sign in the C locale, and elsewhere takes a no-break space for the end of a word.
//!
//! How it works: neighbouring files, which have many words in common, form chunks of about equal
//! size; one task counts one chunk, and the biggest chunk goes first. A task returns its table in
//! parts, chosen by a hash of the word, so that several threads can merge at once: thread `n` merges
//! part `n` of every table. All files are read once beforehand, so that both ways find them in the
//! page cache if it is large enough.

use procpool::Pool;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Enough that the last chunks to end are short; with more, common words are sent more often.
const CHUNKS_PER_WORKER: usize = 8;
/// What opening a file costs, in bytes that could be counted meanwhile.
const FILE_COST_BYTES: u64 = 4096;
const WORDS_SHOWN: usize = 20;

/// Hashes alike in every process, unlike the standard library's default.
type Table<W> = HashMap<W, u64, BuildHasherDefault<DefaultHasher>>;
/// A part of a table as it travels: the words with a newline behind each, and their counts.
type Part = (String, Vec<u64>);

fn main() -> Result<(), Box<dyn Error>> {
    let files = files_to_count()?;
    let listed_bytes: u64 = files.iter().map(|(bytes, _)| bytes).sum();
    println!("{} files, {:.1} MB", files.len(), megabytes(listed_bytes));
    for (_, path) in &files {
        // A file that cannot be read is reported by the counts.
        let _ = File::open(path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
    }

    let pool = Pool::new()?;
    let workers = pool.workers();
    let start = Instant::now();
    let chunks = chunks(&files, workers * CHUNKS_PER_WORKER);
    let outcomes = pool.map(count_chunk, chunks.into_iter().map(|paths| (workers, paths)))?;
    let totals = outcomes.iter().fold(Totals::default(), |sum, (totals, _)| add(sum, *totals));
    let counted = start.elapsed();
    let tables = merge(&outcomes, workers);
    let pool_time = start.elapsed();

    let start = Instant::now();
    let (single_totals, single) = count(files.iter().map(|(_, path)| path.as_path()));
    let single_time = start.elapsed();

    print_words(&tables);
    let distinct: usize = tables.iter().map(Table::len).sum();
    let (files, bytes, words, skipped) = totals;
    println!("files           {files}");
    println!("skipped         {skipped} (not UTF-8 or unreadable)");
    println!("bytes           {bytes}");
    println!("words           {words}");
    println!("distinct words  {distinct}");
    print_time(&format!("pool of {workers}"), pool_time, bytes);
    println!("  of which merging took {:.3} s", (pool_time - counted).as_secs_f64());
    print_time("one process", single_time, bytes);
    println!("ratio           {:.2}", single_time.as_secs_f64() / pool_time.as_secs_f64());

    let same_table = distinct == single.len()
        && tables.iter().flatten().all(|(word, times)| single.get(*word) == Some(times));
    if totals != single_totals || !same_table {
        return Err(format!(
            "the pool and one process disagree (did a file change?): one process counted \
             {single_totals:?} (files, bytes, words, skipped), {} distinct words",
            single.len()
        )
        .into());
    }
    Ok(())
}

// What to count -------------------------------------------------------------------------------

/// Every file to count with its size, in order of path.
fn files_to_count() -> Result<Vec<(u64, PathBuf)>, Box<dyn Error>> {
    let mut folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let mut files = Vec::new();
    if folders.is_empty() {
        for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let built = name == "target" || name.starts_with("target-");
            match entry.file_type()? {
                kind if kind.is_dir() && !built && !name.starts_with('.') => {
                    folders.push(entry.path());
                }
                kind if kind.is_file() => files.push((entry.metadata()?.len(), entry.path())),
                _ => {}
            }
        }
    }
    for folder in folders {
        let metadata = fs::metadata(&folder)
            .map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
        match metadata.is_dir() {
            true => list(folder, &mut files),
            false => files.push((metadata.len(), folder)),
        }
    }
    files.sort_unstable_by(|(_, a), (_, b)| a.cmp(b));
    Ok(files)
}

/// Adds the files below a folder; what cannot be listed is mentioned.
fn list(folder: PathBuf, files: &mut Vec<(u64, PathBuf)>) {
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        let listed = fs::read_dir(&folder).and_then(|entries| {
            for entry in entries {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    files.push((entry.metadata()?.len(), entry.path()));
                }
            }
            Ok(())
        });
        if let Err(error) = listed {
            eprintln!("cannot list {}: {error}", folder.display());
        }
    }
}

/// Cuts the list, in order of path, into about so many chunks of equal size; the biggest first.
fn chunks(files: &[(u64, PathBuf)], about: usize) -> Vec<Vec<OsString>> {
    let cost = |bytes: &u64| bytes + FILE_COST_BYTES;
    let all: u64 = files.iter().map(|(bytes, _)| cost(bytes)).sum();
    let mut chunks: Vec<(u64, Vec<OsString>)> = Vec::new();
    for (bytes, path) in files {
        // Unlike a `PathBuf`, an `OsString` need not be UTF-8 to be sent.
        let path = path.clone().into_os_string();
        match chunks.last_mut() {
            Some((sum, paths)) if *sum + cost(bytes) <= all / about as u64 => {
                *sum += cost(bytes);
                paths.push(path);
            }
            _ => chunks.push((cost(bytes), vec![path])),
        }
    }
    chunks.sort_by_key(|(sum, _)| Reverse(*sum));
    chunks.into_iter().map(|(_, paths)| paths).collect()
}

// Counting ------------------------------------------------------------------------------------

/// Files, bytes and words that were counted, and files that were skipped.
type Totals = (u64, u64, u64, u64);

fn add(a: Totals, b: Totals) -> Totals {
    (a.0 + b.0, a.1 + b.1, a.2 + b.2, a.3 + b.3)
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t'..='\r')
}

/// Counts the words of all these files.
fn count<'a>(paths: impl Iterator<Item = &'a Path>) -> (Totals, Table<String>) {
    let mut totals = Totals::default();
    let mut table = Table::default();
    let mut content = Vec::new();
    for path in paths {
        content.clear();
        let read = File::open(path).and_then(|mut file| file.read_to_end(&mut content));
        let (Ok(_), Ok(text)) = (read, str::from_utf8(&content)) else {
            totals = add(totals, (0, 0, 0, 1));
            continue;
        };
        let mut words = 0;
        for word in text.split(is_space).filter(|word| !word.is_empty()) {
            words += 1;
            match table.get_mut(word) {
                Some(times) => *times += 1,
                None => drop(table.insert(word.to_owned(), 1)),
            }
        }
        totals = add(totals, (1, text.len() as u64, words, 0));
    }
    (totals, table)
}

/// The task: counts one chunk, and returns its table in as many parts as asked for.
fn count_chunk((parts, paths): (usize, Vec<OsString>)) -> (Totals, Vec<Part>) {
    let (totals, table) = count(paths.iter().map(Path::new));
    let hasher = table.hasher().clone();
    let mut sent = vec![Part::default(); parts];
    for (word, times) in table {
        let (words, counts) = &mut sent[hasher.hash_one(&word) as usize % parts];
        words.push_str(&word);
        words.push('\n');
        counts.push(times);
    }
    (totals, sent)
}

/// Merges part `n` of every table in thread `n`; no word is in two of the results.
fn merge(outcomes: &[(Totals, Vec<Part>)], parts: usize) -> Vec<Table<&str>> {
    let merge_part = |part: usize| {
        let mut merged = Table::default();
        for (words, counts) in outcomes.iter().map(|(_, parts)| &parts[part]) {
            for (word, times) in words.split_terminator('\n').zip(counts) {
                *merged.entry(word).or_insert(0) += times;
            }
        }
        merged
    };
    let merge_part = &merge_part;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..parts).map(|part| scope.spawn(move || merge_part(part))).collect();
        let merged = threads.into_iter().map(|thread| thread.join());
        merged.map(|table| table.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

// Printing ------------------------------------------------------------------------------------

/// Prints the most frequent words; those that are equally frequent in alphabetical order.
fn print_words(tables: &[Table<&str>]) {
    let mut words: Vec<_> =
        tables.iter().flatten().map(|(word, times)| (Reverse(*times), *word)).collect();
    if words.len() > WORDS_SHOWN {
        words.select_nth_unstable(WORDS_SHOWN);
        words.truncate(WORDS_SHOWN);
    }
    words.sort_unstable();
    for (Reverse(times), word) in words {
        match word.contains(char::is_control) {
            true => println!("{times:>12}  {}", word.escape_debug()),
            false => println!("{times:>12}  {word}"),
        }
    }
}

fn print_time(how: &str, time: Duration, bytes: u64) {
    let speed = megabytes(bytes) / time.as_secs_f64();
    println!("{how:<15} {:.3} s, {speed:.0} MB/s", time.as_secs_f64());
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
