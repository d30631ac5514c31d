//! The rules of the source that a reader would otherwise have to police.
//!
//! Each check is a function from sources to complaints of the form `file:line: what is wrong`. It
//! runs twice: over `src/`, where it must find nothing, and over a small bad example, where it must
//! find something. An exception names the file, the thing and the reason, and is itself a complaint
//! once nothing needs it.
//!
//! The scanner knows comments, literals and `#[cfg(test)]` modules; it does not expand macros.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Lines that no file may exceed.
const LINES_MAX: usize = 500;

/// From low to high. A module uses modules of lower layers: never of a higher one, nor another of
/// its own layer.
const LAYERS: &[&[&str]] = &[
    &["limits", "error", "prim"],
    &["sys"],
    &["shm"],
    &["sync"],
    &["codec"],
    &["collections"],
    &["queue"],
    &["process"],
    &["pool", "named"],
    &["lib", "guide"],
];

/// The files that may contain `unsafe`; each says why beside its `allow`.
const UNSAFE_FILES: &[&str] = &[
    "codec/codec_fuzz.rs",
    "codec/kept.rs",
    "codec/plain.rs",
    "codec/stream.rs",
    "codec/writer.rs",
    "collections/array.rs",
    "collections/map.rs",
    "collections/sequence.rs",
    "collections/stripe.rs",
    "pool/area.rs",
    "pool/context.rs",
    "pool/failure.rs",
    "pool/path_models.rs",
    "pool/results.rs",
    "pool/slot.rs",
    "pool/startup.rs",
    "pool/state.rs",
    "pool/submit.rs",
    "pool/task.rs",
    "pool/trampolines.rs",
    "prim/prefetch.rs",
    "process/guardian.rs",
    "process/identity.rs",
    "queue/buffer.rs",
    "queue/chain.rs",
    "queue/joinable.rs",
    "queue/pipe.rs",
    "queue/queue.rs",
    "queue/transfer.rs",
    "shm/allocator.rs",
    "shm/arena.rs",
    "shm/offset.rs",
    "shm/participants.rs",
    "shm/objects.rs",
    "shm/segment.rs",
    "shm/table.rs",
    "shm/words.rs",
    "sync/handle.rs",
    "sync/mutex.rs",
    "sync/once.rs",
    "sync/raw.rs",
    "sync/records.rs",
    "sync/reentrant.rs",
    "sync/rwlock.rs",
    "sync/stored.rs",
    "sync/value.rs",
    "sys/fd.rs",
    "sys/image.rs",
    "sys/memory.rs",
    "sys/process.rs",
    "sys/robust.rs",
    "sys/robust_model.rs",
];

/// What a check lets pass: in `file`, whatever begins with `what`.
struct Exception {
    file: &'static str,
    what: &'static str,
    why: &'static str,
}

const LONG_FILES: &[Exception] = &[];

const LAYER_EXCEPTIONS: &[Exception] = &[];

const ATOMICS_EXCEPTIONS: &[Exception] = &[Exception {
    file: "sys/futex.rs",
    what: "loom::",
    why: "under loom the kernel's wait queue is a lock and a condition variable of loom",
}];

/// Edges that no model covers: the name, and why.
const UNMODELLED_EDGES: &[(&str, &str)] = &[
    ("context-free", "it orders two stores to the same word, which loom does by itself"),
    (
        "value-word",
        "the operations of a `Value` of one word are those of its atomic, with nothing around them",
    ),
];

const SYSTEM_EXCEPTIONS: &[Exception] = &[
    Exception {
        file: "process/guardian.rs",
        what: "libc::ENOEXEC",
        why: "the error number that answers a fork request whose entry is not in the program",
    },
    Exception {
        file: "process/identity.rs",
        what: "libc::getpid",
        why: "a test needs a function of another image",
    },
];

// The sources ---------------------------------------------------------------------------------

