"""Writes what the arms of a study leave behind, without training any."""

import json

import numpy as np

DOCUMENTS = 20


def study(folder, *, seeds=(0, 1, 2), effects=None, sizes=False, noise=0.01):
  """Writes a directory of finished arms, and returns its plan.

  Args:
    folder: where to.
    seeds: of each cell.
    effects: cell -> bits per byte; by default of a grid of six.
    sizes: whether the second axis is one of sizes.
    noise: standard deviation of a seed's bits per byte.
  """
  if effects is None:
    effects = {
      f"{architecture}-{objective}": 2.0 + 0.1 * i + 0.2 * j
      for i, architecture in enumerate(["encoder_decoder", "causal", "prefix"])
      for j, objective in enumerate(["span_corruption", "prefix_lm"])
    }
  names = [name.split("-") for name in effects]
  axes = {
    axis: list(dict.fromkeys(name[i] for name in names))
    for i, axis in enumerate(["architecture", "objective"][: len(names[0])])
  }
  plan = {
    "question": "Does <this> work?",
    "budget": {"unit": "flops", "amount": 1e12, "embeddings": True},
    "axes": axes,
    "seeds": list(seeds),
    "baseline": None,
    "size_axis": "objective" if sizes else None,
    "contrasts": {},
    "step_ratios": {},
    "stages": {
      "tuned": {"after": None, "budget": {"unit": "steps", "amount": 50}},
    },
    "paper": {
      "title": "a paper",
      "values": {"quiz after tuned": {"causal-prefix_lm": "the <best>"}},
    },
    "skipped": {"encoder-causal_lm": "it has no decoder"},
    "cells": {
      name: _cell(dict(zip(axes, name.split("-"), strict=True)), number)
      for number, name in enumerate(effects)
    },
    "arms": [
      {
        "name": f"{name}-seed{seed}",
        "cell": name,
        "seed": seed,
        "runs": [
          {"stage": stage, "steps": 100, "documents_sha256": f"{seed}" * 64}
          for stage in ("", "tuned")
        ],
      }
      for seed in seeds
      for name in effects
    ],
  }
  rng = np.random.default_rng(0)
  for arm in plan["arms"]:
    _arm(folder / "arms" / arm["name"], effects[arm["cell"]], noise, rng)
  return plan


def _cell(choices, number):
  account = {
    "architecture": "causal",
    "parameters": 1234567 + number,
    "parameters_without_embeddings": 1000000,
    "flops_per_step": 1e10 * (number + 1),
    "tokens_per_step": 4096.0,
    "loss_fraction": 0.15,
    "padding_fraction": 0.02,
  }
  totals = {
    "steps": 100, "flops": 1e12 * (number + 1), "source_tokens": 5e5,
    "loss_tokens": 7e4, "tokens": 4e5, "seconds": 10.0,
  }  # fmt: skip
  one = {"account": account, "totals": totals}
  return {"choices": choices, **one, "stages": {"tuned": one}}


def _arm(path, effect, noise, rng):
  path.mkdir(parents=True)
  size = rng.integers(300, 600, DOCUMENTS)
  of_seed = effect + noise * rng.normal()
  measures = {"step": 100, "documents_sha256": "ab", "suites": {}}
  measures["sources"] = ["books/docs", "code"] * (DOCUMENTS // 2)
  for kind in ("continuation", "infilling"):
    bits = size * (of_seed + 0.2 * np.sin(np.arange(DOCUMENTS)))
    measures[kind] = {
      "format": "sentinel",
      "bits_per_byte": float(bits.sum() / size.sum()),
      "bits": bits.tolist(),
      "bytes": size.tolist(),
    }
  measures["samples"] = [
    {
      "format": "sentinel",
      "left": "A list is",
      "truth": "a sequence",
      "right": "of items.",
      "prediction": "a <b> row",
    }
  ]
  (path / "measures.json").write_text(json.dumps(measures))
  (path / "tuned").mkdir()
  quiz = {"tasks": {"sums": 50 - 10 * of_seed, "words": 90 - 10 * of_seed}}
  tuned = {"step": 100, "suites": {"quiz": quiz}, "samples": []}
  (path / "tuned" / "measures.json").write_text(json.dumps(tuned))
  records = [
    {"step": s, "kind": "train", "loss": effect + 5 / s, "step_seconds": 0.1}
    for s in range(10, 101, 10)
  ]
  records.append({"step": 100, "kind": "eval", "docs/loss": effect,
                  "code/loss": effect + 1})  # fmt: skip
  lines = "".join(json.dumps(record) + "\n" for record in records)
  (path / "metrics.jsonl").write_text(lines)
  (path / "operative_config.gin").write_text("run.Run.total_steps = 100\n")
  record = {"commit": "abc", "devices": "1 x cpu", "versions": {"jax": "1"}}
  (path / "run.json").write_text(json.dumps(record))
