"""Probes a model: hidden states, attention probabilities and logit lens.

    traces = probe(model, params, batch)
    cosine_distances(traces["decoder"].states)      which layers do little
    logit_lens(model, params, traces["decoder"].states, top_k=5)
    traces["decoder"].attention[layer, row, head]   [T, S], query by key

Modules sow these values into the collection "probes". If it is not mutable, as
in training, nothing is computed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.model import Batch, Model, Params

# In the order in which tokens pass through them.
_ORDER = (
  "encoder", "decoder", "decoder/self_decoder", "decoder/cross_decoder",
)  # fmt: skip


class Trace(NamedTuple):
  """Holds the activations of one stack, as float32 arrays on the host.

  Attributes:
    states: [L + 1, B, T, D], the input of each layer, and the last output.
    attention: [L, B, N, T, S], self-attention probabilities.
    cross_attention: the same for cross-attention, or None.
  """

  states: np.ndarray
  attention: np.ndarray
  cross_attention: np.ndarray | None


def probe(model: Model, params: Params, batch: Batch) -> dict[str, Trace]:
  """Runs a model on a batch, and returns the activations of each stack.

  Returns:
    A Trace for each stack that the model has: "encoder" and "decoder", or
    "decoder/self_decoder" and "decoder/cross_decoder" for the halves of a
    DecoderDecoder.
  """
  sown = jax.device_get(jax.jit(model.probe)(params, dict(batch)))
  traces = {}
  for name, stack in _stacks(sown, ()):
    # A shared encoder is the first run of the decoder's stack.
    runs = len(stack["input"])
    names = ["encoder", name] if runs == 2 else [name]
    traces |= {n: _trace(stack, run) for run, n in enumerate(names)}
  return {name: traces[name] for name in _ORDER if name in traces}


def _stacks(tree, path):
  if "input" in tree:
    yield "/".join(path), tree
    return
  for name, branch in tree.items():
    yield from _stacks(branch, (*path, name))


def _trace(stack: Mapping[str, Any], run: int) -> Trace:
  layers = _layers(stack)
  crosses = [
    layer["cross_attention"]["attention"][-1]
    for layer in layers
    if "cross_attention" in layer
  ]
  states = [stack["input"][run], *(layer["output"][run] for layer in layers)]
  attention = [layer["attention"]["attention"][run] for layer in layers]
  first_of_two = run + 1 < len(stack["input"])
  return Trace(
    states=np.stack(states).astype(np.float32),
    attention=np.stack(attention),
    cross_attention=np.stack(crosses) if crosses and not first_of_two else None,
  )


def _layers(stack) -> list:
  """Lists the values that each layer sowed, scanned or not."""
  if "layers" not in stack:
    number = sum(name.startswith("layer_") for name in stack)
    return [stack[f"layer_{i}"] for i in range(number)]
  period = stack["layers"]
  length = len(jax.tree.leaves(period)[0])
  return [
    jax.tree.map(lambda x, i=i: x[i], period[f"layer_{j}"])
    for i in range(length)
    for j in range(len(period))
  ]


def cosine_distances(states: np.ndarray) -> np.ndarray:
  """Returns 1 - cosine between each layer's input and output, [L, B, T]."""
  before, after = states[:-1], states[1:]
  norms = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
  return 1 - np.sum(before * after, axis=-1) / np.maximum(norms, 1e-30)


def logit_lens(
  model: Model, params: Params, states: np.ndarray, *, top_k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Applies the logit lens to hidden states: the final norm and the head.

  nostalgebraist 2020, "interpreting GPT: the logit lens".

  Args:
    model: the model.
    params: its parameters.
    states: [..., T, D], of the stack under the head.
    top_k: the number of tokens to return.

  Returns:
    Token ids [..., T, top_k], the most probable first, and their probabilities.
  """

  def read(transformer, states):
    stack = transformer.decoder or transformer.encoder
    if stack.final_norm is not None:
      states = stack.final_norm(states)
    return transformer.logits(states)

  @jax.jit
  def lens(params, states):
    logits = nn.apply(read, model.transformer)({"params": params}, states)
    return jax.lax.top_k(jax.nn.softmax(logits), top_k)

  states = jnp.asarray(states, model.transformer.dtype)
  flat = states.reshape(-1, *states.shape[-2:])
  probabilities, ids = jax.device_get(lens(params, flat))
  shape = (*states.shape[:-1], top_k)
  return ids.reshape(shape), probabilities.reshape(shape)
