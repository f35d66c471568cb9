"""The phone kit: one folder with everything an app needs to run a classifier, and to see that it runs it right."""

import dataclasses
import shutil
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from harp_tf.deploy import kit_check
from harp_tf.deploy.kernels import check_plain
from harp_tf.deploy.metadata import LABELS
from harp_tf.deploy.runtime import TFLiteClassifier
from harp_tf.deploy.variants import FORMS, Trial, Variant, export_variants, require_forms
from harp_tf.files import temporary_name, write_json
from harp_tf.types import HarpError, require_class_names

_GOLDEN_IMAGES = 8
# How far logits may be from those recorded here: rounding differs between processors, and int8 may flip a step.
_TOLERANCE = {None: 1e-3, "float16": 1e-3, "int8_weights": 1e-3, "int8": 0.1}


def check_kit(model: keras.Model, folder: Path, class_names: Sequence[str], forms: Sequence[str]) -> None:
    """Refuses what `write_kit` cannot make, before anything of it is made.

    Args:
        model: the model of the kit.
        folder: where it is to be.
        class_names: one name per class.
        forms: names from `FORMS`.

    Raises:
        HarpError: see `write_kit`.
    """
    check_plain(model)
    require_forms(forms)
    require_class_names(class_names)
    is_kit = all((folder / name).is_file() for name in ("spec.json", "check.py", LABELS))
    if folder.exists() and not is_kit and (not folder.is_dir() or any(folder.iterdir())):
        raise HarpError(f"Expected a new folder or an earlier phone kit to replace, received {str(folder)!r}.")
    if not folder.parent.is_dir():
        raise HarpError(f"Expected to write into an existing folder, received {str(folder)!r}. Create its parent.")
    shape = [1, *model.inputs[0].shape[1:]]
    if None in shape or len(shape) != 4 or len(class_names) != model.outputs[0].shape[-1]:
        raise HarpError(
            "A phone kit needs images of a fixed height, width and number of channels and one name per class, received "
            f"the input shape {shape} and {len(class_names)} names for {model.outputs[0].shape[-1]} classes."
        )


def write_kit(
    model: keras.Model,
    folder: Path,
    class_names: Sequence[str],
    image_sets: Mapping[str, tuple[np.ndarray, np.ndarray]],
    calibration: np.ndarray | tf.data.Dataset,
    *,
    forms: Sequence[str] = tuple(FORMS),
    trials: Mapping[str, Trial] = types.MappingProxyType({}),
    keras_accuracy: Mapping[str, float] = types.MappingProxyType({}),
    num_threads: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Variant]:
    """Writes model files, labels, specification, golden inputs and outputs, a check script and a README.

    The folder appears whole or not at all; an existing kit is replaced.

    Args:
        model: a plain (stripped, possibly compacted) Keras classifier of images in [0, 1] with a fixed image size.
        folder: where to write. Its parent must exist.
        class_names: one name per class.
        image_sets: name -> (images float32 `[n, ...]`, labels int `[n]`) on which the files are measured; images of
            the first set become the golden inputs.
        calibration: training images, for the forms that compute in int8.
        forms: names from `FORMS`.
        trials: name -> what else to measure of each file, such as an attack on it.
        keras_accuracy: what the Keras model reaches where the files are measured, to compare them with.
        num_threads: threads of the interpreter that measures.
        progress: receives a line of text per file.

    Returns:
        The variants that were written.

    Raises:
        HarpError: if the folder is something else than a kit, the model is not plain, images are outside [0, 1], labels
            are not class indices, or a file does not pass its checks.
    """
    folder = Path(folder)
    check_kit(model, folder, class_names, forms)
    shape = [1, *model.inputs[0].shape[1:]]
    work = temporary_name(folder)
    try:
        (work / "golden").mkdir(parents=True)
        variants = export_variants(
            model,
            work,
            image_sets,
            calibration,
            names=forms,
            trials=trials,
            class_names=class_names,
            num_threads=num_threads,
            progress=progress,
        )
        images = np.asarray(next(iter(image_sets.values()))[0][:_GOLDEN_IMAGES], np.float32)
        images.astype("<f4").tofile(work / "golden" / "inputs.f32")
        scale = 1.0
        for variant in variants:
            logits = TFLiteClassifier(work / f"{variant.name}.tflite").logits(images)
            logits.astype("<f4").tofile(work / "golden" / f"{variant.name}.f32")
            scale = max(scale, float(np.std(logits)))
        measured = {name: f"{len(labels):,} images" for name, (_, labels) in image_sets.items()}
        measured |= {name: trial.about for name, trial in trials.items()}
        write_json(work / "spec.json", _specification(variants, shape, class_names, scale, measured, keras_accuracy))
        (work / LABELS).write_text("\n".join(class_names) + "\n", encoding="utf-8")
        (work / "README.md").write_text(
            _readme(variants, shape, len(images), measured, keras_accuracy), encoding="utf-8"
        )
        shutil.copyfile(kit_check.__file__, work / "check.py")
        if not kit_check.check(work):
            raise HarpError("The phone kit does not pass its own check; nothing was written. Please report this.")
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return [_moved(variant, folder) for variant in variants]


def _moved(variant: Variant, folder: Path) -> Variant:
    path = folder / f"{variant.name}.tflite"
    return dataclasses.replace(variant, report=dataclasses.replace(variant.report, path=path))


