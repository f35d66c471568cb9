"""All the forms in which one model can be shipped, exported and measured side by side."""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from harp_tf.deploy.convert import to_tflite
from harp_tf.deploy.export import ExportReport, calibration_images, write_stored
from harp_tf.deploy.inspect import memory_bytes
from harp_tf.deploy.runtime import TFLiteClassifier
from harp_tf.deploy.verify import compare_logits, keras_logits
from harp_tf.inputs import class_indices, require_images
from harp_tf.types import HarpError

_CHECKED = 64  # images on which a file is checked with every runtime before it is written


@dataclasses.dataclass(frozen=True)
class Form:
    """How a file stores its kernels.

    Attributes:
        quantize: None, "float16", "int8_weights" or "int8", as for `export_tflite`.
        sparse: whether zeros are left out.
    """

    quantize: str | None
    sparse: bool


FORMS: Mapping[str, Form] = {
    "float32": Form(None, False),
    "float32_sparse": Form(None, True),
    "float16_sparse": Form("float16", True),
    "int8_weights_sparse": Form("int8_weights", True),
    "int8": Form("int8", False),
    "int8_sparse": Form("int8", True),
}
"""The forms that can be worth shipping, by name. "float32" is the dense twin of all others."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One file.

    Attributes:
        name: name of its form.
        report: sizes, counts and agreement with the Keras model.
        memory_bytes: the file in memory together with the kernels that are unpacked from it.
        accuracy: fraction of right answers on each set of images and in each trial, by name.
        logit_difference: root mean square of the differences to the Keras logits on the first set, over their standard
            deviation.
    """

    name: str
    report: ExportReport
    memory_bytes: int
    accuracy: dict[str, float]
    logit_difference: float


@dataclasses.dataclass(frozen=True)
class Trial:
    """A measurement that needs more of a file than its answers to given images, as an attack on the file itself.

    Attributes:
        about: what is measured, on how much, for a reader of the table.
        accuracy: function (images float32 `[n, ...]` -> logits `[n, classes]`) -> fraction of right answers.
    """

    about: str
    accuracy: Callable[[Callable[[np.ndarray], np.ndarray]], float]


def require_forms(names: Sequence[str]) -> None:
    """Raises a HarpError unless these are names of `FORMS`, and at least one."""
    if not names or not set(names) <= set(FORMS):
        raise HarpError(
            f"Choose some of the forms {', '.join(FORMS)}; received {', '.join(map(repr, names)) or 'none'}."
        )


def export_variants(
    model: keras.Model,
    folder: Path,
    image_sets: Mapping[str, tuple[np.ndarray, np.ndarray]],
    calibration: np.ndarray | tf.data.Dataset,
    *,
    names: Sequence[str] = tuple(FORMS),
    trials: Mapping[str, Trial] = types.MappingProxyType({}),
    class_names: Sequence[str] = (),
    num_threads: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Variant]:
    """Exports a model in several forms and measures each file.

    Args:
        model: a plain (stripped, possibly compacted) Keras classifier.
        folder: existing folder; the files are called <form>.tflite.
        image_sets: name -> (images float32 `[n, ...]` in [0, 1], labels int `[n]`), as natural and adversarial test
            images. On the whole first set the logits of each file are compared with the Keras model's.
        calibration: training images for the forms that compute in int8.
        names: the forms, from `FORMS`.
        trials: name -> what else to measure of each file.
        class_names: one per class, for files that describe themselves as TFLite metadata; default: they do not.
        num_threads: threads of the interpreter that measures.
        progress: receives a line of text per file.

    Returns:
        The variants, in the order of `names`.

    Raises:
        HarpError: if a form is unknown, images are outside [0, 1], labels are not class indices, or a file does not
            pass its checks.
    """
    require_forms(names)
    if not image_sets:
        raise HarpError("Forms are measured on at least one set of images, received none.")
    classes = model.outputs[0].shape[-1]
    for images, _ in image_sets.values():
        require_images(np.asarray(images))
    image_sets = {
        which: (images, class_indices(np.asarray(labels), len(images), classes))
        for which, (images, labels) in image_sets.items()
    }
    first = next(iter(image_sets))
    all_images = image_sets[first][0]
    wanted = keras_logits(model, all_images)
    variants: list[Variant] = []
    converted: dict[bool, bytes] = {}  # most forms are made of one and the same dense file
    for name in names:
        form, path = FORMS[name], Path(folder) / f"{name}.tflite"
        computes_in_int8 = form.quantize == "int8"
        if computes_in_int8 not in converted:
            converted[computes_in_int8] = to_tflite(
                model, calibration_images(calibration) if computes_in_int8 else None
            )
        report = write_stored(
            converted[computes_in_int8], model, path, form.sparse, form.quantize, all_images[:_CHECKED], class_names
        )
        classifier = TFLiteClassifier(path, num_threads=num_threads)
        accuracy = {}
        for which, (images, labels) in image_sets.items():
            logits = classifier.logits(images)
            accuracy[which] = float(np.mean(logits.argmax(-1) == labels))
            if which == first:
                difference = _compared(logits, wanted, form.quantize, path)
        accuracy |= {which: trial.accuracy(classifier.logits) for which, trial in trials.items()}
        variants.append(Variant(name, report, memory_bytes(path), accuracy, difference))
        found = ", ".join(f"{which} {100 * value:.1f} %" for which, value in accuracy.items())
        progress(f"{path.name}: {report.file_bytes:,} bytes, {found}")
    return variants


def _compared(logits: np.ndarray, wanted: np.ndarray, quantize: str | None, path: Path) -> float:
    """How far logits are from those wanted, over their spread; removes the file if that is more than rounding."""
    try:
        return compare_logits(logits, wanted, quantize)[1]
    except HarpError as error:
        path.unlink()
        raise HarpError(f"{path.name} was removed: {error}") from error
