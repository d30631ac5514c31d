//! Threads of this process: what sharing memory costs without a process boundary.

use crossbeam_channel::{Receiver, Sender, bounded};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Two threads that take tasks from one channel and put results into another.
pub(crate) struct Threads {
    /// `None` once the threads were told to end.
    tasks: Option<Sender<u64>>,
    results: Receiver<u64>,
    window: u64,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn start(function: fn(u64) -> u64, window: u64) -> Self {
        let (tasks, taken) = bounded::<u64>(window as usize);
        let (done, results) = bounded::<u64>(window as usize);
        let threads = (0..2).map(|_| {
            let (taken, done) = (taken.clone(), done.clone());
            std::thread::spawn(move || {
                for task in taken {
                    if done.send(function(task)).is_err() {
                        return;
                    }
                }
            })
        });
        Self { threads: threads.collect(), tasks: Some(tasks), results, window }
    }

    /// Sends `calls` tasks one by one, receiving a result whenever the window is full.
    pub(crate) fn submit_in_window(&self, argument: u64, calls: u64) -> Duration {
        let tasks = self.tasks.as_ref().expect("the threads run until the drop");
        let start = Instant::now();
        let mut outstanding = 0;
        for _ in 0..calls {
            if outstanding == self.window {
                self.results.recv().expect("a result");
                outstanding -= 1;
            }
            tasks.send(argument).expect("threads that listen");
            outstanding += 1;
        }
        for _ in 0..outstanding {
            self.results.recv().expect("a result");
        }
        start.elapsed()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        drop(self.tasks.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// rayon's parallel iterator on two threads.
pub(crate) struct Rayon(rayon::ThreadPool);

impl Rayon {
    pub(crate) fn start() -> Self {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
        Self(pool.expect("a rayon pool"))
    }

    pub(crate) fn map(&self, function: fn(u64) -> u64, argument: u64, calls: u64) -> Duration {
        let start = Instant::now();
        let results: Vec<u64> = self
            .0
            .install(|| (0..calls as usize).into_par_iter().map(|_| function(argument)).collect());
        let elapsed = start.elapsed();
        assert_eq!(results.len() as u64, calls);
        elapsed
    }
}
