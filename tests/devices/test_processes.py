"""What the tests tell other processes about devices and arithmetic."""

import os

import jax

from tests import processes


def test_the_tests_have_eight_devices_beside_what_xla_was_told():
  assert jax.device_count() == 8
  assert os.environ["XLA_FLAGS"].count("device_count") == 1


def test_other_processes_have_the_same_arithmetic_and_no_devices(monkeypatch):
  device_count = "--xla_force_host_platform_device_count=8"
  for flags in (
    f"--xla_cpu_max_isa=AVX2 {device_count}",
    f"{device_count} --xla_cpu_max_isa=AVX2",
  ):
    monkeypatch.setenv("XLA_FLAGS", flags)
    environment = processes.environment(JAX_PLATFORMS="cpu")
    assert environment["XLA_FLAGS"] == "--xla_cpu_max_isa=AVX2"
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert environment["PATH"] == os.environ["PATH"]
  monkeypatch.delenv("XLA_FLAGS")
  assert processes.environment()["XLA_FLAGS"] == ""
