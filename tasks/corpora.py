"""Serves CPython's documentation and source code as text corpora.

`python_docs` has pydoc's topics and the standard library's docstrings, read
with `ast`, without importing any module. `python_source` has its .py files.
"""

from __future__ import annotations

import abc
import ast
import functools
import gc
import json
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator, Mapping

from absl import logging

from tasks import cache, sources

VALIDATION_FRACTION = 0.1
_MIN_CHARACTERS = 200
# Tests, third-party packages, tables (encodings, _sysconfigdata), and
# pydoc_data, whose only module has the topics of python_docs.
_EXCLUDED_DIRECTORIES = frozenset({
  "__pycache__", "dist-packages", "encodings", "idlelib", "pydoc_data",
  "site-packages", "test", "tests",
})  # fmt: skip
# Increase when the contents of python_docs change: it is part of the cache key.
_DOCS_FORMAT = 1


class PythonCorpus(sources.LazySource):
  """Serves one document per module (or topic) of the standard library.

  Validation documents are chosen by a hash of the module's path, so both
  corpora hold out the same modules and a mixture never trains on validation
  text.
  """

  @abc.abstractmethod
  def documents(self) -> Mapping[str, str]:
    """Returns {name: text}, sorted by name."""

  def make(self) -> sources.MemorySource:
    texts = {split: [] for split in sources.SPLITS}
    for name, text in self.documents().items():
      held_out = cache.unit_interval(name) < VALIDATION_FRACTION
      texts["validation" if held_out else "train"].append(text)
    columns = {split: {"text": rows} for split, rows in texts.items()}
    return sources.MemorySource(self.name, columns)


class PythonSource(PythonCorpus):
  """Serves the standard library's source files, about 9 MB."""

  def documents(self) -> Mapping[str, str]:
    return {
      name: text
      for name, text in _stdlib().items()
      if len(text) >= _MIN_CHARACTERS
    }


class PythonDocs(PythonCorpus):
  """Serves pydoc's topics and the standard library's docstrings, about 2 MB.

  The first call parses the library (2-3 s) and caches the result in the user's
  cache directory. The key is the Python version and a digest of the library.
  """

  def documents(self) -> Mapping[str, str]:
    from pydoc_data import topics

    library = _stdlib()
    parts = (part for item in library.items() for part in item)
    key = cache.digest([str(_DOCS_FORMAT), *parts, *topics.topics.values()])
    version = f"{platform.python_implementation()}-{platform.python_version()}"
    path = cache.directory() / f"python_docs-{version}-{key}.json".lower()
    try:
      return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
      pass
    collects = gc.isenabled()
    gc.disable()  # Garbage collection doubles the time of ast.parse.
    try:
      documents = _prose(library, topics.topics)
    finally:
      if collects:
        gc.enable()
    try:
      with cache.write_atomic(path) as temporary:
        temporary.write_text(json.dumps(documents), encoding="utf-8")
    except OSError as error:
      logging.warning(
        "cannot cache python_docs, so each start rebuilds it: %s", error
      )
    return documents


@functools.lru_cache(maxsize=1)
def _stdlib() -> Mapping[str, str]:
  """Reads the standard library's source files: {relative path: text}."""
  root = sysconfig.get_path("stdlib")
  paths = []
  for folder, folders, files in os.walk(root):
    folders[:] = [
      name
      for name in folders
      if name not in _EXCLUDED_DIRECTORIES and not name.startswith("config-")
    ]
    paths += [
      os.path.join(folder, file)
      for file in files
      if file.endswith(".py") and not file.startswith("_sysconfigdata")
    ]
  modules = {}
  for path in paths:
    try:
      with open(path, encoding="utf-8") as file:
        modules[os.path.relpath(path, root).replace(os.sep, "/")] = file.read()
    except (OSError, UnicodeDecodeError) as error:
      logging.warning("skipping %s in python_source: %s", path, error)
  if not modules:
    raise ValueError(
      f"no .py file under {root}: this Python has no source files of its "
      "standard library; use text files with tasks.text.text_task instead"
    )
  return dict(sorted(modules.items()))


def _prose(
  library: Mapping[str, str], topics: Mapping[str, str]
) -> Mapping[str, str]:
  """Returns one document per topic, and one per module with docstrings."""
  documents = {f"topics/{name}": _unwrap(topics[name]) for name in topics}
  seen = set()
  for path, source in library.items():
    if '"""' not in source and "'''" not in source:
      continue
    module = path.removesuffix(".py").removesuffix("/__init__")
    parts = []
    for name, docstring in _docstrings(source, module.replace("/", ".")):
      # Some modules repeat docstrings of others: _pyio those of io, for
      # example.
      if docstring not in seen:
        seen.add(docstring)
        parts.append(f"{name}\n\n{_unwrap(docstring)}")
    documents[path] = "\n\n".join(parts)
  return {
    name: text
    for name, text in sorted(documents.items())
    if len(text) >= _MIN_CHARACTERS
  }


def _docstrings(source: str, module: str) -> Iterator[tuple[str, str]]:
  """Yields (qualified name, docstring) of a module's definitions, in order."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Invalid escape sequences in old code.
    try:
      tree = ast.parse(source)
    except SyntaxError:
      return
  definitions = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
  # Visits statements only: ast.walk also visits every expression, and takes as
  # long as the parser.
  stack = [(tree, module)]
  while stack:
    node, name = stack.pop()
    docstring = ast.get_docstring(node)
    if docstring:
      yield name, docstring
    prefix = "" if node is tree else f"{name}."
    stack += [
      (child, prefix + child.name)
      for child in reversed(node.body)
      if isinstance(child, definitions)
    ]


def _unwrap(text: str) -> str:
  """Joins the hard-wrapped lines of prose paragraphs.

  In a prose paragraph all lines have the same indentation and only the last one
  is short. Lists, tables, code and grammars are not changed.
  """
  paragraphs = text.strip().split("\n\n")
  return "\n\n".join(map(_unwrap_paragraph, paragraphs))


def _unwrap_paragraph(paragraph: str) -> str:
  lines = paragraph.split("\n")
  columns = {len(line) - len(line.lstrip()) for line in lines}
  is_prose = (
    len(columns) == 1
    and min(map(len, lines[:-1]), default=0) >= 45
    and not re.search(r"\S   |::=|>>>|->", paragraph)
  )
  if not is_prose:
    return paragraph
  return " ".join([lines[0], *(line.strip() for line in lines[1:])])


python_docs = PythonDocs("python_docs")
python_source = PythonSource("python_source")
CORPORA: Mapping[str, PythonCorpus] = {
  corpus.name: corpus for corpus in (python_docs, python_source)
}