struct Source {
    /// Relative to `src/`.
    path: String,
    text: String,
    /// The text with comments and literals blanked; same length, same lines.
    code: String,
    /// The code with test modules blanked as well; nothing at all of a file of tests or models.
    shipped: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = without_comments_and_literals(text);
        let of_tests = path.ends_with("_tests.rs") || path.ends_with("_models.rs");
        let shipped = if of_tests { String::new() } else { without_test_modules(&code) };
        Self { path: path.into(), text: text.into(), code, shipped }
    }

    /// The module of the crate root that the file belongs to.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    fn at(&self, place: usize, what: impl std::fmt::Display) -> String {
        let line = self.text[..place].matches('\n').count() + 1;
        format!("src/{}:{line}: {what}", self.path)
    }
}

/// Every file of the crate, in order of path.
fn sources() -> Vec<Source> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<Source>) {
        let mut entries: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                found.push(Source::new(name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    assert!(found.len() > 30, "only {} files found under {}", found.len(), root.display());
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Replaces everything but line ends by spaces.
fn blank(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

fn without_comments_and_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = comment_end(text, at).or_else(|| literal_end(text, at));
        if let Some(end) = end {
            blank(&mut out[at..end]);
        }
        at = end.unwrap_or(at + 1);
    }
    String::from_utf8(out).unwrap()
}

fn comment_end(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes[at..].starts_with(b"//") {
        return Some(
            at + bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(text.len() - at),
        );
    }
    if !bytes[at..].starts_with(b"/*") {
        return None;
    }
    let (mut depth, mut end) = (0, at);
    while end < bytes.len() {
        if bytes[end..].starts_with(b"/*") {
            (depth, end) = (depth + 1, end + 2);
        } else if bytes[end..].starts_with(b"*/") {
            (depth, end) = (depth - 1, end + 2);
            if depth == 0 {
                break;
            }
        } else {
            end += 1;
        }
    }
    Some(end)
}

fn literal_end(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let after_word = at > 0 && is_word(bytes[at - 1]);
    if let Some(end) = raw_string_end(text, at).filter(|_| !after_word) {
        return Some(end);
    }
    match bytes[at] {
        b'"' => {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            Some((end + 1).min(bytes.len()))
        }
        b'\'' if bytes.get(at + 1) == Some(&b'\\') => {
            Some(at + 4 + bytes[at + 3..].iter().position(|byte| *byte == b'\'')?)
        }
        b'\'' => {
            let end = at + 1 + text.get(at + 1..)?.chars().next()?.len_utf8();
            (bytes.get(end) == Some(&b'\'')).then_some(end + 1)
        }
        _ => None,
    }
}

/// The end of `r"..."`, `r#"..."#`, and the same after `b` or `c`.
fn raw_string_end(text: &str, at: usize) -> Option<usize> {
    let rest = &text.as_bytes()[at..];
    let prefix = usize::from(matches!(rest[0], b'b' | b'c'));
    let rest = rest.get(prefix..)?.strip_prefix(b"r")?;
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    if rest.get(hashes) != Some(&b'"') {
        return None;
    }
    let start = at + prefix + 1 + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    Some(text.get(start..)?.find(&close).map_or(text.len(), |found| start + found + close.len()))
}

/// The place behind the bracket that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

fn without_test_modules(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for (start, _) in code.match_indices("#[cfg(") {
        let end = closing(code, start + 1);
        let condition = &code[start..end];
        let needs_test = words(condition, "test").next().is_some()
            && words(condition, "any").next().is_none()
            && words(condition, "not(test").next().is_none();
        let mut item = skip_space(code, end);
        while code[item..].starts_with("#[") {
            item = skip_space(code, closing(code, item + 1));
        }
        let body = code[item..].find(['{', ';']).map(|found| item + found);
        if let Some(open) = body
            && needs_test
            && words(&code[item..open], "mod").next().is_some()
            && code[open..].starts_with('{')
        {
            blank(&mut out[start..closing(code, open)]);
        }
    }
    String::from_utf8(out).unwrap()
}

fn skip_space(code: &str, at: usize) -> usize {
    at + code[at..].len() - code[at..].trim_start().len()
}

/// The places of `needle` where it does not continue a longer word.
fn words<'a>(code: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    let (first, last) = (needle.as_bytes()[0], needle.as_bytes()[needle.len() - 1]);
    code.match_indices(needle).map(|(at, _)| at).filter(move |at| {
        let before = at.checked_sub(1).is_some_and(|before| is_word(bytes[before]));
        let after = bytes.get(at + needle.len()).is_some_and(|byte| is_word(*byte));
        !(is_word(first) && before || is_word(last) && after)
    })
}

/// The path that starts at `at`: `a::b::C`.
fn path_at(code: &str, at: usize) -> &str {
    let length = code[at..].bytes().take_while(|byte| is_word(*byte) || *byte == b':').count();
    &code[at..at + length]
}

// Complaints ----------------------------------------------------------------------------------

/// What a check found, and which exceptions it needed.
struct Complaints<'a> {
    found: Vec<String>,
    exceptions: &'a [Exception],
    needed: Vec<bool>,
}

