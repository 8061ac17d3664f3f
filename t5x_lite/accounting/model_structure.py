"""Lists a model's stacks, attentions and components.

A run of a stack is one pass of tokens through it: an encoder that shares the
decoder's parameters is a second run of the same stack.
"""

import dataclasses

import jax

from t5x_lite.nn import remat
from t5x_lite.nn.attention_rules import Full
from t5x_lite.nn.kernels import table
from t5x_lite.nn.stack import Period

_ORDER = ("token_embedding", "encoder", "decoder", "head")
_HALVES = ("self_decoder", "cross_decoder")


def traceable(model):
  """Returns an equivalent model that traces fast, on any device.

  A scanned stack of a hundred layers traces as fast as one layer, and the
  "einsum" kernel runs on every device. The parameters' total size is the same.
  """

  def with_einsum(layer):
    attentions = {
      name: attention.clone(
        core=dataclasses.replace(attention.core, kernel="einsum")
      )
      for name in ("attention", "cross_attention")
      if (attention := getattr(layer, name)) is not None
    }
    return layer.clone(**attentions)

  return _with_stacks(
    with_settled_remat(model),
    lambda stack: stack.clone(
      scan=True, layer=Period(tuple(map(with_einsum, stack.period)))
    ),
  )


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
  found = []
  for stack, length, source in _runs(model, rows):
    for layer in stack.layers:
      position = layer.position or stack.position
      found.append(
        _kernel(
          model, layer.attention, layer.rule or stack.rule, position.bias_kind,
          (length, length), platform,
        )
      )  # fmt: skip
      if layer.cross_attention is not None and source is not None:
        found.append(
          _kernel(
            model, layer.cross_attention, Full(), None, (length, source),
            platform,
          )
        )  # fmt: skip
  return found


def _kernel(model, attention, rule, bias_kind, lengths, platform):
  if platform is None and attention.core.kernel != table.AUTO:
    return attention.core.kernel
  return attention.kernel(
    rule, bias_kind, lengths=lengths, dtype=model.transformer.dtype,
    cached=False, training=True, platform=platform,
  )  # fmt: skip


def unkept_scores(model, rows, platform):
  """Yields (attention, query-key pairs per row) whose scores are not kept.

  The kernel computes them again in the backward pass; those that
  rematerialisation drops are left out.
  """
  each = zip(
    attentions(model, rows), kernels(model, rows, platform), strict=True
  )
  for (stack, attention, pairs), kernel in each:
    if not table.KERNELS[kernel].keeps_scores and stack.remat is None:
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
