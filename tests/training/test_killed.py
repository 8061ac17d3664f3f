"""A run of several processes ends with the bits of an unbroken one."""

import collections
import itertools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from t5x_lite.checkpoints.manager import Checkpoints
from t5x_lite.data.reader import Reader
from t5x_lite.training import checksums
from tests import processes
from tests.training import killed

# Twice is by 4, 2 and 1 processes. Each takes 22 s of CPU time:
#   T5X_LITE_KILLS=30 bash launch/test.sh THIS_FILE -o faulthandler_timeout=0
KILLS = int(os.environ.get("T5X_LITE_KILLS", "2"))


def records(model_dir):
  lines = (model_dir / "metrics.jsonl").read_text().splitlines()
  found = [r for r in map(json.loads, lines) if r["kind"] == "train"]
  names = ("step", "loss", "grad_norm", "param_norm", "batch_digest")
  return [{name: record[name] for name in names} for record in found]


@pytest.mark.slow
def test_kills_and_changing_processes_give_the_bits_of_an_unbroken_run(
  tmp_path,
):
  command = [sys.executable, "-m", "tests.training.killed"]
  subprocess.run(
    [*command, str(tmp_path), str(KILLS), "0"],
    env=processes.environment(JAX_PLATFORMS="cpu"),
    check=True,
    timeout=1800,
  )
  whole = records(tmp_path / "whole")
  assert [record["step"] for record in whole] == [*range(1, killed.STEPS + 1)]
  assert records(tmp_path / "killed") == whole
  one, other = (
    Checkpoints(tmp_path / name).restore_params(
      killed.make_run().model.abstract()
    )
    for name in ("whole", "killed")
  )
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

  # Each example of four passes came once a pass.
  killed.add_task()
  try:
    run = killed.make_run()
    stream = Reader(run.train, run.model.row_format).batches()
    batches = list(itertools.islice(stream, killed.STEPS))
  finally:
    killed.remove_task()
  digests = [f"{int(checksums.of_batch(batch)):08x}" for batch in batches]
  assert [record["batch_digest"] for record in whole] == digests
  seen = collections.Counter(
    tuple(row) for batch in batches for row in batch["decoder_target_tokens"]
  )
  assert len(seen) == killed.EXAMPLES and set(seen.values()) == {4}
