"""Keeps the tests' derived files out of the user's cache, and seeds apart."""

import pytest
import tensorflow as tf


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield


@pytest.fixture(autouse=True)
def no_global_seed():
  """`Reader.batches` sets TensorFlow's seed, which enters every other one."""
  tf.random.set_seed(None)
