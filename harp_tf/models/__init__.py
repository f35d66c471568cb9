"""Dense Keras classifiers: images in [0, 1] in, logits out. They know nothing of pruning."""

from harp_tf.models.builders import build, names
from harp_tf.models.loading import import_module, load, load_or_build

__all__ = ["build", "import_module", "load", "load_or_build", "names"]
