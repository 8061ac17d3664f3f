"""A run of several processes that is killed again and again, by fork.

    python -m tests.training.killed FOLDER KILLS SEED

Imports once; each start forks its processes, which takes a tenth of the time.
FOLDER/whole is the run unbroken, by one process; FOLDER/killed the run that was
killed KILLS times and resumed by changing numbers of processes. Each number has
the same four devices in all.
"""

import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import sys
import time
import traceback

import jax
import numpy as np
import seqio
import tensorflow as tf

from t5x_lite.data import Data
from t5x_lite.devices.distributed import initialize_distributed
from t5x_lite.devices.layout import Layout
from t5x_lite.optim.optimizers import AdamW
from t5x_lite.training.run import Run
from t5x_lite.training.train import train
from tests import tiny

STEPS, EXAMPLES = 200, 400
_DEVICES, _COUNTS = 4, (4, 2, 1)
_TASK = "killed_copy"
# A process that takes this long hangs: it is ended.
_SECONDS = 300


def add_task():
  """Adds a task of examples in the source's own order, passes one by one."""
  rows = np.random.default_rng(0).integers(2, tiny.VOCAB, (EXAMPLES, 5))
  rows = rows.astype(np.int32)
  feature = seqio.Feature(
    seqio.PassThroughVocabulary(tiny.VOCAB), add_eos=False
  )

  def examples(split, shuffle_files, seed=None):
    data = tf.data.Dataset.from_tensor_slices({"inputs": rows, "targets": rows})
    return data.shuffle(EXAMPLES, seed=seed)

  seqio.TaskRegistry.add(
    _TASK,
    source=seqio.FunctionDataSource(examples, splits=["train"]),
    output_features={"inputs": feature, "targets": feature},
    preprocessors=[],
  )


def remove_task():
  """Removes the task again."""
  seqio.TaskRegistry.remove(_TASK)


def make_run() -> Run:
  """Returns the run, whose batches come from two streams."""
  return Run(
    model=tiny.t5(num_layers=1, dropout=0.1),
    train=Data(
      task=_TASK, lengths={"inputs": 6, "targets": 6}, batch_size=8,
      shuffle=False, num_streams=2,
    ),
    optimizer=AdamW(learning_rate=1e-2),
    total_steps=STEPS,
    layout=Layout(mesh={"data": _DEVICES}),
    log_every=1,
    eval_every=None,
    checkpoint_every=3,
  )  # fmt: skip


def steps_done(model_dir: pathlib.Path) -> int:
  """Returns the last step in a run's log."""
  with contextlib.suppress(OSError, ValueError, IndexError):
    lines = (model_dir / "metrics.jsonl").read_bytes().split(b"\n")
    return json.loads(lines[-2])["step"]
  return 0


def _start(model_dir: pathlib.Path, count: int) -> list[int]:
  """Forks the processes of a start; returns their ids."""
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    port = listener.getsockname()[1]
  children = []
  for index in range(count):
    child = os.fork()
    if not child:
      try:
        _work(model_dir, index, count, port)
      finally:
        traceback.print_exc()
        os._exit(1)  # Without the handlers of the parent's threads.
    children.append(child)
  return children


def _work(model_dir, index, count, port):
  signal.alarm(_SECONDS)
  log = open(f"{model_dir}-{index}.log", "a")
  os.dup2(log.fileno(), 1)
  os.dup2(log.fileno(), 2)
  jax.config.update("jax_num_cpu_devices", _DEVICES // count)
  initialize_distributed(
    coordinator_address=f"localhost:{port}",
    num_processes=count,
    process_id=index,
  )
  train(make_run(), model_dir=str(model_dir))
  # All leave together: os._exit does not wait for the others, as exit does.
  jax.distributed.shutdown()
  os._exit(0)


def _finish(model_dir: pathlib.Path, count: int) -> None:
  children = _start(model_dir, count)
  for child in children:
    _, status = os.waitpid(child, 0)
    assert status == 0, (model_dir, count, status)


def _kill(children: list[int]) -> None:
  for child in children:
    os.kill(child, signal.SIGKILL)
  for child in children:
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def main(folder: pathlib.Path, kills: int, seed: int) -> None:
  """Trains FOLDER/whole and FOLDER/killed."""
  add_task()
  _finish(folder / "whole", 1)
  chance, killed = random.Random(seed), folder / "killed"
  for number in range(kills):
    count = _COUNTS[number % len(_COUNTS)]
    before = steps_done(killed)
    children = _start(killed, count)
    # Every sixth before its first step, the others some steps later.
    steps = chance.randint(1, 3 * STEPS // (2 * kills)) if number % 6 else 0
    if before + steps > STEPS - 20:
      steps = 0
    while steps and steps_done(killed) < before + steps:
      assert os.waitpid(-1, os.WNOHANG) == (0, 0), "a process has ended"
      time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.1 if steps else 3))
    _kill(children)
    print("killed", number, "of", count, "at", steps_done(killed), flush=True)
  _finish(killed, _COUNTS[kills % len(_COUNTS)])


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
