"""Process settings: fast on CPU, never against the user's."""

import os
import subprocess
import sys

import pytest

from launch import environment

XLA = f"--{environment._XLA_FLAG}={environment._XLA_VALUE}"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
  for name in ("XLA_FLAGS", "GLIBC_TUNABLES", "JAX_PLATFORMS"):
    monkeypatch.delenv(name, raising=False)
  # Set and deleted, so that whatever the code sets is undone afterwards.
  for name in (environment._GUARD, *environment._QUIET):
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
  for name in ("XLA_FLAGS", "GLIBC_TUNABLES", "JAX_PLATFORMS"):
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)


def test_the_installed_xla_is_asked_for_the_flag(monkeypatch):
  assert environment._xla_has("xla_force_host_platform_device_count")
  assert not environment._xla_has("xla_no_such_flag_anywhere")
  monkeypatch.setattr(environment, "_xla_has", lambda flag: False)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  environment.prepare(compute=True, restart=False)
  assert "XLA_FLAGS" not in os.environ


def test_the_user_s_settings_stay(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp/dump")
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
  environment.prepare(compute=True, restart=False)
  assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=/tmp/dump {XLA}"
  assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
  environment.prepare(compute=True, restart=False)
  assert os.environ["XLA_FLAGS"].count(XLA) == 1


def test_another_value_of_the_same_flag_stays(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  mine = f"--{environment._XLA_FLAG}=LIBRARY_FUSION_TYPE_INVALID"
  monkeypatch.setenv("XLA_FLAGS", mine)
  environment.prepare(compute=True, restart=False)
  assert os.environ["XLA_FLAGS"] == mine


def test_commands_that_do_not_compute_leave_accelerators_alone():
  environment.prepare(compute=False, restart=False)
  assert os.environ["JAX_PLATFORMS"] == "cpu"
  assert "XLA_FLAGS" not in os.environ


def test_nothing_is_set_where_there_is_an_accelerator(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  environment.prepare(compute=True, restart=False)
  assert "XLA_FLAGS" not in os.environ


@pytest.mark.parametrize(
  ["installed", "device_file", "fast_cpu_settings"],
  [
    ("libtpu", None, True),
    ("libtpu", "accel0", False),
    ("libtpu", "vfio/7", False),
    ("libtpu", "vfio/vfio", True),
    ("libtpu", "nvidia0", True),
    ("jax_plugins", None, True),
    ("jax_plugins", "nvidia0", False),
    (None, "accel0", True),
  ],
)
def test_device_files_decide_what_there_is_to_compute_on(
  installed, device_file, fast_cpu_settings, tmp_path, monkeypatch
):
  monkeypatch.setattr(sys, "platform", "linux")
  monkeypatch.setattr(environment, "_xla_has", lambda flag: True)
  monkeypatch.setattr(environment.libtpu_flags, "set_flags", lambda: None)
  monkeypatch.setattr(
    environment.importlib.util, "find_spec", lambda name: name == installed
  )
  here = {
    library: [pattern.replace("/dev", str(tmp_path)) for pattern in patterns]
    for library, patterns in environment._DEVICE_FILES.items()
  }
  monkeypatch.setattr(environment, "_DEVICE_FILES", here)
  if device_file:
    (tmp_path / device_file).parent.mkdir(exist_ok=True)
    (tmp_path / device_file).touch()
  environment.prepare(compute=True, restart=False)
  assert ("XLA_FLAGS" in os.environ) == fast_cpu_settings
  assert (os.environ.get("JAX_PLATFORMS") == "cpu") == fast_cpu_settings


def test_the_process_restarts_once_with_the_tunables(monkeypatch):
  code = (
    "import os, sys\n"
    "tunables = os.environ.get('GLIBC_TUNABLES')\n"
    "print('start', tunables, sys.argv[1:], flush=True)\n"
    "from launch import environment\n"
    "environment.prepare(compute=True, restart=True)\n"
  )
  printed = subprocess.run(
    [sys.executable, "-c", code, "a b", "--c=d"],
    env=os.environ | {
      "GLIBC_TUNABLES": "glibc.malloc.check=0", "JAX_PLATFORMS": "cpu",
    },
    capture_output=True, text=True, check=True,
  ).stdout.splitlines()  # fmt: skip
  ours = (f"{k}={v}" for k, v in environment._TUNABLES.items())
  tunables = ":".join(["glibc.malloc.check=0", *ours])
  starts = ["start glibc.malloc.check=0 ['a b', '--c=d']"]
  if environment._glibc_has_tunables():
    starts.append(f"start {tunables} ['a b', '--c=d']")
  assert printed == starts


@pytest.mark.parametrize("users", [None, "/users/own"])
def test_programs_are_kept_in_the_cache_unless_the_user_says_where(
  users, tmp_path, monkeypatch
):
  import jax

  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  before = jax.config.jax_compilation_cache_dir
  try:
    jax.config.update("jax_compilation_cache_dir", users)
    environment.load_tasks()
    found = jax.config.jax_compilation_cache_dir
  finally:
    jax.config.update("jax_compilation_cache_dir", before)
  assert found == (users or str(tmp_path / "t5x_lite" / "programs"))


def test_imports_leave_the_collector_on_even_where_they_fail():
  import gc

  with pytest.raises(ZeroDivisionError), environment.importing():
    assert not gc.isenabled()
    raise ZeroDivisionError
  assert gc.isenabled()
