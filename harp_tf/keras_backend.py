"""The first import of the package: without Keras 3 on TensorFlow nothing of it works."""

import os

from harp_tf.types import HarpError

_REMEDY = "Set KERAS_BACKEND=tensorflow before Python starts, and leave `backend` in ~/.keras/keras.json at that."


def require_tensorflow(version: str, backend: str) -> None:
    """Raises a HarpError unless Keras has this major version and runs on TensorFlow.

    Args:
        version: keras.__version__.
        backend: name of the Keras backend.
    """
    if int(version.partition(".")[0]) < 3:
        raise HarpError(f"harp_tf needs Keras 3, found Keras {version}. Install it: pip install 'keras>=3.15,<3.16'.")
    if backend != "tensorflow":
        raise HarpError(f"harp_tf runs on the TensorFlow backend of Keras, found the backend {backend!r}. {_REMEDY}")


try:
    import keras
except ImportError as error:  # of a backend that is not installed
    raise HarpError(
        f"Keras cannot be imported with the backend {os.environ.get('KERAS_BACKEND', 'tensorflow')!r} ({error}). "
        f"harp_tf runs on the TensorFlow backend. {_REMEDY}"
    ) from error

require_tensorflow(keras.__version__, keras.config.backend())