impl<'a> Complaints<'a> {
    fn new(exceptions: &'a [Exception]) -> Self {
        Self { found: Vec::new(), exceptions, needed: vec![false; exceptions.len()] }
    }

    fn add(
        &mut self,
        source: &Source,
        place: usize,
        named: &str,
        complaint: impl std::fmt::Display,
    ) {
        let excused = self.exceptions.iter().position(|exception| {
            exception.file == source.path && named.starts_with(exception.what)
        });
        match excused {
            Some(excused) => self.needed[excused] = true,
            None => self.found.push(source.at(place, complaint)),
        }
    }

    fn end(mut self) -> Vec<String> {
        for (exception, needed) in self.exceptions.iter().zip(self.needed) {
            let Exception { file, what, why } = exception;
            if !needed {
                self.found.push(format!(
                    "src/{file}:1: nothing needs the exception for {what:?} any more ({why})"
                ));
            }
        }
        self.found
    }
}

// Checks --------------------------------------------------------------------------------------

fn file_sizes(sources: &[Source], exceptions: &[Exception]) -> Vec<String> {
    let mut complaints = Complaints::new(exceptions);
    for source in sources {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            let excess =
                source.text.match_indices('\n').nth(LINES_MAX - 1).map_or(0, |(at, _)| at + 1);
            let complaint = format!("the file has {lines} lines, more than {LINES_MAX}");
            complaints.add(source, excess, "", complaint);
        }
    }
    complaints.end()
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The modules that the `crate::` at `at` leads to: one, or several of a group in braces.
fn targets(code: &str, at: usize) -> Vec<(usize, &str)> {
    let start = skip_space(code, at + "crate::".len());
    if !code[start..].starts_with('{') {
        return vec![(start, first_word(code, start))];
    }
    let end = closing(code, start);
    let mut found = Vec::new();
    let mut item = start + 1;
    while item < end {
        item = skip_space(code, item);
        found.push((item, first_word(code, item)));
        // On to the comma that ends this item.
        while item < end && code.as_bytes()[item] != b',' {
            let opens = code.as_bytes()[item] == b'{';
            item = if opens { closing(code, item) } else { item + 1 };
        }
        item += 1;
    }
    found.retain(|(_, word)| !word.is_empty());
    found
}

fn first_word(code: &str, at: usize) -> &str {
    path_at(code, at).split(':').next().unwrap_or_default()
}

