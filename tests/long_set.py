"""What `make test` leaves to `make long`, so that it takes minutes: trainings that go on until a
quality shows, the other families of a promise that cas-dm's toy shows already, and whole programs
whose parts have tests of their own. CI runs both.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

# of node ids below tests/; "?" stands for a bracket, which these patterns would read as a choice
LONG = (
    "contract/test_installed.py::test_doctor_runs_a_session",
    "contract/test_installed.py::test_what_needs_an_extra*",
    "test_bench_page.py::test_the_page_in_a_browser",
    "test_bench_peers.py::test_onnx_runtime_s_own_quantizer*",
    "test_bring_examples.py::test_a_worked_example*",
    "test_bring_folder.py::test_images_are_those_of_diffusers_own_pipeline*",
    "test_bring_folder.py::test_the_graphs_are_onnx*",
    "test_bring_large.py::*",
    "test_bring_lora.py::test_diffusers_fuses_the_same*",
    "test_brought.py::test_the_whole_export*",
    "test_bundle_workflows.py::test_this_machine_is_examined",
    "test_calibrate_verb.py::test_two_processes*",
    "test_cas_dm_toy.py::*",
    "test_damage.py::test_a_layer_put_back*",
    "test_damage.py::test_one_layer_alone*",
    "test_dkgm_quality.py::*",
    "test_dkgm_training.py::*",
    "test_engines.py::test_engines_are_built_without*",
    "test_every_export.py::test_a_bundle_is_proven*",
    "test_few_pairs.py::test_64_pairs_without_a_reference*",
    "test_finetune.py::test_a_site_s_photos*",
    "test_finetune.py::test_time_instead*",
    "test_fp32_last_steps.py::test_a_bundle_runs_its_last_step*",
    "test_fp32_last_steps.py::test_the_files_are_refereed*",
    "test_gates.py::test_gates_round*",
    "test_gpu.py::test_doctor_runs_the_suite",
    "test_gpu.py::test_the_suite*",
    "test_isc_gan_export.py::*",
    "test_isc_gan_qat.py::test_rounding_costs_less_and_the_images_stay",
    "test_isc_gan_training.py::*",
    "test_large_int8.py::test_memory*",
    "test_larger.py::*",
    "test_lcd_family.py::test_one_command_trains_all_stages*",
    "test_lcd_family.py::test_onnx_gives*",
    "test_lcd_quality.py::*",
    "test_linear.py::test_tensorrt_builds*",
    "test_machines.py::test_a_folder_with_traps",
    "test_machines.py::test_a_gpu_package*",
    "test_machines.py::test_a_package_of_ours*",
    "test_machines.py::test_a_package_that_breaks*",
    "test_machines.py::test_cpu_only",
    "test_machines.py::test_no_runtime",
    "test_machines.py::test_the_air_gap_of_a_device",
    "test_main_job.py::test_a_budget_that_does_not_hold*",
    "test_main_job.py::test_the_same_export_twice*",
    "test_metrics.py::test_a_trunk_learns*",
    "test_offline.py::test_calibrating_a_trained_generator*",
    "test_offline.py::test_what_fine_tuning_imports*",
    "test_onnx_sources.py::test_the_whole_export*",
    "test_processes.py::*",
    "test_prompted_export.py::test_it_is_exported*",
    "test_public_program.py::test_it_does_all*",
    "test_recheck.py::test_verify_exits_with_3*",
    "test_recover.py::test_a_recovered_run_is_a_run",
    "test_recover.py::test_images_that_came_no_nearer*",
    "test_recover.py::test_scales_of_the_base*",
    "test_resume.py::test_40_steps*",
    "test_search.py::test_a_runtime_that_does_not_run_here*",
    "test_search.py::test_notes_are_found_by_another_process",
    "test_second_judge.py::test_whoever_verifies_asks*",
    "test_size_estimate.py::test_activations_are_those_of_a_larger_batch*",
    "test_size_estimate.py::test_every_recipe_can_be_asked*",
    "test_size_estimate.py::test_the_memory_is_near*",
    "test_snippets.py::test_a_snippet_runs*README*",
    "test_snippets.py::test_a_snippet_runs*docs*",
    "test_tutorial.py::test_a_page_can_be_followed*",
    "test_training_workflows.py::test_a_program_does_what_the_verbs_do*",
    *(f"test_{family}.py::test_graphs_become_int8_files*" for family in ("dkgm_family", "isc_gan")),
    *(
        f"{test}?{family}*"
        for family in ("dkgm", "isc-gan", "lcd")
        for test in (
            "test_adapt.py::test_20_adapting_steps_are_10_and_a_kill_9_and_10",
            "test_every_export.py::*",
            "test_every_family.py::test_every_family_s_20_steps_are_10_and_a_kill_9_and_10",
            "test_finetune.py::*",
            "test_gates.py::*",
            "test_half.py::*",
            "test_recover.py::*",
        )
    ),
)


def is_long(node: str) -> bool:
    """Of a node id such as tests/test_larger.py::test_it[lcd]."""
    return any(fnmatchcase(node.removeprefix("tests/"), pattern) for pattern in LONG)
