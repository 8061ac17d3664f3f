"""Gin files and bindings: what they build, and what their mistakes say."""

import pathlib
import textwrap

import pytest

from launch import config, gin_errors
from t5x_lite import model
from t5x_lite.devices.layout import Layout
from t5x_lite.nn import positions

SMALL = "gin/models/t5_1_1/small.gin"
PRESETS = sorted(
  str(path.relative_to(config.shipped_folder()))
  for path in (config.shipped_folder() / "gin" / "models").rglob("*.gin")
  if path.stem != "architecture"
)


@pytest.fixture
def gin_file(tmp_path):
  def write(text, name="user.gin"):
    path = tmp_path / name
    header = "from __gin__ import dynamic_registration\n"
    path.write_text(header + textwrap.dedent(text))
    return str(path)

  return write


def mistake(*args, **kwargs):
  """Returns what loading says, which must be one line."""
  with pytest.raises(gin_errors.ConfigError) as caught:
    config.load(*args, **kwargs)
  message = str(caught.value)
  assert "\n" not in message
  return message


def built(*args, **kwargs):
  config.load(*args, **kwargs)
  return config.build(model.Model).transformer


@pytest.mark.parametrize("preset", PRESETS)
def test_saved_configuration_alone_builds_the_same_model(preset, tmp_path):
  config.load([preset])
  first, text = config.build(model.Model), config.text()
  saved = tmp_path / "config.gin"
  saved.write_text(text)
  config.load([saved])
  assert config.build(model.Model) == first
  assert config.text() == text


def test_shipped_files_are_found_from_any_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  width = built([SMALL]).width
  assert built([SMALL.removeprefix("gin/")]).width == width


def test_current_directory_then_search_paths_then_shipped(
  tmp_path, monkeypatch, gin_file
):
  user = """
  from t5x_lite import model
  from t5x_lite.nn import transformer
  include "models/t5_1_1/small.gin"
  WIDTH = {}
  """
  here, there = tmp_path / "here", tmp_path / "there"
  for folder, width in ((here, 1), (there, 2)):
    (folder / "models/palm").mkdir(parents=True)
    gin_file(user.format(width), folder / "models/palm/tiny.gin")
  monkeypatch.chdir(tmp_path)
  name = "models/palm/tiny.gin"
  assert built([name]).width == 256
  assert built([name], search_paths=[str(there)]).width == 2
  monkeypatch.chdir(here)
  assert built([name], search_paths=[str(there)]).width == 1


def test_later_files_and_then_bindings_win(gin_file):
  user = gin_file("WIDTH = 32\nHIDDEN = 48")
  got = built([SMALL, user], ["HIDDEN=64"])
  assert (got.width, got.encoder.layer.mlp.hidden) == (32, 64)


def test_a_scoped_binding_reaches_its_scope_only():
  got = built([SMALL], ["decoder/stack.Stack.num_layers=2"])
  assert (got.encoder.num_layers, got.decoder.num_layers) == (8, 2)


def test_a_binding_needs_no_import_of_its_own(gin_file):
  palm = built(
    ["gin/models/palm/tiny.gin"],
    ["stack.Stack.position=@positions.Rope()", "positions.Rope.base=5e5"],
  )
  assert palm.decoder.position == positions.Rope(base=5e5)


def test_values_are_python_and_bare_words_are_strings():
  assert built([SMALL], ["DTYPE=bfloat16"]).dtype == "bfloat16"
  assert built([SMALL], ["DTYPE='bfloat16'"]).dtype == "bfloat16"
  assert built([SMALL], ["SCAN=True"]).encoder.scan is True
  assert built([SMALL], ["VOCAB_SIZE=%HIDDEN"]).vocab_size == 1024


def test_mesh_axes_keep_their_order(tmp_path):
  config.load(bindings=["layout.Layout.mesh={'tensor': 2, 'data': -1}"])
  saved = tmp_path / "config.gin"
  saved.write_text(config.text())
  config.load([saved])
  assert list(config.build(Layout).mesh) == ["tensor", "data"]


def test_bindings_make_a_complete_configuration(tmp_path):
  config.load([SMALL], ["WIDTH=64", "decoder/stack.Stack.num_layers=1"])
  saved = tmp_path / "config.gin"
  saved.write_text(config.text())
  got = built([saved])
  assert (got.width, got.decoder.num_layers) == (64, 1)


