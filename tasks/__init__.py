"""Defines seqio tasks: their text, vocabularies and objectives.

Importing this package registers the tasks of mixtures.py and of
evaluation/offline.py by name. Corpora are read and vocabularies trained on
first use, not at import.
"""

from tasks import mixtures
from tasks.evaluation import offline

mixtures.register()
offline.register()
