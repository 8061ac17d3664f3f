"""Damaged checkpoints are skipped, and a full disk damages none."""

import errno
import os
import resource
import types

import jax
import numpy as np
import pytest

from t5x_lite.checkpoints import Retention
from t5x_lite.checkpoints.manager import Checkpoints
from tests.checkpoints.states import (
  Counter,
  abstract,
  assert_same,
  make_state,
  names,
  save_steps,
)


def largest_file(directory):
  files = [p for p in directory.rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def flip_bit_of_kernel(step):
  """Flips a bit that TensorStore does not notice."""
  kernel = make_state(int(step.name)).params["decoder"]["layer_0"]["kernel"]
  for path in (step / "params").rglob("*"):
    if path.is_file():
      start = path.read_bytes().find(np.asarray(kernel).tobytes())
      if start >= 0:
        flip_bit(path, start + 50)
        return
  raise AssertionError("the kernel is not stored as it is")


def flip_bit(path, byte=None):
  data = bytearray(path.read_bytes())
  data[len(data) // 2 if byte is None else byte] ^= 4
  path.write_bytes(data)


def truncate(path):
  path.write_bytes(path.read_bytes()[:-7])


def empty(step):
  for path in sorted(step.rglob("*"), reverse=True):
    path.unlink() if path.is_file() else path.rmdir()


DAMAGE = {
  "flipped bit in parameters": flip_bit_of_kernel,
  "truncated parameters": lambda s: truncate(largest_file(s / "params/d")),
  "flipped bit in optimizer": lambda s: flip_bit(largest_file(s / "state/d")),
  "lost file": lambda s: largest_file(s / "params/d").unlink(),
  "iterator": lambda s: flip_bit(s / "hosts/process_0/iterator/position"),
  "lost iterator": lambda s: (s / "hosts/process_0/iterator/position").unlink(),
  "manifest": lambda s: flip_bit(s / "hosts/process_0/manifest.json"),
  "empty step": empty,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_is_set_aside_for_the_one_before(
  tmp_path, warnings, damage
):
  save_steps(tmp_path, 1, 2)
  DAMAGE[damage](tmp_path / "checkpoints/2")
  iterator = Counter()
  with Checkpoints(tmp_path, Retention()) as checkpoints:
    state, step = checkpoints.restore(abstract(make_state()), iterator)
    assert (step, iterator.position) == (1, 10)
    assert_same(state, make_state(1))
    (warning,) = warnings()
    assert "2 is damaged" in warning and "\n" not in warning
    assert names(tmp_path) == ["1", "2.corrupt-1"]
    checkpoints.save(2, make_state(2), Counter(20))  # Training gets there.
  assert names(tmp_path) == ["1", "2", "2.corrupt-1"]
  state, step = Checkpoints(tmp_path, Retention()).restore(
    make_state(), iterator
  )
  assert (step, iterator.position) == (2, 20)


def test_steps_that_changed_names_are_not_believed(tmp_path, warnings):
  save_steps(tmp_path, 1, 2, 3)
  folder = tmp_path / "checkpoints"
  for old, new in (("3", "x"), ("2", "3"), ("x", "2")):
    (folder / old).rename(folder / new)
  with Checkpoints(tmp_path) as checkpoints:
    params = checkpoints.restore_params(make_state().params)
    assert_same(params, make_state(1).params)
  with pytest.raises(ValueError, match="step 3: it was saved as step 2"):
    Checkpoints(tmp_path).restore(make_state(), step=3)


def test_no_flipped_bit_anywhere_is_restored(tmp_path, warnings):
  save_steps(tmp_path, 1)
  step = tmp_path / "checkpoints/1"
  expected = make_state(1)
  for path in [p for p in step.rglob("*") if p.is_file()]:
    sound = path.read_bytes()
    # Orbax's metadata has no digest: damage anywhere in it must be noticed.
    number = 40 if path.name == "_METADATA" else 3
    for byte in range(0, len(sound), max(1, len(sound) // number)):
      flip_bit(path, byte)
      try:
        state, _ = Checkpoints(tmp_path).restore(expected, Counter())
        assert_same(state, expected)  # The bit says nothing of the state.
      except ValueError as error:
        assert "no undamaged checkpoint" in str(error), path
      path.write_bytes(sound)


def test_all_damaged_is_an_error_and_nothing_is_renamed(tmp_path):
  save_steps(tmp_path, 1, 2)
  for step in (1, 2):
    DAMAGE["flipped bit in parameters"](tmp_path / f"checkpoints/{step}")
  for _ in range(2):  # A second start must not begin anew in silence.
    with pytest.raises(ValueError, match="no undamaged checkpoint in .*tmp.*"):
      Checkpoints(tmp_path, Retention()).restore(make_state())
  assert names(tmp_path) == ["1", "2"]


def test_damaged_step_is_an_error_when_asked_for(tmp_path):
  save_steps(tmp_path, 1, 2)
  DAMAGE["flipped bit in parameters"](tmp_path / "checkpoints/1")
  with pytest.raises(
    ValueError, match="step 1: .*kernel does not match its digest"
  ):
    Checkpoints(tmp_path, Retention()).restore(make_state(), step=1)
  with pytest.raises(ValueError, match="step=7: no checkpoint in .*have 1, 2"):
    Checkpoints(tmp_path, Retention()).restore(make_state(), step=7)


def test_reader_passes_damage_by_and_changes_nothing(tmp_path, warnings):
  save_steps(tmp_path, 1, 2)
  DAMAGE["flipped bit in parameters"](tmp_path / "checkpoints/2")
  checkpoints = Checkpoints(tmp_path)
  params = checkpoints.restore_params(make_state().params)
  assert_same(params, make_state(1).params)
  assert (checkpoints.restored_step, checkpoints.latest_step) == (1, 2)
  assert names(tmp_path) == ["1", "2"]
  assert "skipped" in warnings()[0]


def test_full_disk_is_one_line_and_earlier_checkpoints_stay(
  tmp_path, monkeypatch
):
  save_steps(tmp_path, 1)
  usage = types.SimpleNamespace(free=0)
  monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
  with Checkpoints(tmp_path, Retention(last=1)) as checkpoints:
    with pytest.raises(ValueError, match="step 2 .*No space left") as error:
      checkpoints.save(2, make_state())
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["1"]
    usage.free = 1 << 40
    checkpoints.save(3, make_state())
  assert names(tmp_path) == ["3"]


class FullDisk(Counter):
  def save(self, directory):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def test_full_disk_while_the_iterator_saves_itself(tmp_path):
  save_steps(tmp_path, 1)
  with Checkpoints(tmp_path, Retention(last=1)) as checkpoints:
    with pytest.raises(ValueError, match="step 2 .*: No space left on device;"):
      checkpoints.save(2, make_state(), FullDisk())
  assert names(tmp_path) == ["1"]


@pytest.mark.parametrize("call", ["wait", "save"])
def test_failure_in_the_background_is_raised_by_the_next_call(
  tmp_path, monkeypatch, call
):
  save_steps(tmp_path, 1)

  def full(path, body):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

  checkpoints = Checkpoints(tmp_path, Retention(last=1))
  with monkeypatch.context() as patch:
    patch.setattr("t5x_lite.checkpoints.digests.write_manifest", full)
    checkpoints.save(2, make_state())
    with pytest.raises(ValueError, match="step 2 .*: No space left on device;"):
      if call == "wait":
        checkpoints.wait()
      else:
        checkpoints.save(3, make_state())
  assert names(tmp_path) == ["1"]
  checkpoints.save(4, make_state())  # There is room again.
  checkpoints.close()
  assert names(tmp_path) == ["4"]


def test_full_disk_while_arrays_are_written(tmp_path):
  save_steps(tmp_path, 1)
  large = {"params": {"w": jax.random.normal(jax.random.key(0), (200, 200))}}
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  with Checkpoints(tmp_path, Retention(last=1)) as checkpoints:
    try:
      resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
      with pytest.raises(ValueError, match="step 2 .*: File too large;"):
        checkpoints.save(2, large)
        checkpoints.wait()
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert names(tmp_path) == ["1"]
