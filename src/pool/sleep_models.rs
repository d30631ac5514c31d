//! Loom models of the event count and the searcher's seat.

use super::sleep::{EventCount, Searcher, task_queued};
use crate::prim::{AcqRel, AtomicU32, Relaxed};
use loom::sync::Arc;
use loom::thread;

#[test]
fn a_sleeper_is_woken_or_sees_the_work() {
    loom::model(|| {
        let shared = Arc::new((EventCount::new(), AtomicU32::new(0)));
        let worker = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (event, work) = &*shared;
                while work.load(Relaxed) == 0 {
                    let epoch = event.prepare();
                    if work.load(Relaxed) == 0 {
                        event.sleep(epoch, None);
                    }
                    event.uncount();
                }
            })
        };
        shared.1.swap(1, AcqRel);
        shared.0.notify_after_rmw(1);
        worker.join().unwrap();
    });
}

#[test]
fn a_task_queued_while_the_searcher_gives_up_is_not_left_alone() {
    loom::model(|| {
        let shared = Arc::new((EventCount::new(), Searcher::new(), AtomicU32::new(0)));
        let worker = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (event, searcher, work) = &*shared;
                assert!(searcher.try_sit(1));
                searcher.leave();
                while work.load(Relaxed) == 0 {
                    let epoch = event.prepare();
                    if work.load(Relaxed) == 0 {
                        event.sleep(epoch, None);
                    }
                    event.uncount();
                }
            })
        };
        let (event, searcher, work) = &*shared;
        work.swap(1, AcqRel);
        task_queued(searcher, event);
        worker.join().unwrap();
    });
}
