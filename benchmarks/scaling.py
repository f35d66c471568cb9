"""The cost model of docs/scaling.md: what it predicts, what small runs measure, and the tables of the document.

Command: python -m benchmarks.scaling [--rounds=5]    measures; writes results/scaling/results.json and the tables
         python -m benchmarks.scaling --tables        only writes the tables of docs/scaling.md anew
Times are processor time of this process, which other programs on the machine disturb less than the clock.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "results" / "scaling"
DOCUMENT = ROOT / "docs" / "scaling.md"

FLOPS_PER_MULTIPLY_ADD = 2
BYTES = 4  # of a float32


# The model ---------------------------------------------------------------------------------------------------------


def passes(loss: str, attack_steps: int = 10, replays: int = 4) -> int:
    """The work of a training step in forward passes of its batch.

    A gradient with respect to the images costs as much as a forward pass, one with respect to images and weights two.

    Args:
        loss: its name.
        attack_steps: of the training attack.
        replays: of the loss "free".
    """
    attack = 2 * attack_steps
    update, look_at_clean = 3, 1
    return {
        "natural": update,
        "pgd": attack + update + look_at_clean,
        "trades": 1 + attack + 2 * update,  # the attack starts from the clean prediction
        "mart": attack + 2 * update,
        "free": replays * update + look_at_clean,
    }[loss]


def validation_passes(attack_steps: int) -> int:
    """The same of a validation step: the attack, and the clean and the adversarial images."""
    return 2 * attack_steps + 2


def step_flops(multiply_adds: int, batch: int, forward_passes: int) -> int:
    """Floating-point operations of a step; `multiply_adds` are those of a forward pass of one image."""
    return FLOPS_PER_MULTIPLY_ADD * multiply_adds * batch * forward_passes


def checkpoint_bytes(network: int, slots: int) -> int:
    """Bytes of a checkpoint, from the numbers in a network's variables and in the optimiser's slots.

    The network is in it twice: as it is, and as it was in the best epoch.
    """
    return BYTES * (2 * network + slots)


def ring_seconds(size: int, devices: int, bandwidth: float) -> float:
    """Seconds of an all-reduce in a ring, of `size` bytes with `bandwidth` bytes a second out of each device."""
    return 2 * (devices - 1) / devices * size / bandwidth


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What is assumed, not measured, of GPUs and their network.

    Attributes:
        devices: number of GPUs.
        peak: floating-point operations a second of each.
        utilisation: part of it that training reaches.
        bandwidth: bytes a second out of each GPU in an all-reduce.
    """

    devices: int
    peak: float
    utilisation: float
    bandwidth: float


