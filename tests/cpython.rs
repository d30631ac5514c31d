//! Counterparts of what CPython's own tests ask of `Pool`, `AsyncResult`, `Executor`, `Future` and `Process`.
//!
//! The lists below have every case of CPython 3.13 that concerns these. A name without a file is a test in this
//! file; where another file asks the same more thoroughly, it is named and not repeated here.
//!
//! # `test/_test_multiprocessing.py`
//!
//! | `_TestPool` | here |
//! |---|---|
//! | test_apply | apply_gives_the_value |
//! | test_map, test_map_chunksize | map_keeps_the_order_for_every_batch_size_and_length |
//! | test_map_async, test_starmap_async | `stream` a_map_in_the_background_ends_with_its_results_or_not_at_all |
//! | test_map_async_callbacks | callbacks_come_once_whether_the_task_succeeds_fails_was_cancelled_or_is_done_already; a map's handle has none: it is waited for |
//! | test_starmap | starmap_is_a_map_of_tuples |
//! | test_map_unplicklable, test_unpickleable_result | `pool` what_cannot_cross_is_the_failure_of_that_call_only |
//! | test_map_handle_iterable_exception | `middle` an_input_that_panics_at_any_place_leaves_the_pool_usable |
//! | test_imap_handle_iterable_exception, test_imap_unordered_handle_iterable_exception | `executor` outcomes_before_a_bad_input_are_given_out |
//! | test_async, test_async_timeout | getting_with_a_time_limit_waits_so_long_and_can_be_repeated |
//! | test_imap | `stream` outcomes_come_in_order_for_any_length_and_batch; what_is_exhausted_stays_so |
//! | test_imap_unordered | `stream` unordered_outcomes_come_each_once_and_the_quick_before_the_slow |
//! | test_make_pool | sizes_that_make_no_sense_are_refused_by_name |
//! | test_terminate | `shutdown` tasks_are_asked_to_end_and_then_killed; a_long_map_in_the_background_ends_with_its_pool |
//! | test_empty_iterable | an_empty_input_gives_an_empty_result_at_once |
//! | test_context, test_enter | context_managers_are_drop |
//! | test_traceback, test_wrapped_exception | the_place_of_a_panic_is_told |
//! | test_map_no_failfast | `executor` a_map_that_has_failed_does_not_wait_for_the_rest_but_map_each_does: differs on purpose; here long_messages_of_failures_keep_nothing_from_ending |
//! | test_release_task_refs | `executor` what_an_argument_holds_is_let_go_when_its_task_has_ended |
//! | test_resource_warning | does not apply: there is no warning for a pool that nobody has closed; it is closed by `drop` |
//!
//! | `_TestPoolWorkerErrors`, `_TestPoolWorkerLifetime`, `TestInitializers`, `TestPoolNotLeakOnFailure`, `MiscTestCase` | here |
//! |---|---|
//! | test_async_error_callback | callbacks_come_once_whether_the_task_succeeds_fails_was_cancelled_or_is_done_already |
//! | test_pool_worker_lifetime | `recycle` no_worker_runs_more_calls_than_it_may, single_tasks_count_too_and_an_idle_worker_goes_at_once |
//! | test_pool_worker_lifetime_early_close | `executor` a_pool_that_is_closed_while_its_workers_turn_over_does_all_it_has_accepted |
//! | test_pool_maxtasksperchild_invalid | `recycle` bad_policies_are_refused |
//! | test_worker_finalization_via_atexit_handler_of_multiprocessing | `startup` a_finaliser_runs_when_a_worker_leaves_by_itself; `ending` |
//! | test_pool_initializer, test_manager_initializer | `startup` an_initialiser_that_fails_breaks_the_pool_after_a_bounded_number_of_tries (a manager has no process here) |
//! | test_release_unused_processes | `sys_failures` every_system_call_may_fail; `low_limits` twenty_processes |
//! | test_large_pool | a_pool_of_two_hundred_gets_on; `deadlines` outcomes_of_late_tasks_come_in_time_while_64_workers_are_busy |
//! | test__all__, test_spawn_sys_executable_none_allows_import | do not apply: names of Python modules, the path of the interpreter |
//!
//! | `_TestProcess` | here |
//! |---|---|
//! | test_current, test_process | `process` processes_know_each_other, a_process_has_its_name_environment_directory_and_limits |
//! | test_set_executable | does not apply: a process is of the same program |
//! | test_args_argument | values_of_all_shapes_cross |
//! | test_daemon_argument | `process` a_child_ends_with_its_parent_unless_it_is_detached |
//! | test_parent_process_attributes, test_parent_process | `process` processes_know_each_other, a_child_ends_with_its_parent_unless_it_is_detached |
//! | test_process_mainthread_native_id | does not apply: a task runs in a thread of its own, never in the main thread |
//! | test_terminate, test_kill | `process` a_process_can_be_waited_for_in_vain_terminated_and_killed |
//! | test_cpu_count | `executor` a_program_that_is_kept_to_one_core_gets_one_worker |
//! | test_active_children | `process` processes_know_each_other |
//! | test_recursion | `executor` processes_start_processes_as_a_tree |
//! | test_sentinel | `process` a_process_can_be_waited_for_in_vain_terminated_and_killed: there is no descriptor to wait for, `join_timeout` waits |
//! | test_close | `process` a_dropped_process_is_gone |
//! | test_many_processes | `executor` many_processes_are_terminated_and_killed_at_once; `process` many_processes_run_at_once_with_the_same_descriptors |
//! | test_lose_target_ref | `executor` what_an_argument_holds_is_let_go_when_its_task_has_ended |
//! | test_child_fd_inflation | `process` many_processes_run_at_once_with_the_same_descriptors |
//! | test_wait_for_threads | `executor` a_process_ends_with_its_function_though_a_thread_goes_on: differs on purpose |
//! | test_error_on_stdio_flush_1, test_error_on_stdio_flush_2 | `executor` a_process_whose_output_cannot_be_written_ends_with_its_value |
//! | test_forkserver_sigint, test_forkserver_sigkill | `executor` a_signal_for_the_guardian_alone_hurts_nobody_for_long; `process` the_guardian_dies_and_a_detached_process_does_not; `guardian` |
//!
//! | `_TestSubclassingProcess`, `TestStdinBadfiledescriptor`, `TestNoForkBomb`, `TestCloseFds`, `TestIgnoreEINTR`, `TestTimeouts`, `TestStartMethod`, `TestFlags`, `_TestAtExit`, `TestWait` | here |
//! |---|---|
//! | test_subclassing | does not apply: a process runs a function |
//! | test_stderr_flush, test_flushing | `process` streams_lead_where_they_are_told_to; exit_handlers_run_and_buffers_are_written_when_a_process_leaves |
//! | test_atexit | exit_handlers_run_and_buffers_are_written_when_a_process_leaves |
//! | test_wait_integer (the one there that is about processes) | does not apply: there is no descriptor to wait for; `wait_any` waits for tasks |
//! | test_sys_exit | `process` a_process_ends_with_its_value_or_with_what_ended_it |
//! | test_queue_in_process, test_pool_in_process | tasks_may_use_pools_processes_and_threads_of_their_own |
//! | test_noforkbomb | `pool` pools_that_make_pools_for_ever_end_with_an_error, workers_look_like_a_program_after_main_began |
//! | test_closefd | `resources` no_descriptor_of_ours_reaches_the_users_own_children; `process` many_processes_run_at_once_with_the_same_descriptors |
//! | test_ignore, test_ignore_listener | `executor` waits_go_on_after_a_signal |
//! | test_timeout | does not apply: sockets have no part in it |
//! | test_context, test_context_check_module_types, test_set_get, test_get_all, test_preload_resources, test_mixed_startmethod, test_nested_startmethod, test_flags | do not apply: there is one way to start a process (`init` has what preloading is for) |
//!
//! # `test/test_concurrent_futures`
//!
//! | `FutureTests` | here |
//! |---|---|
//! | test_done_callback_with_result, _with_exception, _with_cancel, _already_successful, _already_failed, _already_cancelled | callbacks_come_once_whether_the_task_succeeds_fails_was_cancelled_or_is_done_already |
//! | test_done_callback_raises, _raises_already_succeeded | `handles` callbacks_are_called_once_and_one_that_panics_disturbs_nobody |
//! | test_repr | handles_say_what_they_are |
//! | test_cancel, test_cancelled, test_done | the_truth_table_of_cancelling |
//! | test_running | `executor` a_task_is_seen_queued_running_and_done |
//! | test_result_with_timeout, test_exception_with_timeout | getting_with_a_time_limit_waits_so_long_and_can_be_repeated |
//! | test_result_with_success, test_exception_with_success, test_result_with_cancel | `executor` what_one_thread_waits_for_another_one_cancels_or_aborts |
//! | test_multiple_set_result, test_multiple_set_exception | do not apply: users set no results |
//!
//! | `WaitTests`, `AsCompletedTests` | here |
//! |---|---|
//! | test_20369, test_duplicate_futures | do not apply: a handle is owned, and cannot be given twice |
//! | test_first_completed, test_first_completed_some_already_completed, test_all_completed, test_timeout | waiting_for_the_first_for_all_and_in_vain, what_had_ended_before_ends_a_wait_at_once |
//! | test_first_exception, _some_already_complete, _one_already_failed | `executor` the_first_failure_ends_a_wait, the_first_failure_is_found_while_others_still_run; a_failure_ends_a_wait_like_a_value |
//! | test_pending_calls_race | `executor` what_one_thread_waits_for_another_one_cancels_or_aborts |
//! | test_no_timeout, test_future_times_out | as_completed_gives_what_was_done_before_each_once_and_none_at_the_end, what_had_ended_before_ends_a_wait_at_once |
//! | test_free_reference_yielded_future | does not apply: an outcome that was taken is moved out |
//! | test_correct_timeout_exception_msg | as_completed_gives_what_was_done_before_each_once_and_none_at_the_end: `left` says how many are not done |
//!
//! | `ExecutorTest`, `ProcessPoolExecutorTest`, `ThreadPoolExecutorTest` | here |
//! |---|---|
//! | test_submit, test_submit_keyword | apply_gives_the_value (keywords do not apply) |
//! | test_map, test_map_chunksize | map_keeps_the_order_for_every_batch_size_and_length |
//! | test_map_exception | an_error_in_the_middle_of_a_map_is_the_first_in_input_order |
//! | test_map_timeout | does not apply: a map has no limit as a whole; `deadlines` each_call_of_a_map_has_the_limit_for_itself |
//! | test_map_submits_without_iteration | does not apply to `imap`, which is lazy (`stream` no_more_inputs_are_taken_than_the_window_allows); `submit_map` goes on by itself |
//! | test_shutdown_race_issue12456 | `shutdown` dropping_and_shutting_down_do_not_wait_for_stopped_or_deaf_workers; pending_calls_of_a_dropped_pool_do_not_hang |
//! | test_no_stale_references, test_free_reference, test_ressources_gced_in_workers | `executor` what_an_argument_holds_is_let_go_when_its_task_has_ended |
//! | test_max_workers_negative, test_max_workers_too_large | sizes_that_make_no_sense_are_refused_by_name |
//! | test_default_workers | `executor` a_program_that_is_kept_to_one_core_gets_one_worker |
//! | test_killed_child | a_worker_that_dies_breaks_nothing_but_its_call; `crash_matrix` row_14 |
//! | test_traceback | the_place_of_a_panic_is_told |
//! | test_saturation | more_tasks_than_places_wait_for_one |
//! | test_idle_process_reuse_one, test_idle_process_reuse_multiple, test_idle_thread_reuse | idle_workers_are_used_again; growing on demand: `shutdown` idle_workers_leave_and_come_back_when_tasks_wait |
//! | test_max_tasks_per_child | `recycle` the_successor_is_there_before_the_one_that_it_replaces_has_gone |
//! | test_max_tasks_early_shutdown | `executor` a_pool_that_is_closed_while_its_workers_turn_over_does_all_it_has_accepted |
//! | test_max_tasks_per_child_defaults_to_spawn_context, test_hang_global_shutdown_lock | do not apply: start methods, locks of the interpreter |
//! | test_python_finalization_error | `sys_failures` every_system_call_may_fail: a thread or process that cannot be started |
//! | test_executor_map_current_future_cancel | `middle` dropping_an_iterator_in_the_middle_of_a_batch_leaves_the_rest_of_it |
//!
//! | `ExecutorShutdownTest`, `ProcessPoolShutdownTest` | here |
//! |---|---|
//! | test_run_after_shutdown | a_pool_that_was_closed_refuses_everything |
//! | test_interpreter_shutdown, test_submit_after_interpreter_shutdown | `executor` a_program_ends_with_a_static_pool_and_tasks_in_its_queue: differs on purpose |
//! | test_hang_issue12364 | a_shutdown_waits_for_what_was_accepted_and_results_stay |
//! | test_cancel_futures | `shutdown` what_runs_goes_on_and_what_is_queued_does_not |
//! | test_hang_gh83386, test_shutdown_no_wait, test_cancel_futures_wait_false | do not apply: a shutdown waits; `close` and `drop` are what there is beside it |
//! | test_hang_gh94440 | `executor` a_shutdown_right_after_a_cancelled_task_ends |
//! | test_processes_terminate, test_context_manager_shutdown, test_del_shutdown | context_managers_are_drop; pending_calls_of_a_dropped_pool_do_not_hang |
//! | test_threads_terminate, test_thread_names_assigned, test_thread_names_default | a_task_knows_its_worker (names of processes) |
//!
//! | `ExecutorDeadlockTest` | here |
//! |---|---|
//! | test_error_at_task_pickle, and nine more of {error, exit, crash} at {unpickling, the call, pickling} | `crash_matrix` the_fifteen_cells_have_definite_outcomes; `executor` a_pool_can_be_shut_down_whatever_went_wrong_just_before |
//! | test_error_during_result_unpickle_in_result_handler, test_exit_during_result_unpickle_in_result_handler | `crash_matrix` row_06, the_fifteen_cells_have_definite_outcomes |
//! | test_shutdown_deadlock, test_shutdown_deadlock_pickle | `executor` a_pool_can_be_shut_down_whatever_went_wrong_just_before; `ending` a_shutdown_ends_in_each_mode_while_workers_are_killed |
//! | test_crash_big_data | `executor` a_worker_dies_while_large_values_are_on_their_way |
//! | test_gh105829_should_not_deadlock_if_wakeup_pipe_full | `stress` every_handle_is_resolved_while_workers_are_killed_at_random; no pipe carries wake-ups |
//!
//! | `InitializerMixin`, `FailingInitializerMixin`, `FailingInitializerResourcesTest` | here |
//! |---|---|
//! | test_initializer | `startup` each_worker_has_a_state_of_its_own_that_tasks_change, an_initialiser_that_fails_breaks_the_pool_after_a_bounded_number_of_tries |
//! | test_spawn, test_forkserver | `crash`, `resources`: nothing is left of a pool that failed |

