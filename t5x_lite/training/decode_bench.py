"""Measures generation on synthetic token ids, at several batch sizes."""

import contextlib
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from t5x_lite import decoding
from t5x_lite.accounting import costs, model_structure
from t5x_lite.devices import copies as copies_lib
from t5x_lite.devices import matmul_peak
from t5x_lite.files.slow import announced
from t5x_lite.model import Model, Params
from t5x_lite.training import peer as peers


def bench(
  model: Model,
  *,
  batch_sizes: Sequence[int],
  prompt_tokens: int,
  new_tokens: int,
  repeats: int = 3,
  sampler: decoding.Strategy = decoding.GREEDY,
  copies: Sequence[int] | None = None,
  against: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Times greedy generation, whose texts never end early.

  What a step takes is the difference between generating one token and
  `new_tokens` more, over these. Its bound is to read the parameters that it
  computes with, and the whole cache, once from memory, whose speed is measured
  in the same run.

  Args:
    model: with its vocabulary size set.
    batch_sizes: rows of a batch, one measurement each.
    prompt_tokens: of each row; an encoder's, where there is one.
    new_tokens: of each row.
    repeats: how often each is timed; the medians count.
    sampler: another strategy than greedy decoding.
    copies: numbers of copies of the model among which the devices are divided,
      one measurement each of the batches that they divide; None: all that
      devices.copies knows.
    against: the same model in the words of Hugging Face (`peer.Peer`), which
      generates in turn; None compares nothing.

  Returns:
    "bytes_per_s" of memory, "dtype", "device", "parameters", "prompt_tokens",
    "new_tokens" and "batches", for each of the batch sizes and numbers of
    copies: "batch_size", "copies", "first_token_ms", "prefill_tokens_per_s",
    "step_ms", "tokens_per_s", "pct_of_bound"; and "against", of the peer:
    "first_token_ms", "step_ms", "tokens_per_s" and "ratio", our tokens per
    second over its own, prompts included.

  Raises:
    ValueError: the model does not generate, or the peer does not compare.
  """
  if not model.row_format.generates:
    raise ValueError("an encoder-only model does not generate")
  if against is not None:
    peers.check_device(model, jax.default_backend())
  found, speed = [], matmul_peak.bytes_per_second()
  axes, abstract = model.logical_axes(), model.abstract()
  numbers = copies_lib.numbers() if copies is None else copies
  for rows, number in itertools.product(batch_sizes, numbers):
    if rows % number:
      continue
    layout = copies_lib.layout(number).fit(axes, abstract)
    with contextlib.ExitStack() as stack:
      stack.enter_context(layout.activate())
      shardings = layout.tree_shardings(axes, abstract)
      init = jax.jit(model.init, out_shardings=shardings)
      params = init(jax.random.key(0))
      batch = layout.shard_batch(_prompts(model, rows, prompt_tokens))

      def generate(count, params=params, batch=batch):
        out = decoding.generate(
          model, params, batch, max_new_tokens=count, sampler=sampler,
          key=jax.random.key(0),
        )  # fmt: skip
        jax.block_until_ready(out)

      peer = None
      if against is not None:
        lengths = {"inputs": prompt_tokens, "targets": new_tokens}
        peer = stack.enter_context(
          peers.Peer(against, batch_size=rows, lengths=lengths, work="generate")
        )
      ours, theirs = _times(generate, peer, new_tokens, repeats)
    of_batch = {"copies": number} | _speeds(
      rows, prompt_tokens, new_tokens, *ours
    )
    read = _bytes_read(model, params, rows // number, prompt_tokens, new_tokens)
    bound = read * number / jax.device_count() / speed
    share = 1e5 * bound / of_batch["step_ms"]
    of_batch["pct_of_bound"] = float(f"{share:.3g}")
    if peer is not None:
      of_peer = _speeds(rows, prompt_tokens, new_tokens, *theirs)
      ratio = of_batch["tokens_per_s"] / of_peer["tokens_per_s"]
      of_batch["against"] = of_peer | peer.about | {"ratio": round(ratio, 2)}
    found.append(of_batch)
  return {
    "architecture": model.row_format.name,
    "parameters": sum(x.size for x in jax.tree.leaves(model.abstract())),
    "dtype": model.transformer.dtype,
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "prompt_tokens": prompt_tokens,
    "new_tokens": new_tokens,
    "bytes_per_s": speed,
    "batches": found,
  }


def _times(generate, peer, new_tokens, repeats):
  """Returns the median seconds of one token and of all, ours and the peer's."""
  counts = (1, 1 + new_tokens)
  with announced("compiling generation"):
    for count in counts:
      generate(count)
  ours, theirs = {c: [] for c in counts}, {c: [] for c in counts}
  with announced("timing generation"):
    for _ in range(repeats):
      for count in counts:
        begun = time.perf_counter()
        generate(count)
        ours[count].append(time.perf_counter() - begun)
        if peer is not None:
          theirs[count].append(peer.generate(count)["seconds"])
  return (
    [statistics.median(times[count]) for count in counts if times[count]]
    for times in (ours, theirs)
  )


def _speeds(rows, prompt_tokens, new_tokens, first, whole) -> dict[str, Any]:
  # Noise may make a single short text the faster.
  step = max(whole - first, 1e-9) / new_tokens
  return {
    "batch_size": rows,
    "first_token_ms": round(first * 1e3, 2),
    "prefill_tokens_per_s": round(rows * prompt_tokens / first, 1),
    "step_ms": float(f"{step * 1e3:.4g}"),  # Never 0.
    "tokens_per_s": round(rows * (1 + new_tokens) / whole, 1),
  }


def _prompts(model: Model, rows: int, tokens: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  ids = rng.integers(2, model.transformer.vocab_size, (rows, tokens))
  ids = ids.astype(np.int32)
  if model.transformer.has_encoder:
    return {"encoder_input_tokens": ids}
  return {
    "decoder_input_tokens": ids,
    "decoder_causal_attention": np.ones_like(ids),
  }


def _bytes_read(
  model: Model, params: Params, rows: int, prompt_tokens: int, new_tokens: int
) -> int:
  """Returns the bytes that a step reads: the decoder's weights and the cache.

  Of a token embedding that is not the head too, a step reads a few rows. All
  experts are counted.
  """
  lengths = {"inputs": prompt_tokens, "targets": 1 + new_tokens}
  if not model.transformer.has_encoder:
    lengths = {"targets": prompt_tokens + 1 + new_tokens}
  account = costs.describe(
    model, batch_size=rows, lengths=lengths, optimizer=None
  )
  skipped = {"encoder"}
  if "head" in params:
    skipped.add("token_embedding")
  weights = sum(
    leaf.nbytes
    for names, leaf in model_structure.leaves(params)
    if names[0] not in skipped
  )
  return weights + account["bytes"]["kv_cache"]
