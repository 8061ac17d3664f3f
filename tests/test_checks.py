"""Every setting of every class: what does not fit is refused in one line."""

import dataclasses
import functools
import importlib
import inspect
import math
import pkgutil
import time

import hypothesis
import numpy as np
import pytest
import seqio
from hypothesis import strategies as st

import t5x_lite
import tasks
from t5x_lite import checks, decoding, losses
from t5x_lite.ablation.study import Budget
from t5x_lite.data import Data
from t5x_lite.devices.layout import Layout
from t5x_lite.inference.jobs import Codec
from t5x_lite.losses import CrossEntropy
from t5x_lite.nn import attention_rules, feedforward, linear, norms, positions
from t5x_lite.optim import AdamW, Constant
from t5x_lite.training.run import Run
from tasks.ul2 import PrefixLM
from tests import tiny

# What the library makes by itself, and nobody configures.
RESULTS = {
  "Array", "Benchmark", "Buckets", "Case", "Cell", "ChatTemplate", "Chip",
  "Cluster", "Codec", "Cutter", "Entry", "Feature", "Format", "Generation",
  "Gpu", "Inspection", "Instruction", "Kernel", "LanguageModel", "Links",
  "Loaded", "Matrix", "Metric", "NewestVerified", "Options", "Pattern",
  "Placed", "Plan", "Program", "ProgramCosts", "Question", "ResolvedTask",
  "Ring", "Rotary", "Scan", "Scores", "Slopes", "SpanPlan", "Summary",
  "Table", "TextTask", "TokenizerFiles", "Topology", "TrainState",
  "Visibility", "Vocabulary", "Watched",
}  # fmt: skip

# Values of the fields that have no default, by field or by "Class.field".
MODEL = tiny.palm()
TEXT = seqio.Feature(seqio.ByteVocabulary())
STACK = MODEL.transformer.decoder
GIVEN = {
  "num_heads": 4, "head_dim": 6, "hidden": 8, "size": 2, "radius": 1,
  "count": 1, "num_classes": 2, "num_experts": 2, "max_length": 8,
  "max_blank": 4, "bidirectional": True, "factor": 2.0, "original_length": 64,
  "num_layers": 2, "width": 20, "peak": 1.0, "value": 1.0, "steps": 3,
  "decay_steps": 2, "amount": 1.0, "batch_size": 4, "total_steps": 3,
  "learning_rate": 1e-3, "path": "runs/a", "task": "a",
  "draft": decoding.PromptLookup(),
  "lengths": {"inputs": 8}, "tasks": ["a"], "question": "which?",
  "grid": {"a": {"b": ()}}, "mode": "R", "sequences": [(1, 2), (3,)],
  "inputs": "{a}", "targets": "{b}", "in_shape": (2,), "out_shape": (3,),
  "axes": ("embed", "mlp"), "norm": norms.RMSNorm(), "layer": STACK.layer,
  "layers": [STACK.layer], "attention": STACK.layer.attention,
  "mlp": STACK.layer.mlp, "expert": feedforward.MLP(hidden=8),
  "position": STACK.position, "rules": (attention_rules.Full(),),
  "rule": attention_rules.Causal(), "transformer": MODEL.transformer,
  "model": MODEL, "optimizer": AdamW(learning_rate=1e-3),
  "objective": PrefixLM(), "self_decoder": STACK, "cross_decoder": STACK,
  "budget": Budget(amount=1.0), "schedule": Constant(value=1.0),
  "train": Data(task="a", lengths={"targets": 8}, batch_size=4),
  "codec": Codec(
    row_format=MODEL.row_format, inputs=TEXT, targets=TEXT,
    lengths={"targets": 8},
  ),
}  # fmt: skip
FURTHER = {  # Without which nothing stands, though they have defaults.
  "Transformer": {"decoder": STACK},
  "Suite": {"batch_size": 32},
  "Regex": {"pattern": "a", "first": [b"a"], "later": [b"a"]},
}

# One of each kind of value that a field may not be.
VALUES = (
  None, True, False, -1, 0, 1, 3, 10**9, 2**31, 10**30, 10**5000, -(10**30),
  -0.5, 0.0, 0.5, 1.0, 1.5, 1e30, 1e300, math.nan, math.inf, -math.inf, 1j,
  "", "a", "1", "x\ny", b"a", [], (), {}, [None], [-1], ["a", 1], (1, 2),
  {"a": 1}, {"a": None}, {1: "a"}, [[1]], len, int, object(), np.int64(2),
  np.float32(0.5), np.zeros(2), Layout, tiny, CrossEntropy(),
)  # fmt: skip