mod support;

use procpool::sync::{Event, Semaphore};
use procpool::{
    JoinTimeoutError, Pool, Process, Recycle, Shutdown, Stdio, TaskError, TaskHandle, TaskOptions,
    WorkerState, active_children, as_completed, current_process, parent_process, wait_all,
    wait_any, worker,
};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Read;
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};
use support::*;

const LONG: Duration = Duration::from_secs(30);

fn square(n: i64) -> i64 {
    n * n
}

fn multiply((a, b): (i64, i64)) -> i64 {
    a * b
}

fn sleep_ms(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

fn fail_at_three(n: u32) -> Result<u32, String> {
    if n == 3 { Err(format!("refused: {n}")) } else { Ok(n) }
}

fn panic_at_three(n: u32) -> u32 {
    assert!(n != 3, "panicked: {n}");
    n
}

// Pool -------------------------------------------------------------------------------------------

#[test]
fn apply_gives_the_value() {
    let pool = pool_of(2);
    assert_eq!(pool.submit(square, 5).unwrap().join(), Ok(25));
    assert_eq!(pool.submit(|(): ()| "nothing".to_string(), ()).unwrap().join().unwrap(), "nothing");
}

#[test]
fn map_keeps_the_order_for_every_batch_size_and_length() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    for length in [0i64, 1, 2, 3, 10, 100, 1001] {
        let expected: Vec<i64> = (0..length).map(square).collect();
        assert_eq!(pool.map(square, 0..length).unwrap(), expected);
        for batch in [1, 2, 7, 20, 100_000] {
            let options = pool.with_options(TaskOptions::new().batch(batch));
            assert_eq!(options.map(square, 0..length).unwrap(), expected, "{length} by {batch}");
        }
    }
}

