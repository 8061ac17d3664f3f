"""Lists a model's stacks, attentions and components.

A run of a stack is one pass of tokens through it: an encoder that shares the
decoder's parameters is a second run of the same stack.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax

from t5x_lite.nn import remat
from t5x_lite.nn.attention_rules import Full
from t5x_lite.nn.feedforward import MLP
from t5x_lite.nn.kernels import table
from t5x_lite.nn.moe import MoE
from t5x_lite.nn.stack import Period

_ORDER = ("token_embedding", "encoder", "decoder", "head")
_ATTENTIONS = ("attention", "cross_attention")
_HALVES = ("self_decoder", "cross_decoder")


def traceable(model, rows=None, platform=None):
  """Returns an equivalent model that traces fast, on any device.

  A scanned stack of a hundred layers traces as fast as one layer, and the
  "einsum" kernel runs on every device. The parameters' total size is the same.

  Args:
    model: the model.
    rows: the length of a row's encoder and decoder side; where given, layers
      keep the kernel of the platform if it traces on every device.
    platform: as of `kernels`.
  """
  model = with_settled_remat(model)
  chosen = {}
  if rows is not None:
    for stack, layers in _kernels(model, rows, platform):
      chosen[id(stack)] = layers

  def with_kernels(layer, names):
    attentions = {
      name: attention.clone(
        core=dataclasses.replace(attention.core, kernel=kernel)
      )
      for name, kernel in zip(_ATTENTIONS, names, strict=False)
      if (attention := getattr(layer, name)) is not None
    }
    return layer.clone(**attentions)

  def change(stack):
    kernels = chosen.get(id(stack), [("einsum", "einsum")] * len(stack.period))
    layers = map(with_kernels, stack.period, map(_traced, kernels))
    return stack.clone(scan=True, layer=Period(tuple(layers)))

  return _with_stacks(model, change)


def _traced(names) -> list[str]:
  """Returns the kernels that are traced in place of these."""
  return [n if table.KERNELS[n].interpreted else "einsum" for n in names]


def one_period(model):
  """Returns the model with one period of layers, which traces even faster."""
  return _with_stacks(
    traceable(model),
    lambda stack: stack.clone(
      scan=False, remat=None, num_layers=len(stack.period)
    ),
  )


def repeats(model, names) -> int:
  """Returns how many times a model has a parameter of `one_period`.

  Args:
    model: the full model.
    names: the names of the parameter, as `leaves` gives them.
  """
  stack = model.transformer
  for name in names:
    if name.startswith("layer_"):
      return stack.num_layers // len(stack.period)
    stack = getattr(stack, name, None)
  return 1


def with_settled_remat(model):
  """Returns the model with what "auto" means where nothing is chosen for it."""
  return _with_stacks(
    model,
    lambda stack: stack.clone(
      remat=remat.settled(stack.remat, scan=stack.scan)
    ),
  )


def with_auto_remat(model, policy: str | None):
  """Returns the model with this policy, or None, where it had "auto"."""
  return _with_stacks(
    model,
    lambda stack: stack.clone(
      remat=policy if stack.remat == remat.AUTO else stack.remat
    ),
  )


def with_remat(model, policy: str | None):
  """Returns the model with this policy, or None, whatever it had."""
  return _with_stacks(model, lambda stack: stack.clone(remat=policy))


def _with_stacks(model, change):
  transformer = model.transformer
  sides = {
    side: stack.map_stacks(change)
    for side in ("encoder", "decoder")
    if (stack := getattr(transformer, side)) is not None
  }
  return dataclasses.replace(model, transformer=transformer.clone(**sides))


def of_one_device(model, parts: Mapping[str, int]):
  """Returns the model whose activations a device computes.

  Args:
    model: the model.
    parts: the devices that share a logical axis: "heads", "kv_heads", "mlp".
  """
  heads, hidden = parts["heads"], parts["mlp"]

  def attention(module):
    if module is None:
      return None
    num_heads = module.num_heads // heads
    # Where keys cannot be shared out as queries are, each device has them all.
    kv_heads = math.gcd(module.kv_heads // parts["kv_heads"], num_heads)
    return module.clone(num_heads=num_heads, num_kv_heads=kv_heads)

  def position(module):
    if not hasattr(module, "num_heads"):
      return module
    return module.clone(num_heads=module.num_heads // heads)

  def mlp(module):
    if isinstance(module, MoE):
      return module.clone(
        expert=mlp(module.expert), shared_expert=mlp(module.shared_expert)
      )
    if not isinstance(module, MLP):
      return module
    return module.clone(hidden=module.hidden // hidden)

  def layer(module):
    return module.clone(
      attention=attention(module.attention),
      cross_attention=attention(module.cross_attention),
      mlp=mlp(module.mlp),
      position=position(module.position),
    )

  return _with_stacks(
    model,
    lambda stack: stack.clone(
      layer=Period(tuple(map(layer, stack.period))),
      position=position(stack.position),
    ),
  )


def stacks(model) -> list:
  """Lists the stacks that tokens pass through, in order."""
  return [stack for stack, *_ in _runs(model, {})]


def _runs(model, rows):
  """Yields each run: (stack, tokens per row, tokens of its source per row)."""
  transformer = model.transformer
  encoder, decoder = transformer.encoder, transformer.decoder
  source = rows.get("encoder")
  if transformer.share_encoder:
    yield decoder, source, None
  elif encoder is not None:
    source = source and -(-source // encoder.pool)
    yield encoder, source, None
  for stack in decoder.stacks if decoder is not None else ():
    yield stack, rows.get("decoder"), source


def attentions(model, rows):
  """Yields (stack, attention, query-key pairs per row) for all layers."""
  for stack, length, source in _runs(model, rows):
    for layer in stack.layers:
      yield stack, layer.attention, length**2
      if layer.cross_attention is not None and source is not None:
        yield stack, layer.cross_attention, length * source


def kernels(model, rows, platform=None) -> list[str]:
  """Lists the kernels of the attentions, as `attentions` yields them.

  Args:
    model: the model, trained on rows that are not cached.
    rows: the length of a row's encoder and decoder side.
    platform: the platform to run on; None means the one that is here, but takes
      kernels that are named as they are.

  Raises:
    ValueError: a kernel that is named does not serve its layer there.
  """
  return [
    kernel
    for stack, period in _kernels(model, rows, platform)
    for kernels in period * (stack.num_layers // len(period))
    for kernel in kernels
  ]


def _kernels(model, rows, platform):
  """Yields each run's stack, and the kernels of its period, layer by layer."""
  for stack, length, source in _runs(model, rows):
    period = []
    for layer in stack.period:
      position = layer.position or stack.position
      kernels = [
        _kernel(
          model, layer.attention, layer.rule or stack.rule, position.bias_kind,
          (length, length), platform,
        )
      ]  # fmt: skip
      if layer.cross_attention is not None and source is not None:
        kernels.append(
          _kernel(
            model, layer.cross_attention, Full(), None, (length, source),
            platform,
          )
        )  # fmt: skip
      period.append(kernels)
    yield stack, period


