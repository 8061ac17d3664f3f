"""Checks who may import whom, by reading the imports."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LIBRARY = ROOT / "t5x_lite"

# What a package of the library may import of it: only what stands above it in
# this table, so that there is no circle.
MAY_IMPORT = {
  "checks": (),
  "files": (),
  "nn": ("checks",),
  "row_formats": ("nn",),
  "losses": ("checks", "nn"),
  "model": ("checks", "nn", "losses", "row_formats"),
  "optim": ("checks",),
  "devices": ("checks",),
  "decoding": ("checks", "nn", "model"),
  "checkpoints": ("checks", "files"),
  "accounting": ("files", "nn", "losses", "devices"),
  "interop": ("files", "nn", "model", "devices", "decoding"),
  "data": ("checks", "files", "row_formats"),
  "inference": (
    "checks", "files", "row_formats", "model", "devices", "decoding", "interop",
    "data",
  ),
  "evaluation": (
    "files", "losses", "model", "devices", "decoding", "data", "inference",
  ),
  "training": (
    "checks", "files", "nn", "losses", "model", "optim", "devices", "decoding",
    "checkpoints", "accounting", "data", "inference", "evaluation",
  ),
  "ablation": (
    "checks", "files", "row_formats", "model", "devices", "accounting", "data",
    "inference", "evaluation", "training",
  ),
}  # fmt: skip

# Leaves, of neither models nor data, which `tasks` shares.
_LEAVES = (
  "t5x_lite.checks", "t5x_lite.files.near_names", "t5x_lite.files.text_files",
  "t5x_lite.files.user_cache",
  "t5x_lite.data.sentinels", "t5x_lite.data.vocabularies.byte",
  "t5x_lite.data.vocabularies.converted",
  "t5x_lite.data.vocabularies.sentence_pieces",
  "t5x_lite.data.vocabularies.sentencepiece_models",
  "t5x_lite.data.vocabularies.tokenizer_json",
)  # fmt: skip

# Where seqio and TensorFlow are imported. Of `data` and `inference`, only in
# some modules: the rest serve commands that load neither.
_HEAVY = ("tensorflow", "tensorflow_datasets", "seqio", "clu")
_WITH_SEQIO = ("data", "inference", "evaluation", "training", "ablation")


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


def test_two_files_know_the_inside_of_jax():
  inside = ("jax.core", "jax.extend", "jax.interpreters", "jax.lib", "jax._src")
  # How it writes programs; how it asks for cuDNN.
  known = ("traces", "absent_gpus")
  for name, tree in everything():
    if name not in [f"t5x_lite.accounting.{file}" for file in known]:
      assert not any(under(i, *inside) for i in imports(tree)), name


def test_one_file_knows_orbax():
  for name, tree in everything():
    if name != "t5x_lite.checkpoints.orbax_store":
      assert not any(under(i, "orbax") for i in imports(tree)), name


def test_gin_folder_does_not_shadow_gin_config():
  assert not list((ROOT / "gin").rglob("*.py"))


def test_library_and_tasks_never_import_each_other_nor_launch():
  for name, tree in modules(LIBRARY):
    found = {i for i in imports(tree) if under(i, "tasks", "launch")}
    if name == "t5x_lite":  # `t5x_lite.load` reads gin, when it is called.
      found.discard("launch.loading")
    assert not found, name
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


def owner(module):
  """Returns the package of the library that a dotted name belongs to."""
  return module.split(".")[1] if "." in module else ""


def test_library_shows_at_most_17_entries():
  entries = {p.name for p in LIBRARY.iterdir() if not p.name.startswith("_")}
  assert {name.removesuffix(".py") for name in entries} == set(MAY_IMPORT)
  assert len(entries) <= 17


def test_packages_import_only_what_stands_above_them_in_the_table():
  order = list(MAY_IMPORT)
  for package, allowed in MAY_IMPORT.items():
    assert set(allowed) <= set(order[: order.index(package)]), package
  found = {package: set() for package in MAY_IMPORT}
  for name, tree in modules(LIBRARY):
    ours = {owner(i) for i in imports(tree) if under(i, "t5x_lite")}
    if owner(name):
      found[owner(name)] |= ours - {owner(name)}
  assert found == {k: set(v) for k, v in MAY_IMPORT.items()}


def test_seqio_and_tensorflow_stay_with_data():
  found = {
    owner(name)
    for name, tree in modules(LIBRARY)
    if any(under(i, *_HEAVY) for i in imports(tree))
  }
  assert found <= set(_WITH_SEQIO)


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
    "accounting.costs",
    "training.bench",
    "training.plan_search",
    "training.run",
    "interop",
  ],
)
def test_module_needs_neither_tensorflow_nor_seqio(start):
  for name, tree in reached(f"t5x_lite.{start}").items():
    heavy = [i for i in imports(tree, top_level_only=True) if under(i, *_HEAVY)]
    assert not heavy, f"{start} loads {name}, which imports {heavy}"


def test_importing_the_package_loads_nothing_heavy():
  code = "import sys, t5x_lite; print(*sys.modules)"
  loaded = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT, capture_output=True, text=True, check=True,
  ).stdout.split()  # fmt: skip
  assert not {"jax", "numpy", "tensorflow", "seqio"} & set(loaded)


def test_architectures_are_told_apart_by_their_row_formats_alone():
  names = {"encoder_decoder", "causal", "prefix", "encoder"}
  for name, tree in everything():
    if name == "t5x_lite.row_formats":
      continue
    for node in ast.walk(tree):
      if isinstance(node, ast.Compare) and "architecture" in ast.unparse(node):
        compared = {
          n.value for n in ast.walk(node) if isinstance(n, ast.Constant)
        }
        assert not compared & names, (name, ast.unparse(node))
