"""Measures models and files: accuracy on the test split, clean and under attack at one radius or several, and size."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from harp_tf import attacks, data, deploy, files, layers, report
from harp_tf.attacks.precision import half_precision_safe
from harp_tf.config import RunConfig, parse_radius
from harp_tf.run_dir import cores
from harp_tf.training.precision import computes_in_float16
from harp_tf.types import HarpError

_BATCH = 256

Figures = dict[str, dict]
"""Figures by the name of a model or file, see `attacks.merge`."""


class Measurement:
    """Measures models on one test split with the attacks of one run.

    Args:
        config: the settings; norm, eps, attacks, eps_list, eval_steps, eval_step_size, robust_limit and seed count.
        splits: the data.
        earlier: figures that the new ones join.
        threat: norm and radius whose figures are the headline; default: those of `config`.
        say: receives lines of text for the user.
        state: folder for what must outlive an interruption; None keeps nothing.
        pictures: .png file to draw adversarial examples into; None draws none.
        save: folder for all adversarial images, as .npz files; None keeps none.
        pulse: called again and again while it works; what it raises ends it.
    """

    def __init__(
        self,
        config: RunConfig,
        splits: data.DataSplits,
        *,
        earlier: Figures | None = None,
        threat: tuple[str, float] | None = None,
        say: Callable[[str], None] = print,
        state: Path | None = None,
        pictures: Path | None = None,
        save: Path | None = None,
        pulse: Callable[[], None] = lambda: None,
    ):
        self.config, self.data, self.say, self._pulse = config, splits, say, pulse
        self._earlier = earlier or {}
        self._threat = (config.norm, config.eps) if threat is None else threat
        self._state, self._pictures, self._save = state, pictures, save
        self._states: list[attacks.State] = []

    def of_keras(self, name: str, model: keras.Model, file: Path, tflite: tuple[str, Path] | None = None) -> Figures:
        """Measures a plain Keras model, and the TFLite file made of it on the images crafted for the model.

        Args:
            name: what to call the model.
            model: the model.
            file: the .keras file it came from.
            tflite: what to call the TFLite file, and its path.

        Returns:
            Their figures.
        """
        predict = predictor_of(model)
        counts = layers.kernel_nonzeros(model).values()
        predictors = {name: predict}
        sizes = {name: _sizes(file, sum(n for n, _ in counts), sum(k for _, k in counts))}
        if tflite is not None:
            key, path = tflite
            predictors[key], sizes[key] = _open_tflite(path)
        sources = [file] if tflite is None else [file, tflite[1]]
        return self._measure(logits_of(model), predictors, sizes, sources, lambda eps: final_attacks(self.config, eps))

    def of_tflite(self, name: str, file: Path, twin: tuple[str, keras.Model, Path] | None) -> Figures:
        """Measures a TFLite file: on its own with attacks that see no gradient, and as crafted on its Keras twin.

        Args:
            name: what to call the file.
            file: the .tflite file.
            twin: name, model and file of the Keras model that it was made of; None if there is none.

        Returns:
            The figures of the file.

        Raises:
            HarpError: no attack is left that can be run without a twin.
        """
        predict, sizes = _open_tflite(file)
        chosen = final_attacks(self.config, self.config.eps)
        direct = attacks.black_box_parts(chosen)
        if twin is None and not direct:
            raise HarpError(
                f"A .tflite file has no gradients, so {', '.join(chosen)} cannot attack it. Add square to --attacks, "
                f"or put the Keras model that the file was made of beside it, as {file.with_suffix('.keras')}."
            )
        if twin is not None:
            key, model, path = twin
            self.say(f"Gradient attacks are crafted on {path} and shown to {file}; square attacks the file itself.")
            shown = {key: predictor_of(model), name: predict}
            self._earlier |= self._measure(
                logits_of(model),
                shown,
                {name: sizes},
                [path, file],
                lambda eps: {n: a for n, a in final_attacks(self.config, eps).items() if n not in direct},
            )
        elif set(chosen) - set(direct):
            self.say(f"{file} has no gradients; of {', '.join(chosen)} only {', '.join(direct)} can attack it.")
        if direct:
            self._earlier |= self._measure(
                logits_without_gradient(predict, self.data.num_classes),
                {name: predict},
                {name: sizes},
                [file],
                lambda eps: attacks.black_box_parts(final_attacks(self.config, eps)),
                black_box=True,
            )
        return {name: self._earlier[name]}

    def finish(self) -> None:
        """Removes what was kept against interruptions: the figures are where they belong."""
        for state in self._states:
            state.clear()
        if self._state is not None:
            with contextlib.suppress(OSError):  # of another evaluation that was interrupted
                self._state.rmdir()

    def _measure(
        self,
        logits: attacks.Logits,
        predictors: Mapping[str, attacks.Predict],
        sizes: Mapping[str, dict],
        sources: Sequence[Path],
        attacks_at: Callable[[float], dict[str, attacks.Attack]],
        black_box: bool = False,
    ) -> Figures:
        """Figures of those predictors whose sizes are given; the first predictor is `logits`."""
        c = self.config
        found = {name: self._known(name, sizes[name]["sha256"]) for name in sizes}
        findings = None
        if black_box:
            images = next(iter(self.data.test.batches(_BATCH)))[0].numpy()
            findings = attacks.checks.without_gradient(logits, images)
        model = next(iter(predictors))
        chosen_radii = radii(c)
        for place, eps in enumerate(chosen_radii):
            chosen = attacks_at(eps)
            if place:  # what looks for the nearest images has given a whole curve of the model that it attacks
                known = [name for name in chosen if all(_on_curve(figures, name, eps) for figures in found.values())]
                chosen = {name: attack for name, attack in chosen.items() if name not in known}
            if not chosen:
                continue
            title = model if len(chosen_radii) == 1 else f"{model}, eps {eps:.3g}"
            shown = report.Progress(title, self.data.test.num_examples, self.say)
            evaluation = attacks.evaluate(
                logits,
                self.data.test.batches(_BATCH),
                chosen,
                predictors,
                self.data.num_classes,
                robust_limit=c.robust_limit,
                seed=c.seed,
                progress=self._shower(shown),
                state=self._open_state(title, chosen, predictors, sources),
                findings=findings,
                keep_all=self._save is not None,
            )
            findings = evaluation.findings
            self._show_examples(model, eps, evaluation.examples, place == 0)
            for name in found:
                figures = {**evaluation.figures[name], **sizes[name]}
                found[name] = attacks.merge(found[name], figures, *self._threat)
        return found

    def _known(self, name: str, checksum: str) -> dict:
        """The figures that new ones join: those of the same file, as far as they say."""
        earlier = self._earlier.get(name, {})
        if earlier.get("sha256", checksum) == checksum:
            return earlier
        self.say(f"{name}: the file is another one than was measured earlier, whose figures give way to the new ones.")
        return {}

    def _shower(self, shown: report.Progress) -> Callable[[attacks.Progress], None]:
        def show(progress: attacks.Progress) -> None:
            self._pulse()
            shown.show(progress.done, progress.work, progress.robust)

        return show

    def _open_state(
        self, title: str, chosen: Mapping[str, attacks.Attack], predictors: Mapping, sources: Sequence[Path]
    ) -> attacks.State | None:
        if self._state is None:
            return None
        c = self.config
        identity = {
            "records": ["off", "checksum"],  # what they have that earlier ones had not
            "models": {str(name): files.checksum(path) for name, path in zip(predictors, sources)},
            "attacks": {name: attack.as_dict() for name, attack in chosen.items()},
            "data": [c.dataset, c.test_limit, self.data.test.num_examples],
            "robust_limit": c.robust_limit,
            "seed": c.seed,
            "keep_all": self._save is not None,
        }
        digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:12]
        state = attacks.State(self._state / digest, identity, self.say)
        self._states.append(state)
        if state.finished:
            self.say(f"{title}: goes on after {state.finished} batches that an interrupted evaluation has finished.")
        return state

    def _show_examples(self, model: str, eps: float, examples: Mapping[str, dict[str, np.ndarray]], draw: bool) -> None:
        for number, (attack, kept) in enumerate(examples.items()):
            if self._save is not None:
                self._save.mkdir(parents=True, exist_ok=True)
                path = self._save / f"{model}_{attack}_{self.config.norm}_{eps:.6g}.npz"
                files.write_npz(path, kept)
                self.say(f"{path}: {len(kept['labels'])} adversarial examples")
            if self._pictures is not None and draw and number == 0:
                self._pictures.parent.mkdir(exist_ok=True)
                report.write_examples(
                    self._pictures, **kept, class_names=self.data.class_names, title=f"{attack} on {model}"
                )


def _on_curve(figures: dict, attack: str, eps: float) -> bool:
    """Whether the robust accuracy at a radius is known from the curve of an attack."""
    newest = figures.get("attacks", {}).get(attack, [])[-1:]  # older ones may be of another norm, or of fewer images
    return any(np.isclose(eps, radius) for entry in newest for radius in entry.get("curve", {"eps": []})["eps"])


def check_radii(config: RunConfig) -> None:
    """Refuses the first evaluation of a model at radii of which none is the one that tables and rankings are about.

    Raises:
        HarpError: if eps_list does not hold eps.
    """
    if config.eps not in radii(config):
        raise HarpError(
            f"eps_list must hold eps = {config.eps:g}, the radius whose robust accuracy is reported, beside the others "
            f"of a security curve; received {', '.join(config.eps_list)}. Add it, or change eps."
        )


def radii(config: RunConfig) -> list[float]:
    """The radii of an evaluation: those of eps_list, the run's own first if it is among them; or only that."""
    found = [parse_radius(text) for text in config.eps_list] or [config.eps]
    return sorted(dict.fromkeys(found), key=lambda eps: eps != config.eps)


