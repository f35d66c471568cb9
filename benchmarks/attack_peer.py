"""The official AutoAttack code (its package pyautoattack) on a Keras model, for benchmarks.attack_cost.

It runs in an environment of its own, with keras, torch and pyautoattack and neither TensorFlow nor harp_tf:
    KERAS_BACKEND=torch python benchmarks/attack_peer.py MODEL.keras IMAGES.npz EPS NORM STAGES SEED OUT.json
IMAGES.npz holds `images` float32 [n, height, width, channels] and `labels` [n]; STAGES is a list, apgd-ce,square.
OUT.json gets `clean` and `robust_accuracy` (after each stage), fractions; `cpu_seconds` by stage; `standing`, a list of
n; `runs`, what was run as apgd-t; `network`, in what form; and `versions`.
"""

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np
import torch
from attack_peer_net import native
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack_targeted


def margin_targeted(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """In place of the targeted DLR loss, which needs the fourth largest logit."""
    rows = torch.arange(len(logits))
    return logits[rows, self.y_target] - logits[rows, labels]


def main() -> None:
    model_file, data_file, eps, norm, stages, seed, out = sys.argv[1:]
    torch.set_num_threads(1)
    with np.load(data_file, allow_pickle=False) as file:
        images = torch.tensor(file["images"]).permute(0, 3, 1, 2).contiguous()
        labels = torch.tensor(file["labels"].astype(np.int64))
    model = native(keras.models.load_model(model_file, compile=False), images)
    with torch.no_grad():
        logits = model(images)
        standing = logits.argmax(1) == labels
    classes = logits.shape[1]
    if classes < 4:
        APGDAttack_targeted.dlr_loss_targeted = margin_targeted
    result: dict = {
        "clean": float(standing.float().mean()),
        "robust_accuracy": {},
        "cpu_seconds": {},
        "network": type(model).__name__,
        "runs": "the official APGD-T" if classes >= 4 else "the official APGD-T with the margin as its loss",
    }
    for stage in stages.split(","):
        adversary = AutoAttack(
            model,
            norm={"linf": "Linf", "l2": "L2"}[norm],
            eps=float(eps),
            seed=int(seed),
            version="custom",
            attacks=[stage],
        )
        # As in the standard version, which has fewer targets where there are fewer classes.
        adversary.apgd.n_restarts = 1
        adversary.fab.n_restarts = 1
        adversary.fab.n_target_classes = adversary.apgd_targeted.n_target_classes = min(9, classes - 1)
        began = time.process_time()
        if standing.any():
            adversarial = adversary.run_standard_evaluation(images[standing], labels[standing], batch_size=500)
            if isinstance(adversarial, tuple):
                adversarial = adversarial[0]
            with torch.no_grad():
                left = model(adversarial).argmax(1) == labels[standing]
            standing[standing.clone()] = left
        result["cpu_seconds"][stage] = time.process_time() - began
        result["robust_accuracy"][stage] = float(standing.float().mean())
    result["standing"] = standing.tolist()
    result["versions"] = {"torch": torch.__version__, "keras": keras.__version__}
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
