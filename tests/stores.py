"""A stand-in for an object store: TensorFlow's files in memory, as gs:// is."""

import pytest
from etils.epath import backend, gpath, register


@pytest.fixture
def remote(monkeypatch):
  """Makes ram:// paths what gs:// paths are; returns TensorFlow's gfile.

  What is written stays until the process ends: each test takes its own bucket.
  """
  import tensorflow as tf

  class Store(type(backend.tf_backend)):
    """Refuses what Google's store does: no bucket, a folder made twice."""

    def exists(self, path):
      if path.endswith("://"):
        raise tf.errors.InvalidArgumentError(None, None, f"no bucket: {path}")
      return super().exists(path)

    def mkdir(self, path, **options):
      if self.isdir(path):
        raise tf.errors.AlreadyExistsError(None, None, path)
      super().mkdir(path, **options)

  schemes = gpath._URI_SCHEMES | {"ram"}
  prefixes = (*gpath._URI_PREFIXES, "ram://")
  monkeypatch.setattr(gpath, "_URI_SCHEMES", schemes)
  monkeypatch.setattr(gpath, "_URI_PREFIXES", prefixes)
  monkeypatch.setitem(gpath._URI_MAP_ROOT, "ram://", "/ram/")
  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "ram", None)
  monkeypatch.setattr(backend, "tf_backend", Store())
  monkeypatch.setitem(register._URI_PREFIXES_TO_CLS, "ram://", gpath.PosixGPath)
  # _GCS_BACKENDS decides who renames.
  monkeypatch.setattr(gpath, "_GCS_BACKENDS", {backend.tf_backend})
  return tf.io.gfile
