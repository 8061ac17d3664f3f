"""Writes a study's choices as hyperparameters for TensorBoard's HPARAMS tab.

tensorboard --logdir=STUDY/arms
"""

import pathlib

import tensorflow as tf
from tensorboard.plugins.hparams import api

_SUFFIX = ".hparams"


def label(folder: pathlib.Path, plan: dict) -> None:
  """Writes each run's choices next to its events, if not yet written.

  Runs that differ only in their seed form one group.

  Args:
    folder: the study's directory.
    plan: the plan of `t5x_lite ablate`.
  """
  for arm in plan["arms"]:
    choices = plan["cells"][arm["cell"]]["choices"]
    for run in arm["runs"]:
      path = pathlib.Path(folder) / "arms" / arm["name"] / run["stage"]
      if not path.exists() or list(path.glob(f"events*{_SUFFIX}")):
        continue
      stage = run["stage"] or "first run"
      writer = tf.summary.create_file_writer(str(path), filename_suffix=_SUFFIX)
      with writer.as_default():
        api.hparams(
          {**choices, "stage": stage, "seed": arm["seed"]},
          trial_id=f"{arm['cell']}, {stage}",
        )
      writer.close()