def final_attacks(config: RunConfig, eps: float) -> dict[str, attacks.Attack]:
    """The attacks of an evaluation at a radius, by name."""
    step_size = config.eval_step_size
    if step_size is not None and config.eps:
        step_size *= eps / config.eps
    return attacks.get_all(config.evaluated_attacks, eps=eps, norm=config.norm, step_size=step_size)


def logits_of(model: keras.Model) -> attacks.Logits:
    """A model as attacks see it, in inference mode; in float16 the gradients of what it is confident of would be 0."""

    def logits(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=False)

    return half_precision_safe(logits) if computes_in_float16(model) else logits


def logits_without_gradient(predict: attacks.Predict, num_classes: int) -> attacks.Logits:
    """A classifier of which only the answers are known, as attacks see it."""

    def logits(images: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(predict, [images], tf.float32), [None, num_classes])

    return logits


def predictor_of(model: keras.Model) -> attacks.Predict:
    """The answers of a model, images -> logits as arrays."""
    graph = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    return lambda images: graph(tf.constant(images)).numpy()


def _open_tflite(path: Path) -> tuple[attacks.Predict, dict]:
    kernels = deploy.kernel_nonzeros(path)
    sizes = _sizes(path, sum(k.weights for k in kernels), sum(k.nonzero for k in kernels))
    return deploy.TFLiteClassifier(path, num_threads=cores()).logits, sizes


def _sizes(file: Path, parameters: int, nonzero: int) -> dict:
    file_bytes, gzip_bytes = files.sizes(file.read_bytes())
    return {
        "sha256": files.checksum(file),
        "sparsity": 1.0 - nonzero / parameters if parameters else 0.0,
        "nonzero": nonzero,
        "parameters": parameters,
        "file_bytes": file_bytes,
        "gzip_bytes": gzip_bytes,
    }