fn layer_order(sources: &[Source], exceptions: &[Exception]) -> Vec<String> {
    let mut complaints = Complaints::new(exceptions);
    for source in sources {
        let (own, code) = (source.module(), source.code.as_str());
        let Some(own_rank) = rank(own) else {
            complaints.add(source, 0, own, format!("{own} has no place in LAYERS"));
            continue;
        };
        for at in words(code, "crate::") {
            for (place, target) in targets(code, at) {
                // Whatever is not a module is a name of the crate root.
                let target_rank = rank(target).unwrap_or(LAYERS.len() - 1);
                let complaint = match target_rank.cmp(&own_rank) {
                    std::cmp::Ordering::Greater => "climbs to",
                    std::cmp::Ordering::Equal if target != own && own != "lib" => "is beside",
                    _ => continue,
                };
                complaints.add(source, place, target, format!("{own} {complaint} {target}"));
            }
        }
        // A path through `super` must not leave the module unseen.
        let top = !source.path.contains('/') || source.path.ends_with("/mod.rs");
        let leaving = if top { "super::" } else { "super::super::" };
        for at in words(&source.shipped, leaving).filter(|_| own != "lib") {
            complaints.add(source, at, leaving, format!("{leaving} leaves {own}: write crate::"));
        }
    }
    complaints.end()
}

fn unsafe_files(sources: &[Source], allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let places: Vec<usize> = words(&source.code, "allow(unsafe_code)").collect();
        let listed = allowed.contains(&source.path.as_str());
        match places.first() {
            Some(place) if !listed => {
                found.push(source.at(*place, "the file allows unsafe code and is not in the list"));
            }
            None if listed => {
                found.push(source.at(0, "the file is in the list and allows no unsafe code"));
            }
            _ => {}
        }
        for place in places {
            let line = source.text[place..].lines().next().unwrap_or_default();
            if !line.contains("// ") {
                found.push(source.at(place, "no reason beside allow(unsafe_code)"));
            }
        }
    }
    for path in allowed {
        if !sources.iter().any(|source| source.path == **path) {
            found.push(format!("src/{path}:1: the file is in the list and does not exist"));
        }
    }
    found
}

fn atomics(sources: &[Source], exceptions: &[Exception]) -> Vec<String> {
    let mut complaints = Complaints::new(exceptions);
    for source in sources.iter().filter(|source| !source.is_in("prim/")) {
        for at in words(&source.code, "atomic::") {
            complaints.add(source, at, "atomic::", "atomics are named in src/prim only");
        }
        // A model is written in loom's threads.
        for at in words(&source.code, "loom::").filter(|_| !source.path.ends_with("_models.rs")) {
            let path = path_at(&source.code, at);
            complaints.add(source, at, path, format!("{path} is named outside src/prim"));
        }
    }
    complaints.end()
}

fn private_futexes(sources: &[Source]) -> Vec<String> {
    let mut complaints = Complaints::new(&[]);
    for source in sources {
        for flag in ["FUTEX_PRIVATE", "FUTEX_PRIVATE_FLAG", "Flags::PRIVATE"] {
            for at in words(&source.code, flag) {
                let complaint = format!("{flag}: the waiters are in other processes");
                complaints.add(source, at, flag, complaint);
            }
        }
    }
    complaints.end()
}

fn sync_tags(sources: &[Source]) -> Vec<String> {
    // For each name, its places: described in a header, and standing in the code.
    let mut places: BTreeMap<&str, (Vec<String>, usize)> = BTreeMap::new();
    for source in sources {
        for (at, _) in source.text.match_indices("SYNC(") {
            let Some((name, _)) = source.text[at + 5..].split_once(')') else { continue };
            let line = source.text[..at].rsplit('\n').next().unwrap_or_default();
            let (seen, in_code) = places.entry(name).or_default();
            seen.push(source.at(at, format!("SYNC({name})")));
            *in_code += usize::from(!line.trim_start().starts_with("//!"));
        }
    }
    let lonely = places.into_values().filter(|(_, in_code)| *in_code < 2);
    lonely
        .flat_map(|(seen, in_code)| {
            seen.into_iter()
                .map(move |place| format!("{place} stands at {in_code} places in the code, not 2"))
        })
        .collect()
}

