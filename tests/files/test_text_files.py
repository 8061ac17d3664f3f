"""What a file holds decides how it is read, and what it is not is refused."""

import bz2
import functools
import gzip
import json
import lzma

import pytest

from t5x_lite.files import text_files
from tests import stores

remote = stores.remote

# Without the time: all processes of a test run name their tests alike.
packed = functools.partial(gzip.compress, mtime=0)
DOCUMENTS = ["One.", "Zwei:\u2028a\x0bb\x0cc\x85d é 😀", '{"three": "\\"}']
LINES = "".join(json.dumps({"text": d, "n": 1}) + "\n" for d in DOCUMENTS)
PACK = {
  "": bytes,
  "gzip": packed,
  "bzip2": bz2.compress,
  "xz": lzma.compress,
}


@pytest.fixture
def read(tmp_path):
  """Reads bytes under a name, as documents."""

  def read(data, name="x.txt", **options):
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(text_files.read_documents([str(path)], **options))

  return read


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize(
  "name",
  [
    "c4-train.00000-of-01024.json.gz", "C4.JSON.GZ", "a.jsonl", "A.JSONL",
    "a.ndjson", "a.json", "a.txt", "a", "a.jsonl.gz", "a.jsonl.zst", "a.bz2",
  ],
)  # fmt: skip
def test_json_lines_give_the_documents_by_any_name(tmp_path, name, packing):
  path = tmp_path / name
  path.write_bytes(PACK[packing](LINES.encode()))
  assert list(text_files.read_documents([str(path)])) == DOCUMENTS
  records = list(text_files.read_records(path))
  assert [record.fields["text"] for record in records] == DOCUMENTS
  assert records[2].place == f"{path}, line 3"
  assert list(text_files.read_rows(str(path))) == records
  assert text_files.compression(str(path)) == (packing or None)


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize(
  "first",
  ["{", "[1]", "3", '"quoted"', "null", "{'a': 1}", '{"a": 1} and so on', "[]"],
)
def test_text_that_looks_like_json_is_text(tmp_path, first, packing):
  path = tmp_path / "a.txt.gz"
  path.write_bytes(PACK[packing](f"{first}\nsecond\n\nthird".encode()))
  found = list(text_files.read_documents([str(path)]))
  assert found == [f"{first}\nsecond", "third"]
  assert [r.fields for r in text_files.read_records(path)] == [
    {"text": line} for line in (first, "second", "third")
  ]


OBJECTS = [{"text": "a b", "n": {"m": [1]}}] * 3


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize(
  "text",
  [
    ",\n".join(map(json.dumps, OBJECTS)),
    "[" + ",\n".join(map(json.dumps, OBJECTS)) + "]",
    "[\n" + "\n,".join(map(json.dumps, OBJECTS)) + "\n]",
    json.dumps(OBJECTS),
    json.dumps(OBJECTS, indent=2),
    json.dumps(OBJECTS[0], indent="\t"),
    "".join(map(json.dumps, OBJECTS)),
    '{"text": "a\tb"}\n{"text": "c\td"}',
    "\n".join(map(repr, OBJECTS)),
  ],
)  # fmt: skip
def test_json_of_another_form_is_refused_by_any_name(tmp_path, text, packing):
  path = tmp_path / "corpus"
  path.write_bytes(PACK[packing](text.encode()))
  for read in (text_files.read_records, text_files.read_rows):
    with pytest.raises(ValueError, match="neither|bad JSON|jq -c") as error:
      list(read(str(path)))
    assert "\n" not in str(error.value)
  with pytest.raises(ValueError, match="is neither text nor JSON Lines"):
    list(text_files.read_documents([str(path)]))


