//! A program that attaches to the arena of the tormented one and changes its shared objects, by itself or
//! through a worker of a pool of its own. Before each change it writes a line to its pipe, and one after it:
//! a pipe keeps what was written when the writer is killed.

use super::program::{NAME, SEED};
use super::shared::{Act, Done, Shared};
use super::support::Random;
use procpool::{Arena, Pool};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// What a visitor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// It is about to do this.
    Begins(Act, u64),
    /// That is done; and whether a lock came from the dead.
    Has(Done, bool),
}

impl Line {
    fn to_text(self) -> String {
        match self {
            Self::Begins(act, id) => format!("begins {} {id} .", act.number()),
            Self::Has(Done::Nothing, repaired) => format!("has 0 0 {} .", u8::from(repaired)),
            Self::Has(Done::Changed, repaired) => format!("has 1 0 {} .", u8::from(repaired)),
            Self::Has(Done::Got(value), repaired) => {
                format!("has 2 {value} {} .", u8::from(repaired))
            }
        }
    }

    /// The line, if it is one and complete.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        match words[..] {
            ["begins", act, id, "."] => {
                Some(Self::Begins(Act::numbered(act.parse().ok()?)?, id.parse().ok()?))
            }
            ["has", kind, value, repaired, "."] => {
                let done = match kind {
                    "0" => Done::Nothing,
                    "1" => Done::Changed,
                    _ => Done::Got(value.parse().ok()?),
                };
                Some(Self::Has(done, repaired == "1"))
            }
            _ => None,
        }
    }
}

/// Set when the storm is over: the pipe that is standard input has been closed.
static OVER: AtomicBool = AtomicBool::new(false);

fn say(text: &str) {
    let mut line = text.to_owned();
    line.push('\n');
    if std::io::stdout().write_all(line.as_bytes()).is_err() {
        std::process::exit(0); // Nobody listens any more.
    }
}

/// Is the visitor, to its end.
pub(crate) fn run() -> ! {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        OVER.store(true, Relaxed);
    });
    visit();
    std::process::exit(0)
}

fn visit() {
    let name = std::env::var(NAME).unwrap_or_default();
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let first: u64 = std::env::args().nth(1).and_then(|first| first.parse().ok()).unwrap_or(0);
    let mut random = Random(seed);
    let attached = Arena::builder(&name).key(b"torture").timeout(Duration::from_secs(5)).attach();
    let arena = match attached {
        Ok(arena) => arena,
        // Killed in the meantime, with its arena.
        Err(_) if !super::support::is_running(std::os::unix::process::parent_id()) => return,
        Err(error) => return say(&format!("wrong: {error}")),
    };
    let ended = work(&arena, &mut random, first);
    if let Err(wrong) = ended
        && arena.is_owner_alive()
    {
        say(&format!("wrong: {wrong}"));
    }
}

fn work(arena: &Arena, random: &mut Random, first: u64) -> Result<(), String> {
    let text = |error: procpool::Error| error.to_string();
    let Some(shared) = arena.lookup::<Shared>("shared").map_err(text)? else { return Ok(()) };
    let pool = if random.next().is_multiple_of(3) {
        let builder = Pool::builder().workers(1).name("visitor");
        Some(builder.restart_limit(1_000_000, Duration::from_secs(1)).build().map_err(text)?)
    } else {
        None
    };
    for id in first.. {
        if OVER.load(Relaxed) || !arena.is_owner_alive() {
            break;
        }
        let act = Act::random(random);
        say(&Line::Begins(act, id).to_text());
        let (done, repaired) = match &pool {
            None => shared.act(act, id)?,
            Some(pool) => {
                let act_there = |shared: &Shared, (act, id): (Act, u64)| shared.act(act, id);
                let task = pool.with(&shared).submit(act_there, (act, id)).map_err(text)?;
                match task.join() {
                    Ok(done) => done?,
                    // Not acknowledged; the next visitor goes on.
                    Err(error) if error.is_worker_lost() => break,
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        say(&Line::Has(done, repaired).to_text());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_and_half_of_one_is_not() {
        let lines = [
            Line::Begins(Act::DoChore, 12),
            Line::Has(Done::Nothing, true),
            Line::Has(Done::Changed, false),
            Line::Has(Done::Got(u64::MAX), false),
        ];
        for line in lines {
            let text = line.to_text();
            assert_eq!(Line::parse(&text), Some(line));
            assert!((0..text.len()).all(|length| Line::parse(&text[..length]).is_none()));
        }
    }
}