#[test]
fn starmap_is_a_map_of_tuples() {
    let pool = pool_of(2);
    let pairs = (0..10).zip((0..10).rev());
    let expected: Vec<i64> = pairs.clone().map(multiply).collect();
    assert_eq!(pool.map(multiply, pairs.clone()).unwrap(), expected);
    assert_eq!(
        pool.submit_map(multiply, pairs.collect::<Vec<_>>()).unwrap().join().unwrap(),
        expected
    );
}

#[test]
fn an_empty_input_gives_an_empty_result_at_once() {
    let pool = pool_of(1);
    // The worker is busy: nothing has to run for an empty input.
    let busy = pool.submit(sleep_ms, 200).unwrap();
    assert!(pool.map(square, []).unwrap().is_empty());
    assert!(pool.map_each(square, []).unwrap().is_empty());
    assert_eq!(pool.imap(square, []).unwrap().next(), None);
    assert_eq!(pool.imap_unordered(square, []).unwrap().next(), None);
    assert_eq!(pool.map_reduce(square, |a, b| a + b, []).unwrap(), None);
    assert!(pool.submit_map(square, []).unwrap().join().unwrap().is_empty());
    assert!(!busy.is_finished());
}

#[test]
fn what_is_exhausted_stays_so() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let mut outcomes = pool.imap(square, 0..10).unwrap().batch(3);
    let mut unordered = pool.imap_unordered(square, 0..10).unwrap().batch(3);
    assert_eq!((outcomes.by_ref().count(), unordered.by_ref().count()), (10, 10));
    let mut ended = as_completed(vec![pool.submit(square, 1).unwrap()]);
    assert_eq!(ended.by_ref().count(), 1);
    for closes in [true, false] {
        for _ in 0..3 {
            assert!(outcomes.next().is_none() && unordered.next().is_none());
            assert!(ended.next().is_none());
        }
        if closes {
            pool.shutdown(Shutdown::Drain).unwrap();
        }
    }
}