/// Every edge is named by the loom models that would fail without it, in their headers.
fn modelled_edges(sources: &[Source], exceptions: &[(&str, &str)]) -> Vec<String> {
    let mut edges: BTreeMap<&str, (String, bool)> = BTreeMap::new();
    for source in sources {
        // Shuttle's models know one order of everything.
        let models =
            source.path.ends_with("_models.rs") && !source.path.ends_with("path_models.rs");
        for (at, _) in source.text.match_indices("SYNC(") {
            let Some((name, _)) = source.text[at + 5..].split_once(')') else { continue };
            let place = || (source.at(at, format!("SYNC({name})")), false);
            let (_, modelled) = edges.entry(name).or_insert_with(place);
            *modelled |= models;
        }
    }
    let mut found = Vec::new();
    for (name, (place, modelled)) in &edges {
        let excepted = exceptions.iter().find(|(exception, _)| exception == name);
        match (modelled, excepted) {
            (false, None) => found.push(format!("{place} is named by no loom model")),
            (true, Some((_, why))) => {
                found.push(format!("{place} is modelled, and needs no exception any more ({why})"));
            }
            _ => {}
        }
    }
    let gone = exceptions.iter().filter(|(name, _)| !edges.contains_key(name));
    found.extend(gone.map(|(name, why)| format!("there is no SYNC({name}) any more ({why})")));
    found
}

fn shortcuts(sources: &[Source]) -> Vec<String> {
    let mut complaints = Complaints::new(&[]);
    for source in sources {
        for shortcut in [".unwrap()", ".expect(", "todo!", "unimplemented!", "dbg!"] {
            for at in words(&source.shipped, shortcut) {
                complaints.add(source, at, shortcut, format!("{shortcut} outside tests"));
            }
        }
    }
    complaints.end()
}

fn system_calls(sources: &[Source], exceptions: &[Exception]) -> Vec<String> {
    let mut complaints = Complaints::new(exceptions);
    for source in sources.iter().filter(|source| !source.is_in("sys/")) {
        for at in words(&source.code, "rustix").chain(words(&source.code, "libc")) {
            let path = path_at(&source.code, at);
            complaints.add(source, at, path, format!("{path} is named outside src/sys"));
        }
    }
    complaints.end()
}

fn headers(sources: &[Source]) -> Vec<String> {
    let bare = sources.iter().filter(|source| !source.text.starts_with("//!"));
    bare.map(|source| source.at(0, "the file does not begin with //!")).collect()
}

// Tests ---------------------------------------------------------------------------------------

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Runs a check over one bad file and compares what it says.
#[track_caller]
fn assert_finds(
    check: impl Fn(&[Source]) -> Vec<String>,
    path: &str,
    text: &str,
    expected: &[&str],
) {
    assert_eq!(check(&[Source::new(path, text)]), expected, "in {text:?}");
}

#[test]
fn no_file_is_too_long() {
    assert_none(&file_sizes(&sources(), LONG_FILES));
    let (allowed, long) = ("\n".repeat(LINES_MAX), "\n".repeat(LINES_MAX + 1));
    let check = |sources: &[Source]| file_sizes(sources, &[]);
    assert_finds(check, "pool/a.rs", &allowed, &[]);
    let complaint = "src/pool/a.rs:501: the file has 501 lines, more than 500";
    assert_finds(check, "pool/a.rs", &long, &[complaint]);
}

