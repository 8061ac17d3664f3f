"""What `t5.data.preprocessors` of the package t5 0.9.4 gives, as a golden file.

The package is not needed by the tests. `UPDATE_GOLDEN=1 pytest tests/tasks`
makes the file anew where it is installed.
"""

import functools
import importlib
import importlib.util
import os
import pathlib
import sys
import types

import numpy as np
import seqio
import tensorflow as tf

GOLDEN = pathlib.Path(__file__).parent / "golden" / "t5_0_9_4.npz"
# (noise density, mean span): T5's, those of UL2's denoisers, and others.
SETTINGS = [
  (0.15, 3.0), (0.15, 8.0), (0.15, 64.0), (0.5, 3.0), (0.5, 8.0), (0.5, 64.0),
  (0.25, 1.0), (0.3, 2.5),
]  # fmt: skip
_MASKS_PER_SETTING = 50
_PLANNED_LENGTHS = range(8, 1100)


def masks(module) -> np.ndarray:
  """Draws 800 masks of 1 to 700 tokens, end to end, as bits."""
  random = np.random.default_rng(0)
  drawn = []
  for density, mean in SETTINGS:
    for roll in (False, True):
      lengths = random.integers(1, 700, _MASKS_PER_SETTING, dtype=np.int32)
      seeds = random.integers(0, 2**31, (_MASKS_PER_SETTING, 2, 2), np.int32)

      def draw(length, seeds, density=density, mean=mean, roll=roll):
        return module.random_spans_noise_mask(
          length,
          density,
          tf.unstack(seeds),
          mean_noise_span_length=mean,
          random_roll=roll,
        )

      dataset = tf.data.Dataset.from_tensor_slices((lengths, seeds)).map(draw)
      drawn += dataset.as_numpy_iterator()
  return np.packbits(np.concatenate(drawn))


def plans(module) -> np.ndarray:
  """Plans every length from 8 to 1099 at every setting: int32 [S, L, 2]."""
  return np.array(
    [
      [
        module.random_spans_helper(length, density, mean, 1, 1)
        for length in _PLANNED_LENGTHS
      ]
      for density, mean in SETTINGS
    ],
    np.int32,
  )


def windows() -> tf.data.Dataset:
  tokens = np.arange(20 * 568, dtype=np.int32).reshape(20, 568) % 256 + 3
  return tf.data.Dataset.from_tensor_slices({"targets": tokens})


def features():
  vocabulary = seqio.ByteVocabulary(extra_ids=100)
  return {key: seqio.Feature(vocabulary) for key in ("inputs", "targets")}


def corrupted(dataset) -> np.ndarray:
  """Joins inputs and targets: int32 [20, 512 + 114]."""
  rows = dataset.as_numpy_iterator()
  return np.stack([np.concatenate([r["inputs"], r["targets"]]) for r in rows])


def whole_text(denoised) -> np.ndarray:
  """Joins the inputs of the same length as their windows: int32 [20, 568]."""
  rows = denoised.as_numpy_iterator()
  return np.stack([row["inputs"][:568] for row in rows])


def load_t5():
  """Loads t5.data.preprocessors alone."""
  return load_t5_module("data", "preprocessors")


def load_t5_module(folder: str, name: str):
  """Loads a module of the package t5, without what its __init__ imports."""
  if "t5" in sys.modules:
    (path,) = sys.modules["t5"].__path__
  else:
    package = importlib.util.find_spec("t5")
    assert package is not None, "UPDATE_GOLDEN needs `pip install --no-deps t5`"
    (path,) = package.submodule_search_locations
  for parent, where in (
    ("t5", path),
    (f"t5.{folder}", f"{path}/{folder}"),
    ("babel", None),  # Gives names of languages only.
  ):
    if parent not in sys.modules:
      sys.modules[parent] = types.ModuleType(parent)
      sys.modules[parent].__path__ = [where]
  sys.modules["babel"].Locale = _Locale
  return importlib.import_module(f"t5.{folder}.{name}")


class _Locale:
  """Stands for babel's."""

  _NAMES = {"en": "English", "de": "German", "fr": "French", "ro": "Romanian"}

  def __init__(self, code: str):
    self.english_name = self._NAMES[code]


def of_t5(t5) -> dict[str, np.ndarray]:
  """Computes the golden file's contents."""
  with seqio.utils.map_seed_manager(7):
    dataset = t5.denoise(
      windows(),
      features(),
      noise_density=0.15,
      noise_mask_fn=t5.random_spans_noise_mask,
      inputs_fn=t5.noise_span_to_unique_sentinel,
      targets_fn=t5.nonnoise_span_to_unique_sentinel,
    )
    dataset = seqio.preprocessors.append_eos_after_trim(
      dataset,
      output_features=features(),
      sequence_length={"inputs": 512, "targets": 114},
    )
  iid = {}
  for name, random_prob in (("mass", 0.0), ("bert", 0.1)):
    inputs_fn = functools.partial(
      t5.noise_token_to_random_token_or_sentinel, random_prob=random_prob
    )
    with seqio.utils.map_seed_manager(7):
      noised = t5.denoise(
        windows(),
        features(),
        noise_density=0.15,
        noise_mask_fn=t5.iid_noise_mask,
        inputs_fn=inputs_fn,
      )
    iid[f"{name}_style"] = whole_text(noised).astype(np.int16)
  with seqio.utils.map_seed_manager(7):
    split = t5.denoise(
      windows(),
      features(),
      noise_density=0.5,
      noise_mask_fn=t5.random_prefix_noise_mask,
      inputs_fn=t5.drop_nonnoise_tokens,
      targets_fn=t5.drop_noise_tokens,
    )
  prefixes = [len(row["inputs"]) for row in split.as_numpy_iterator()]
  return {
    **iid,
    "prefixes": np.int16(prefixes),
    "masks": masks(t5),
    "plans": plans(t5).astype(np.int16),
    "corrupted": corrupted(dataset).astype(np.int16),
  }


@functools.cache
def golden() -> dict[str, np.ndarray]:
  """Reads the golden file, after renewing it if that is asked for."""
  if os.environ.get("UPDATE_GOLDEN"):
    np.savez_compressed(GOLDEN, **of_t5(load_t5()))
  with np.load(GOLDEN) as arrays:
    return dict(arrays)
