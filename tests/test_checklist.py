"""Index of 21 properties of published training techniques, and of the tests that check them.

A property may be covered by further tests that are not listed here.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

CHECKS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (
        "at initialization every block is the identity, and the logits are those of the embedding alone",
        (
            "model/test_properties.py::test_at_initialisation_every_block_is_the_identity",
            "model/test_inputs.py::test_at_the_start_the_model_is_its_embedding",
            "contracts/test_parts.py::test_identity_at_initialisation_where_claimed",
        ),
    ),
    2: (
        "every part is causal: no position depends on a later one",
        (
            "contracts/test_parts.py::test_causal",
            "model/test_inputs.py::test_a_smear_is_causal_and_the_first_position_hears_nobody",
            "model/test_differential.py::test_causal",
        ),
    ),
    3: (
        "no information crosses the start of a packed document: attention, smear, key offset, bigrams",
        (
            "contracts/test_parts.py::test_nothing_leaks_over_a_document_start",
            "model/test_segment_capacity.py::test_a_document_says_the_same_packed_and_alone",
            "model/test_inputs.py::test_documents_in_one_row_are_apart",
            "model/test_attention_parts.py::test_the_key_offset_stops_at_document_starts_unless_told_otherwise",
            "model/test_ngram_embedding.py::test_a_masked_start_hides_the_token_before",
        ),
    ),
    4: (
        "exclusive self-attention: orthogonal to the value, zero at the first position, equal for grouped and repeated heads, idempotent",
        (
            "model/test_attention_parts.py::test_what_is_left_is_orthogonal_to_the_value",
            "model/test_attention_parts.py::test_the_first_position_of_a_document_attends_to_nothing",
            "model/test_attention_parts.py::test_grouped_heads_equal_repeated_values",
            "model/test_attention_parts.py::test_excluding_twice_is_excluding_once",
        ),
    ),
    5: (
        "each smear has its published initial effect, and does not change the first token of a document",
        (
            "model/test_inputs.py::test_what_a_smear_does_at_the_start",
            "model/test_inputs.py::test_a_document_starts_with_its_own_embedding",
            "oracles/test_micro_inputs.py::test_content_smear",
        ),
    ),
    6: (
        "an attention window masks exactly the older keys, and none if it is as long as the text",
        (
            "model/test_attention_parts.py::test_a_window_is_blind_to_older_keys_exactly",
            "model/test_attention_parts.py::test_a_window_of_the_whole_sequence_is_none",
            "model/test_attention_parts.py::test_stacked_windows_reach_as_far_as_their_sum",
        ),
    ),
    7: (
        "rotary positions: unrotated dimensions, dependence on distance only, NTK and YaRN at their limits",
        (
            "model/test_properties.py::test_partial_rope_leaves_the_rest_alone",
            "model/test_properties.py::test_rope_depends_on_distance_only_and_keeps_norms",
            "model/test_positions.py::test_up_to_the_reference_length_it_is_plain_rope_bit_for_bit",
            "model/test_positions.py::test_yarn_leaves_the_fast_quarter_alone_and_slows_the_slowest_up_to_the_stretch",
        ),
    ),
    8: (
        "leaky ReLU squared and its gradient; fused kernels against the plain implementation",
        (
            "model/test_properties.py::test_activations",
            "model/test_mlps.py::test_leaky_squared_by_its_published_form",
            "kernels/test_squared_leaky_relu_mlp.py::test_output_and_gradients_are_those_of_the_twin",
            "kernels/test_softcapped_cross_entropy.py::test_loss_and_gradient_are_those_of_the_twin_in_float64",
        ),
    ),
    9: (
        "looped layers: published orders, equal to the plain model when off, gradients summed over visits, no recompilation when switched on",
        (
            "model/test_layer_schedule.py::test_published_index_lists",
            "model/test_layer_schedule.py::test_switched_off_it_is_the_flat_model",
            "model/test_layer_schedule.py::test_the_gradient_of_a_looped_layer_is_the_sum_over_its_visits",
            "model/test_layer_schedule.py::test_after_warming_up_no_switch_compiles_anything",
        ),
    ),
    10: (
        "two residual streams: equal to the parallel form under shared weights, and ending in the mean or in either stream",
        (
            "model/test_residual_topology.py::test_with_all_weights_one_and_shared_reads_two_lanes_are_the_parallel_form",
            "model/test_residual_topology.py::test_two_lanes_by_formula",
            "model/test_residual_topology.py::test_silent_branches_leave_powers_of_1_1",
        ),
    ),
    11: (
        "orthogonalization: range of singular values, Gram form, zeros, invariance to the scale of the matrix or of its rows",
        (
            "optim/test_orthogonalize.py::test_band_of_singular_values",
            "optim/test_gram_newton_schulz.py::test_equals_the_plain_form_in_float64",
            "optim/test_gram_newton_schulz.py::test_results_are_contiguous_and_zeros_stay",
            "optim/test_muon.py::test_scale_of_gradients_is_forgotten",
            "optim/test_muon_transforms.py::test_row_norm_forgets_the_scale_of_each_row",
        ),
    ),
    12: (
        "paired heads: a gradient in one pair does not change another pair",
        (
            "optim/test_muon_transforms.py::test_pairs_are_independent",
            "optim/test_muon_transforms.py::test_permuting_pairs_permutes_the_update",
        ),
    ),
    13: (
        "sharded Muon: many processes equal one, padding stays zero, stacking is exact, no momentum after the warm-up",
        (
            "training/test_sharded.py::test_many_processes_make_the_step_of_one",
            "optim/test_stacked_group.py::test_padding_stays_zero",
            "optim/test_stacked_group.py::test_stacking_is_bit_exact_both_ways",
            "training/test_sharded.py::test_warm_up_clears_the_shards",
        ),
    ),
    14: (
        "every parameter is in exactly one optimizer group, and every one is updated",
        (
            "config/test_rules.py::test_cover_is_exact_or_an_error",
            "optim/test_optimizer_groups.py::test_every_parameter_moves_by_its_own_algorithm",
            "recipes/test_stored.py::test_it_is_shown_with_a_forecast_that_is_near",
        ),
    ),
    15: (
        "schedules at their ends and breakpoints: learning rate, momentum, weight decay",
        (
            "optim/test_schedules.py::test_warmdown_by_fraction",
            "optim/test_schedules.py::test_warmdown_in_steps_on_the_clock",
            "optim/test_schedules.py::test_momentum",
            "optim/test_weight_decay.py::test_values_at_the_knots",
            "optim/test_weight_decay.py::test_ramping_decay_follows_the_rate_and_peaks_at_two_thirds",
        ),
    ),
    16: (
        "weight averages: formulas and float32 accumulation",
        (
            "average/test_average.py::test_ema_is_the_recurrence_from_the_initial_weights",
            "average/test_average.py::test_swa_is_the_mean_of_the_late_snapshots",
            "average/test_average.py::test_lawa_is_the_mean_of_the_last_ones_and_the_final",
            "average/test_average.py::test_bfloat16_is_accumulated_in_float32",
        ),
    ),
    17: (
        "fake quantization: levels, idempotence, gradient, and an effect when switched on in a compiled graph",
        (
            "model/test_qat.py::test_levels",
            "model/test_qat.py::test_what_was_rounded_stays",
            "model/test_qat.py::test_the_gradient_is_that_of_the_rounded_weight",
            "model/test_qat.py::test_the_compiled_switch_changes_the_outputs",
        ),
    ),
    18: (
        "data: shifted targets, each window once, error on damaged headers, no training on validation text",
        (
            "data/test_batches.py::test_targets_are_the_tokens_after_their_inputs",
            "data/test_orders.py::test_a_cycle_covers_each_block_of_a_shard_once",
            "data/test_shards.py::test_a_damaged_shard_is_refused_and_named",
            "data/test_shards.py::test_no_file_is_of_both_splits",
            "commands/test_data.py::test_training_on_validation_documents_is_refused",
        ),
    ),
    19: (
        "logit caps and weighted losses: equivalence of shifted caps, saturation of the quintic cap, equal entropies",
        (
            "model/test_logits_transforms.py::test_softcap_is_a_shifted_sigmoid_with_the_same_cross_entropy",
            "model/test_logits_transforms.py::test_quintic_cap_saturates_flat_from_1_69",
            "model/test_losses.py::test_equal_entropies_give_plain_cross_entropy_and_half_again_as_published",
        ),
    ),
    20: (
        "the file is compared with its byte cap, 16,000,000 for the challenge",
        ("pipeline/test_pipeline.py::test_over_the_cap_is_exit_1_with_the_ledgers_advice",),
    ),
    21: (
        "parameter counts equal the published ones",
        ("recipes/test_published.py::test_the_count_is_the_published_one",),
    ),
}


@cache
def functions(file: str) -> set[str]:
    """Return the names of the functions in a test file."""
    return {node.name for node in ast.parse((TESTS / file).read_text()).body if isinstance(node, ast.FunctionDef)}


def test_the_index_is_whole() -> None:
    assert list(CHECKS) == list(range(1, 22)) and all(tests for _, tests in CHECKS.values())


@pytest.mark.parametrize("name", [name for _, tests in CHECKS.values() for name in tests])
def test_what_the_index_names_is_there(name: str) -> None:
    file, _, function = name.partition("::")
    assert function.startswith("test_") and function in functions(file)
