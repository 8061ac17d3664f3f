"""Parameters, FLOPs and bytes of a model, before it is built.

Nothing here computes: parameters are counted from their shapes, FLOPs by
formula, and what the backward keeps is read off a trace.

FLOPs are those of matmuls, 2 per multiply-add, as the program computes them:

- A weight is used once per token that it sees. An encoder's weights see the
  encoder's tokens, a decoder's the decoder's; the keys and values of
  cross-attention are made from the encoder's. Looking up an embedding is free.
- Attention scores are full: T x S products for the logits and T x S for the
  mix, whether a rule hides half of them or not (a kernel that skips what a
  causal rule hides computes half). So does PaLM count, arXiv:2204.02311,
  appendix B: 6 N + 12 L (heads) H T per token for a decoder of N parameters.
- Training costs three times the forward pass: the backward has two matmuls
  for each one (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
- "training" are model FLOPs, without recomputation: what rates and budgets are
  counted in. "hardware" adds what is executed beside: layers that remat
  computes again (all but the products at their end, which no gradient reads;
  under "dots" the attention scores alone), the scores that the cudnn kernel
  computes again (Dao 2023, arXiv:2307.08691, section 2.3), and the padding of
  the last piece of a loss in chunks.
"""

import dataclasses
import math
import os
import pathlib
import re
from collections import Counter
from collections.abc import Mapping

import jax
import jax.numpy as jnp

# How far a predicted total lies from XLA's own account of a compiled step, over
# architectures, dtypes, remat, scan, microbatches and chunked losses. With but
# a few tokens a batch it can lie further off: XLA on the CPU may then hold all
# updates of a clipped Adafactor at once, one more copy of the parameters.
TOLERANCE = 0.2


def describe(
  model,
  *,
  batch_size: int,
  lengths: Mapping[str, int],
  optimizer=None,
  microbatches: int = 1,
  platform: str | None = None,
) -> dict:
  """Accounts for a model and one training step of it.

  Args:
    model: a model.Model with a known vocabulary size.
    batch_size: rows of a global batch.
    lengths: task feature -> tokens, as `row_lengths` reads them.
    optimizer: one of optimizers.py; None keeps no state.
    microbatches: pieces that a batch is cut into.
    platform: where it is to run; "cpu" has peculiarities (`_activations`).

  Returns:
    A dict that JSON can hold:
    - "architecture", "batch_size", "row_lengths", and "tokens_per_step", of
      encoder and decoder together;
    - "parameters": "total" and "by_component";
    - "flops_per_step", "flops_per_token": of training, head included;
    - "flops": of one step, see `flops`;
    - "bytes", over all devices: "parameters", "gradients", "optimizer",
      "activations" (of one microbatch); "total", the peak of a training step,
      less than their sum as gradients take the place that activations leave;
      and, for another occasion, "kv_cache": to generate a batch of such rows.

  Raises:
    ValueError: for a length that is missing, or microbatches that do not
      divide the batch.
  """
  if batch_size % microbatches:
    raise ValueError(
      f"batch_size ({batch_size}) must be divisible by microbatches "
      f"({microbatches})"
    )
  rows = row_lengths(model.architecture, lengths)
  twin = _traceable(model)
  params = twin.abstract()
  step = _flops(model, params, batch_size, rows, microbatches)
  param_bytes, state_bytes = _nbytes(params), 0
  if optimizer is not None:
    transform = optimizer.build(twin.logical_axes())
    state_bytes = _nbytes(jax.eval_shape(transform.init, params))
  parts = {
    "parameters": param_bytes,
    # Microbatches add up their gradients beside those of the newest one.
    "gradients": param_bytes * (1 if microbatches == 1 else 2),
    "optimizer": state_bytes,
    "activations": _activations(
      model, params, batch_size // microbatches, rows, platform
    ),
  }
  tokens = batch_size * sum(rows.values())
  return {
    "architecture": model.architecture,
    "batch_size": batch_size,
    "row_lengths": rows,
    "tokens_per_step": tokens,
    "parameters": _parameters(params),
    "flops_per_token": step["training"] / tokens,
    "flops_per_step": step["training"],
    "flops": step,
    "bytes": {
      **parts,
      "total": _peak(parts),
      "kv_cache": _cache_bytes(model, batch_size, rows),
    },
  }


