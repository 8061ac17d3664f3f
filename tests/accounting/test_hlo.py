"""The reader of compiled programs, on lines by hand and on a compiled one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from t5x_lite.accounting import (
  hlo,
  opaque_calls,
  program_costs,
  topologies,
)

V5E = topologies.parse("v5e:2x2")


def instruction(text):
  program = hlo.parse(f"ENTRY %main (p: f32[]) -> f32[] {{\n  {text}\n}}\n")
  (only,) = program.computations["main"]
  return only


@pytest.mark.parametrize(
  ["groups", "first"],
  [
    ("replica_groups={{0,2},{1,3}}", [0, 2]),
    ("replica_groups=[2,2]<=[4]", [0, 1]),
    ("replica_groups=[2,2]<=[2,2]T(1,0)", [0, 2]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [0, 2]),
    ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [0, 1]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [0, 1, 2, 3]),
    ("replica_groups=mesh['a'=4] {'a':(2)2}", [0, 1]),
    ("replica_groups=mesh['a'=4] {'a':(1)2}", [0, 2]),
    (
      "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}",
      [0, 1],
    ),
    ("source_target_pairs={{0,3},{3,0}}", [0, 3]),
    ("source_target_pairs={{0,0},{1,2},{2,1}}", [1, 2]),
    ("replica_groups={}", []),
  ],
)
def test_groups_are_read_in_each_of_their_forms(groups, first):
  line = f"%r = f32[8]{{0}} all-reduce(%p), {groups}, to_apply=%add"
  assert hlo.group(instruction(line)) == first


def test_a_line_is_read_into_its_parts():
  one = instruction(
    "ROOT %g.1 = (bf16[4,8]{1,0:T(8,128)(2,1)}, /*index=1*/f8e4m3fn[3]{0}, "
    "pred[5]{0}) fusion(%a.2, bf16[4]{0} %b), kind=kLoop, calls=%inner.7, "
    'metadata={op_name="jit(step)/decoder/mlp/dot" stack_frame_id=3}, '
    'backend_config={"window_config":{"estimated_cycles":"1234"}}'
  )
  assert (one.name, one.opcode, one.cycles) == ("g.1", "fusion", 1234)
  assert one.operands == ("a.2", "b")
  assert one.called("calls") == "inner.7"
  assert one.op_name == "jit(step)/decoder/mlp/dot"
  assert [array.nbytes for array in one.outputs] == [64, 3, 5]


LOOP = """
%body (p: (f32[], s32[])) -> (f32[], s32[]) {
  %p = (f32[], s32[]) parameter(0)
  %x = f32[] get-tuple-element(%p), index=0
  %i = s32[] get-tuple-element(%p), index=1
  %work = f32[] fusion(%x), kind=kLoop, calls=%f, backend_config={
"note":"attributes may go on over several lines",
"estimated_cycles":"1500"
}
  %step = s32[]{:T(128)} constant(STEP)
  %next = s32[] add(%i, %step)
  %kept = s32[] copy(%next)
  ROOT %out = (f32[], s32[]) tuple(%work, %kept)
}

