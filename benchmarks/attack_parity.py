"""Standard AutoAttack beside the official code, each with several seeds, so that a difference can be told from chance.

Command: python -m benchmarks.attack_parity --model=MODEL.keras --peer=PYTHON [--data=digits] [--classes=10]
             [--first=0] [--samples=300] [--eps=0.1] [--norm=linf] [--stages=apgd-ce,apgd-t,fab-t,square] [--seeds=3]
             [--name=digits]
PYTHON is the interpreter of an environment with keras, torch and pyautoattack. The first test images of the classes 0
to classes - 1 are attacked. With fewer than four classes the official APGD-T raises an IndexError: the peer runs its
code with the margin in place of its loss, as we do. Writes benchmarks/results/attack_parity/NAME.json after every seed.
"""

import json
import statistics

import numpy as np

from benchmarks import attack_sides
from harp_tf import attacks


def summary(counts: list[list[int]]) -> dict:
    """The mean of each stage over the seeds and its standard error (None of one seed), in images."""
    columns = list(zip(*counts))
    spread = [statistics.stdev(column) / len(column) ** 0.5 if len(column) > 1 else None for column in columns]
    return {"mean": [statistics.mean(column) for column in columns], "standard_error": spread}


def main() -> None:
    parser = attack_sides.parser_of(__doc__, "digits", "digits", first=0, samples=300)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    attack_sides.one_thread()

    result = attack_sides.head("attack_parity")
    examples = attack_sides.test_images(arguments.data, arguments.classes, arguments.first, arguments.samples)
    images, labels, _ = examples
    stages = arguments.stages.split(",")
    attack = attacks.get("+".join(stages), eps=arguments.eps, norm=arguments.norm)
    if len(stages) == 1:
        attack = attacks.Cascade(eps=arguments.eps, norm=arguments.norm, parts=((stages[0], attack),))
    ours = attack_sides.Ours(arguments.model, attack, *examples)
    counts: dict[str, list[list[int]]] = {"ours": [], "official": []}
    verdicts: dict[str, list[np.ndarray]] = {"ours": [], "official": []}
    seconds: dict[str, list[float]] = {"ours": [], "official": []}
    for seed in range(arguments.seeds):
        outcome, spent = ours.run(seed=seed)
        counts["ours"].append(outcome.parts["model"].tolist())
        verdicts["ours"].append(outcome.standing["model"])
        other = attack_sides.official(
            arguments.peer, arguments.model, images, labels, arguments.eps, arguments.norm, arguments.stages, seed
        )
        counts["official"].append([round(other["robust_accuracy"][stage] * len(images)) for stage in stages])
        verdicts["official"].append(np.array(other["standing"]))
        seconds["ours"].append(round(spent, 1))
        seconds["official"].append(round(sum(other["cpu_seconds"].values()), 1))
        result |= {
            "seeds": seed + 1,
            "samples": len(images),
            "classes": int(ours.logits(images[:1]).shape[-1]),
            "clean": {"ours": int(ours.correct.sum()), "official": round(other["clean"] * len(images))},
            "stages": stages,
            "peer_runs": other["runs"],
            "peer_network": other["network"],
            "standing": counts,
            "over_seeds": {side: summary(of_seeds) for side, of_seeds in counts.items()},
            "final_verdicts_that_differ": {
                "same_seed": [int((a != b).sum()) for a, b in zip(verdicts["ours"], verdicts["official"])],
                "from_own_first_seed": {
                    side: [int((v != of[0]).sum()) for v in of[1:]] for side, of in verdicts.items()
                },
            },
            "standing_after_all_seeds": {side: int(np.all(of, axis=0).sum()) for side, of in verdicts.items()},
            "cpu_seconds": seconds,
            "peer_versions": other["versions"],
        }
        attack_sides.write("attack_parity", arguments.name, result)
        print(seed, {side: of_seeds[-1] for side, of_seeds in counts.items()}, seconds, flush=True)
    print(json.dumps(result["over_seeds"], indent=2))


if __name__ == "__main__":
    main()