def classes():
  """Yields every public class of settings."""
  for root in (t5x_lite, tasks):
    for module in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
      for name, one in vars(importlib.import_module(module.name)).items():
        is_here = inspect.isclass(one) and one.__module__ == module.name
        if is_here and dataclasses.is_dataclass(one) and name[0] != "_":
          if name not in RESULTS and settings(one):
            yield one


def settings(cls):
  fields = dataclasses.fields(cls)
  return [f.name for f in fields if f.name not in ("parent", "name")]


@functools.cache
def arguments(cls):
  """Returns what builds an object of a class."""
  given = {
    f.name: GIVEN[f.name]
    for f in dataclasses.fields(cls)
    if f.name in GIVEN and f.default is f.default_factory is dataclasses.MISSING
  }
  return given | FURTHER.get(cls.__name__, {})


def refused(cls, name, value) -> str | None:
  """Returns what a class says of a value, in one line and at once, or None."""
  begun = time.process_time()
  try:
    cls(**{**arguments(cls), name: value})
    return None
  except ValueError as error:
    assert str(error) and "\n" not in str(error), (cls, name, str(error))
    return str(error)
  finally:
    assert time.process_time() - begun < 1, (cls, name)


CLASSES = sorted(classes(), key=lambda cls: (cls.__module__, cls.__name__))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_value_is_taken_or_refused_in_a_line(cls):
  cls(**arguments(cls))  # The rest is sound.
  kinds = checks.hints(cls)
  for name in settings(cls):
    for value in VALUES:
      said = refused(cls, name, value)
      if checks.refusal(value, kinds[name]):
        assert said and f"{cls.__name__}.{name}" in said, (name, value, said)


# Of all depths: lists of mappings of lists.
ANYTHING = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda below: (
    st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3)
  ),
  max_leaves=6,
)


@hypothesis.settings(
  max_examples=700, deadline=None, derandomize=True, database=None
)
@hypothesis.given(
  field=st.sampled_from([(cls, n) for cls in CLASSES for n in settings(cls)]),
  value=ANYTHING,
)
def test_whatever_is_given_no_other_exception_comes(field, value):
  refused(*field, value)


def run_of(**settings):
  return Run(**{**arguments(Run), **settings})


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda: linear.FanIn(math.nan), r"FanIn.scale \(nan\) must be a finite"),
    (lambda: norms.RMSNorm(epsilon=-1e-6), r"\(-1e-06\) must be at least 0"),
    (lambda: norms.LayerNorm(epsilon="a"), r"\('a'\) must be of type float"),
    (lambda: feedforward.MLP(hidden=10**12), r"must be at most 2147483647"),
    (lambda: STACK.clone(num_layers=10**9), r"num_layers \(1000000000\) must"),
    (lambda: STACK.clone(scan=1), r"Stack.scan \(1\) must be of type bool"),
    (lambda: STACK.clone(layer=None), r"\(None\) must be of type Layer . Per"),
    (lambda: MODEL.transformer.clone(encoder=STACK.layer),
     r"\(Layer\) must be of type Stack . None"),
    (lambda: positions.Rope(scaling=2.0), r"type RopeScaling . None"),
    (lambda: decoding.Constraints(ends=[1, -2]), r"ends\[1\] \(-2\) must"),
    (lambda: decoding.Sample(top_k=0), r"\(0\) must be at least 1, or None"),
    (lambda: Layout(mesh={"data": "all"}), r"mesh\['data'\] \('all'\) must be"),
    (lambda: Layout(mesh=[8]), r"\(\[8\]\) must be of type Mapping\[str"),
    (lambda: dataclasses.replace(MODEL, loss=losses.Reward), "of type Loss"),
    (lambda: CrossEntropy(label_smoothing=1), r"\(1\) must be in \[0, 1\)"),
    (lambda: run_of(seed=2**63 - 1), "must be at most 9223372036854775806"),
    (lambda: CrossEntropy(z_loss=10**5000), "a number of .* digits"),
  ],
)  # fmt: skip
def test_a_refusal_shows_the_value_and_what_it_must_be(make, said):
  with pytest.raises(ValueError, match=said):
    make()


def test_numbers_of_numpy_and_whole_numbers_for_floats_pass():
  assert feedforward.MLP(hidden=np.int64(8)).hidden == 8
  assert CrossEntropy(z_loss=np.float32(0.5), class_weight=2).class_weight == 2