%condition (q: (f32[], s32[])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  %q = (f32[], s32[]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=1
  ROOT %lt = pred[] compare(%j, %limit), direction=LT
}

%f (x: f32[]) -> f32[] {
  ROOT %x = f32[] parameter(0), backend_config={"estimated_cycles":"99"}
}

ENTRY %main (a: f32[]) -> (f32[], s32[]) {
  %a = f32[] parameter(0)
  %once = f32[] fusion(%a), calls=%f, backend_config={"estimated_cycles":"500"}
  %first = s32[] constant(START)
  %copied = s32[] copy(%first)
  %before = (f32[], s32[]) tuple(%once, %copied)
  ROOT %loop = (f32[], s32[]) while(%before), condition=%condition, body=%body
}
"""


def mesh_of(*sizes, axes):
  devices = V5E.devices()[: int(np.prod(sizes))]
  auto = (AxisType.Auto,) * len(sizes)
  return jax.make_mesh(sizes, axes, axis_types=auto, devices=devices)


@pytest.mark.parametrize(
  ["start", "step", "trips"], [(0, 1, 7), (1, 1, 6), (0, 2, 4), (1, 2, 3)]
)
def test_cycles_count_once_per_trip_and_not_within_fusions(start, step, trips):
  text = LOOP.replace("START", str(start)).replace("STEP", str(step))
  costs = program_costs.estimate(text, V5E, mesh_of(1, axes=("data",)))
  assert costs.compute_s == pytest.approx((500 + trips * 1500) / 1.5e9)
  assert costs.link_s == 0


def overlapped(*between):
  lines = "\n".join(between)
  return f"""
%f (x: bf16[64]) -> f32[] {{
  ROOT %x = bf16[64]{{0}} parameter(0)
}}

ENTRY %main (a: bf16[64]) -> bf16[256] {{
  %a = bf16[64]{{0}} parameter(0)
  %s = (bf16[64]{{0}}, bf16[256]{{0}}) all-gather-start(%a), \
replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
  {lines}
  ROOT %d = bf16[256]{{0}} all-gather-done(%s)
}}
"""


def work(cycles):
  return (
    f"%w{cycles} = f32[] fusion(%a), kind=kLoop, calls=%f, "
    f'backend_config={{"estimated_cycles":"{cycles}"}}'
  )


@pytest.mark.parametrize("cycles", [0, 3, 100])
def test_a_transfer_counts_as_far_as_it_exceeds_the_compute_beside_it(cycles):
  # 4 devices in 2 lines of 2: one link each way along each.
  transfer = 512 / (2 * 4.5e10)
  costs = program_costs.estimate(
    overlapped(*([work(cycles)] if cycles else [])),
    V5E,
    mesh_of(4, axes=("fsdp",)),
  )
  (only,) = costs.links
  assert (only.kind, only.axes, only.count) == ("all-gather", ("fsdp",), 1)
  assert only.nbytes == 512
  assert only.seconds == pytest.approx(max(0, transfer - cycles / 1.5e9))


def test_two_transfers_do_not_hide_behind_the_same_compute():
  program = overlapped(
    "%s2 = (bf16[64]{0}, bf16[256]{0}) all-gather-start(%a), "
    "replica_groups={{0,1,2,3}}, dimensions={0}",
    work(9),
    "%d2 = bf16[256]{0} all-gather-done(%s2)",
  )
  costs = program_costs.estimate(program, V5E, mesh_of(4, axes=("fsdp",)))
  transfer = 512 / (2 * 4.5e10)
  assert costs.link_s == pytest.approx(2 * transfer - 9 / 1.5e9)


@functools.cache
def compiled_loop():
  """Compiles three layers, FSDP 2 x TP 2, whose collectives are known."""
  mesh = mesh_of(2, 2, axes=("fsdp", "tensor"))

  def shape(*dims, spec):
    sharding = NamedSharding(mesh, P(*spec))
    return jax.ShapeDtypeStruct(dims, jnp.bfloat16, sharding=sharding)

  def layer(x, weights):
    wide, narrow = weights
    x = jax.nn.relu(x @ wide) @ narrow
    return jax.lax.with_sharding_constraint(
      x, NamedSharding(mesh, P("fsdp", None))
    ), None

  def layers(x, weights):
    return jax.lax.scan(layer, x, weights)[0]

  weights = (
    shape(3, 512, 1024, spec=(None, "fsdp", "tensor")),
    shape(3, 1024, 512, spec=(None, "tensor", "fsdp")),
  )
  with jax.set_mesh(mesh):
    x = shape(2048, 512, spec=("fsdp", None))
    return mesh, jax.jit(layers).lower(x, weights).compile().as_text()


def test_collectives_of_a_compiled_program_are_those_known_by_hand():
  mesh, text = compiled_loop()
  costs = program_costs.estimate(text, V5E, mesh)
  found = {(one.kind, one.axes): (one.count, one.nbytes) for one in costs.links}
  # Each layer's two parts of weights, [512, 512] with heads cut in two.
  weights = 3 * 2 * (512 * 512) * 2
  assert found.pop(("all-gather", ("fsdp",))) == (6, weights)
  # Each layer's output of half the rows.
  assert found.pop(("all-reduce", ("tensor",))) == (3, 3 * 1024 * 512 * 2)
  assert not found
  seconds = weights / 4.5e10 + 2 * 3 * 1024 * 512 * 2 / 4.5e10
  assert costs.link_s == pytest.approx(seconds)


def test_compute_of_a_compiled_program_is_close_to_its_matmuls():
  mesh, text = compiled_loop()
  costs = program_costs.estimate(text, V5E, mesh)
  flops = 3 * 2 * 2 * 1024 * 512 * 512
  ideal = flops / V5E.chip.peak_flops
  assert ideal < costs.compute_s < 4 * ideal


@pytest.mark.parametrize(
  ["pairs", "transfers"], [("{{1,0},{0,1}}", 2), ("{{0,1},{1,0}}", 1)]
)
def test_arrays_that_are_passed_on_to_both_sides_use_different_links(
  pairs, transfers
):
  def permute(name, pairs):
    return (
      f"%{name} = (bf16[64]{{0}}, bf16[64]{{0}}, u32[], u32[]) "
      f"collective-permute-start(%a), source_target_pairs={pairs}"
    )

  program = f"""
ENTRY %main (a: bf16[64]) -> bf16[64] {{
  %a = bf16[64]{{0}} parameter(0)
  {permute("left", "{{1,0},{0,1}}")}
  {permute("right", pairs)}
  %r = bf16[64]{{0}} collective-permute-done(%right)
  ROOT %l = bf16[64]{{0}} collective-permute-done(%left)
}}
"""
  costs = program_costs.estimate(program, V5E, mesh_of(4, axes=("fsdp",)))
  assert costs.link_s == pytest.approx(transfers * 128 / 4.5e10)
  assert sum(one.nbytes for one in costs.links) == 2 * 128


@pytest.mark.parametrize("cycles", [3, 100])
def test_parts_of_a_gather_that_fusions_move_on_are_one_gather(cycles):
  gather = """ {
  %x = bf16[64]{0} parameter(0)
  ROOT %g = bf16[256]{0} all-gather(%x), channel_id=9, \
replica_groups={{0,1,2,3}}, dimensions={0}
}
"""
  parts = ("start_part", "async_collective_fusion.1", "done_part")
  program = "".join(
    f"\n%{part} (x: bf16[64]) -> bf16[256]{gather}" for part in parts
  )
  program += f"""
ENTRY %main (a: bf16[64]) -> bf16[256] {{
  %a = bf16[64]{{0}} parameter(0)
  %async-collective-start.2 = bf16[256]{{0}} fusion(%a), calls=%start_part
  %f = bf16[256]{{0}} fusion(%async-collective-start.2), \
calls=%async_collective_fusion.1, \
backend_config={{"estimated_cycles":"{cycles}"}}
  ROOT %async-collective-done.2 = bf16[256]{{0}} fusion(%f), calls=%done_part
}}
"""
  costs = program_costs.estimate(program, V5E, mesh_of(4, axes=("fsdp",)))
  (only,) = costs.links
  assert (only.kind, only.count, only.nbytes) == ("all-gather", 1, 512)
  transfer = 512 / (2 * 4.5e10)
  assert only.seconds == pytest.approx(max(0, transfer - cycles / 1.5e9))
  assert costs.compute_s == pytest.approx(cycles / 1.5e9)


def test_a_sum_over_slices_goes_through_the_hosts():
  topology = topologies.parse("v5e:2x2", num_slices=2)
  auto = (AxisType.Auto,) * 2
  devices = np.array(topology.devices()).reshape(2, 4)
  mesh = jax.sharding.Mesh(devices, ("data", "fsdp"), axis_types=auto)
  costs = program_costs.estimate(
    """
ENTRY %main (a: token[]) -> f32[1,2,128] {
  %a = token[] parameter(0)
  %r = (f32[1,2,128]{2,1,0:T(8,128)}, u32[], token[]) recv(%a), \
channel_id=2, is_host_transfer=true, frontend_attributes={\
_xla_megascale_transfer_type="ALL_REDUCE"}
  %d = (f32[1,2,128]{2,1,0:T(8,128)}, token[]) recv-done(%r), channel_id=2
  ROOT %g = f32[1,2,128]{2,1,0:T(8,128)} get-tuple-element(%d), index=0
}
""",
    topology,
    mesh,
  )
  (only,) = costs.links
  assert (only.kind, only.axes) == ("all-reduce", ("data",))
  assert only.nbytes == 1024
  assert only.seconds == pytest.approx(
    2 * 1024 / topology.chip.network_bytes_per_s
  )


def array(*shape, dtype="bf16"):
  return hlo.Array(dtype, shape)


@pytest.mark.parametrize(
  ["read", "written", "matmuls"],
  [
    ([(2, 64, 8)] * 3, [(2, 64, 8)], 2),
    ([(2, 64, 8)] * 4, [(2, 64, 8)] * 2, 4),  # Of keys and values.
    ([(2, 64, 8)] * 4, [(2, 64, 8)], 3),  # Of queries.
    ([(2, 64, 8)] * 2, [(2, 64, 8)], 0),
  ],
)
def test_flops_of_an_attention_kernel_follow_from_its_arrays(
  read, written, matmuls
):
  masks = [array(1, 4, 4, dtype="s8"), array(2, 64, dtype="s32")]
  flops = opaque_calls.attention_flops(
    [*masks, *(array(*shape) for shape in read)],
    [array(2, 16, 16, dtype="f32"), *(array(*shape) for shape in written)],
  )
  assert flops == matmuls * 2 * (2 * 64 * 8) * 64


def test_a_kernel_takes_what_it_states_or_half_of_causal_pairs():
  def program(config):
    return f"""
ENTRY %main (q: bf16[2,512,128]) -> bf16[2,512,128] {{
  %q = bf16[2,512,128]{{2,1,0}} parameter(0)
  ROOT %k = bf16[2,512,128]{{2,1,0}} custom-call(%q, %q, %q), \
custom_call_target="tpu_custom_call", \
metadata={{op_name="jit(step)/jvp()/decoder/layer_0/attention/x"}}{config}
}}
"""

  mesh = mesh_of(1, axes=("data",))
  speed = opaque_calls.KERNEL_SHARE * V5E.chip.peak_flops

  def seconds(config):
    return program_costs.estimate(
      program(config), V5E, mesh, {"decoder/attention_scores": 0.5}.get
    ).kernel_s

  flops = 4 * 2 * 512 * 512 * 128
  assert seconds("") == pytest.approx(
    max(flops / 2 / speed, 4 * 2**18 / 8.2e11)
  )
  stated = ', backend_config={"cost_estimate":{"flops":"7000000000"}}'
  assert seconds(stated) == pytest.approx(7e9 / speed)


@pytest.mark.parametrize(
  ["op_name", "module"],
  [
    ("jit(step)/jvp(Transformer.decode)/decoder/decoder._run_all/while/body/"
     "closed_call/layers.<lambda>/layers/layer_0.run/layer_0/layer_0._add/mlp/"
     "mlp._widen/wi/dot_general", "decoder/mlp"),
    ("jit(step)/transpose(jvp(Transformer.encode))/encoder/layer_1/checkpoint/"
     "rematted_computation/attention/query/dot_general", "encoder/attention"),
    ("jit(step)/jvp()/while/body/closed_call/BTD,DV->BTV/dot_general", "head"),
    ("jit(step)/jvp(Transformer.decode)/Transformer.embed/embedding.look_up/"
     "jit(_take)/gather", "token_embedding"),
    ("jit(step)/mul", "update"),
    ("", "update"),
  ],
)  # fmt: skip
def test_operations_belong_to_the_module_that_made_them(op_name, module):
  assert program_costs.module(op_name) == module