@pytest.mark.parametrize("blank", ["", "\n", " \t\r\n\r", "\ufeff", "\ufeff\n"])
def test_blank_lines_and_a_mark_may_come_first(read, blank):
  assert read(blank + LINES) == DOCUMENTS
  assert read(blank + "a\nb") == ["a\nb"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_in_three_ways_and_no_other(tmp_path, read, end):
  odd = "a\u2028b\u2029c\x0bd\x0ce\x1cf\x85g"
  assert read(f"{odd}{end}2{end}{end}3{end}") == [f"{odd}\n2", "3"]
  assert read(f"{odd}{end}2{end}{end}3", documents="file") == [f"{odd}\n2\n\n3"]
  assert read(LINES.replace("\n", end), "a.jsonl") == DOCUMENTS
  records = list(text_files.read_records(tmp_path / "x.txt"))
  assert [record.fields["text"] for record in records] == [odd, "2", "3"]
  assert records[2].place.endswith("line 4")


def test_a_line_end_within_a_json_text_stays(read):
  assert read('{"text": "a\\rb\\r\\nc"}') == ["a\rb\r\nc"]


def test_members_of_a_gzip_file_are_one_text(read):
  assert read(packed(b"a\n") + packed(b"b\n")) == ["a\nb"]


@pytest.mark.parametrize("size", [1 << 20, 3])
def test_long_files_are_read_in_parts(read, monkeypatch, size):
  monkeypatch.setattr(text_files, "_BUFFER_BYTES", size)
  text = "".join(f"{i} {'é😀'[i % 2] * (i % 9)}\r\n" for i in range(5000))
  found = read(packed(text.encode()), documents="line")
  assert found == text.split("\r\n")[:-1]


def nested(levels):
  return '{"text": "a", "b": ' + "[" * levels + "]" * levels + "}"


@pytest.mark.parametrize(
  ("name", "data", "message"),
  [
    ("x.txt", b"ab\nc\xff\n", "x.txt, line 2 is not UTF-8: byte 0xff after 1 "),
    ("x.jsonl", b'{"text": "a"}\n{"text": "\xe9"}', "line 2 is not UTF-8"),
    ("x.txt", "ab".encode("utf-16"), "x.txt is UTF-16: convert it"),
    ("x.txt", "ab\n".encode("utf-16-le"), "line 1 has a zero byte"),
    ("x.txt", b"a\nb\0c", "line 2 has a zero byte: the file is binary"),
    ("x.txt", b"\xed\xa0\xbd", "line 1 is not UTF-8"),
    ("x.jsonl.zst", b"\x28\xb5\x2f\xfd\4", "jsonl.zst is compressed with zstd"),
    ("x.txt", b"PK\3\4..", "x.txt is a zip archive"),
    ("x.gz", packed(b"a\nb" * 99)[:-9], "cannot read .*x.gz after line"),
    ("x.gz", packed(b"ab")[:-2] + b"zz", "cannot read .*x.gz"),
    ("x.gz", packed(b"ab\n") + b"cd", "cannot read .*: Not a gzip"),
    ("x.gz", b"\x1f\x8bno gzip", "cannot read .*x.gz"),
    ("x", bz2.compress(b"ab" * 999)[:-9], "cannot read .*x:"),
    ("x", lzma.compress(b"ab" * 999)[:-9], "cannot read .*x:"),
    ("x.json", '[{"text": "a"}]', "1: expected an object .* an array into"),
    ("x.json", '{\n "text": "a"\n}', "line 1: bad JSON at column 2"),
    ("x.json", '"text"', "line 1: expected an object"),
    ("x.JSONL.GZ", "plain", "line 1: bad JSON at column 1"),
    ("x.txt", '{"text": "a"}\nplain', "line 2: bad JSON at column 1"),
    ("x.txt", '{"text": "a"}\n["b"]', "line 2: expected an object"),
    ("x.txt", f'{{"text": \n{LINES}', "neither .*: 4 of 4 lines are JSON, but"),
    ("x", '{"body": "a"}', "line 1: no field 'text'; its fields: 'body'"),
    ("x", "{}", "line 1: no field 'text'; its fields: none"),
    ("x", '{"text": null}', "'text' is null, not a text; its fields: 'text'"),
    ("x", '\n{"text": [1]}', r"line 2: field 'text' is \[1\], not a text"),
    ("x", '{"text": "a", "text": "b"}', "line 1: duplicate field 'text'"),
    ("x", '{"text": "a", "b": {"c": 1, "c": 2}}', "duplicate field 'c'"),
    ("x", f'{{"text": "a", "n": {"1" * 5001}}}', "line 1: .* has 5001 digits"),
    ("x", nested(10**5), "line 1: nested more than 100 levels deep"),
    ("x", nested(101), "line 1: nested more than 100 levels deep"),
    ("x", '{"text": "good \\ud83d day"}', r"'text' has .*\\ud83d, as .* 6"),
    ("x", '{"text": "\\udc00"}', r"line 1, field 'text' .*\\udc00"),
    ("x.txt", b"", "x.txt is empty"),
    ("x.txt.gz", packed(b" \n\n \t\n"), "x.txt.gz is empty"),
  ],
  ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_what_is_neither_is_refused_in_one_line(read, name, data, message):
  with pytest.raises(ValueError, match=message) as error:
    read(data, name)
  assert name in str(error.value) and "\n" not in str(error.value)


def test_json_of_some_depth_and_length_is_read(read, tmp_path):
  assert read(nested(98)) == ["a"]
  wide = {"text": "a", "b": [[]] * 200, "n": 10**4000}
  assert read(json.dumps(wide)) == ["a"]
  assert next(text_files.read_records(tmp_path / "x.txt")).fields == wide


def test_other_fields_may_have_lone_surrogates_but_rows_may_not(read, tmp_path):
  line = '{"text": "a", "b": [{"\\ud83d": 1}]}'
  assert read(line) == ["a"]
  path = tmp_path / "x.txt"
  assert [*text_files.read_records(path)][0].fields["b"] == [{"\ud83d": 1}]
  with pytest.raises(ValueError, match="line 1 has a lone surrogate"):
    list(text_files.read_rows(str(path)))


def test_a_text_with_an_object_in_it_is_text(read):
  text = 'It prints\n{"a": 1}\nor else\n{"b": 2}\nand stops.'
  assert read(text) == [text]


def test_files_that_cannot_be_read_are_named(tmp_path):
  for path, message in (
    (tmp_path / "gone", "cannot read .*gone: No such file"),
    (tmp_path, "cannot read .*: Is a directory"),
    ("hdfs://x/y", "unsupported file system hdfs://"),
  ):
    with pytest.raises(ValueError, match=message):
      list(text_files.read_records(path))


def test_globs_and_lists_give_each_file_once(tmp_path, monkeypatch):
  for name in ("a.txt", "b[1].txt", "c.md", "d/e.txt", "d/f/g.txt"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("a")

  def expand(*patterns):
    found = text_files.expand([f"{tmp_path}/{p}" for p in patterns])
    return [path.removeprefix(f"{tmp_path}/") for path in found]

  assert expand("*.txt", "a.txt") == ["a.txt", "b[1].txt"]
  assert expand("b[1].txt", "?.md") == ["b[1].txt", "c.md"]
  assert expand("**/*.txt") == ["a.txt", "b[1].txt", "d/e.txt", "d/f/g.txt"]
  assert expand("*") == ["a.txt", "b[1].txt", "c.md"]
  monkeypatch.setenv("HOME", str(tmp_path))
  assert text_files.expand("~/a.txt") == [f"{tmp_path}/a.txt"]
  for pattern, message in (
    ("gone.txt", "no such text file: .*gone.txt"),
    ("gone*", "no text file matches .*gone"),
    ("", r"give files, or a glob such as .*\*.txt"),
  ):
    with pytest.raises(ValueError, match=message):
      expand(pattern)
  with pytest.raises(ValueError, match="no text files given"):
    text_files.expand([])


def test_remote_files_are_read_as_local_ones_are(remote):
  data = {
    "a.txt": b"one\n\ntwo",
    "b.json": packed(LINES.encode()),
  }
  for name, content in data.items():
    with remote.GFile(f"ram://bucket/{name}", "wb") as file:
      file.write(content)
  paths = text_files.expand(["ram://bucket/*.txt", "ram://bucket/b.json"])
  assert paths == ["ram://bucket/a.txt", "ram://bucket/b.json"]
  assert list(text_files.read_documents(paths)) == ["one", "two", *DOCUMENTS]
  assert text_files.compression(paths[1]) == "gzip"
  with pytest.raises(ValueError, match="cannot read ram://bucket/c"):
    list(text_files.read_records("ram://bucket/c"))
  with pytest.raises(ValueError, match="works for local files only"):
    text_files.expand("ram://bucket/**/a")
