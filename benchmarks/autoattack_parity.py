"""Standard AutoAttack beside the official implementation's verdicts on the same network and images.

Command: python -m benchmarks.autoattack_parity --reference=autoattack_reference.npz --model=robust_fmnist.keras
             [--data=/usr/share/datasets/fashion-mnist] [--samples=1000] [--seed=0] [--name=fmnist]
The reference holds `clean` and `robust_after_*`, bool [1000], of Fashion-MNIST's test images 5000 to 5999 at eps 0.1.
Random numbers differ, so verdicts of single images may. Writes benchmarks/results/autoattack_parity/NAME.json.
"""

import argparse
import json
import resource
import time

import numpy as np
import tensorflow as tf

from benchmarks import attack_sides
from harp_tf import attacks, data, models

EPS, FIRST = 0.1, 5000
STAGES = ("apgd_ce", "apgd_t", "fab_t", "square")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="fmnist")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    head = attack_sides.head("autoattack_parity")
    with np.load(arguments.reference, allow_pickle=False) as file:
        reference = {key: file[key] for key in ("clean", "logits", *(f"robust_after_{stage}" for stage in STAGES))}
    images, labels = data.load(f"idx:{arguments.data}", seed=0).test.arrays()
    chosen = slice(FIRST, FIRST + arguments.samples)
    images, labels = images[chosen], labels[chosen]
    model = models.load(arguments.model)
    graph = tf.function(lambda x: model(x, training=False), reduce_retracing=True)

    def predict(candidates: np.ndarray) -> np.ndarray:
        return graph(tf.constant(candidates)).numpy()

    difference = float(np.abs(predict(images) - reference["logits"][: len(images)]).max())
    engine = attacks.Engine(attacks.AutoAttack(eps=EPS), lambda x: model(x, training=False), images.shape[1:], 10)
    standing, seconds, began = [], dict.fromkeys(STAGES, 0.0), time.process_time()
    counts = np.zeros(len(STAGES), int)
    last = began

    def tell(part: str, left: int) -> None:
        nonlocal last
        now = time.process_time()
        seconds[part] += now - last
        last = now
        print(f"{part}: {left} stand, {now - began:.0f} CPU seconds", flush=True)

    clean = predict(images).argmax(-1) == labels
    for start in range(0, len(images), arguments.batch):
        rows = np.arange(start, min(start + arguments.batch, len(images)))
        outcome = engine.run(
            images[rows],
            labels[rows],
            FIRST + rows,
            {"model": predict},
            {"model": clean[rows]},
            seed=arguments.seed,
            progress=tell,
        )
        standing.append(outcome.standing["model"])
        counts += outcome.parts["model"]
    found = np.concatenate(standing)
    official = {stage: reference[f"robust_after_{stage}"][: len(images)] for stage in STAGES}
    result = {
        **head,
        "samples": len(images),
        "eps": EPS,
        "seed": arguments.seed,
        "threads": arguments.threads,
        "largest_logit_difference": difference,
        "clean": {"ours": float(clean.mean()), "official": float(reference["clean"][: len(images)].mean())},
        "robust_accuracy": {
            stage: {"ours": count / len(images), "official": float(official[stage].mean())}
            for stage, count in zip(STAGES, counts.tolist())
        },
        "final_verdicts_that_differ": int((found != official["square"]).sum()),
        "cpu_seconds": {stage: round(value, 1) for stage, value in seconds.items()},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    attack_sides.write("autoattack_parity", arguments.name, result)
    print(
        json.dumps({key: result[key] for key in ("clean", "robust_accuracy", "final_verdicts_that_differ")}, indent=2)
    )


if __name__ == "__main__":
    main()
