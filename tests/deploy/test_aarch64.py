"""Every exported form on emulated 64-bit ARM: `make test-arm` sets HARP_AARCH64 to a folder for the emulator."""

import os
import subprocess

import numpy as np
import pytest

from harp_tf.deploy import FORMS, write_kit
from tests.conftest import ROOT
from tests.deploy.conftest import BUILDERS

FOLDER = os.environ.get("HARP_AARCH64")


@pytest.mark.skipif(not FOLDER, reason="needs an emulator: make test-arm")
@pytest.mark.parametrize("sparsity", [0.9, 0.99])
@pytest.mark.parametrize("structure", list(BUILDERS))
def test_every_form_gives_the_logits_recorded_here(case, structure, sparsity, tmp_path):
    model = case(structure, sparsity).model
    images = np.random.default_rng(0).random((16, *model.input_shape[1:]), np.float32)
    labels = np.zeros(16, np.int64)
    names = [f"class {i}" for i in range(10)]
    write_kit(model, tmp_path / "kit", names, {"noise": (images, labels)}, images)
    command = [ROOT / "tools" / "aarch64.sh", FOLDER, tmp_path / "kit" / "check.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as recorded") == len(FORMS)