def row_lengths(
  architecture: str, lengths: Mapping[str, int]
) -> dict[str, int]:
  """Says how long the sides of a row are, from the lengths of features.

  An encoder reads the inputs and a decoder over it the targets. A decoder alone
  reads both, one after the other; some tasks have targets only.
  """
  needed = {"encoder": ["inputs"], "encoder_decoder": ["inputs", "targets"]}
  for feature in needed.get(architecture, ["targets"]):
    if feature not in lengths:
      raise ValueError(
        f"lengths {dict(lengths)} lack {feature!r}, which an architecture "
        f"{architecture!r} reads: add {feature}=..."
      )
  if architecture == "encoder_decoder":
    return {"encoder": lengths["inputs"], "decoder": lengths["targets"]}
  if architecture == "encoder":
    return {"encoder": lengths["inputs"]}
  together = lengths.get("inputs", 0) + lengths["targets"]
  return {"decoder": lengths.get("decoder", together)}


def parameters(model) -> dict:
  """Counts parameters: {"total": int, "by_component": {name: int}}."""
  return _parameters(_traceable(model).abstract())


def flops(
  model,
  *,
  batch_size: int,
  lengths: Mapping[str, int],
  microbatches: int = 1,
) -> dict:
  """Counts the matmul FLOPs of one step, by the conventions of this module.

  Returns:
    - "forward", "training", "hardware": of all components;
    - "training_without_head": the model without embeddings and head;
    - "by_component": "training" by component; of an attention its weights and
      its "..._scores" apart.
  """
  rows = row_lengths(model.architecture, lengths)
  params = _traceable(model).abstract()
  return _flops(model, params, batch_size, rows, microbatches)


def _parameters(params) -> dict:
  counts = Counter()
  for names, leaf in _leaves(params):
    counts[_component(names)] += math.prod(leaf.shape)
  return {"total": counts.total(), "by_component": _in_order(counts)}


