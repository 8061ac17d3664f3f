"""Sets the process up before JAX loads: 8 emulated CPU devices, quiet logs."""

import importlib.metadata
import logging
import os
import pathlib
import signal

import pytest

_XLA_FLAGS = {
  "--xla_force_host_platform_device_count": "8",
  # Most programs run once: LLVM's optimizations take longer than they save.
  "--xla_backend_optimization_level": "0",
  "--xla_llvm_disable_expensive_passes": "true",
}
# The older emitters of code compile in half the time; later versions lack them.
if importlib.metadata.version("jaxlib").startswith("0.10."):
  _XLA_FLAGS["--xla_cpu_use_fusion_emitters"] = "false"

# setdefault: `JAX_PLATFORMS=cuda pytest ...` runs the suite on a GPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Emulated devices share the cores: two programs under way at once may each hold
# some of the threads that the other's collectives wait for.
os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "false")
# Many tests compile the same few programs, here and in commands that they run.
_PROGRAMS = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "programs"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Scripts that tests start are asked for the default, whatever these run on.
os.environ.pop("T5X_LITE_VERSIONS", None)
# A background job starts with SIGINT ignored, and so would what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
given = os.environ.get("XLA_FLAGS", "")
added = [f"{name}={x}" for name, x in _XLA_FLAGS.items() if name not in given]
os.environ["XLA_FLAGS"] = " ".join([*given.split(), *added])


_LACKS_TORCH = (
  "No module named 'torch'", "needs torch, which is not installed",
)  # fmt: skip


def pytest_addoption(parser):
  """Adds the flag for an environment that has no PyTorch."""
  parser.addoption(
    "--without-torch", action="store_true",
    help="skip the tests that compare with PyTorch, and count them at the end",
  )  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Puts files with slow tests first, so that all processes end together."""
  slow = {item.path for item in items if item.get_closest_marker("slow")}
  items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
  """Reports a test that lacks PyTorch as skipped, where that is expected."""
  report = yield
  error = call.excinfo and call.excinfo.value
  expected = item.config.getoption("without_torch")
  lacks = isinstance(error, ImportError) and "torch" in f"{error}"
  # What another process or a command says of it.
  lacks |= any(text in f"{error}" for text in _LACKS_TORCH)
  if expected and lacks:
    report.outcome = "skipped"
    # Of one place: they are one line of the summary.
    report.longrepr = (__file__, 0, "Skipped: compares with PyTorch")
  return report


@pytest.fixture(autouse=True, scope="session")
def no_lines_of_slow_work():
  """Keeps what is slow on a busy machine from printing lines of its own."""
  from t5x_lite.files import slow

  slow.NEW = slow.SAME = 1e9


@pytest.fixture
def warnings(caplog):
  """Returns the lines logged so far as warnings."""
  caplog.set_level(logging.WARNING)
  # Of reads that failed together, asyncio tells at any time of those that
  # nobody waited for.
  return lambda: [
    record.getMessage() for record in caplog.records if record.name != "asyncio"
  ]


@pytest.fixture
def no_new_tasks():
  """Removes the tasks and mixtures that a test registers."""
  import seqio

  registries = (seqio.MixtureRegistry, seqio.TaskRegistry)
  names = [set(registry.names()) for registry in registries]
  yield
  for registry, before in zip(registries, names, strict=True):
    for name in set(registry.names()) - before:
      registry.remove(name)


@pytest.fixture
def register():
  """Registers tasks until the test ends."""
  # Not before the environment above.
  import seqio

  from tests.data import streams

  names = []

  def register_task(name, dataset_fn, *preprocessors, **options):
    outputs = options.pop("features", ("inputs", "targets"))
    task = seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(dataset_fn, splits=["train"]),
      preprocessors=list(preprocessors),
      output_features={
        feature: options.get(feature, seqio.Feature(streams.VOCABULARY))
        for feature in outputs
      },
    )
    names.append(name)
    return task.name

  yield register_task
  for name in names:
    seqio.TaskRegistry.remove(name)