#[test]
fn no_module_uses_one_beside_or_above() {
    assert_none(&layer_order(&sources(), LAYER_EXCEPTIONS));
    let check = |sources: &[Source]| layer_order(sources, &[]);
    let good = "use crate::{error::Error, prim::{A, B}};\nuse crate::sys::fd; // not crate::pool";
    assert_finds(check, "shm/a.rs", good, &[]);
    let bad = "use crate::{\n    sys,\n    queue::{A, B},\n};\nfn f() { crate::pool::g() }";
    let complaints = ["src/shm/a.rs:3: shm climbs to queue", "src/shm/a.rs:5: shm climbs to pool"];
    assert_finds(check, "shm/a.rs", bad, &complaints);
    let complaint = "src/named/a.rs:1: named is beside pool";
    assert_finds(check, "named/a.rs", "use crate::pool::Pool;", &[complaint]);
    let complaint = "src/sys/a.rs:1: sys climbs to Pool";
    assert_finds(check, "sys/a.rs", "fn f(_: crate::Pool) {}", &[complaint]);
    let complaint = "src/error.rs:1: super:: leaves error: write crate::";
    assert_finds(check, "error.rs", "use super::pool;", &[complaint]);
    let complaint = "src/shm/a.rs:1: super::super:: leaves shm: write crate::";
    assert_finds(check, "shm/a.rs", "use super::super::pool;", &[complaint]);
    let complaint = "src/new/mod.rs:1: new has no place in LAYERS";
    assert_finds(check, "new/mod.rs", "", &[complaint]);
}

#[test]
fn only_listed_files_allow_unsafe_code() {
    assert_none(&unsafe_files(&sources(), UNSAFE_FILES));
    let bad = "//! x\n#![allow(unsafe_code)] // Because.";
    let complaint = "src/a.rs:2: the file allows unsafe code and is not in the list";
    assert_finds(|sources| unsafe_files(sources, &[]), "a.rs", bad, &[complaint]);
    let complaint = "src/a.rs:1: no reason beside allow(unsafe_code)";
    let listed = |sources: &[Source]| unsafe_files(sources, &["a.rs"]);
    assert_finds(listed, "a.rs", "#![allow(unsafe_code)]\n", &[complaint]);
    let complaint = "src/a.rs:1: the file is in the list and allows no unsafe code";
    assert_finds(listed, "a.rs", "// allow(unsafe_code)", &[complaint]);
    let complaint = "src/a.rs:1: the file is in the list and does not exist";
    assert_finds(listed, "b.rs", "", &[complaint]);
}

#[test]
fn atomics_come_from_prim() {
    assert_none(&atomics(&sources(), ATOMICS_EXCEPTIONS));
    let check = |sources: &[Source]| atomics(sources, &[]);
    let bad = "#[cfg(loom)]\nuse std::sync::{Arc, atomic::AtomicU8};\nuse loom::thread;";
    let complaints = [
        "src/pool/a.rs:2: atomics are named in src/prim only",
        "src/pool/a.rs:3: loom::thread is named outside src/prim",
    ];
    assert_finds(check, "pool/a.rs", bad, &complaints);
    assert_finds(check, "prim/mod.rs", bad, &[]);
}

#[test]
fn no_futex_is_private() {
    assert_none(&private_futexes(&sources()));
    let complaint = "src/sys/a.rs:1: Flags::PRIVATE: the waiters are in other processes";
    let bad = "wait(futex::Flags::PRIVATE); mmap(MapFlags::PRIVATE);";
    assert_finds(private_futexes, "sys/a.rs", bad, &[complaint]);
}

#[test]
fn both_sides_of_an_edge_name_it() {
    assert_none(&sync_tags(&sources()));
    let bad = "//! SYNC(a): both.\n// SYNC(a): one side.\n// SYNC(b): x\n// SYNC(b): y\n";
    let complaints = [
        "src/a.rs:1: SYNC(a) stands at 1 places in the code, not 2",
        "src/a.rs:2: SYNC(a) stands at 1 places in the code, not 2",
    ];
    assert_finds(sync_tags, "a.rs", bad, &complaints);
}

#[test]
fn every_edge_is_named_by_a_model() {
    assert_none(&modelled_edges(&sources(), UNMODELLED_EDGES));
    let code = Source::new("a.rs", "//! x\n// SYNC(a): x\n// SYNC(b): x\n");
    let models = |path| Source::new(path, "//! Models of SYNC(b).");
    let complaint = "src/a.rs:2: SYNC(a) is named by no loom model";
    let files = [code, models("a_models.rs")];
    assert_eq!(modelled_edges(&files, &[]), [complaint]);
    assert!(modelled_edges(&files, &[("a", "because")]).is_empty());
    let needless = [("a", "because"), ("b", "so"), ("c", "why")];
    let complaints = [
        "src/a.rs:3: SYNC(b) is modelled, and needs no exception any more (so)",
        "there is no SYNC(c) any more (why)",
    ];
    assert_eq!(modelled_edges(&files, &needless), complaints);
    let [code, _] = files;
    let complaint_of_b = "src/a.rs:3: SYNC(b) is named by no loom model";
    let files = [code, models("path_models.rs")];
    assert_eq!(modelled_edges(&files, &[]), [complaint, complaint_of_b]);
}