/// `test_terminate`: in the midst of ten thousand calls that each take for ever.
#[test]
fn a_long_map_in_the_background_ends_with_its_pool() {
    let _dog = watchdog(60);
    for is_dropped in [true, false] {
        let pool = pool_of(3);
        let map = pool.submit_map(sleep_ms, vec![100_000; 10_000]).unwrap();
        wait_until("all are busy", || {
            let workers = pool.stats().workers;
            workers.iter().all(|worker| matches!(worker.state, WorkerState::Running { .. }))
        });
        match is_dropped {
            true => drop(pool),
            false => pool.shutdown(Shutdown::Now).unwrap(),
        }
        let error = map.join().unwrap_err();
        assert!(error.task_error().unwrap().is_pool_closed(), "{error}");
    }
}

/// `test_map_no_failfast`: there, a worker that could not get rid of its errors once kept the pool from ending.
#[test]
fn long_messages_of_failures_keep_nothing_from_ending() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    // Without the panic's report, which would be as long.
    let says_much = |n: u32| -> u32 {
        std::panic::resume_unwind(Box::new(format!("{n} {}", "x".repeat(1 << 20))))
    };
    let before = pool.stats().arena_used_bytes;
    for (n, outcome) in pool.map_each(says_much, 0..40).unwrap().into_iter().enumerate() {
        let error = outcome.unwrap_err();
        let message = error.panic_message().unwrap();
        assert!(message.starts_with(&format!("{n} xxx")), "{n}");
        assert_eq!(message.len(), 1 << 16, "it is cut");
    }
    assert_eq!(pool.map(says_much, 0..40).unwrap_err().task_error().unwrap().index(), Some(0));
    // Nobody takes these.
    let tasks: Vec<_> = (0..40).map(|n| pool.submit(says_much, n).unwrap()).collect();
    pool.close();
    pool.join().unwrap();
    drop(tasks);
    assert!(pool.stats().arena_used_bytes < before + (1 << 20), "their memory is free");
}