@pytest.mark.parametrize(
  ["binding", "message"],
  [
    ("attention.Attention.num_head=3", "did you mean num_heads"),
    ("attention.Atention.num_heads=3", "did you mean Attention or CoreAtt"),
    ("atention.Attention.num_heads=3", "did you mean attention"),
    ("DTYP=float32", "no gin file uses a macro 'DTYP'; did you mean DTYPE?"),
    ("SCAN=true", "write --gin.SCAN=True"),
    ("HIDDEN=10 k", "a string needs quotes"),
    ("HIDDEN=[a]", "a string needs quotes"),
    ("HIDDEN=%HIDEN", "the macro %HIDEN is used but has no value"),
    ("stack.Stack.position=@positions.Ropee()", "did you mean Rope?"),
    ("HIDDEN=", "write --gin.NAME=VALUE"),
    ("a b=3", "write --gin.NAME=VALUE"),
  ],
)
def test_a_wrong_binding_is_explained(binding, message):
  assert message in mistake([SMALL], [binding])


@pytest.mark.parametrize(
  ["text", "message"],
  [
    ("stack.Stack.n = 2", "add the line `from t5x_lite.nn import stack`"),
    ("from t5x_lite.nn import stak", "no module t5x_lite.nn.stak; did you"),
    (
      "from t5x_lite.nn import stack\nstack.Stack.num_layer = 2",
      ":3: stack.Stack has no parameter 'num_layer'; did you mean num_layers",
    ),
    (
      "from t5x_lite.nn import stack\nstack.Stak.num_layers = 2",
      ":3: stack has no 'Stak'; did you mean Stack?",
    ),
    (
      "from t5x_lite.nn import stack\nstack.Stack.remat = full",
      ":3: 'full' is no Python value; a string needs quotes",
    ),
    (
      "from t5x_lite.nn import stack\nstack.Stack.num_layers = 2 3",
      ":3: Expected newline: stack.Stack.num_layers = 2 3",
    ),
    ('include "models/t5_1_1/smal.gin"', ":2: no gin file models/t5_1_1/smal"),
    ("TASK = %gin.REQUIRED\nX = %TASK", "TASK must be set: --gin.TASK=VALUE"),
  ],
)  # fmt: skip
def test_a_wrong_file_is_explained(text, message, gin_file):
  assert message in mistake([gin_file(text)])


def test_a_file_that_is_not_utf8_is_named(tmp_path):
  path = tmp_path / "latin.gin"
  path.write_bytes(b'X = "caf\xe9"')
  assert f"{path} is not UTF-8" in mistake([str(path)])
  path.write_bytes(b"\xef\xbb\xbffrom __gin__ import dynamic_registration")
  config.load([str(path)])


def test_an_unknown_file_has_near_ones():
  said = mistake(["gin/models/t5_1_1/smal.gin"])
  assert "did you mean gin/models/t5_1_1/small.gin" in said


def test_a_file_without_dynamic_registration_is_explained(tmp_path):
  path = tmp_path / "old.gin"
  path.write_text("nonesuch.Thing.value = 2")
  assert "from __gin__ import dynamic_registration" in mistake([str(path)])


def test_a_missing_value_is_named(gin_file):
  user = gin_file("""
    from t5x_lite import model
    from t5x_lite.nn import transformer
    from t5x_lite.nn import stack
    model.Model.transformer = @transformer.Transformer()
    transformer.Transformer.decoder = @decoder/stack.Stack()
  """)
  config.load([user])
  with pytest.raises(gin_errors.ConfigError) as caught:
    config.build(model.Model)
  assert "no value to decoder/stack.Stack.layer" in str(caught.value)


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    ("WIDTH=wide", "transformer.Transformer.width is 'wide', but must be of"),
    ("SCAN=1", "stack.Stack.scan is 1, but must be of type bool: --gin.stack"),
    ("REMAT=2", r"Stack.remat is 2, but must be of type str . None"),
    ("decoder/stack.Stack.num_layers=2.5", "decoder/stack.* 2.5, .*type int"),
    ("attention.CoreAttention.dropout_rate=True", "rate is True, .*type float"),
    (
      "layout.Layout.mesh={'data': 'all'}",
      "mesh.'data'. is 'all', but must be of type int",
    ),
    ("layout.Layout.mesh=[8]", r"mesh is \[8\], but must be of type .*Mapping"),
    ("layout.Layout.rules=embed", "rules is 'embed', but"),
  ],
)
def test_a_value_of_another_type_is_refused_by_name(binding, message):
  with pytest.raises(gin_errors.ConfigError, match=message) as error:
    config.load([SMALL], [binding])
  assert "\n" not in str(error.value)


def test_values_that_fit_their_types_pass():
  config.load(
    [SMALL],
    ["VOCAB_SIZE=None", "DROPOUT=0", "layout.Layout.mesh={'data': -1}",
     "layout.Layout.rules=[('embed', 'data')]"],
  )  # fmt: skip


def test_a_class_that_no_file_mentions_is_named():
  config.load()
  with pytest.raises(gin_errors.ConfigError, match="no gin file binds model.M"):
    config.build(model.Model)


def test_shipped_folder_holds_the_presets():
  assert (pathlib.Path(config.shipped_folder()) / SMALL).is_file()
