"""Plans of tiny models, compiled for TPUs and GPUs that are not here."""

import functools
import json
import math

import jax
import pytest

from t5x_lite.accounting import topologies
from t5x_lite.devices.layout import Layout
from t5x_lite.nn import remat
from t5x_lite.optim.optimizers import Adafactor, AdamW
from t5x_lite.training import plan_search, planned_step
from t5x_lite.training.plan import plan
from t5x_lite.training.planned_step import Case
from tests import tiny

V5E = topologies.parse("v5e:2x2")
ADAMW = AdamW(learning_rate=1e-3, clip_norm=1.0)
FSDP = Layout(mesh={"fsdp": -1})


def case(**settings) -> Case:
  return Case(
    **{
      "model": tiny.palm(dtype="bfloat16", scan=True, remat="full"),
      "optimizer": ADAMW,
      "batch_size": 8,
      "lengths": {"targets": 16},
      "layout": FSDP,
    }
    | settings
  )


@functools.cache
def planned():
  return plan(case(), V5E)


def test_a_plan_has_all_of_a_step_in_numbers():
  found = planned()
  assert found["method"] == "compiled"
  assert found["fits"]
  assert found["layout"] == {"fsdp": 4}
  assert (found["kernel"], found["remat"]) == ("einsum", "full")
  assert 0 < found["mfu"] < 1
  assert found["step_s"] == found["compute_s"] + found["link_s"]
  assert found["link_s"] == pytest.approx(
    sum(one["seconds"] for one in found["collectives"])
  )
  assert found["compute_s"] == pytest.approx(sum(found["by_module"].values()))
  assert 0 < found["recompute_s"] < found["compute_s"]
  assert {"decoder/mlp", "head", "update"} <= set(found["by_module"])
  assert all(one["axes"] == ["fsdp"] for one in found["collectives"])
  assert {"all-gather"} <= {one["kind"] for one in found["collectives"]}
  assert json.loads(json.dumps(found)) == found


def test_bytes_of_a_device_are_its_shards():
  parts = planned()["bytes"]
  params = jax.tree.leaves(case().model.abstract())
  total = sum(math.prod(x.shape) * 4 for x in params)
  # Width 20 is sharded in four; norms too.
  assert parts["parameters"] == total / 4
  # Two moments and three counters of AdamW with a schedule.
  assert 0 <= parts["optimizer"] - 2 * parts["parameters"] < 64
  assert parts["peak"] == sum(
    parts[name] for name in ("parameters", "optimizer", "temporaries")
  )
  assert parts["temporaries"] > 0
  assert parts["capacity"] == V5E.chip.hbm_bytes


def test_an_encoder_decoder_is_planned_on_a_mesh_of_two_axes():
  found = plan(
    case(
      model=tiny.t5(dtype="bfloat16", scan=True),
      optimizer=Adafactor(learning_rate=1e-3),
      lengths={"inputs": 16, "targets": 8},
      layout=Layout(mesh={"fsdp": 2, "tensor": 2}),
    ),
    V5E,
  )
  axes = {tuple(one["axes"]) for one in found["collectives"]}
  assert ("tensor",) in axes
  assert axes <= {("fsdp",), ("tensor",), ("fsdp", "tensor")}
  assert {"encoder/mlp", "decoder/mlp"} <= set(found["by_module"])


@pytest.mark.parametrize("scan", [True, False])
def test_a_decode_step_is_planned_with_its_cache(scan):
  model = tiny.palm(dtype="bfloat16", scan=scan)
  found = plan(case(model=model, decode=True), V5E)
  cached = 2 * 2 * 16 * tiny.HEAD_DIM * 2 * 8 / 4
  assert found["step"] == "decode"
  assert found["bytes"]["optimizer"] == 0
  assert found["bytes"]["temporaries"] >= cached
  assert 0 < found["mfu"] < planned()["mfu"]


def test_what_does_not_fit_says_what_it_needs_and_no_seconds():
  rows = 2**16
  found = plan(
    case(
      model=tiny.palm(dtype="bfloat16"),
      batch_size=rows,
      lengths={"targets": 2048},
    ),
    topologies.parse("v5e:1x1"),
  )
  # The logits' gradients alone, of 37 numbers in lanes of 128.
  assert found["bytes"]["peak"] > found["bytes"]["capacity"]
  assert not found["fits"]
  assert found["mfu"] is found["compute_s"] is found["link_s"] is None


@pytest.mark.parametrize(
  ["settings", "message"],
  [
    ({"batch_size": 6}, r"batch_size \(6\) must be divisible"),
    ({"microbatches": 4}, r"microbatches \(4\) x fsdp \(4\) = 16"),
    ({"layout": Layout(mesh={"fsdp": 3})}, "does not match 4 devices"),
    ({"lengths": {"targets": 0}}, "without tokens"),
    ({"model": tiny.encoder(), "decode": True}, "does not generate"),
  ],
)
def test_mistakes_are_refused_before_anything_is_compiled(
  settings, message, monkeypatch
):
  monkeypatch.setattr(planned_step, "compile_step", None)
  if "model" in settings:
    settings = settings | {"lengths": {"inputs": 8}}
  with pytest.raises(ValueError, match=message):
    plan(case(**settings), V5E)