#[test]
fn a_pool_of_two_hundred_gets_on() {
    let _dog = watchdog(100);
    let pool = pool_of(200);
    assert_eq!(pool.map(square, 0..1000).unwrap().into_iter().sum::<i64>(), 332_833_500);
    let pids = pool.broadcast(|(): ()| std::process::id(), &()).unwrap();
    let pids: HashSet<u32> = pids.into_iter().map(Result::unwrap).collect();
    assert_eq!(pids.len(), 200);
    drop(pool);
    assert!(!pids.into_iter().any(is_running));
}

#[test]
fn inputs_of_unknown_length_and_consumed_iterators_work() {
    let pool = pool_of(2);
    let mut input = (0..20).filter(|n| n % 3 == 0);
    assert_eq!(pool.map(square, input.by_ref()).unwrap(), [0, 9, 36, 81, 144, 225, 324]);
    assert!(pool.map(square, input).unwrap().is_empty());
}

#[test]
fn an_error_in_the_middle_of_a_map_is_the_first_in_input_order() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let twice = |n: u32| {
        if n == 10 {
            sleep_ms(20);
        }
        assert!(n != 10 && n != 90, "at {n}");
        n
    };
    for batch in [1, 5, 200] {
        let options = pool.with_options(TaskOptions::new().batch(batch));
        let error = options.map(twice, 0..100).unwrap_err();
        assert_eq!(error.panic_message(), Some("at 10"), "by {batch}");
        assert_eq!(error.task_error().unwrap().index(), Some(10));
    }
    assert_eq!(pool.map(square, 0..3).unwrap(), [0, 1, 4], "and the pool goes on");
}

#[test]
fn an_error_that_is_returned_is_a_value() {
    let pool = pool_of(2);
    let results = pool.map(fail_at_three, 0..5).unwrap();
    assert_eq!(results[3], Err("refused: 3".to_string()));
    assert_eq!(results.into_iter().filter(Result::is_ok).count(), 4);
    let all: Result<Vec<u32>, String> =
        pool.map(fail_at_three, 0..5).unwrap().into_iter().collect();
    assert!(all.is_err());
}

#[test]
fn the_place_of_a_panic_is_told() {
    let pool = pool_of(1);
    let error = pool.submit(panic_at_three, 3).unwrap().join().unwrap_err();
    assert!(error.panic_location().unwrap().contains("cpython.rs"));
    assert!(error.to_string().contains("panicked: 3") && error.function().is_some());
}

#[test]
fn tasks_run_in_other_processes_side_by_side() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    let (here, go) = (Semaphore::new(0).unwrap(), Event::new().unwrap());
    let meet = |(here, go): (Semaphore, Event)| {
        here.release(1).unwrap();
        assert!(go.wait_timeout(LONG));
        std::process::id()
    };
    let tasks: Vec<_> =
        (0..3).map(|_| pool.submit(meet, (here.clone(), go.clone())).unwrap()).collect();
    let _three = here.acquire_many_timeout(3, LONG).unwrap().expect("three run at the same time");
    go.set();
    let pids: HashSet<u32> = tasks.into_iter().map(|task| task.join().unwrap()).collect();
    assert!(pids.len() == 3 && !pids.contains(&std::process::id()));
}

#[test]
fn large_arguments_and_results_cross() {
    let pool = pool_of(2);
    let blocks = pool.map(|n: usize| vec![n as u8; n], [0, 1, 1 << 10, 1 << 20, 5 << 20]).unwrap();
    assert!(
        blocks.iter().zip([0, 1, 1 << 10, 1 << 20, 5 << 20]).all(|(block, n)| block.len() == n)
    );
    let lengths = pool.map(|block: Vec<u8>| block.len(), blocks).unwrap();
    assert_eq!(lengths, [0, 1, 1 << 10, 1 << 20, 5 << 20]);
}

#[test]
fn values_of_all_shapes_cross() {
    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Shape {
        Unit,
        Tuple(u8, String),
        Record { map: BTreeMap<String, Option<f64>>, list: Vec<Shape> },
    }
    let pool = pool_of(1);
    let map = BTreeMap::from([("a".to_string(), Some(1.5)), ("b".to_string(), None)]);
    let list = vec![Shape::Unit, Shape::Tuple(7, "seven".into())];
    let shape = Shape::Record { map, list };
    assert_eq!(pool.submit(|shape: Shape| shape, shape.clone()).unwrap().join().unwrap(), shape);
}

#[test]
fn a_pool_that_was_closed_refuses_everything() {
    let pool = pool_of(1);
    pool.close();
    assert!(pool.map(square, [1]).unwrap_err().is_closed());
    assert!(pool.map_each(square, [1]).unwrap_err().is_closed());
    assert!(pool.imap(square, [1]).is_err_and(|error| error.is_closed()));
    assert!(pool.submit(square, 1).unwrap_err().is_closed());
    assert!(pool.submit_map(square, [1]).unwrap_err().is_closed());
    assert!(pool.broadcast(square, &1).unwrap_err().is_closed());
    assert!(pool.for_each(|_: u8| (), [1]).unwrap_err().is_closed());
    pool.close();
    pool.join().unwrap();
    pool.join().unwrap();
}