def _flops(model, params, batch_size, rows, microbatches) -> dict:
  forward = _forward_flops(model, params, batch_size, rows)
  total = forward.total()
  again = _recomputed_flops(model, params, forward)
  length = rows[_loss_side(model)]
  number, size = model.loss.pieces(batch_size // microbatches, length)
  again += 3 * forward["head"] * (number * size - length) // length
  return {
    "forward": total,
    "training": 3 * total,
    "hardware": 3 * total + again,
    "training_without_head": 3 * (total - forward["head"]),
    "by_component": _in_order({k: 3 * v for k, v in forward.items()}),
  }


def _forward_flops(model, params, batch_size, rows) -> Counter:
  counts = Counter()
  for names, leaf in _leaves(params):
    if names[-1] == "kernel":
      of_source = "cross_attention" in names and names[-2] in ("key", "value")
      tokens = batch_size * rows["encoder" if of_source else names[0]]
      counts[_component(names)] += 2 * tokens * math.prod(leaf.shape)
  for side, stack in _stacks(model).items():
    for name, attention, pairs in _attentions(stack, side, rows):
      width = attention.num_heads * attention.head_dim
      per_layer = 4 * batch_size * pairs * width
      counts[f"{side}/{name}_scores"] = stack.num_layers * per_layer
  head_size = model.transformer.width * model.transformer.vocab_size
  counts["head"] = 2 * batch_size * rows[_loss_side(model)] * head_size
  return counts


def _recomputed_flops(model, params, forward) -> int:
  """Counts what the backward computes a second time."""
  again = 0
  for side, stack in _stacks(model).items():
    inside = {k: v for k, v in forward.items() if k.startswith(f"{side}/")}
    scores = sum(v for k, v in inside.items() if k.endswith("_scores"))
    if stack.remat == "full":
      at_end = [("mlp", "wo")]
      if stack.layer.parallel:
        at_end.append(("attention", "out"))
      again += sum(inside.values())
      for part, last in at_end:
        sizes = {
          names[-2]: math.prod(leaf.shape)
          for names, leaf in _leaves(params)
          if names[0] == side and names[-3:] == (part, names[-2], "kernel")
        }
        share = sizes[last] / sum(sizes.values())
        again -= round(inside[f"{side}/{part}"] * share)
    elif stack.remat == "dots":
      again += scores
    elif stack.layer.attention.kernel == "cudnn":
      again += scores // 2
  return again


def _peak(parts) -> int:
  """Adds up what a training step holds at once.

  Gradients are made as the backward frees activations: of the two, the larger
  counts; the sum over earlier microbatches is there all the time.
  """
  lasting = parts["optimizer"] + parts["gradients"]
  return lasting + max(parts["activations"], parts["parameters"])


def _activations(model, params, batch_size, rows, platform) -> int:
  """Predicts what activations take at their peak, the end of the forward.

  That is what autodiff keeps for the backward, and what is in work: the logits
  of one piece and their gradient or, where layers are scanned or computed
  again, one whole layer.

  XLA on the CPU (platform="cpu") widens half precision to float32, and gains
  nothing from remat unless layers are scanned: it recomputes all layers ahead
  of the backward.
  """
  scan = any(stack.scan for stack in _stacks(model).values())
  if platform == "cpu" and not scan:
    model = _without_remat(model)
  remat = any(stack.remat for stack in _stacks(model).values())

  def kept(model):
    return _kept(model, params, batch_size, rows, platform, scan)

  total, layer = kept(model)
  if remat:
    layer = kept(_without_remat(model))[1]
  _, length = model.loss.pieces(batch_size, rows[_loss_side(model)])
  logits = 4 * batch_size * length * model.transformer.vocab_size
  return total + max(2 * logits, layer if scan or remat else 0)


def _kept(model, params, batch_size, rows, platform, scan) -> tuple[int, int]:
  """Traces what the backward reads beside parameters and batch.

  Args:
    params: of the `_traceable` model.
    scan: whether layers are scanned when the model runs.

  Returns:
    The bytes in all, and of one layer, the largest.
  """
  traced = _traceable(model)

  def backward(params, batch, key):
    def objective(params):
      return traced.loss_and_metrics(params, batch, dropout_key=key)[0]

    return jax.vjp(objective, params)[1]

  jaxpr = jax.make_jaxpr(backward)(
    params, _abstract_batch(model, batch_size, rows), jax.random.key(0)
  ).jaxpr
  views = {"reshape", "squeeze", "expand_dims"}
  if platform == "cpu":
    views.add("convert_element_type")

  def nbytes(variable):
    size = variable.aval.dtype.itemsize
    if platform == "cpu" and jnp.issubdtype(variable.aval.dtype, jnp.floating):
      size = max(size, 4)
    return variable.aval.size * size

  # Scalars count for nothing, and literals among them cannot be hashed.
  kept = {v for v in jaxpr.outvars if v.aval.shape}
  kept -= _views(jaxpr.eqns, jaxpr.invars, views)
  scans = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
  # The head's gradient is taken in the forward (losses.py): not an activation.
  total = -4 * model.transformer.width * model.transformer.vocab_size
  layers = []
  for (side, stack), eqn in zip(_stacks(model).items(), scans, strict=False):
    assert eqn.params["length"] == stack.num_layers
    carried = eqn.params["num_carry"]
    if not scan:  # Only a scan copies a kernel that is reshaped.
      body = eqn.params["jaxpr"].jaxpr
      slices = body.invars[eqn.params["num_consts"] + carried :]
      same = _views(body.eqns, slices, views)
      pairs = zip(eqn.outvars, body.outvars, strict=True)
      kept -= {out for out, v in pairs if v.aval.shape and v in same}
    stacked = kept.intersection(eqn.outvars[carried:])
    layers.append(sum(map(nbytes, stacked)) // stack.num_layers)
    for _, attention, pairs in _attentions(stack, side, rows):
      if attention.kernel == "cudnn" and stack.remat is None:
        dtype = jnp.dtype(model.transformer.dtype)
        unkept = batch_size * pairs * attention.num_heads * dtype.itemsize
        layers[-1] -= unkept
        total -= unkept * stack.num_layers
  return total + sum(map(nbytes, kept)), max(layers)


def _views(eqns, roots, primitives) -> set:
  """Returns the variables that are the roots' memory under another shape."""
  found = set(roots)
  for eqn in eqns:
    if eqn.primitive.name in primitives and eqn.invars[0] in found:
      found.add(eqn.outvars[0])
  return found


def _abstract_batch(model, batch_size, rows) -> dict:
  """Returns the shapes of a batch whose sides are `rows` long."""
  batch = {}
  for side, length in rows.items():
    names = ["input_tokens", "segment_ids", "positions"]
    if side == _loss_side(model):
      names += ["target_tokens", "loss_weights"]
    if side == "decoder" and len(rows) == 1:
      names.append("causal_attention")
    for name in names:
      batch[f"{side}_{name}"] = jax.ShapeDtypeStruct(
        (batch_size, length), jnp.int32
      )
  return batch


def _cache_bytes(model, batch_size, rows) -> int:
  decoder = model.transformer.decoder
  if decoder is None:
    return 0
  cache = jax.eval_shape(
    lambda: decoder.empty_cache(
      batch_size, rows["decoder"], source_length=rows.get("encoder", 0),
      dtype=model.transformer.dtype,
    )
  )  # fmt: skip
  return _nbytes(cache.layers)


def device_bytes(account: dict, layout) -> dict[str, int]:
  """Returns an account's bytes for one device of a partitioning.Layout.

  Parameters are cut as most of them are, those of ("embed", "mlp"); rows of a
  batch by their own axis. Activations are not cut within a row: where they are
  (heads, hidden units), the device holds less.
  """

  def ways(*axes):
    whole = (jax.device_count(),) * len(axes)
    shard = layout.sharding(axes).shard_shape(whole)
    return math.prod(whole) // math.prod(shard)

  cut = {"activations": ways("batch"), "kv_cache": ways("batch")}
  parts = {
    name: account["bytes"][name] // cut.get(name, ways("embed", "mlp"))
    for name in account["bytes"]
  }
  return {**parts, "total": _peak(parts)}


def check_memory(account: dict, *, layout=None, available: int | None = None):
  """Refuses a training step that cannot fit.

  The prediction may be TOLERANCE too high: what is doubtful is let through.

  Args:
    account: of `describe`.
    layout: a partitioning.Layout; None is a single device.
    available: bytes of a device; None asks `available_bytes`.

  Raises:
    ValueError: in one line, what is needed and what there is.
  """
  parts = account["bytes"] if layout is None else device_bytes(account, layout)
  if available is None:
    available = available_bytes(None if layout else jax.local_devices()[:1])
  if available is None or parts["total"] * (1 - TOLERANCE) <= available:
    return
  names = ("parameters", "gradients", "optimizer", "activations")
  listed = ", ".join(f"{name} {_gib(parts[name])}" for name in names)
  raise ValueError(
    f"a training step needs about {_gib(parts['total'])} GiB a device "
    f"({listed}) and {_gib(available)} are available: use a smaller batch_size "
    "or lengths, more microbatches, Stack.remat='full' with Stack.scan=True, "
    "or more devices"
  )


def _gib(count) -> str:
  return f"{count / 2**30:.3g}"


def available_bytes(devices=None) -> int | None:
  """Returns the free memory of one device, or None if it is unknown.

  Devices of the CPU share the host's, within the limits of its control groups.

  Args:
    devices: this process's that the run uses; by default all it has.
  """
  devices = jax.local_devices() if devices is None else devices
  if devices[0].platform == "cpu":
    host = _host_bytes()
    return None if host is None else host // len(devices)
  free = []
  for device in devices:
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
      free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
  return min(free, default=None)


def _host_bytes() -> int | None:
  """Reads what the machine, and each control group around us, leaves free."""
  if not os.path.exists("/proc/meminfo"):  # Not Linux.
    if "SC_PHYS_PAGES" not in os.sysconf_names:
      return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  meminfo = pathlib.Path("/proc/meminfo").read_text()
  free = [int(re.search(r"MemAvailable:\s*(\d+) kB", meminfo)[1]) * 1024]
  root = pathlib.Path("/sys/fs/cgroup")
  groups = pathlib.Path("/proc/self/cgroup").read_text()
  own = re.search(r"^0::/(.*)$", groups, re.M)
  folder = root / own[1] if own else root
  for group in (folder, *folder.parents):
    if group.is_relative_to(root) and (group / "memory.max").exists():
      limit = (group / "memory.max").read_text().strip()
      used = int((group / "memory.current").read_text())
      # Cached files make way for a program that asks for memory.
      stat = (group / "memory.stat").read_text()
      used -= int(re.search(r"^inactive_file (\d+)$", stat, re.M)[1])
      free += [] if limit == "max" else [int(limit) - used]
  return min(free)


def _traceable(model):
  """Returns the model with as many parameters, traced fast and anywhere.

  A scanned stack takes as long for a hundred layers as for one, and "einsum"
  is the kernel that needs no particular device.
  """

  def change(stack):
    attentions = {
      name: attention.clone(kernel="einsum")
      for name in ("attention", "cross_attention")
      if (attention := getattr(stack.layer, name)) is not None
    }
    return stack.clone(scan=True, layer=stack.layer.clone(**attentions))

  return _with_stacks(model, change)


def _without_remat(model):
  return _with_stacks(model, lambda stack: stack.clone(remat=None))


def _with_stacks(model, change):
  stacks = {side: change(stack) for side, stack in _stacks(model).items()}
  transformer = model.transformer.clone(**stacks)
  return dataclasses.replace(model, transformer=transformer)


def _attentions(stack, side, rows):
  """Yields (name, attention, query-key pairs of a row) of a stack's layers."""
  attention, cross = stack.layer.attention, stack.layer.cross_attention
  yield "attention", attention, rows[side] ** 2
  if cross is not None and "encoder" in rows:
    yield "cross_attention", cross, rows[side] * rows["encoder"]


def _stacks(model) -> dict:
  transformer = model.transformer
  pairs = (("encoder", transformer.encoder), ("decoder", transformer.decoder))
  return {side: stack for side, stack in pairs if stack is not None}


def _loss_side(model) -> str:
  return "encoder" if model.transformer.decoder is None else "decoder"


def _leaves(tree):
  """Yields each leaf with its names, ("encoder", "layer_0", "mlp", ...)."""
  for path, leaf in jax.tree.leaves_with_path(tree):
    yield tuple(key.key for key in path), leaf


def _component(names) -> str:
  """Names the component that a parameter belongs to: "encoder/mlp"."""
  side, *inner = names
  inner = [n for n in inner if n != "layers" and not n.startswith("layer_")]
  if not inner:
    return side
  return f"{side}/norm" if inner[0].endswith("norm") else f"{side}/{inner[0]}"


def _in_order(counts) -> dict:
  order = ("token_embedding", "encoder", "decoder", "head")
  keys = sorted(counts, key=lambda k: (order.index(k.split("/")[0]), k))
  return {key: counts[key] for key in keys}


def _nbytes(tree) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _device_bytes(params, axes, layout) -> int:
  """Sums the bytes of one device's shards."""

  def shard(leaf, names):
    shape = layout.sharding(names, leaf.shape).shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize

  return sum(jax.tree.leaves(jax.tree.map(shard, params, axes)))