def _specification(
    variants: list[Variant],
    shape: list[int],
    class_names: Sequence[str],
    scale: float,
    measured: dict[str, str],
    keras_accuracy: Mapping[str, float],
) -> dict:
    return {
        "input": {
            "shape": shape,
            "dtype": "float32",
            "range": [0.0, 1.0],
            "layout": "NHWC, pixel / 255; normalisation is inside the model",
        },
        "output": {
            "shape": [1, len(class_names)],
            "dtype": "float32",
            "meaning": "logits",
            "labels": list(class_names),
        },
        "accuracy_measured_on": measured,
        "keras_accuracy": dict(keras_accuracy),
        "models": {
            variant.name: {
                "file": f"{variant.name}.tflite",
                "file_bytes": variant.report.file_bytes,
                "gzip_bytes": variant.report.gzip_bytes,
                "memory_bytes": variant.memory_bytes,
                "parameters": variant.report.parameters,
                "nonzero": variant.report.nonzero,
                "accuracy": variant.accuracy,
                "logit_difference": variant.logit_difference,
                "tolerance": _TOLERANCE[variant.report.quantize] * scale,
            }
            for variant in variants
        },
    }


def _readme(
    variants: list[Variant],
    shape: list[int],
    golden: int,
    measured: dict[str, str],
    keras_accuracy: Mapping[str, float],
) -> str:
    sets = list(variants[0].accuracy)
    rows = [
        f"| {v.name}.tflite | {v.report.parameters:,} | {v.report.nonzero:,} | {v.report.file_bytes:,} | "
        f"{v.report.gzip_bytes:,} | {v.memory_bytes:,} | {' | '.join(f'{100 * v.accuracy[s]:.1f}' for s in sets)} |"
        for v in variants
    ]
    if keras_accuracy:
        percents = " | ".join(f"{100 * keras_accuracy[s]:.1f}" if s in keras_accuracy else "-" for s in sets)
        rows.insert(0, f"| the Keras model | | | | | | {percents} |")
    head = f"| file | weights | non-zero | bytes | gzip | in memory | {' | '.join(f'{s}, %' for s in sets)} |"
    count = int(np.prod(shape))
    shown = min(variants, key=lambda v: v.report.file_bytes).name
    return f"""# Phone kit

Classifiers of images, for LiteRT (TensorFlow Lite). All files are the same network in different number formats; sparse
ones leave zeros out, and unpack most of them when they are loaded ("in memory"). `int8` and `int8_sparse` compute in
int8, for processors that are fast at it; all others compute in float32. Take the smallest file whose percentages you
can accept.

{head}
|---|{"---|" * (5 + len(sets))}
{chr(10).join(rows)}

Percentages are right answers: {"; ".join(f"{name}, {about}" for name, about in measured.items())}. Attacks that follow
gradients, which files do not have, were run on the Keras model and their images shown to each file.

Input: float32 `{shape}`, pixels divided by 255, height x width x channels; any further normalisation is inside the
model. Output: float32 logits, one per line of `labels.txt`. The largest is the answer; softmax gives probabilities.
Each file says so too, as TFLite metadata, and holds its labels; `spec.json` says it to programs.

## Android (Kotlin)

With `implementation("com.google.ai.edge.litert:litert:1.4.2")`, or 2.1 and later, and the model and labels.txt in
`assets/`:

```kotlin
import android.graphics.Bitmap
import android.graphics.Color
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Interpreter

val bytes = context.assets.open("{shown}.tflite").readBytes()
val model = ByteBuffer.allocateDirect(bytes.size).order(ByteOrder.nativeOrder()).put(bytes)
val interpreter = Interpreter(model, Interpreter.Options().setNumThreads(2))
val labels = context.assets.open("labels.txt").bufferedReader().readLines()

// From a Bitmap, row by row: {" x ".join(map(str, shape[1:]))} values in [0, 1], as in training.
val scaled = Bitmap.createScaledBitmap(bitmap, {shape[2]}, {shape[1]}, true)
val colours = IntArray({shape[1]} * {shape[2]})
scaled.getPixels(colours, 0, {shape[2]}, 0, 0, {shape[2]}, {shape[1]})
val input = ByteBuffer.allocateDirect(4 * {count}).order(ByteOrder.nativeOrder())
for (c in colours) {{
    {_pixel(shape[-1])}
}}
val logits = Array(1) {{ FloatArray(labels.size) }}
interpreter.run(input.rewind(), logits)
val answer = labels[logits[0].indices.maxBy {{ logits[0][it] }}]
```

LiteRT's newer `CompiledModel` reads the same files.

## Python

With `pip install ai-edge-litert numpy`:

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter

images = np.fromfile("golden/inputs.f32", "<f4").reshape(-1, {", ".join(map(str, shape[1:]))})  # float32 in [0, 1]
interpreter = Interpreter("{shown}.tflite")
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images[:1])
interpreter.invoke()
logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
```

## Does it run right here?

`golden/inputs.f32` holds {golden} images and `golden/<model>.f32` their logits, as little-endian float32. Where Python
and ai-edge-litert run, `python check.py` compares all models with them; in an app, compare the logits of one image.
"""


def _pixel(channels: int) -> str:
    """The line of Kotlin that puts one pixel into the model's input."""
    values = {
        1: ["(0.299f * Color.red(c) + 0.587f * Color.green(c) + 0.114f * Color.blue(c))"],
        3: [f"Color.{name}(c)" for name in ("red", "green", "blue")],
    }.get(channels)
    if values is None:
        return f"// the {channels} channels of the pixel, each by input.putFloat(value), in the order of the training"
    return "; ".join(f"input.putFloat({value} / 255f)" for value in values)
