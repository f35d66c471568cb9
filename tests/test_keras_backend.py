"""Keras 3 on TensorFlow, or one clear error."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from harp_tf.keras_backend import require_tensorflow
from harp_tf.types import HarpError

ROOT = Path(__file__).parents[1]


def test_importing_harp_tf_on_another_backend():
    process = subprocess.run(
        [sys.executable, "-c", "import harp_tf"],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("harp_tf.types.HarpError: ") and "the backend 'jax'" in last  # installed or not
    assert "Set KERAS_BACKEND=tensorflow before Python starts" in last


def test_versions_and_backends():
    require_tensorflow(keras.__version__, "tensorflow")
    with pytest.raises(HarpError, match=r"needs Keras 3, found Keras 2.15.0. Install it: pip install 'keras>=3"):
        require_tensorflow("2.15.0", "tensorflow")
    for backend in ("jax", "torch"):
        with pytest.raises(HarpError, match=f"found the backend '{backend}'. Set KERAS_BACKEND=tensorflow before"):
            require_tensorflow("3.15.1", backend)
