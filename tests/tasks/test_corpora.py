"""CPython's text: what is in it, what is held out, and its cache."""

import ast

import pytest

from t5x_lite.files import user_cache
from tasks import cache, corpora


@pytest.fixture(scope="module")
def docs():
  return corpora.python_docs.documents()


@pytest.fixture(scope="module")
def source():
  return corpora.python_source.documents()


def test_sizes_are_as_announced(docs, source):
  assert 1.5e6 < sum(map(len, docs.values())) < 3.5e6
  assert 7e6 < sum(map(len, source.values())) < 14e6


def test_source_is_python_and_no_test_or_foreign_package(source):
  assert "json/decoder.py" in source
  folders = {part for name in source for part in name.split("/")[:-1]}
  assert not folders & {"test", "tests", "site-packages", "dist-packages"}
  ast.parse(source["json/decoder.py"])


def test_docs_are_docstrings_with_names_and_topics(docs):
  text = docs["json/decoder.py"]
  assert "JSONDecoder.raw_decode\n\nDecode a JSON document from" in text
  assert "def raw_decode" not in text
  assert "topics/assert" in docs


def test_a_docstring_that_two_modules_share_is_kept_once():
  shared = f'"""{"Shared words. " * 20}"""'
  own = f'class A:\n  """{"Words of its own. " * 20}"""'
  library = {"a.py": shared, "b.py": f"{shared}\n{own}"}
  prose = corpora._prose(library, {})
  assert prose["a.py"].startswith("a\n\nShared words.")
  assert prose["b.py"].startswith("A\n\nWords of its own.")


def test_splits_divide_the_documents(docs):
  made = corpora.python_docs.made.columns
  train, held_out = made["train"]["text"], made["validation"]["text"]
  assert sorted(train + held_out) == sorted(docs.values())
  assert 0.05 < len(held_out) / len(docs) < 0.2


def test_both_corpora_hold_out_the_same_modules(docs, source):
  held_out = corpora.python_docs.made.columns["validation"]["text"]
  trained = corpora.python_source.made.columns["train"]["text"]
  shared = {name for name in docs if docs[name] in held_out} & set(source)
  assert len(shared) > 10
  assert not {source[name] for name in shared} & set(trained)


def test_docs_are_kept_in_the_cache(docs):
  (path,) = cache.directory().glob("python_docs-*.json")
  before = path.stat().st_mtime_ns
  assert corpora.python_docs.documents() == docs
  assert path.stat().st_mtime_ns == before


def test_a_damaged_cache_is_made_again(docs):
  (path,) = cache.directory().glob("python_docs-*.json")
  path.write_text("{")
  assert corpora.python_docs.documents() == docs
  assert path.stat().st_size > 1e6


def test_prose_is_unwrapped_and_all_else_is_left():
  prose = "A paragraph of prose whose lines are wrapped at\nsome column."
  table = "name         a long enough explanation of it all\nother        b"
  code = ">>> first_long_statement(with_arguments, and_more)\n1"
  text = corpora._unwrap("\n\n".join([prose, table, code]))
  assert text == "\n\n".join([prose.replace("\n", " "), table, code])


def test_an_interrupted_write_leaves_nothing(tmp_path):
  path = tmp_path / "file"
  path.write_text("old")
  with pytest.raises(KeyboardInterrupt), cache.write_atomic(path) as temporary:
    temporary.write_text("half")
    raise KeyboardInterrupt
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_two_containers_with_equal_process_ids_write_one_file(tmp_path):
  path = tmp_path / "file"
  with cache.write_atomic(path) as one, cache.write_atomic(path) as other:
    one.write_text("one")
    other.write_text("other")
  assert path.read_text() == "one"
  assert list(tmp_path.iterdir()) == [path]


def test_without_a_writable_cache_a_temporary_folder_serves(
  tmp_path, monkeypatch
):
  blocked = tmp_path / "file"
  blocked.write_text("no folder")
  monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
  monkeypatch.setattr(user_cache.tempfile, "gettempdir", lambda: str(tmp_path))
  assert user_cache.directory().parent == tmp_path
  assert user_cache.directory().is_dir()


def test_digests_see_where_parts_end():
  assert cache.digest(["ab", "c"]) != cache.digest(["a", "bc"])
