"""Checks who may import whom, by reading the imports."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LIBRARY = ROOT / "t5x_lite"

# What a module or a package may import of the library. "*" stands for itself.
# A module that is not named here stands at the top, below `launch`.
_PARTS = ("t5x_lite.nn",)
_NOTHING_OF_MODELS = (
  "losses", "optimizers", "partitioning", "data", "features", "checkpoint",
)  # fmt: skip
_MODEL_MODULES = ("model", "step", "train", "evaluate", "decoding", "bench")

# Leaves, of neither models nor data, which `tasks` shares.
_LEAVES = ("t5x_lite.text_files", "t5x_lite.text")

# Where TensorFlow and seqio may be imported.
_DATA_MODULES = {"data", "features", "evaluate", "infer", "train"}


def modules(folder):
  """Yields (dotted name, syntax tree) of each module in a folder."""
  for path in sorted(folder.rglob("*.py")):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    yield name.removesuffix(".__init__"), ast.parse(path.read_text())


def imports(tree, *, top_level_only=False):
  """Returns the dotted names that a module imports.

  `from a import b` counts as a.b, since b may be a module.
  """
  nodes = tree.body if top_level_only else ast.walk(tree)
  found = set()
  for node in nodes:
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, "relative imports hide who imports whom"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def under(name, *packages):
  return any(name == p or name.startswith(f"{p}.") for p in packages)


def everything():
  for folder in ("t5x_lite", "tasks", "launch"):
    yield from modules(ROOT / folder)


def test_gin_is_imported_in_launch_only():
  for name, tree in everything():
    if not under(name, "launch"):
      assert not any(under(i, "gin") for i in imports(tree)), name


def test_one_file_knows_how_jax_writes_programs():
  inside = ("jax.core", "jax.extend", "jax.interpreters", "jax.lib", "jax._src")
  for name, tree in everything():
    if name != "t5x_lite.traces":
      assert not any(under(i, *inside) for i in imports(tree)), name


def test_gin_folder_does_not_shadow_gin_config():
  assert not list((ROOT / "gin").rglob("*.py"))


def test_library_and_tasks_never_import_each_other_nor_launch():
  for name, tree in modules(LIBRARY):
    assert not any(under(i, "tasks", "launch") for i in imports(tree)), name
  for name, tree in modules(ROOT / "tasks"):
    above = {i for i in imports(tree) if under(i, "t5x_lite", "launch")}
    assert all(under(i, *_LEAVES) for i in above), (name, above)


@pytest.mark.parametrize("leaf", _LEAVES)
def test_what_tasks_share_needs_neither_tensorflow_nor_jax(leaf):
  code = f"import sys, {leaf}; print(*sys.modules)"
  loaded = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT, capture_output=True, text=True, check=True,
  ).stdout.split()  # fmt: skip
  assert not {"jax", "tensorflow", "seqio"} & set(loaded)


def test_torch_and_transformers_are_imported_inside_functions():
  for name, tree in everything():
    at_top = imports(tree, top_level_only=True)
    assert not any(under(i, "torch", "transformers") for i in at_top), name


def test_nn_imports_nothing_above_it():
  for name, tree in modules(LIBRARY / "nn"):
    ours = {i for i in imports(tree) if under(i, "t5x_lite")}
    assert all(under(i, *_PARTS) for i in ours), (name, ours)


@pytest.mark.parametrize("module", _NOTHING_OF_MODELS)
def test_module_imports_no_model(module):
  path = LIBRARY / f"{module}.py"
  models = [f"t5x_lite.{name}" for name in _MODEL_MODULES]
  found = imports(ast.parse(path.read_text()))
  assert not any(under(i, *models, "t5x_lite.nn.stack") for i in found)


def test_accounting_imports_nn_and_losses_only():
  parts = ("accounting", "activations", "anatomy", "memory", "traces")
  allowed = [f"t5x_lite.{name}" for name in (*parts, "nn", "losses")]
  for module in parts:
    found = imports(ast.parse((LIBRARY / f"{module}.py").read_text()))
    ours = {i for i in found if under(i, "t5x_lite")}
    assert all(under(i, *allowed) for i in ours), ours


def test_interop_stands_on_models_and_layouts_alone():
  allowed = ("interop", "nn", "model", "partitioning", "decoding")
  for name, tree in modules(LIBRARY / "interop"):
    ours = {i for i in imports(tree) if under(i, "t5x_lite")}
    within = tuple(f"t5x_lite.{a}" for a in allowed)
    assert all(under(i, *within) for i in ours), (name, ours)


def reached(start):
  """Returns the library's modules that importing one loads, by the imports."""
  trees = dict(modules(LIBRARY))
  todo, seen = [start], set()
  while todo:
    name = todo.pop()
    if name in seen:
      continue
    seen.add(name)
    for found in imports(trees[name], top_level_only=True):
      parts = found.split(".")
      todo += [
        ".".join(parts[:n])
        for n in range(1, len(parts) + 1)
        if ".".join(parts[:n]) in trees
      ]
  return {name: trees[name] for name in seen}


@pytest.mark.parametrize(
  "start",
  [
    "t5x_lite",
    "t5x_lite.accounting",
    "t5x_lite.bench",
    "t5x_lite.interop",
    "t5x_lite.run",
  ],
)
def test_module_needs_neither_tensorflow_nor_seqio(start):
  for name, tree in reached(start).items():
    heavy = [
      i
      for i in imports(tree, top_level_only=True)
      if under(i, "tensorflow", "tensorflow_datasets", "seqio", "clu")
    ]
    assert not heavy, f"{start} loads {name}, which imports {heavy}"


def test_bench_stands_on_the_step_and_no_data():
  allowed = (
    "model", "step", "decoding", "accounting", "anatomy", "memory", "peak",
    "optimizers",
    "partitioning",
  )  # fmt: skip
  found = imports(ast.parse((LIBRARY / "bench.py").read_text()))
  ours = {i for i in found if under(i, "t5x_lite")}
  assert all(under(i, *(f"t5x_lite.{a}" for a in allowed)) for i in ours), ours


def test_importing_the_package_loads_nothing_heavy():
  code = "import sys, t5x_lite; print(*sys.modules)"
  loaded = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT, capture_output=True, text=True, check=True,
  ).stdout.split()  # fmt: skip
  assert not {"jax", "numpy", "tensorflow", "seqio"} & set(loaded)
