"""The page says what the results say, and needs nothing else."""

import csv
import html.parser
import importlib.util
import json
import pathlib

import markupsafe
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import plugin_data_pb2

from launch import config
from t5x_lite.ablation import (
  conclusions,
  report,
  results,
  study,
  targets,
  tensorboard_hparams,
)

_PATH = pathlib.Path(__file__).with_name("fake.py")
_SPEC = importlib.util.spec_from_file_location("fake", _PATH)
fake = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake)
_ROOT = pathlib.Path(__file__).parents[2]
_SHIPPED = [
  path
  for path in sorted((_ROOT / "gin" / "ablations").glob("*.gin"))
  if path.stem != "smoke"
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("study")
  plan = fake.study(folder)
  report.write(results.gather(folder, plan), folder)
  found = json.dumps(results.gather(folder, plan))
  (folder / "results.json").write_text(found)
  return folder


class Numbers(html.parser.HTMLParser):
  """Collects the page's numbers, its texts and what it refers to."""

  def __init__(self, page):
    super().__init__()
    self.found, self.links, self._open = [], [], None
    self.feed(page)

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    self.links += [
      v for k, v in attributes.items() if k in ("src", "href") and v[0] != "#"
    ]
    if tag in ("script", "link"):
      self.links.append(tag)
    if attributes.get("class") == "n":
      self._open = attributes["data-path"], attributes["data-form"]

  def handle_data(self, data):
    if self._open:
      self.found.append((*self._open, data))
      self._open = None


def test_every_number_is_that_of_the_results(folder):
  found = json.loads((folder / "results.json").read_text())
  numbers = Numbers((folder / "report.html").read_text()).found
  assert len(numbers) > 200
  for path, form, text in numbers:
    assert text == report.shown(report.look_up(found, path), form), path


def test_tables_hold_numbers_of_the_results_alone(folder):
  page = (folder / "report.html").read_text()
  cells = [part.partition("</td>")[0] for part in page.split("<td>")[1:]]
  bare = [cell for cell in cells if cell.strip()[:1].isdigit()]
  assert not bare


def test_the_page_is_self_contained(folder):
  page = (folder / "report.html").read_text()
  assert Numbers(page).links == []
  assert "url(http" not in page and "@import" not in page
  assert "Does &lt;this&gt; work?" in page and "a &lt;b&gt; row" in page
  assert "currentColor" in page and "#010203" not in page


def test_the_table_of_runs_has_one_row_each(folder):
  lines = (folder / "results.csv").read_text().splitlines()
  rows = list(csv.DictReader(lines))
  assert len(rows) == 6 * 3 * 7
  found = json.loads((folder / "results.json").read_text())
  cell = found["cells"]["causal-prefix_lm"]["measures"]["infilling"]
  values = [
    float(row["value"])
    for row in rows
    if row["architecture"] == "causal" and row["objective"] == "prefix_lm"
    and row["measure"] == "infilling"
  ]  # fmt: skip
  assert values == cell["by_seed"]
  assert {path.name for path in (folder / "figures").iterdir()} == {
    "measures.png", "curves.png", "grid.png",
  }  # fmt: skip


def test_numbers_are_shown_short():
  assert report.shown(1234567, "unit") == "1.23 M"
  assert report.shown(999.7, "unit") == "1 k"
  assert report.shown(None, ".3f") == "–"
  assert report.shown(0.1234, ".1%") == "12.3%"


def test_a_study_that_is_not_finished_says_what_is_missing(tmp_path):
  plan = fake.study(tmp_path, seeds=(0, 1))
  (tmp_path / "arms" / "causal-prefix_lm-seed1" / "measures.json").unlink()
  log = tmp_path / "arms" / "causal-prefix_lm-seed1" / "arm.log"
  log.write_text("it went\nwrong <here>\n")
  found = results.gather(tmp_path, plan)
  assert found["arms_done"] == 11 and found["arms_total"] == 12
  assert [one["name"] for one in found["missing"]] == ["causal-prefix_lm-seed1"]
  page = report.html(found, {})
  assert "wrong &lt;here&gt;" in page
  # What is compared has the same seeds: one.
  assert not any(
    one["significant"] for one in found["comparisons"]["infilling"]
  )


def test_an_arm_that_diverged_is_missing_and_the_others_are_compared(tmp_path):
  plan = fake.study(tmp_path, seeds=(0, 1, 2))
  name = "causal-prefix_lm-seed1"
  path = tmp_path / "arms" / name / "measures.json"
  found = json.loads(path.read_text())
  found["infilling"]["bits"][3] = None  # As NaN is written.
  path.write_text(json.dumps(found))
  log = tmp_path / "arms" / name / "metrics.jsonl"
  log.write_text(log.read_text().replace(": 2.2", ": null"))
  other = tmp_path / "arms" / "causal-prefix_lm-seed0" / "metrics.jsonl"
  lines = [json.loads(line) for line in other.read_text().splitlines()]
  for line in lines[3], lines[-1]:
    line |= {k: None for k in line if k.endswith("loss")}
  other.write_text("\n".join(map(json.dumps, lines)))
  found = results.gather(tmp_path, plan)
  said = "diverged: no number for infilling, infilling of code"
  assert found["missing"] == [{"name": name, "log": said}]
  json.dumps(found, allow_nan=False)
  assert found["cells"]["causal-prefix_lm"]["seeds_done"] == [0, 2]
  report.write(found, tmp_path)
  assert "diverged: no number for" in (tmp_path / "report.html").read_text()


def test_a_study_without_results_has_a_page(tmp_path):
  plan = fake.study(tmp_path, seeds=(0,))
  for path in (tmp_path / "arms").glob("*/measures.json"):
    path.unlink()
  report.write(results.gather(tmp_path, plan), tmp_path)
  assert "no arm is finished" in (tmp_path / "report.html").read_text()


def test_sizes_get_a_law(tmp_path):
  effects = {f"causal-{s}": 1.5 + 1 / s for s in (1, 2, 4, 8)}
  plan = fake.study(tmp_path, effects=effects, sizes=True, noise=0.001)
  found = results.gather(tmp_path, plan)
  assert set(found["scaling"]["infilling"]) == {"causal"}
  report.write(found, tmp_path)
  assert (tmp_path / "figures" / "scaling.png").exists()


def words(found, measure):
  (one,) = (o for o in found["reading"] if o["about"] == measure)
  return " ".join(one["sentences"])


def test_the_reading_names_the_best_and_what_it_beats(folder):
  found = json.loads((folder / "results.json").read_text())
  text = words(found, "infilling")
  assert "encoder_decoder-span_corruption has the lowest mean" in text
  ahead = text.partition("encoder_decoder-span_corruption is ahead of ")[2]
  assert ahead.startswith("causal-span_corruption by 0.088")
  assert "prefix-prefix_lm by 0.3" in ahead
  assert "By objective, all else equal: span_corruption is ahead of" in text
  assert "power of 80%" in text
  # Percent are better high: the best is the one with fewest bits again.
  text = words(found, "quiz after tuned")
  assert "encoder_decoder-span_corruption has the highest" in text
  assert "encoder_decoder-span_corruption is ahead of" in text
  assert "prefix_lm is ahead of span_corruption" not in text


def test_a_baseline_is_said_to_be_behind_what_beats_it(tmp_path):
  effects = {"serial": 2.0, "parallel": 1.5, "other": 2.5, "same": 2.0}
  plan = fake.study(tmp_path, effects=effects, noise=0.002)
  found = results.gather(tmp_path, plan | {"baseline": "serial"})
  text = words(found, "infilling")
  assert "parallel has the lowest mean" in text
  assert "parallel is ahead of serial by 0.5" in text
  assert "serial is ahead of other by 0.5" in text
  assert "No significant difference between serial and same." in text


def test_the_page_says_how_long_a_step_takes(tmp_path):
  effects = {"serial": 2.0, "parallel": 1.5}
  plan = fake.study(tmp_path, effects=effects) | {"baseline": "serial"}
  plan["step_ratios"] = {"parallel": {"ratio": 0.8, "range": [0.75, 0.85]}}
  page = report.html(results.gather(tmp_path, plan), {})
  assert "of the time of serial" in page
  shown = {at: text for at, _, text in Numbers(page).found}
  assert shown["step_ratios/parallel/ratio"] == "0.800"
  assert shown["step_ratios/parallel/range/0"] == "0.750"


def test_a_cell_after_a_stage_is_tested_against_another_before(tmp_path):
  effects = {"causal": 2.0, "masked": 1.5}
  plan = fake.study(tmp_path, effects=effects)
  plan["contrasts"] = {
    "All <in> all": [["infilling", "causal"], ["continuation", "masked"]],
    "Other tasks": [["infilling", "causal"], ["quiz after tuned", "causal"]],
    "Not there": [["infilling", "causal"], ["quiz after nothing", "causal"]],
  }
  found = results.gather(tmp_path, plan)
  (one,) = found["contrasts"]
  a, b = (found["cells"][name]["measures"] for name in ("causal", "masked"))
  difference = np.subtract(
    a["infilling"]["by_seed"], b["continuation"]["by_seed"]
  ).mean()
  assert one["difference"] == pytest.approx(difference) and one["significant"]
  text = words(found, "chosen beforehand")
  assert text.startswith("All <in> all: causal (infilling) less masked (")
  assert "All &lt;in&gt; all" in report.html(found, {})


def test_where_all_cells_are_equal_none_is_called_the_best(tmp_path):
  effects = {"causal-clm": 2.0, "causal-spans": 2.0}
  found = results.gather(
    tmp_path, fake.study(tmp_path, effects=effects, noise=0)
  )
  for cell in found["cells"].values():
    cell["measures"]["quiz after tuned"]["mean"] = 0.0
  text = words({"reading": conclusions.paragraphs(found)}, "quiz after tuned")
  assert text == "All 2 cells have 0.000 percent."


def test_the_paper_stands_beside_ours_in_its_layout(folder):
  page = (folder / "report.html").read_text()
  assert "the &lt;best&gt;" in page and "in italics, a paper" in page
  assert "cells/causal-prefix_lm/measures/quiz after tuned/mean" in page


def test_a_stage_that_a_cell_lacks_is_not_compared(tmp_path):
  plan = fake.study(tmp_path)
  for arm in plan["arms"]:
    if arm["cell"] == "causal-prefix_lm":
      del arm["runs"][1]
  found = results.gather(tmp_path, plan)
  pairs = {(o["a"], o["b"]) for o in found["comparisons"]["quiz after tuned"]}
  assert len(pairs) == 10 and not any("causal-prefix_lm" in p for p in pairs)
  assert len(found["comparisons"]["infilling"]) == 15
  assert "asked of one cell alone" not in [o["about"] for o in found["reading"]]
  report.write(found, tmp_path)


def test_what_one_cell_alone_was_asked_stands_together(tmp_path):
  plan = fake.study(tmp_path, effects={"one": 2.0, "other": 2.0})
  for arm in plan["arms"]:
    if arm["cell"] == "other":
      del arm["runs"][1]
  text = words(results.gather(tmp_path, plan), "asked of one cell alone")
  assert text.startswith("one, quiz after tuned: ") and "percent." in text


def test_what_it_took_to_reach_a_loss_that_all_reach():
  curves = {
    "slow": [(100, 4.0), (200, 3.0), (300, 2.5)],
    "fast": [(100, 3.5), (200, 2.0), (300, 1.5)],
    "early": [(100, 2.5), (200, 2.4), (300, 2.3)],
  }
  target, steps = targets.steps_to_target(curves)
  assert target == 2.5
  assert steps == {
    "slow": 300, "fast": pytest.approx(100 + 100 * 2 / 3), "early": 100,
  }  # fmt: skip


def test_a_target_is_reached_by_all_cells_of_an_objective(folder):
  found = json.loads((folder / "results.json").read_text())
  for cell in found["cells"].values():
    losses = [one["mean"] for one in cell["own_loss"].values()]
    assert sum(losses) / 2 <= cell["to_target"]["loss"] + 1e-9
    assert cell["to_target"]["flops"] <= cell["totals"]["flops"]


def test_losses_of_a_mixture_stand_apart(folder):
  found = json.loads((folder / "results.json").read_text())
  losses = found["cells"]["causal-prefix_lm"]["own_loss"]
  gap = losses["code"]["mean"] - losses["docs"]["mean"]
  assert set(losses) == {"docs", "code"} and gap == pytest.approx(1)


def test_documents_of_each_source_are_a_measure_of_their_own(folder):
  found = json.loads((folder / "results.json").read_text())
  arms = [
    json.loads(path.read_text())["infilling"]
    for path in sorted(folder.glob("arms/causal-prefix_lm-*/measures.json"))
  ]
  for offset, source in enumerate(["books/docs", "code"]):
    by_seed = [
      sum(one["bits"][offset::2]) / sum(one["bytes"][offset::2]) for one in arms
    ]
    of_cell = found["cells"]["causal-prefix_lm"]["measures"]
    assert of_cell[f"infilling of {source}"]["by_seed"] == pytest.approx(
      by_seed
    )
    assert len(found["comparisons"][f"infilling of {source}"]) == 15
  text = words(found, "each source apart")
  assert "Infilling of books/docs: encoder_decoder-span_corruption has" in text


def test_tensorboard_groups_runs_by_their_choices(tmp_path):
  plan = fake.study(tmp_path, seeds=(0, 1))
  for _ in range(2):
    tensorboard_hparams.label(tmp_path, plan)
  runs = [
    arm / stage
    for arm in (tmp_path / "arms").iterdir()
    for stage in ("", "tuned")
  ]
  groups = {}
  for run in runs:
    (path,) = run.glob("events*")
    for event in tf.compat.v1.train.summary_iterator(str(path)):
      for value in event.summary.value:
        data = plugin_data_pb2.HParamsPluginData.FromString(
          value.metadata.plugin_data.content
        ).session_start_info
        if data.group_name:
          groups.setdefault(data.group_name, []).append(dict(data.hparams))
  assert len(groups) == 6 * 2 and {len(g) for g in groups.values()} == {2}
  first, second = groups["causal-prefix_lm, tuned"]
  assert first["objective"].string_value == "prefix_lm"
  assert {first["seed"].number_value, second["seed"].number_value} == {0, 1}


def test_pairs_are_proved_by_the_digests(tmp_path):
  plan = fake.study(tmp_path, seeds=(0,))
  assert results.gather(tmp_path, plan)["pairing"]["0"]["same"]
  plan["arms"][0]["runs"][0]["documents_sha256"] = "f" * 64
  assert not results.gather(tmp_path, plan)["pairing"]["0"]["same"]


@pytest.mark.parametrize("path", _SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_study_was_run_whole_and_its_report_says_so(path):
  folder = _ROOT / "docs" / "studies" / path.stem
  found = json.loads((folder / "results.json").read_text())
  config.load([str(path)])
  asked = config.build(study.Study)
  assert found["question"] == asked.question
  assert found["seeds"] == list(asked.seeds) and len(asked.seeds) >= 3
  assert found["budget"]["unit"] == asked.budget.unit
  assert found["budget"]["amount"] == asked.budget.amount
  cells = {cell.name for cell in asked.cells()} - found["skipped"].keys()
  assert found["cells"].keys() == cells
  assert found["arms_done"] == found["arms_total"] == 3 * len(cells)
  assert all(one["same"] for one in found["pairing"].values())
  page = (folder / "report.html").read_text()
  numbers = Numbers(page).found
  assert len(numbers) > 50 and Numbers(page).links == []
  for at, form, text in numbers:
    assert text == report.shown(report.look_up(found, at), form), at
  assert conclusions.paragraphs(found) == found["reading"]
  for one in found["reading"]:
    for sentence in one["sentences"]:
      assert str(markupsafe.escape(sentence)) in page
