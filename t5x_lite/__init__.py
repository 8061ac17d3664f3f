"""Trains any Transformer architecture with any objective that suits it.

`import t5x_lite` is cheap on purpose: it loads neither JAX nor TensorFlow.
"""

__version__ = "0.1.0"
