"""Text, vocabularies and objectives, as seqio tasks.

Importing this package registers the tasks of mixtures.py and of
evaluation/offline.py by name. It reads no corpus and trains no vocabulary: that
is done on the first use.
"""

from tasks import mixtures
from tasks.evaluation import offline

mixtures.register()
offline.register()
