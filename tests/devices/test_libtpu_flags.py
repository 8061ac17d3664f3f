"""Flags of libtpu: added to the user's own, as far as libtpu has them."""

import os
import sys

import pytest

from t5x_lite.devices import libtpu_flags

NAME = "LIBTPU_INIT_ARGS"


@pytest.fixture(autouse=True)
def libtpu(monkeypatch, tmp_path):
  """Puts a libtpu that knows two flags in the place of the installed one."""
  (tmp_path / "libtpu").mkdir()
  (tmp_path / "libtpu/__init__.py").touch()
  (tmp_path / "libtpu/libtpu.so").write_bytes(b"\0xla_old\0xla_new\0")
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, "libtpu", raising=False)
  monkeypatch.setenv(NAME, "")
  monkeypatch.setattr(
    libtpu_flags, "FLAGS", {"xla_old": "1", "xla_new": "2", "xla_gone": "3"}
  )


def test_only_flags_that_libtpu_has_are_set_and_once():
  libtpu_flags.set_flags()
  libtpu_flags.set_flags()
  assert os.environ[NAME] == "--xla_old=1 --xla_new=2"


def test_the_user_s_value_stays(monkeypatch):
  monkeypatch.setenv(NAME, "--xla_old=7 --xla_other=8")
  libtpu_flags.set_flags()
  assert os.environ[NAME] == "--xla_old=7 --xla_other=8 --xla_new=2"
