"""How the CPU time of each attack grows with its steps and with the number of images, on one thread.

Command: python -m benchmarks.attack_growth --model=robust_fmnist.keras [--data=idx:/usr/share/datasets/fashion-mnist]
             [--samples=25,50,100] [--eps=0.0001] [--rounds=3] [--name=fmnist]
One try of each attack on images that it does not bring down (the radius is tiny, so no step is saved), with its full
number of steps, half as many and a quarter; each the fastest of `rounds` calls, which take turns. Linear growth is a
factor of 2 from one to the next. Writes benchmarks/results/attack_growth/NAME.json, with the largest resident memory of
the process after every round.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks import attack_sides
from harp_tf import attacks, models
from harp_tf.attacks import draws

# Names of attacks and their full number of steps or queries.
FULL = {"pgd": 40, "apgd-ce": 40, "apgd-t": 40, "fab-t": 40, "fmn": 40, "square": 400}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="idx:/usr/share/datasets/fashion-mnist")
    parser.add_argument("--samples", default="25,50,100")
    parser.add_argument("--eps", type=float, default=1e-4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="fmnist")
    arguments = parser.parse_args()
    attack_sides.one_thread()

    sizes = [int(size) for size in arguments.samples.split(",")]
    images, labels, _ = attack_sides.test_images(arguments.data, 10, 0, 2 * max(sizes))
    model = models.load(arguments.model)

    def logits(batch: tf.Tensor) -> tf.Tensor:
        return model(batch, training=False)

    right = np.flatnonzero(logits(tf.constant(images)).numpy().argmax(-1) == labels)[: max(sizes)]
    images, labels = tf.constant(images[right]), tf.constant(labels[right])
    seeds = draws.per_example(0, tf.range(len(right)))

    signature = [tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in (images, labels, seeds)]

    def timed(attack: attacks.Attack) -> Callable[[int], float]:
        def craft(x: tf.Tensor, y: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
            return attack.attempt(logits, x, y, own, 0)

        graph = tf.function(craft, input_signature=signature, autograph=False)
        graph.get_concrete_function()

        def run(size: int) -> float:
            began = time.process_time()
            graph(images[:size], labels[:size], seeds[:size])
            return time.process_time() - began

        return run

    runs = {}
    for name, full in FULL.items():
        for share in (4, 2, 1):
            run = timed(attacks.get(f"{name}{full // share}", eps=arguments.eps))
            sized = {max(sizes)} if share > 1 else set(sizes)
            runs |= {(name, full // share, size): run for size in sorted(sized)}
    seconds: dict = {key: [] for key in runs}
    memory = []
    for _ in range(arguments.rounds):
        for (name, steps, size), run in runs.items():
            seconds[name, steps, size].append(run(size))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    fastest = {key: min(found) for key, found in seconds.items()}
    table = {}
    for name, full in FULL.items():
        by_steps = {str(full // share): round(fastest[name, full // share, max(sizes)], 3) for share in (4, 2, 1)}
        by_size = {str(size): round(fastest[name, full, size], 3) for size in sizes}
        table[name] = {
            f"seconds_by_steps_at_{max(sizes)}_images": by_steps,
            "seconds_by_images_at_full_steps": by_size,
            "factors_by_steps": _factors([*by_steps.values()]),
            "factors_by_images": _factors([*by_size.values()]),
        }
    result = {**attack_sides.head("attack_growth"), "table": table, "peak_memory_mb": memory}
    attack_sides.write("attack_growth", arguments.name, result)
    print(json.dumps(result["table"], indent=2), memory)


def _factors(values: list[float]) -> list[float]:
    return [round(after / before, 2) for before, after in zip(values, values[1:])]


if __name__ == "__main__":
    main()