#[test]
fn nothing_shipped_takes_shortcuts() {
    assert_none(&shortcuts(&sources()));
    let bad = "//! x.unwrap()\nfn f() { x.unwrap(); y.unwrap_or(\".expect(\") }\n\
               #[cfg(test)]\nmod tests { fn g() { x.unwrap() } }\nfn h() { x.expect(1) }";
    let complaints = ["src/a.rs:2: .unwrap() outside tests", "src/a.rs:5: .expect( outside tests"];
    assert_finds(shortcuts, "a.rs", bad, &complaints);
    assert_finds(shortcuts, "a_tests.rs", bad, &[]);
}

#[test]
fn system_calls_are_made_in_sys() {
    assert_none(&system_calls(&sources(), SYSTEM_EXCEPTIONS));
    let check = |sources: &[Source]| system_calls(sources, &[]);
    let complaint = "src/pool/a.rs:2: libc::kill is named outside src/sys";
    assert_finds(check, "pool/a.rs", "// libc::fork\nlibc::kill();", &[complaint]);
    assert_finds(check, "sys/a.rs", "libc::kill();", &[]);
}

#[test]
fn every_file_says_what_it_is_for() {
    assert_none(&headers(&sources()));
    let complaint = "src/a.rs:1: the file does not begin with //!";
    assert_finds(headers, "a.rs", "use x;\n//! late", &[complaint]);
}

#[test]
fn an_exception_excuses_its_case_and_must_be_needed() {
    let exceptions = [Exception { file: "pool/a.rs", what: "libc::kill", why: "because" }];
    let check = |sources: &[Source]| system_calls(sources, &exceptions);
    assert_finds(check, "pool/a.rs", "libc::kill()", &[]);
    let complaints = [
        "src/pool/a.rs:1: libc::fork is named outside src/sys",
        "src/pool/a.rs:1: nothing needs the exception for \"libc::kill\" any more (because)",
    ];
    assert_finds(check, "pool/a.rs", "libc::fork()", &complaints);
}

#[test]
fn the_scanner_tells_code_from_comments_and_literals() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"a "b\"c" d"#, "a        d"),
        (r##"a r#"b"c"# d"##, "a          d"),
        ("a br\"\\\" d", "a       d"),
        (r"a '\'' 'b' '\u{1}' &'c d", "a                  &'c d"),
        ("for r in x", "for r in x"),
    ];
    for (text, code) in cases {
        assert_eq!(without_comments_and_literals(text), code);
    }
    let text = "#[cfg(test)]\n#[path = x]\nmod a { b { } }\n#[cfg(not(test))]\nmod c { }\n\
                #[cfg(test)]\nmod d;\nfn e() {}";
    let shipped = without_test_modules(text);
    assert!(!shipped.contains("mod a"), "{shipped}");
    assert!(shipped.contains("mod c { }") && shipped.contains("fn e() {}"), "{shipped}");
    assert_eq!(shipped.len(), text.len());
}

/// What was to be filled in later has been.
#[test]
fn no_page_of_the_guide_has_a_gap() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide");
    let mut pages = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        pages += 1;
        for line in fs::read_to_string(&path).unwrap().lines() {
            let gap = line.ends_with("_TABLE") || line.ends_with("_TEXT");
            assert!(!gap, "{}: {line}", path.display());
        }
    }
    assert!(pages > 5, "{pages}");
}
