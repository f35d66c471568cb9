"""CPU time of standard AutoAttack beside the official code, single thread, taking turns.

Command: python -m benchmarks.attack_cost --model=robust_fmnist.keras --peer=PYTHON [--name=fmnist]
             [--data=idx:/usr/share/datasets/fashion-mnist] [--first=5000] [--samples=1000] [--chunks=5] [--classes=10]
             [--eps=0.1] [--norm=linf] [--stages=apgd-ce,apgd-t,fab-t,square]
PYTHON is the interpreter of an environment with keras, torch and pyautoattack. The images are cut into chunks, each of
which goes through one side and then the other. The first chunk pays for tracing our graphs as well.
Writes benchmarks/results/attack_cost/NAME.json after every chunk.
"""

import json
import os

import numpy as np

from benchmarks import attack_sides
from harp_tf import attacks


def main() -> None:
    parser = attack_sides.parser_of(
        __doc__, "fmnist", "idx:/usr/share/datasets/fashion-mnist", first=5000, samples=1000
    )
    parser.add_argument("--chunks", type=int, default=5)
    arguments = parser.parse_args()
    attack_sides.one_thread()

    result = attack_sides.head("attack_cost")
    examples = attack_sides.test_images(arguments.data, arguments.classes, arguments.first, arguments.samples)
    images, labels, _ = examples
    stages = arguments.stages.split(",")
    ours = attack_sides.Ours(
        arguments.model, attacks.get("+".join(stages), eps=arguments.eps, norm=arguments.norm), *examples
    )
    turns, standing = [], {"ours": [], "official": []}
    counts = {"ours": np.zeros(len(stages), int), "official": np.zeros(len(stages), int)}
    for rows in np.array_split(np.arange(len(images)), arguments.chunks):
        outcome, spent = ours.run(rows)
        other = attack_sides.official(
            arguments.peer,
            arguments.model,
            images[rows],
            labels[rows],
            arguments.eps,
            arguments.norm,
            arguments.stages,
            0,
        )
        turns.append(
            {
                "samples": len(rows),
                "ours": round(spent, 1),
                "ours_by_stage": {stage: round(value, 1) for stage, value in ours.seconds.items()},
                "official": round(sum(other["cpu_seconds"].values()), 1),
                "official_by_stage": {stage: round(value, 1) for stage, value in other["cpu_seconds"].items()},
                "load_average": round(os.getloadavg()[0], 2),
            }
        )
        standing["ours"].append(outcome.standing["model"])
        standing["official"].append(np.array(other["standing"]))
        counts["ours"] += outcome.parts["model"]
        counts["official"] += [round(other["robust_accuracy"][stage] * len(rows)) for stage in stages]
        done = sum(turn["samples"] for turn in turns)
        total = {side: round(sum(turn[side] for turn in turns), 1) for side in ("ours", "official")}
        verdicts = {side: np.concatenate(found) for side, found in standing.items()}
        result |= {
            "samples": done,
            "stages": stages,
            "robust_accuracy": {side: [int(count) / done for count in found] for side, found in counts.items()},
            "final_verdicts_that_differ": int((verdicts["ours"] != verdicts["official"]).sum()),
            "turns": turns,
            "cpu_seconds": total,
            "ratio_to_official": round(total["ours"] / total["official"], 3),
            "ratios_of_the_turns": [round(turn["ours"] / turn["official"], 3) for turn in turns],
            "peer_network": other["network"],
            "peer_versions": other["versions"],
        }
        attack_sides.write("attack_cost", arguments.name, result)
        print(done, total, result["ratio_to_official"], flush=True)
    print(json.dumps({key: result[key] for key in ("robust_accuracy", "cpu_seconds", "ratio_to_official")}, indent=2))


if __name__ == "__main__":
    main()
