"""The costs of programs compiled for GPUs, on lines by hand."""

import jax
import pytest
from jax.sharding import AxisType

from t5x_lite.accounting import opaque_calls, program_costs, topologies

H100 = topologies.parse("h100x4")


def costs_of(lines, **settings):
  program = f"ENTRY %main (p: f32[]) -> f32[] {{{lines}}}\n"
  mesh = jax.make_mesh(
    (4,), ("fsdp",), axis_types=(AxisType.Auto,), devices=H100.devices()
  )
  return program_costs.estimate(program, H100, mesh, **settings)


def test_a_fusion_of_a_gpu_takes_the_microseconds_that_xla_expects():
  costs = costs_of("""
  %f = f32[8]{0} fusion(), calls=%g, backend_config={"reification_cost":[\
{"end_to_end_cycles":9,"exec_time_us":2.5,"name":""},{"exec_time_us":2.5}]}
  %x = f32[8]{0} custom-call(), custom_call_target="x", \
backend_config={"reification_cost":[{"exec_time_us":7}]}
}
%g (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
""")
  assert costs.compute_s == pytest.approx(2.5e-6)


def test_a_fusion_takes_no_longer_than_to_read_and_write_its_arrays_once():
  costs = costs_of("""
  %a = f32[1000000]{0} parameter(0)
  %f = bf16[1000000]{0} fusion(%a), kind=kCustom, calls=%g, \
backend_config={"reification_cost":[{"exec_time_us":99999}]}
}
%g (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
""")
  assert costs.compute_s == pytest.approx(6e6 / H100.chip.hbm_bytes_per_s)


def test_a_loop_that_says_how_often_it_runs_is_believed():
  costs = costs_of("""
  %p = (s32[]) parameter(0)
  %w = (s32[]) while(%p), condition=%c, body=%g, \
backend_config={"known_trip_count":{"n":"6"}}
}
%c (p: s32[]) -> pred[] {
  ROOT %q = pred[] fusion(), calls=%c
}
%g (p: s32[]) -> s32[] {
  %f = s32[] fusion(), calls=%c, \
backend_config={"reification_cost":[{"exec_time_us":2.5}]}
""")
  assert costs.compute_s == pytest.approx(6 * 2.5e-6)


def test_a_matmul_of_cublas_takes_its_products_or_its_bytes():
  def seconds(rows, summed):
    return costs_of(f"""
  %a = bf16[{rows},{summed}]{{1,0}} parameter(0)
  %b = bf16[{summed},4096]{{1,0}} parameter(1)
  %c = (bf16[{rows},4096]{{1,0}}, s8[64]{{0}}) custom-call(%a, %b), \
custom_call_target="__cublas$lt$matmul", backend_config={{\
"dot_dimension_numbers":{{"lhs_contracting_dimensions":["1"],\
"rhs_contracting_dimensions":["0"]}},"exec_time_us":99}}
""").compute_s

  peak = opaque_calls.MATMUL_SHARE * H100.chip.peak_flops
  assert seconds(8192, 2048) == pytest.approx(2 * 8192 * 2048 * 4096 / peak)
  nbytes = 2 * (8 * 2048 + 2048 * 4096 + 8 * 4096) + 64
  assert seconds(8, 2048) == pytest.approx(nbytes / H100.chip.hbm_bytes_per_s)


@pytest.mark.parametrize(
  "inside", ["shard_map/cond/branch_1_fun/x", "flash_forward/pallas_call"]
)
def test_a_kernel_is_of_the_attention_that_it_is_called_from(inside):
  name = f"jit(step)/jvp(decode)/decoder/layer_0/attention/{inside}"
  assert program_costs.module(name) == "decoder/attention_scores"


@pytest.mark.parametrize("name, matmuls", [("", 2), ("Backward", 5)])
def test_cudnn_computes_the_pairs_that_the_rule_lets_attend(name, matmuls):
  costs = costs_of(
    f"""
  %q = bf16[2,4096,4,64]{{3,2,1,0}} parameter(0)
  %o = (bf16[2,4,4096,64]{{3,1,2,0}}, u8[0]{{0}}) custom-call(%q, %q, %q), \
custom_call_target="__cudnn$fmhaSoftmax{name}", \
metadata={{op_name="jit(step)/jvp()/decoder/layer_0/attention/x"}}, \
backend_config={{"intermediate_tensor_shape": {{"element_type": "BF16", \
"dimensions": ["2", "4", "4096", "4096"], "tuple_shapes": []}}}}
""",
    visible={"decoder/attention_scores": 0.5}.get,
  )
  flops = matmuls * 2 * (2 * 4 * 4096 * 4096) * 64 / 2
  speed = opaque_calls.KERNEL_SHARE * H100.chip.peak_flops
  assert costs.kernel_s == pytest.approx(flops / speed)


@pytest.mark.parametrize(
  ["kind", "arrays", "nbytes"],
  [
    ("all-gather", "(bf16[64]{0}, bf16[256]{0})", 512),
    ("all-gather", "((bf16[8], f32[8]), (bf16[32], f32[32]))", 192),
    ("reduce-scatter", "((f32[256]), f32[64])", 1024),
    ("all-to-all", "((f32[256]), f32[256])", 1024),
    ("all-reduce", "f32[256]", 1024),
  ],
)
def test_what_starts_has_its_inputs_among_its_arrays(kind, arrays, nbytes):
  costs = costs_of(f"""
  %a = {arrays} {kind}-start(), replica_groups={{{{0,1,2,3}}}}
  %b = f32[64] {kind}-done(%a)
""")
  (only,) = costs.links
  assert (only.kind, only.nbytes) == (kind, nbytes)
  twice = 2 if kind == "all-reduce" else 1
  assert only.seconds == pytest.approx(twice * nbytes / 4.5e11)