@pytest.mark.parametrize("name", ["h100x4", "v5e:2x2"])
@pytest.mark.parametrize("decode", [False, True])
def test_without_a_compiler_it_is_arithmetic_and_says_so(name, decode):
  topology = topologies.parse(name)
  found = plan(case(decode=decode), topology, compiles=False)
  assert found["method"].startswith("arithmetic (")
  assert 0 < found["mfu"] < 0.7
  assert found["devices"] == topology.num_devices
  assert found.keys() == planned().keys()
  kinds = {(one["kind"], *one["axes"]) for one in found["collectives"]}
  sharded = {("all-gather", "fsdp"), ("reduce-scatter", "fsdp")}
  assert kinds == (set() if decode else sharded)


def test_a_step_of_gpus_is_compiled():
  model = tiny.llama(dtype="bfloat16", num_layers=1)
  layer = model.transformer.decoder.layer
  attention = layer.attention.clone(head_dim=8)  # As cuDNN takes it.
  model = tiny.replace_stacks(model, layer=layer.clone(attention=attention))
  found = plan(
    case(model=model, lengths={"targets": 128}), topologies.parse("h100x4")
  )
  assert (found["method"], found["kernel"]) == ("compiled", "cudnn")
  assert found["fits"] and 0 < found["mfu"] < 1
  assert 0 < found["kernel_s"] < found["compute_s"]
  assert {"decoder/mlp", "head", "update"} <= set(found["by_module"])
  kinds = {(one["kind"], *one["axes"]) for one in found["collectives"]}
  assert {("all-gather", "fsdp"), ("reduce-scatter", "fsdp")} <= kinds


def test_without_libtpu_a_tpu_is_planned_by_arithmetic(monkeypatch):
  monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
  found = plan(case(), V5E)
  assert found["method"].startswith("arithmetic (libtpu is not installed")


def test_arithmetic_counts_gathers_and_sums_of_each_mesh_axis():
  heads = {"data": 2, "fsdp": 2, "tensor": 2}
  found = plan(
    case(layout=Layout(mesh=heads), microbatches=2),
    topologies.parse("h100x8"),
    compiles=False,
  )
  sizes = {
    (one["kind"], *one["axes"]): one["bytes"] for one in found["collectives"]
  }
  # 4 rows of 16 tokens on each device; 2 branches of 2 layers, three passes.
  assert sizes.pop(("all-reduce", "tensor")) == 2 * 2 * 3 * 2 * 16 * 20 * 2
  gathered = sizes.pop(("all-gather", "fsdp"))
  # Per microbatch twice in bfloat16; its gradient once, in float32.
  assert sizes.pop(("reduce-scatter", "fsdp")) == gathered
  summed = sizes.pop(("all-reduce", "data"))
  assert summed == found["bytes"]["parameters"]
  assert not sizes


def test_several_slices_sum_gradients_over_the_network():
  topology = topologies.parse("v5e:2x2", num_slices=2)
  found = plan(case(layout=Layout(mesh={"data": 2, "fsdp": 4})), topology)
  assert found["devices"] == 8
  slow = [one for one in found["collectives"] if "data" in one["axes"]]
  assert slow
  for one in slow:
    twice = 2 if one["kind"] == "all-reduce" else 1
    expected = twice * one["bytes"] / topology.chip.network_bytes_per_s
    # Some of it runs beside compute; of so small a model perhaps all.
    assert 0 <= one["seconds"] <= expected * 1.001
  assert sum(one["bytes"] for one in slow) > 0


def test_a_search_compiles_the_best_and_ranks_them(monkeypatch):
  monkeypatch.setattr(plan_search, "_COMPILED", 1)
  monkeypatch.setattr(plan_search, "_MESHES", ({"fsdp": -1}, {"data": -1}))
  monkeypatch.setattr(remat, "BY_COST", (None, "full"))
  found = plan_search.search(case(), V5E)
  assert {one["method"] for one in found} == {"compiled"}
  seconds = [one["step_s"] for one in found]
  assert len(found) == 2 and seconds == sorted(seconds)
  ways = [(one["layout"], one["remat"], one["microbatches"]) for one in found]
  assert ({"fsdp": 4}, "full", 1) in ways
  assert ways[0] != ways[1]


def test_a_search_takes_microbatches_only_where_memory_asks_for_them(
  monkeypatch,
):
  monkeypatch.setattr(plan_search, "_MICROBATCHES", (1, 2))
  large = case(batch_size=2**14, lengths={"targets": 2**13})
  for one, numbers in ((case(), [1]), (large, [1, 2])):
    found = plan_search._counted(one, V5E, None, {"data": -1})
    assert [other.microbatches for _, other in found] == numbers


def test_meshes_that_do_not_divide_the_devices_are_left_out():
  topology = topologies.parse("v5e:1x1")
  assert not plan_search._counted(case(), topology, None, {"tensor": 2})


def test_with_several_slices_meshes_that_keep_gathers_within_one_are_tried():
  for slices, expected in ((1, False), (2, True)):
    topology = topologies.parse("v5p:4x4x4", num_slices=slices)
    ways = plan_search._ways(case(), topology)
    assert (("full", {"data": 2, "fsdp": -1}) in ways) == expected


@pytest.mark.parametrize(
  ["message", "needed"],
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G "
      "of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
      20.5 * 2**30,
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
      "for HLO temporaries (3.00T) exceeds available HBM (95.74G).",
      3 * 2**40,
    ),
    ("RESOURCE_EXHAUSTED: Used 20M of 16M vmem", None),
    ("INTERNAL: 3G of 2G hbm", None),
  ],
)
def test_what_a_refused_program_needs_is_in_the_compiler_s_message(
  message, needed
):
  assert planned_step.needed_bytes(message) == needed