# A100 with bfloat16 tensor cores; NVLink within a machine of eight, one 200 Gbit/s link per GPU between machines.
CLUSTERS = {
    1: Cluster(1, 312e12, 0.2, 1.0),
    8: Cluster(8, 312e12, 0.2, 200e9),
    64: Cluster(64, 312e12, 0.2, 25e9),
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A training stage of a run.

    Attributes:
        name: of the stage.
        epochs: number of epochs.
        reduced: bytes of the gradients of one update.
    """

    name: str
    epochs: int
    reduced: int


def stage_cost(stage: Stage, run: dict, cluster: Cluster) -> dict[str, float]:
    """Steps, operations, bytes and hours of a stage; validation is part of it, the all-reduce overlaps with nothing."""
    steps = stage.epochs * (run["train"] // run["batch"])
    training = step_flops(run["multiply_adds"], run["batch"], passes("free", replays=run["replays"]))
    validation = step_flops(run["multiply_adds"], run["validation"], validation_passes(run["attack_steps"]))
    flops = steps * training + stage.epochs * validation
    updates = steps * run["replays"]
    computing = flops / (cluster.devices * cluster.peak * cluster.utilisation)
    reducing = updates * ring_seconds(stage.reduced, cluster.devices, cluster.bandwidth)
    return {
        "steps": steps,
        "updates": updates,
        "flops": flops,
        "reduced_per_step": run["replays"] * stage.reduced,
        "computing_hours": computing / 3600,
        "reducing_hours": reducing / 3600,
        "images_per_second": steps * run["batch"] / (computing + reducing),
    }


# Measurements -----------------------------------------------------------------------------------------------------

LOSSES = {
    "natural": ("natural", 0, 1),
    "pgd, 2 steps": ("pgd", 2, 1),
    "pgd, 7 steps": ("pgd", 7, 1),
    "trades, 3 steps": ("trades", 3, 1),
    "mart, 3 steps": ("mart", 3, 1),
    "free, 4 replays": ("free", 1, 4),
}
SMALL = {"model": "vgg28", "shape": (28, 28, 1), "batch": 64}


def measure(rounds: int) -> dict:
    """Measures the small runs and counts the large one."""
    import keras
    import numpy as np
    import tensorflow as tf

    import harp_tf
    from harp_tf import layers, losses
    from harp_tf.config import RunConfig

    rng = np.random.default_rng(0)
    images = tf.constant(rng.random((SMALL["batch"], *SMALL["shape"]), np.float32))
    data = (images, tf.constant(rng.integers(0, 10, SMALL["batch"]), tf.int32))

    def trainer_of(network, loss, attack_steps, replays):
        chosen = losses.get(loss, beta=6.0, batch_size=SMALL["batch"], replays=replays)
        attack = harp_tf.attacks.PGD(eps=0.1, steps=attack_steps) if attack_steps else None
        trainer = harp_tf.AdversarialModel(network, chosen, attack)
        trainer.compile(keras.optimizers.SGD(1e-4, momentum=0.9))
        trainer.build_optimizer()
        return trainer

    def dense():
        return harp_tf.models.build(SMALL["model"], SMALL["shape"], 10)

    multiply_adds = sum(cost.multiply_adds for cost in layers.layer_costs(dense()).values())
    steps = {}
    for name, settings in LOSSES.items():
        steps[name] = tf.function(trainer_of(dense(), *settings).train_step, autograph=False)
        steps[name](data)  # traces
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            begin = time.process_time()
            for _ in range(max(1, 24 // passes(*LOSSES[name]))):
                step(data)["loss"].numpy()
            seconds[name].append((time.process_time() - begin) / max(1, 24 // passes(*LOSSES[name])))
    times = [
        {"case": name, "passes": passes(*LOSSES[name]), "seconds": statistics.median(values)}
        for name, values in seconds.items()
    ]

    def counted(network) -> dict[str, int]:
        trainer = trainer_of(network, "natural", 0, 1)
        slots = sum(v.numpy().size for v in trainer.optimizer.variables)
        return {"network": sum(v.numpy().size for v in network.variables), "slots": slots} | {
            "reduced": BYTES * sum(v.numpy().size for v in trainer.trainable_variables)
        }

    def observed(network) -> dict[str, int]:
        """Bytes of the gradients that reach the optimiser in a step, and of the checkpoint that is written."""
        trainer = trainer_of(network, "natural", 0, 1)
        sizes = []
        apply = trainer.optimizer.apply
        trainer.optimizer.apply = lambda gradients, variables: (
            sizes.extend(g.numpy().nbytes for g in gradients if g is not None),
            apply(gradients, variables),
        )
        trainer.train_step(data)
        trainer.optimizer.apply = apply
        with tempfile.TemporaryDirectory() as folder:
            store = harp_tf.training.CheckpointStore(folder)
            best = harp_tf.KeepBest()
            callbacks = [best, harp_tf.training.Checkpoint(store, best=best)]
            if trainer.learns_rates:
                callbacks.insert(0, harp_tf.StepwiseRegularization())
            batches = tf.data.Dataset.from_tensors(data)
            trainer.fit(batches, validation_data=batches, verbose=0, callbacks=callbacks)
            found = store.latest()
            written = sum(path.stat().st_size for path in found.iterdir())
        return {"reduced_measured": sum(sizes), "checkpoint_measured": written}

    sizes = []
    for name in ("pretrain", "prune", "finetune"):
        network = dense() if name == "pretrain" else harp_tf.prune(dense(), 0.99, verbose=False)
        if name == "finetune":
            harp_tf.set_stage(network, "finetune")
        sizes.append({"stage": name, **counted(network), **observed(network)})

    config = RunConfig(model="resnet50")
    large = harp_tf.models.build("resnet50", (224, 224, 3), 1000)
    stages = {"pretrain": counted(large)}
    pruned = harp_tf.prune(large, 0.9, verbose=False)
    stages["prune"] = counted(pruned)
    harp_tf.set_stage(pruned, "finetune")
    stages["finetune"] = counted(pruned)
    return {
        "multiply_adds": multiply_adds,
        "times": times,
        "sizes": sizes,
        "imagenet": {
            "multiply_adds": sum(cost.multiply_adds for cost in layers.layer_costs(large).values()),
            "stages": stages,
            "attack_steps": config.attack_steps,
        },
    }


# The document ------------------------------------------------------------------------------------------------------


def imagenet(results: dict) -> dict:
    """The paper's ImageNet run, as flags/imagenet/resnet50_free_90.flags has it."""
    images, validation = 1_281_167, 0.01
    return {
        "train": images - round(validation * images),
        "validation": round(validation * images),
        "batch": 256,
        "replays": 4,
        "multiply_adds": results["imagenet"]["multiply_adds"],
        "attack_steps": results["imagenet"]["attack_steps"],
        "stages": [
            Stage(name, epochs, results["imagenet"]["stages"][name]["reduced"])
            for name, epochs in (("pretrain", 25), ("prune", 5), ("finetune", 25))
        ],
    }


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def tables(results: dict) -> dict[str, str]:
    """The tables of the document by name."""
    times = results["times"]
    # One number is fitted: the processor time of a forward pass.
    unit = statistics.median(row["seconds"] / row["passes"] for row in times)
    run = imagenet(results)
    made = {
        "machine": f"{results['machine']['processor']}, {results['machine']['cores']} cores, TensorFlow "
        f"{results['versions']['tensorflow']}, Keras {results['versions']['keras']}, load {results['load_average']}.",
        "times": _table(
            ["loss", "forward passes", "predicted, ms", "measured, ms", "measured / predicted"],
            [
                [
                    row["case"],
                    str(row["passes"]),
                    f"{1e3 * unit * row['passes']:.0f}",
                    f"{1e3 * row['seconds']:.0f}",
                    f"{row['seconds'] / unit / row['passes']:.2f}",
                ]
                for row in times
            ],
        ),
        "sizes": _table(
            ["stage", "all-reduced per update", "measured", "checkpoint", "measured"],
            [
                [
                    row["stage"],
                    f"{row['reduced']:,}",
                    f"{row['reduced_measured']:,}",
                    f"{checkpoint_bytes(row['network'], row['slots']):,}",
                    f"{row['checkpoint_measured']:,}",
                ]
                for row in results["sizes"]
            ],
        ),
        "stages": _table(
            ["stage", "epochs", "steps", "updates", "operations", "all-reduced per update", "checkpoint"],
            [
                [
                    stage.name,
                    str(stage.epochs),
                    f"{cost['steps']:,.0f}",
                    f"{cost['updates']:,.0f}",
                    f"{cost['flops']:.2e}",
                    f"{stage.reduced / 2**20:.0f} MiB",
                    f"{checkpoint_bytes(counts['network'], counts['slots']) / 2**20:.0f} MiB",
                ]
                for stage in run["stages"]
                for cost, counts in [
                    (stage_cost(stage, run, CLUSTERS[1]), results["imagenet"]["stages"][stage.name]),
                ]
            ],
        ),
    }
    one, machine, many = CLUSTERS.values()
    near, far = (cluster.bandwidth / 1e9 for cluster in (machine, many))
    made["assumed"] = (
        f"Assumed, not measured: GPUs with a peak of {one.peak / 1e12:.0f} · 10¹² operations a second (bfloat16 on an "
        f"A100), of which training\nreaches {100 * one.utilisation:.0f} %; ring all-reduce of float32 gradients, which "
        f"overlaps with nothing, at {near:.0f} GB/s per GPU\nwithin a machine of {machine.devices} and {far:.0f} GB/s "
        f"between machines ({8 * far:.0f} Gbit/s per GPU); input that is never waited for;\nno latency, no failures. "
        "The final evaluation is not included."
    )
    rows = []
    for cluster in CLUSTERS.values():
        costs = [stage_cost(stage, run, cluster) for stage in run["stages"]]
        computing, reducing = (sum(cost[key] for cost in costs) for key in ("computing_hours", "reducing_hours"))
        images = min(cost["images_per_second"] for cost in costs)
        rows.append(
            [
                str(cluster.devices),
                f"{run['batch'] / cluster.devices:.0f}",
                f"{computing:.1f} h",
                f"{reducing:.1f} h",
                f"{computing + reducing:.1f} h",
                f"{images:,.0f}",
            ]
        )
    made["gpus"] = _table(
        ["GPUs", "images each", "computing", "all-reduce", "together", "images a second to be decoded"], rows
    )
    return made


def document(text: str, results: dict) -> str:
    """The text of the document with its tables made anew: what stands between the marks of each."""
    for name, table in tables(results).items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}{table}\n{end}" + rest.split(end, 1)[1]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    path = FOLDER / "results.json"
    if not options.tables:
        from harp_tf.run_dir import surroundings

        head = {
            "command": " ".join(["python -m benchmarks.scaling", *sys.argv[1:]]),
            "load_average": round(os.getloadavg()[0], 2),
            **surroundings(),
        }
        FOLDER.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**head, **measure(options.rounds)}, indent=2) + "\n")
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8"), json.loads(path.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
