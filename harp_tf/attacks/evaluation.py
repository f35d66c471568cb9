"""Accuracy on clean images and under attack, for one model or for several that share the attack's images."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from harp_tf.attacks import checks, figures
from harp_tf.attacks.base import Attack, Logits
from harp_tf.attacks.checks import Finding
from harp_tf.attacks.engine import Engine
from harp_tf.attacks.predictions import Predict, finite_logits, predicted
from harp_tf.attacks.square import Square
from harp_tf.attacks.state import Record, State
from harp_tf.files import arrays_checksum
from harp_tf.inputs import class_indices, require_images
from harp_tf.types import HarpError

SHOWN = 8
"""So many examples of each attack are kept for people to look at."""
_PROBE_QUERIES = 200


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far an evaluation has come.

    Attributes:
        done: examples of finished batches.
        work: what is being done, for people: the attack and its part; empty when a batch is finished.
        robust: accuracy of the attacked model under each attack, over what was attacked so far.
    """

    done: int
    work: str
    robust: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        figures: by predictor, see `figures.of_predictor`.
        examples: by attack: "images", "adversarial", "labels" and "predicted" (what the attacked model says of the
            adversarial images) of the attacked examples that were kept.
        findings: of the checks that concern the attacked model, at any radius.
    """

    figures: dict[str, dict]
    examples: dict[str, dict[str, np.ndarray]]
    findings: list[Finding]


def evaluate(
    logits: Logits,
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
    attacks: Mapping[str, Attack],
    predictors: Mapping[str, Predict],
    num_classes: int,
    *,
    robust_limit: int | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] = lambda progress: None,
    state: State | None = None,
    check: bool = True,
    findings: Sequence[Finding] | None = None,
    keep_all: bool = False,
) -> Evaluation:
    """Measures natural, balanced and robust accuracy.

    The adversarial images are crafted on `logits` and shown to every predictor. An example counts as robust when it is
    classified correctly clean and after every try of the attack.

    Args:
        logits: the model that is attacked, a function in inference mode.
        batches: (images in [0, 1], labels), one pass over the test split in a fixed order.
        attacks: attacks by the name under which their figures are reported, all with one norm.
        predictors: the models whose answers are counted, by name; the first is the attacked one.
        num_classes: number of classes.
        robust_limit: attack only so many examples, the first ones.
        seed: keys the attacks' random numbers, together with the place of the example in the split.
        progress: is told how far things are, after every compiled call and every batch.
        state: where finished batches are kept, and those of an interrupted evaluation found; batches whose images or
            labels have changed since are measured anew.
        check: whether to look for signs that the figures cannot be trusted, see `checks`.
        findings: of the checks that concern the model, if they were made before; None makes them.
        keep_all: keep all adversarial images in memory, not only the first `SHOWN` that fooled the model.

    Returns:
        The evaluation.

    Raises:
        HarpError: there are no images, they are outside [0, 1], labels are not class indices, or an attack is wrong.
    """
    records: list[Record] = []
    attacked = next(iter(predictors))
    done = 0

    def tell(work: str, current: Mapping[str, tuple[int, int]]) -> None:
        progress(Progress(done, work, _robust(records, [*attacks], attacked, current)))

    for number, (image_tensor, label_tensor) in enumerate(batches):
        images = np.asarray(image_tensor)
        require_images(images)
        labels = class_indices(np.asarray(label_tensor), len(images), num_classes)
        if number == 0:
            first = images, labels
            if findings is None:
                findings = checks.of_model(logits, images, labels, _norm(attacks)) if check and attacks else []
            if {finding.check for finding in findings} & {checks.NO_GRADIENT, checks.NAN_GRADIENTS}:
                logits = checks.attackable(logits)
            shape = images.shape[1:]
            engines = {name: Engine(attack, logits, shape, num_classes) for name, attack in attacks.items()}
        room = len(labels) if robust_limit is None else max(min(robust_limit - done, len(labels)), 0)
        checksum = arrays_checksum(images, labels) if state else ""
        record = state.load(number, checksum) if state else None
        if record is None:
            keep = None if keep_all else SHOWN if number == 0 else 0
            record = _record(engines, images, labels, done, room, predictors, seed, keep, tell)
            if state:
                state.save(number, checksum, record)
        records.append(record)
        done += len(labels)
        tell("", {})
    if not records or findings is None:
        raise HarpError("Expected at least one batch of images to evaluate, received none.")
    here = [*findings]
    if check and not any(isinstance(attack, Square) for attack in attacks.values()):
        here += _probe(logits, *first, attacks, records[0], attacked, predictors[attacked], seed, num_classes)
    return Evaluation(
        {
            name: figures.of_predictor(name, records, attacks, here, num_classes, crafted_on=attacked, seed=seed)
            for name in predictors
        },
        {
            name: {key: figures.joined(records, f"{key}/{name}", float) for key in _KEPT}
            for name in attacks
            if records[0]["attacked"]
        },
        [*findings],
    )


_KEPT = ("images", "adversarial", "labels", "predicted")


def _record(
    engines: Mapping[str, Engine],
    images: np.ndarray,
    labels: np.ndarray,
    place: int,
    room: int,
    predictors: Mapping[str, Predict],
    seed: int,
    keep: int | None,
    tell: Callable[[str, Mapping[str, tuple[int, int]]], None],
) -> Record:
    """Attacks the first `room` images of a batch.

    Args:
        engines: the attacks by name.
        images: of the batch.
        labels: of the batch.
        place: of its first image in the split.
        room: how many of its images are attacked.
        predictors: by name; the first is the attacked one.
        seed: of the evaluation.
        keep: of how many examples to keep the adversarial images, those that fell first; None keeps all in order.
        tell: receives what is being done, and what stands of how many, by attack.

    Returns:
        Of attacks A and predictors P: labels, attacked, right/P, off/P of all but the attacked one (how far its logits
        are from those of the attacked one at most, by image); if images are attacked standing/A/P, parts/A/P and,
        where A finds distances, distances/A; and of what is kept images/A, adversarial/A, labels/A and predicted/A.
    """
    attacked = next(iter(predictors))
    answers = {name: finite_logits(predict, images, name) for name, predict in predictors.items()}
    correct = {name: logits.argmax(-1) == labels for name, logits in answers.items()}
    record = {"labels": labels, "attacked": np.array(room)}
    record |= {f"right/{name}": right for name, right in correct.items()}
    others = {name: logits for name, logits in answers.items() if name != attacked}
    record |= {f"off/{name}": np.abs(logits - answers[attacked]).max(-1) for name, logits in others.items()}
    for name, engine in engines.items() if room else ():

        def of_part(part: str, standing: int, name: str = name) -> None:
            tell(f"{name} {part}".strip(), {name: (standing, room)})

        outcome = engine.run(
            images[:room],
            labels[:room],
            np.arange(place, place + room),
            predictors,
            {predictor: right[:room] for predictor, right in correct.items()},
            seed=seed,
            progress=of_part,
        )
        for predictor in predictors:
            record[f"standing/{name}/{predictor}"] = outcome.standing[predictor]
            record[f"parts/{name}/{predictor}"] = outcome.parts[predictor]
        if outcome.distances is not None:
            record[f"distances/{name}"] = outcome.distances
        if keep != 0:
            fallen = correct[attacked][:room] & ~outcome.standing[attacked]
            first_the_fallen = np.concatenate([np.flatnonzero(fallen), np.flatnonzero(~fallen)])
            rows = np.arange(room) if keep is None else first_the_fallen[:keep]
            adversarial = outcome.adversarial[rows]
            kept = (images[rows], adversarial, labels[rows], predictors[attacked](adversarial).argmax(-1))
            record |= {f"{key}/{name}": value for key, value in zip(_KEPT, kept)}
    return record


def _robust(
    records: Sequence[Record], attacks: Sequence[str], attacked: str, current: Mapping[str, tuple[int, int]]
) -> dict[str, float]:
    """Accuracies under attack in the finished batches, and what stands of how many in the current one."""
    total = sum(int(record["attacked"]) for record in records)
    found = {}
    for name in attacks:
        standing, room = current.get(name, (0, 0))
        if total + room:
            before = int(figures.joined(records, f"standing/{name}/{attacked}", bool).sum())
            found[name] = (before + standing) / (total + room)
    return found


def _norm(attacks: Mapping[str, Attack]) -> str:
    return next(iter(attacks.values())).norm


def _probe(
    logits: Logits,
    images: np.ndarray,
    labels: np.ndarray,
    attacks: Mapping[str, Attack],
    record: Record,
    attacked: str,
    predict: Predict,
    seed: int,
    num_classes: int,
) -> list[Finding]:
    """A short Square on what attacks by gradients alone left standing in the first batch, if no attack is a Square."""
    attacks = {name: attack for name, attack in attacks.items() if not figures.sees_no_gradient(attack)}
    if not attacks or not record["attacked"]:
        return []
    standing = np.all([record[f"standing/{name}/{attacked}"] for name in attacks], axis=0)
    rows = np.flatnonzero(standing)[: checks.SAMPLES]
    if not len(rows):
        return []
    eps = max(attack.eps for attack in attacks.values())
    engine = Engine(Square(eps=eps, norm=_norm(attacks), queries=_PROBE_QUERIES), logits, images.shape[1:], num_classes)
    right = predicted(predict, images[rows], attacked) == labels[rows]
    outcome = engine.run(images[rows], labels[rows], rows, {attacked: predict}, {attacked: right}, seed=seed)
    left = int(outcome.standing[attacked].sum())
    return checks.black_box_beats_white_box(int(right.sum()), left, len(rows), checks.MUCH)