#[test]
fn sizes_that_make_no_sense_are_refused_by_name() {
    for (builder, word) in [
        (Pool::builder().workers(0), "workers"),
        (Pool::builder().workers(100_000), "workers"),
        (Pool::builder().queue_capacity(0), "queue_capacity"),
        (Pool::builder().name(""), "name"),
        (Pool::builder().name("a/b"), "name"),
        (Pool::builder().stack_bytes(1), "stack_bytes"),
        (Pool::builder().recycle(Recycle::after_tasks(0)), "after_tasks"),
        (Pool::builder().nice(100), "nice"),
        (Pool::builder().restart_limit(0, LONG), "restart_limit"),
        (Pool::builder().workers(2).workers_min(0), "workers_min"),
    ] {
        let error = builder.build().unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_pool_is_usable_from_many_threads_and_as_a_static() {
    static POOL: std::sync::OnceLock<Pool> = std::sync::OnceLock::new();
    let pool = POOL.get_or_init(|| pool_of(2));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for n in 0..50 {
                    assert_eq!(
                        pool.submit(square, thread * n).unwrap().join(),
                        Ok((thread * n).pow(2))
                    );
                }
            });
        }
    });
    pool.join().unwrap();
}

#[test]
fn context_managers_are_drop() {
    let _dog = watchdog(60);
    let handle = {
        let pool = Pool::builder().workers(1).name("scope").build().unwrap();
        wait_until("it has its name", || workers_of(std::process::id(), "scope").len() == 1);
        pool.submit(sleep_ms, 100_000).unwrap()
    };
    assert!(workers_of(std::process::id(), "scope").is_empty());
    assert!(handle.join().unwrap_err().is_pool_closed());
}

// AsyncResult and Future -------------------------------------------------------------------------

#[test]
fn getting_with_a_time_limit_waits_so_long_and_can_be_repeated() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let mut task = pool.submit(sleep_ms, 300).unwrap();
    for _ in 0..3 {
        let begun = Instant::now();
        task = match task.join_timeout(Duration::from_millis(20)) {
            Err(JoinTimeoutError::TimedOut(task)) => task,
            other => panic!("{other:?}"),
        };
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }
    assert_eq!(task.join_timeout(LONG).unwrap(), 300);
    let done = pool.submit(sleep_ms, 0).unwrap();
    wait_until("it is done", || done.is_finished());
    assert_eq!(done.join_timeout(Duration::ZERO).unwrap(), 0, "what is done needs no time");
}

/// | state of the task | `cancel` | then `join` |
#[test]
fn the_truth_table_of_cancelling() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let (begun, go) = (Event::new().unwrap(), Event::new().unwrap());
    let wait = |(begun, go): (Event, Event)| {
        begun.set();
        go.wait_timeout(LONG)
    };
    let running = pool.submit(wait, (begun.clone(), go.clone())).unwrap();
    let pending = pool.submit(square, 2).unwrap();
    let again = pool.submit(square, 3).unwrap();
    assert!(begun.wait_timeout(LONG));
    assert!(!running.cancel() && !running.is_finished(), "running");
    assert!(pending.cancel() && pending.is_finished(), "pending");
    assert!(!pending.cancel(), "cancelled");
    go.set();
    assert_eq!(running.join(), Ok(true));
    assert!(pending.join().unwrap_err().is_cancelled());
    wait_until("it is done", || again.is_finished());
    assert!(!again.cancel(), "finished");
    assert_eq!(again.join(), Ok(9));
    let failed = pool.submit(panic_at_three, 3).unwrap();
    wait_until("it has failed", || failed.is_finished());
    assert!(!failed.cancel(), "failed");
    assert!(failed.join().unwrap_err().is_panic());
}

#[test]
fn callbacks_come_once_whether_the_task_succeeds_fails_was_cancelled_or_is_done_already() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let (sender, receiver) = mpsc::channel();
    let tell = |name: &'static str| {
        let sender = sender.clone();
        move |outcome: Result<u32, TaskError>| sender.send((name, outcome)).unwrap()
    };
    pool.submit(panic_at_three, 1).unwrap().on_done(tell("value")).unwrap();
    pool.submit(panic_at_three, 3).unwrap().on_done(tell("panic")).unwrap();
    let busy = pool.submit(sleep_ms, 100).unwrap();
    let cancelled = pool.submit(panic_at_three, 1).unwrap();
    assert!(cancelled.cancel());
    cancelled.on_done(tell("cancelled")).unwrap();
    assert_eq!(busy.join(), Ok(100));
    let done = pool.submit(panic_at_three, 2).unwrap();
    wait_until("it is done", || done.is_finished());
    done.on_done(tell("done before")).unwrap();
    let mut told: BTreeMap<&str, Result<u32, TaskError>> = BTreeMap::new();
    for _ in 0..4 {
        let (name, outcome) = receiver.recv_timeout(LONG).unwrap();
        assert!(told.insert(name, outcome).is_none(), "{name} twice");
    }
    assert_eq!((&told["value"], &told["done before"]), (&Ok(1), &Ok(2)));
    assert!(told["panic"].as_ref().unwrap_err().is_panic());
    assert!(told["cancelled"].as_ref().unwrap_err().is_cancelled());
    assert!(receiver.try_recv().is_err());
}

