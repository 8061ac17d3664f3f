"""Registers what is there without any file: <corpus>_<objective>, and mixtures.

python_docs_span_corruption, python_source_causal_lm, ..., and the mixtures
python_<objective>, which draw from both corpora alike.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import seqio
import tensorflow as tf

from tasks import corpora, text
from tasks.causal_lm import CausalLM
from tasks.mlm import MLM
from tasks.prefix_lm import PrefixLM
from tasks.span_corruption import SpanCorruption
from tasks.task import Objective

OBJECTIVES: Mapping[str, Objective] = {
  "span_corruption": SpanCorruption(),
  "causal_lm": CausalLM(),
  "prefix_lm": PrefixLM(),
  "mlm": MLM(),
}


def register() -> None:
  """Adds the tasks and mixtures to seqio's registries."""
  for objective_name, objective in OBJECTIVES.items():
    for corpus in corpora.CORPORA:
      text.corpus_task(
        name=f"{corpus}_{objective_name}", corpus=corpus, objective=objective
      )
    add_mixture(
      f"python_{objective_name}",
      {f"{corpus}_{objective_name}": 1.0 for corpus in corpora.CORPORA},
    )


def add_mixture(name: str, rates: Mapping[str, float]) -> str:
  """Registers a mixture of tasks, drawn at `rates`, and returns its name.

  Where it is finite it goes on until the last task is exhausted (seqio's own
  stop at the first). Registering an equal mixture again is no error.
  """
  if name in seqio.TaskRegistry.names():
    raise ValueError(f"{name!r} is the name of a task: choose another name")
  if name in seqio.MixtureRegistry.names():
    present = seqio.MixtureRegistry.get(name).rate_per_task_name
    if dict(present) != dict(rates):
      raise ValueError(
        f"mixture {name!r} is already registered with other rates "
        f"({dict(present)}, now {dict(rates)}): choose another name"
      )
    return name
  seqio.MixtureRegistry.add(
    name,
    list(rates.items()),
    sample_fn=functools.partial(
      tf.data.Dataset.sample_from_datasets, stop_on_empty_dataset=False
    ),
  )
  return name
