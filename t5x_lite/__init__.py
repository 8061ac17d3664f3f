"""Trains any Transformer architecture with any objective that suits it.

`import t5x_lite` is cheap on purpose: it loads neither JAX nor TensorFlow.
`t5x_lite.load(directory)` reads a run or a Hugging Face model, to generate,
score and embed texts.
"""

__version__ = "0.1.0"


def __getattr__(name):
  if name == "load":  # A run's configuration is gin, which stays in launch/.
    from launch import loading

    return loading.load
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