#[test]
fn a_callback_may_submit_more() {
    let _dog = watchdog(60);
    let pool: &'static Pool = Box::leak(Box::new(pool_of(1)));
    let (sender, receiver) = mpsc::channel();
    let first = pool.submit(square, 3).unwrap();
    first
        .on_done(move |outcome| {
            let second = pool.submit(square, outcome.unwrap()).unwrap();
            second.on_done(move |outcome| sender.send(outcome).unwrap()).unwrap();
        })
        .unwrap();
    assert_eq!(receiver.recv_timeout(LONG).unwrap(), Ok(81));
    pool.join().unwrap();
}

#[test]
fn waiting_for_the_first_for_all_and_in_vain() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let tasks = [pool.submit(sleep_ms, 400).unwrap(), pool.submit(sleep_ms, 5).unwrap()];
    assert_eq!(wait_any(&tasks, LONG), Some(1));
    assert!(!wait_all(&tasks, Duration::from_millis(10)));
    assert!(wait_all(&tasks, LONG));
    assert_eq!(wait_any(&tasks, Duration::ZERO), Some(0), "the first of those that are done");
    assert_eq!(wait_any::<u64>(&[], LONG), None);
    assert!(wait_all::<u64>(&[], Duration::ZERO), "all of none");
    let stuck = [pool.submit(sleep_ms, 100_000).unwrap()];
    assert_eq!(wait_any(&stuck, Duration::from_millis(10)), None);
}

#[test]
fn a_failure_ends_a_wait_like_a_value() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let go_on = procpool::sync::Event::new().unwrap();
    let slow = |go_on: &procpool::sync::Event, n: u32| {
        if n != 3 {
            go_on.wait();
        }
        panic_at_three(n)
    };
    let with = pool.with(&go_on);
    let tasks = vec![with.submit(slow, 1).unwrap(), with.submit(slow, 3).unwrap()];
    assert_eq!(wait_any(&tasks, LONG), Some(1));
    let mut ended = as_completed(tasks).map(|(place, outcome)| (place, outcome.is_ok()));
    assert_eq!(ended.next(), Some((1, false)));
    go_on.set();
    assert_eq!(ended.next(), Some((0, true)));
    assert_eq!(ended.next(), None);
}

#[test]
fn as_completed_gives_what_was_done_before_each_once_and_none_at_the_end() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let tasks: Vec<_> = (0..20).map(|n| pool.submit(square, n).unwrap()).collect();
    wait_until("all are done", || tasks.iter().all(TaskHandle::is_finished));
    let mut values: Vec<i64> = as_completed(tasks).map(|(_, outcome)| outcome.unwrap()).collect();
    values.sort_unstable();
    assert!(values.into_iter().eq((0..20).map(square)));
    let mut stuck = as_completed(vec![pool.submit(sleep_ms, 100_000).unwrap()]);
    assert!(stuck.next_timeout(Duration::from_millis(10)).is_none());
    assert_eq!(stuck.left(), 1);
    assert!(as_completed::<u64>(Vec::new()).next().is_none());
}

/// Tasks that had succeeded, failed or been cancelled before, beside one that runs.
#[test]
fn what_had_ended_before_ends_a_wait_at_once() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let ended = [1, 3].map(|n| pool.submit(panic_at_three, n).unwrap());
    assert!(wait_all(&ended, LONG));
    let go = Event::new().unwrap();
    let running = pool.submit(|go: Event| u32::from(go.wait_timeout(LONG)), go.clone()).unwrap();
    let cancelled = pool.submit(panic_at_three, 5).unwrap();
    assert!(cancelled.cancel());
    let tasks: Vec<_> = [running, cancelled].into_iter().chain(ended).collect();
    for first in 1..4 {
        assert_eq!(wait_any(&tasks[first..], Duration::ZERO), Some(0), "{first}");
    }
    assert_eq!(wait_any(&tasks, Duration::ZERO), Some(1));
    assert!(wait_all(&tasks[1..], Duration::ZERO));
    times_out(|| wait_all(&tasks, SHORT));
    let mut tasks = as_completed(tasks);
    let mut places = Vec::new();
    while let Some((place, outcome)) = tasks.next_timeout(SHORT) {
        assert_eq!(outcome.is_ok(), place == 2, "{outcome:?}");
        places.push(place);
    }
    places.sort_unstable();
    assert_eq!((places, tasks.left()), (vec![1, 2, 3], 1));
    go.set();
    assert_eq!((tasks.next(), tasks.next()), (Some((0, Ok(1))), None));
}

#[test]
fn handles_say_what_they_are() {
    let pool = Pool::builder().workers(1).name("said").build().unwrap();
    let task = pool.submit(square, 1).unwrap();
    let stuck = pool.submit(sleep_ms, 100_000).unwrap();
    wait_until("it is done", || task.is_finished());
    let text = format!("{task:?}");
    assert!(text.contains("TaskHandle") && text.contains("said"), "{text}");
    assert!(text.contains("finished: true"), "{text}");
    assert!(format!("{stuck:?}").contains("finished: false"), "{stuck:?}");
    assert!(format!("{pool:?}").contains("workers: 1"), "{pool:?}");
    let process = Process::builder().name("speaks").spawn(|_: ()| (), ()).unwrap();
    assert!(format!("{process:?}").contains("speaks"), "{process:?}");
}

