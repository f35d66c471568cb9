"""PGD of foolbox and of ART on a Keras model, for benchmarks.attack_throughput.

It runs in an environment of its own, with tensorflow, foolbox and adversarial-robustness-toolbox and without harp_tf:
    python benchmarks/attack_throughput_peer.py MODEL.keras IMAGES.npz EPS STEPS OUT.json
"""

import importlib.metadata
import json
import sys
import time
from pathlib import Path

import foolbox
import keras
import numpy as np
import tensorflow as tf
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import TensorFlowV2Classifier


def main() -> None:
    model_file, data_file, eps, steps, out = sys.argv[1:]
    eps, steps = float(eps), int(steps)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = keras.models.load_model(model_file, compile=False)
    with np.load(data_file, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"].astype(np.int64)

    bounded = foolbox.TensorFlowModel(model, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(rel_stepsize=0.1, steps=steps)

    def of_foolbox(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return attack(bounded, tf.constant(x), tf.constant(y), epsilons=eps)[1].numpy()

    classifier = TensorFlowV2Classifier(
        model=model,
        nb_classes=model.output_shape[-1],
        input_shape=images.shape[1:],
        loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0, 1),
    )

    def of_art(x: np.ndarray, y: np.ndarray, **settings) -> np.ndarray:
        settings = {"eps": eps, "eps_step": eps / 10, "max_iter": steps, "num_random_init": 1, **settings}
        return ProjectedGradientDescent(classifier, norm=np.inf, verbose=False, **settings).generate(x, y)

    runs = {
        "foolbox": of_foolbox,
        "art": lambda x, y: of_art(x, y, batch_size=len(x)),
        "art_default_batch": of_art,
    }
    result: dict = {"cpu_seconds": {}, "standing": {}}
    for name, run in runs.items():
        run(images, labels)  # whatever it compiles or loads
        began = time.process_time()
        found = run(images, labels)
        result["cpu_seconds"][name] = time.process_time() - began
        assert np.abs(found - images).max() <= eps + 1e-6
        result["standing"][name] = float((model(found, training=False).numpy().argmax(-1) == labels).mean())
    packages = ("tensorflow", "keras", "foolbox", "adversarial-robustness-toolbox")
    result["versions"] = {package: importlib.metadata.version(package) for package in packages}
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
