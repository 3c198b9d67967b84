"""Every requirement of torch's own tests of its launcher has a test here.

S1 are those of its launcher's api_test, S4 those of its multiprocessing api_test. A requirement may
need several tests; their modules are below ``tests.launcher``::

    S1-1   test_reference  test_a_python_script
    S1-2   test_reference  test_a_python_script_told_its_local_rank
    S1-3   test_reference  test_a_shell_script
    S1-4   test_api  test_a_function_returns_a_value_for_each_rank
    S1-5   test_reference  test_a_sum_over_the_static_backend
    S1-5   test_torch  test_a_sum_over_the_static_backend
    S1-6   test_reference  test_fewer_nodes_than_there_may_be
    S1-7   test_reference  test_a_worker_that_raises
    S1-7   test_node  test_a_failed_worker_is_no_failure_of_the_agent
    S1-8   test_node  test_the_end_is_recorded_once_and_shut_down_once
    S1-9   test_reference  test_two_agents
    S1-10  test_node  test_the_end_is_recorded_once_and_shut_down_once
    S1-11  test_api  test_a_launch_is_named_after_what_runs
    S1-12  test_node  test_the_end_is_recorded_once_and_shut_down_once
    S1-13  test_node  test_the_end_is_recorded_once_and_shut_down_once
    S4-1   process.test_context  test_all_succeed
    S4-1   process.test_reference  test_one_command_exits_beside_another
    S4-2   test_errors  test_failures_are_dated_in_the_order_they_came
    S4-3   logs.test_layout  test_std_from_str
    S4-3   logs.test_layout  test_std_from_str_refuses
    S4-4   logs.test_layout  test_to_map
    S4-5   process.test_context  test_log_folder_that_is_a_file_starts_nothing
    S4-6   process.test_context  test_environments_for_other_ranks
    S4-7   process.test_context  test_wait_with_timeout
    S4-8   process.test_reference  test_waiting_in_another_thread
    S4-8   process.test_function  test_functions_from_another_thread
    S4-9   process.test_context  test_close_right_after_start
    S4-9   process.test_function  test_close_right_after_start
    S4-10  process.test_reference  test_a_tensor_comes_back_intact
    S4-11  process.test_function  test_a_function_without_result
    S4-12  process.test_function  test_large_results_do_not_fill_a_pipe
    S4-13  process.test_function  test_an_exception
    S4-14  process.test_function  test_values_by_rank
    S4-15  test_errors  test_signal_is_explained
    S4-16  process.test_reference  test_one_command_exits_beside_another
    S4-17  test_errors  test_failure_without_error_file
    S4-18  process.test_context  test_missing_program_leaves_nothing
    S4-19  process.test_context  test_validate_full_rank
    S4-20  process.test_context  test_redirected_streams
    S4-20  process.test_function  test_redirected_streams
    S4-21  process.test_context  test_redirects_and_tees_by_rank
    S4-22  process.test_context  test_duplicated_lines
    S4-23  process.test_reference  test_a_worker_waits_for_whoever_reads_its_result
    S4-24  process.test_function  test_an_exit_with_a_status
    S4-25  process.test_context  test_failure_by_signal
    S4-26  process.test_agent_death  test_a_signal_to_the_agent_ends_workers
    S4-27  process.test_function  test_values_by_rank
    S4-28  process.test_context  test_signals_make_wait_raise
    S4-28  process.test_reference  test_names_of_no_signals_are_passed_over
    S4-28  process.test_reference  test_waiting_in_another_thread
    S4-29  logs.test_taillog  test_all_lines_of_all_files
    S4-29  logs.test_taillog  test_lines_appear_while_the_file_grows
    S4-29  logs.test_taillog  test_prefixes_and_filter
    S4-29  logs.test_taillog  test_files_that_never_appear_keep_nobody_waiting
    S4-29  logs.test_taillog  test_an_error_is_logged_not_raised
    S4-30  logs.test_redirection  test_python_c_and_children_are_caught
    S4-30  logs.test_redirection  test_both_into_one_file
    S4-30  logs.test_redirection  test_many_lines
    S4-30  logs.test_redirection  test_other_streams_are_refused
    S4-31  process.test_errorfile  test_a_function_that_succeeds_leaves_no_file
    S4-31  process.test_errorfile  test_an_exception_is_recorded_and_raised
    S4-31  process.test_errorfile  test_an_exit_that_is_no_failure_returns
    S4-31  process.test_errorfile  test_another_exit_is_raised_and_not_recorded
    S4-31  process.test_errorfile  test_the_file_of_a_failed_child_is_copied
    S4-31  test_errors  test_text_of_child_failed_error_has_the_fields_of_torchrun
    S4-31  test_errors  test_first_failure_is_told_apart_within_a_second
"""

from __future__ import annotations

import ast
from pathlib import Path


def test_every_requirement_has_a_test() -> None:
    """The table above names tests that there are, and leaves out no requirement."""
    rows = [line.split() for line in (__doc__ or "").splitlines() if line.startswith("    S")]
    folder = Path(__file__).parent
    missing = []
    for _, module, name in rows:
        tree = ast.parse(folder.joinpath(*module.split(".")).with_suffix(".py").read_text())
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        if name not in [node.name for node in tree.body if isinstance(node, functions)]:
            missing.append(f"{module}: {name}")
    numbers = {row[0] for row in rows}

    assert missing == []
    assert numbers == {f"S1-{n}" for n in range(1, 14)} | {f"S4-{n}" for n in range(1, 32)}