// Executor ---------------------------------------------------------------------------------------

#[test]
fn a_shutdown_waits_for_what_was_accepted_and_results_stay() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let tasks: Vec<_> = (0..30).map(|n| pool.submit(sleep_ms, n % 4).unwrap()).collect();
    pool.shutdown(Shutdown::Drain).unwrap();
    assert!(tasks.iter().all(TaskHandle::is_finished));
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.join(), Ok(n as u64 % 4));
    }
}

#[test]
fn pending_calls_of_a_dropped_pool_do_not_hang() {
    let _dog = watchdog(60);
    for _ in 0..10 {
        let pool = pool_of(2);
        let tasks: Vec<_> = (0..50).map(|_| pool.submit(sleep_ms, 1000).unwrap()).collect();
        drop(pool);
        assert!(tasks.into_iter().all(|task| task.join().unwrap_err().is_pool_closed()));
    }
}

#[test]
fn more_tasks_than_places_wait_for_one() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(2).queue_capacity(3).build().unwrap();
    let tasks: Vec<_> = (0..200).map(|n| pool.submit(square, n).unwrap()).collect();
    assert!(tasks.into_iter().map(|task| task.join().unwrap()).eq((0..200).map(square)));
}

#[test]
fn idle_workers_are_used_again() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    let mut pids = HashSet::new();
    for _ in 0..50 {
        pids.insert(pool.submit(|(): ()| std::process::id(), ()).unwrap().join().unwrap());
    }
    assert!(pids.len() <= 3);
    assert_eq!(pool.stats().workers_started, 3);
}

#[test]
fn a_worker_that_dies_breaks_nothing_but_its_call() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let dies = |n: u32| {
        if n % 10 == 3 {
            std::process::abort();
        }
        n
    };
    let outcomes = pool.map_each(dies, 0..50).unwrap();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome.is_err(), n % 10 == 3, "{n}");
    }
    assert_eq!(pool.submit(square, 4).unwrap().join(), Ok(16), "it is not broken");
}

#[test]
fn tasks_may_use_pools_processes_and_threads_of_their_own() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let nested = |n: i64| {
        let inner = Pool::builder().workers(1).build().unwrap();
        let sum: i64 = inner.map(square, 0..n).unwrap().into_iter().sum();
        let other = Process::spawn(square, n).unwrap().join().unwrap();
        let thread = std::thread::spawn(move || n).join().unwrap();
        (sum, other, thread)
    };
    assert_eq!(pool.map(nested, [3, 4]).unwrap(), [(5, 9, 3), (14, 16, 4)]);
}

#[test]
fn a_task_knows_its_worker() {
    let pool = Pool::builder().workers(2).name("know").build().unwrap();
    let about = |(): ()| {
        let me = current_process();
        (worker::number().unwrap(), me.name().to_string(), parent_process().unwrap().pid())
    };
    for (number, outcome) in pool.broadcast(about, &()).unwrap().into_iter().enumerate() {
        let expected = (number, format!("know-worker-{number}"), std::process::id());
        assert_eq!(outcome.unwrap(), expected);
    }
    assert_eq!(worker::number(), None);
    assert!(active_children().iter().any(|child| child.name == "know-worker-1"));
}

// Process ----------------------------------------------------------------------------------------

/// Where [`say_that_it_ends`] says it.
static PLACE: OnceLock<String> = OnceLock::new();

extern "C" fn say_that_it_ends() {
    let _ = fs::write(PLACE.get().map_or("", |place| place), "it ends");
}

fn say_at_exit(place: String) -> u8 {
    PLACE.set(place).unwrap();
    // SAFETY: the handler is a function of this program.
    assert_eq!(unsafe { libc::atexit(say_that_it_ends) }, 0);
    7
}

#[test]
fn exit_handlers_run_and_buffers_are_written_when_a_process_leaves() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let was_said = |name: &str| fs::read_to_string(place(name)).is_ok_and(|text| text == "it ends");
    let prints = |place: String| {
        // Without an end of line it stays in the buffer until the process ends.
        print!("half a line");
        say_at_exit(place)
    };
    let mut process =
        Process::builder().stdout(Stdio::Piped).spawn(prints, place("process")).unwrap();
    let mut said = String::new();
    process.take_stdout().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((&*said, process.join()), ("half a line", Ok(7)));
    wait_until("the process has said so", || was_said("process"));
    // A worker that is replaced, and one whose pool is shut down.
    let pool = Pool::builder().workers(1).recycle(Recycle::after_tasks(1)).build().unwrap();
    assert_eq!(pool.submit(say_at_exit, place("recycled")).unwrap().join(), Ok(7));
    wait_until("the worker has said so", || was_said("recycled"));
    let pool = pool_of(1);
    assert_eq!(pool.submit(say_at_exit, place("shut down")).unwrap().join(), Ok(7));
    assert!(!was_said("shut down"));
    pool.shutdown(Shutdown::Drain).unwrap();
    assert!(was_said("shut down"));
}