def _kernel(model, attention, rule, bias_kind, lengths, platform):
  if platform is None and attention.core.kernel != table.AUTO:
    return attention.core.kernel
  return attention.kernel(
    rule, bias_kind, lengths=lengths, dtype=model.transformer.dtype,
    cached=False, training=True, platform=platform,
  )  # fmt: skip


def unkept_scores(model, rows, platform, *, traced=False):
  """Yields (attention, query-key pairs per row) whose scores are not kept.

  The kernel computes them again in the backward pass; those that
  rematerialisation drops are left out, and where `traced` those whose kernel
  `traceable` keeps.
  """
  each = zip(
    attentions(model, rows), kernels(model, rows, platform), strict=True
  )
  for (stack, attention, pairs), kernel in each:
    if table.KERNELS[kernel].keeps_scores or stack.remat is not None:
      continue
    if not (traced and table.KERNELS[kernel].interpreted):
      yield attention, pairs


def leaves(tree):
  """Yields (names, leaf), with names ("encoder", "layer_0", "mlp", ...)."""
  for path, leaf in jax.tree.leaves_with_path(tree):
    yield tuple(key.key for key in path), leaf


def component(names) -> str:
  """Returns the component that a parameter belongs to: "encoder/mlp"."""
  side, *inner = names
  inner = [n for n in inner if n != "layers" and not n.startswith("layer_")]
  if inner and inner[0] in _HALVES:
    side, inner = f"{side}/{inner[0]}", inner[1:]
  if not inner:
    return side
  return f"{side}/norm" if inner[0].endswith("norm") else f"{side}/{inner[0]}"


def component_of_scope(scope) -> str:
  """Returns the component that a traced operation belongs to.

  Args:
    scope: the names of the modules and methods around it; names of methods have
      a dot, names added by einsum have an arrow.
  """
  names = [n for n in scope if n and "." not in n and "->" not in n]
  if not names:
    return "head"
  found = component(names)
  in_attention = found.endswith("attention") and names[-1].endswith("attention")
  return f"{found}_scores" if in_attention else found


def in_order(counts) -> dict:
  """Sorts components from the embedding to the head."""

  def place(name):
    first = name.split("/")[0]
    return (_ORDER.index(first) if first in _ORDER else len(_ORDER), name)

  return {name: counts[name] for name in sorted(counts, key=place)}
