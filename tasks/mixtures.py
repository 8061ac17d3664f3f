"""Registers the built-in tasks, <corpus>_<objective>, and mixtures of tasks.

python_docs_span_corruption, python_source_causal_lm, ..., and the mixtures
python_<objective>, which draw from both corpora at equal rates. In a gin file,

  data.Data.task = @mixtures.mix()
  mixtures.mix.tasks = [@one/text.corpus_task(), "python_docs_ul2"]
  mixtures.mix.rates = [3, 1]

registers another mixture. Each task's loss is reported under its name.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from t5x_lite import checks
from tasks import cache, corpora, text
from tasks.bart import BART
from tasks.causal_lm import CausalLM
from tasks.cm3 import CM3
from tasks.fim import FIM
from tasks.glm import GLM
from tasks.iid_denoising import IIDDenoising
from tasks.mass import MASS
from tasks.mlm import MLM
from tasks.pegasus import PEGASUS
from tasks.prefix_lm import PrefixLM
from tasks.replaced_tokens import ReplacedTokens
from tasks.sentence_pairs import SentencePairs
from tasks.span_corruption import SpanCorruption
from tasks.task import Objective
from tasks.ul2 import UL2

OBJECTIVES: Mapping[str, Objective] = {
  "span_corruption": SpanCorruption(),
  "causal_lm": CausalLM(),
  "prefix_lm": PrefixLM(),
  "ul2": UL2(),
  "mlm": MLM(),
  "sentence_pairs": SentencePairs(),
  "replaced_tokens": ReplacedTokens(),
  "iid_denoising": IIDDenoising(),
  "bart": BART(),
  "mass": MASS(),
  "pegasus": PEGASUS(),
  "glm": GLM(),
  "fim": FIM(),
  "cm3": CM3(),
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByExamples:
  """Draws tasks in proportion to their number of examples, up to a limit.

  The rate is min(examples, maximum) ** (1 / temperature), section 3.5.2 of
  Raffel et al. 2020, arXiv:1910.10683. Examples are counted in the source,
  before an objective concatenates or divides them.

  Attributes:
    maximum: the limit, or None.
    temperature: 1 is proportional; a higher value makes the rates more equal.
  """

  maximum: checks.Count | None = None
  temperature: checks.Positive = 1.0

  def __post_init__(self):
    checks.fields(self)

  def __call__(self, task: seqio.Task) -> float:
    count = task.num_input_examples("train")
    if self.maximum is not None:
      count = min(count, self.maximum)
    return count ** (1 / self.temperature)


def mix(
  *,
  tasks: Sequence[str],
  rates: Sequence[float] | ByExamples = ByExamples(),
  name: str | None = None,
) -> str:
  """Registers a mixture and returns its name.

  Args:
    tasks: names of tasks or mixtures with the same features.
    rates: relative sampling rates, one per task; or ByExamples.
    name: the mixture's name; None derives one from the arguments.

  Returns:
    The name, for `data.Data.task`.
  """
  if isinstance(rates, ByExamples):
    rates = [rates] * len(tasks)
  if len(rates) != len(tasks) or not tasks:
    raise ValueError(
      f"rates ({list(rates)}) must have one number for each of {len(tasks)} "
      "tasks, and at least one"
    )
  pairs = dict(zip(tasks, rates, strict=True))
  if len(pairs) < len(tasks):
    raise ValueError(f"tasks ({', '.join(tasks)}) must be distinct")
  digest = cache.digest([f"{task} {rate}" for task, rate in pairs.items()])
  return add_mixture(name or f"mixture_{digest[:8]}", pairs)


def add_mixture(name: str, rates: Mapping[str, float | ByExamples]) -> str:
  """Registers a mixture of tasks, drawn at `rates`, and returns its name.

  A finite mixture ends when all tasks are exhausted; seqio's default is to end
  with the first. Registering an equal mixture again is allowed.
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
  _check_features(name, rates)
  seqio.MixtureRegistry.add(
    name,
    list(rates.items()),
    sample_fn=functools.partial(
      tf.data.Dataset.sample_from_datasets, stop_on_empty_dataset=False
    ),
  )
  return name


def _check_features(name: str, rates: Mapping[str, float]) -> None:
  """Raises ValueError unless all tasks have the same features."""
  known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  features = {}
  for task in rates:
    if task not in known:
      raise ValueError(f"mixture {name!r} names {task!r}, which is not a task")
    features[task] = tuple(seqio.get_mixture_or_task(task).output_features)
  first, *others = features
  for other in others:
    if set(features[first]) != set(features[other]):
      raise ValueError(
        f"the tasks of a mixture need the same features, but {first} has "
        f"{', '.join(features[first])} and {other} has "
        f"{', '.join(features[other])}"
      )
