"""Plans a step on accelerators that are not here: `t5x_lite plan`."""

from absl import flags

from launch import describe, options

USAGE = "--gin_file=FILE --topology=NAME [flags]"
DETAILS = """
Compiles the training step for TPUs or GPUs that are not here, and prints the
bytes of a device by part, the collectives by kind and mesh axis, the estimated
seconds of compute and links, the MFU, and which modules take the time. Where
nothing compiles (the extra `plan` is not installed), all is arithmetic, and the
plan says so. What is "auto" is as on these devices: bfloat16, scanned
layers, and the remat policy that fits their memory.
docs/scale.md says how the estimate is made.
"""
EXAMPLE = """
t5x_lite plan --gin_file=gin/models/llama/7b.gin \\
  --gin_file=gin/mesh/fsdp.gin --topology=v5p:4x4x4 --batch_size=256 \\
  --lengths=targets=2048
t5x_lite plan --gin_file=gin/models/t5_1_1/xl.gin --topology=v5e:4x4 \\
  --batch_size=64 --lengths=inputs=512,targets=114 --search
"""
_GIB = 2**30


def define(values):
  """Defines the command's flags."""
  options.gin_flags(values)
  describe.shape_flags(values)
  options.model_dir_flag(values, "Directory of a run to plan.")
  flags.DEFINE_string(
    "topology", None,
    "Devices: v4, v5p or tpu7x:AxBxC, v5e or v6e:AxB, in chips; or a100x8, "
    "h100x8, h200x8.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "slices", 1, "Slices, or nodes of GPUs, joined by a slower network.",
    lower_bound=1, flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "decode", False,
    "Plan the step that appends a token to each row, not training.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "search", False,
    "Also try other remat policies, meshes and microbatches: some minutes.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "json", False,
    "Print one JSON object; with --search, that of the best, and all as "
    '"tried".',
    flag_values=values,
  )  # fmt: skip


def main(values, arguments):
  """Prints the plan."""
  options.no_arguments("plan", arguments)
  options.require(values, "topology")
  from t5x_lite.accounting import topologies

  topology = topologies.parse(values.topology, values.slices)
  case = _case(values)
  from t5x_lite.files import json_text
  from t5x_lite.training import plan as planning
  from t5x_lite.training import plan_search

  if values.search:
    plans = plan_search.search(case, topology)
  else:
    plans = [planning.plan(case, topology)]
  if values.json:
    tried = {"tried": plans} if values.search else {}
    print(json_text.dumps(plans[0] | tried, what="plan"))
  elif values.search:
    print("\n\n".join([_tried(plans), _page(plans[0])]))
  else:
    print(_page(plans[0]))


def _case(values):
  """Returns the step that the flags describe."""
  given = describe.settings(values)
  from launch import config
  from t5x_lite.training import planned_step
  from t5x_lite.training import run as run_lib

  model = given.pop("model")
  layout = config.bound(run_lib.Run).get("layout")
  return planned_step.Case(
    model=model,
    decode=values.decode,
    **given,
    **({} if layout is None else {"layout": layout}),
  )


def _page(plan) -> str:
  """Returns a plan as text."""
  lengths = ", ".join(f"{k} {v}" for k, v in plan["lengths"].items())
  slices = f"{plan['slices']} x " if plan["slices"] > 1 else ""
  rows = [
    ("step", f"{plan['step']}, batch {plan['batch_size']}, {lengths}"),
    ("devices", f"{slices}{plan['topology']}, {plan['devices']} devices"),
    ("layout", _layout(plan)),
    ("numbers are", plan["method"]),
    ("bytes of a device", ""),
    *((f"  {k}", f"{v / _GIB:8.2f} GiB") for k, v in plan["bytes"].items()),
  ]
  if plan["step_s"] is not None:
    rows += _times(plan)
  width = max(len(name) for name, _ in rows)
  lines = [f"{name:<{width}}  {value}".rstrip() for name, value in rows]
  return "\n".join([*lines, *_advice(plan)])


def _layout(plan) -> str:
  mesh = " x ".join(f"{axis} {n}" for axis, n in plan["layout"].items())
  return (
    f"mesh {mesh}, remat {plan['remat']}, microbatches {plan['microbatches']}, "
    f"attention kernel {plan['kernel']}, {plan['dtype']}"
  )


def _times(plan) -> list[tuple[str, str]]:
  rows = [
    ("seconds of a step", f"{plan['step_s']:8.4f}   MFU {plan['mfu']:.1%}"),
    ("  compute", f"{plan['compute_s']:8.4f}"),
  ]
  for name in ("kernel", "recompute"):
    seconds = plan[f"{name}_s"]
    if seconds >= 1e-4:
      rows.append((f"    of it {name}", f"{seconds:8.4f}"))
  rows.append(("  links", f"{plan['link_s']:8.4f}"))
  for one in _notable(plan):
    name = f"    {one['kind']} over {'+'.join(one['axes'])}"
    size = f"{one['bytes'] / _GIB:8.3f} GiB in {one['count']}"
    rows.append((name, f"{one['seconds']:8.4f}   {size}"))
  if plan["by_module"]:
    rows.append(("compute by module", ""))
  total = plan["compute_s"]
  for name, seconds in list(plan["by_module"].items())[:8]:
    rows.append((f"  {name}", f"{seconds:8.4f}   {seconds / total:.1%}"))
  return rows


def _notable(plan) -> list[dict]:
  """Returns the collectives that take a share of the step or of the bytes."""
  total = sum(one["bytes"] for one in plan["collectives"])
  return [
    one
    for one in plan["collectives"]
    if one["seconds"] > 1e-3 * plan["step_s"] or one["bytes"] > 0.01 * total
  ]


def _advice(plan) -> list[str]:
  """Returns what would help a step that does not fit or waits for links."""
  if not plan["fits"]:
    needed = plan["bytes"]["peak"] / plan["bytes"]["capacity"]
    return [
      f"It does not fit: {needed:.2f} times the device's memory. Try --search; "
      "--gin_file=gin/mesh/fsdp.gin, which shards parameters; --gin.SCAN=True "
      "--gin.REMAT=full; more microbatches; or more devices."
    ]
  if plan["link_s"] > 0.25 * plan["step_s"]:
    return [
      f"Links take {plan['link_s'] / plan['step_s']:.0%} of the step: --search "
      "tries other meshes, and more rows a device hide more of it."
    ]
  if plan["recompute_s"] > 0.15 * plan["step_s"]:
    return [
      f"Recomputation takes {plan['recompute_s'] / plan['step_s']:.0%} of the "
      "step: --search tries remat policies that save more."
    ]
  return []


def _tried(plans) -> str:
  """Returns the table of a search, the best first."""
  lines = ["   MFU   seconds   peak GiB"]
  for plan in plans:
    fits = "" if plan["fits"] else "  does not fit"
    speed = "     -         -"
    if plan["step_s"] is not None:
      speed = f"{plan['mfu']:6.1%} {plan['step_s']:9.4f}"
    peak = plan["bytes"]["peak"] / _GIB
    mesh = " x ".join(f"{axis} {n}" for axis, n in plan["layout"].items())
    lines.append(
      f"{speed}  {peak:9.2f}  {mesh}, remat {plan['remat']}, microbatches "
      f"{plan['microbatches']}{fits}"
    )
  return "\n".join(lines)
