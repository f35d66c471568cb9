"""Checks the files of this folder: every model gives its recorded logits. Needs numpy and ai-edge-litert only.

python check.py [FOLDER]
"""

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def check(folder: Path) -> bool:
    """Runs every model of a phone kit on its golden inputs and prints one line each.

    Args:
        folder: a folder with spec.json, the models, and golden/.

    Returns:
        Whether all models gave their recorded logits.
    """
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    shape, classes = spec["input"]["shape"], len(spec["output"]["labels"])
    images = np.fromfile(folder / "golden" / "inputs.f32", "<f4").reshape([-1, *shape[1:]])
    all_right = True
    for name, model in spec["models"].items():
        wanted = np.fromfile(folder / "golden" / f"{name}.f32", "<f4").reshape([-1, classes])
        interpreter = Interpreter(str(folder / model["file"]))
        interpreter.allocate_tensors()
        source, sink = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
        logits = []
        for image in images:
            interpreter.set_tensor(source, image[None])
            interpreter.invoke()
            logits.append(interpreter.get_tensor(sink)[0].copy())
        difference = float(np.max(np.abs(np.array(logits) - wanted)))
        right = difference <= model["tolerance"]  # False for NaN
        all_right &= right
        print(f"{name}: {'as recorded' if right else 'WRONG'}, logits differ by {difference:.2g} at most")
    return all_right


if __name__ == "__main__":
    sys.exit(0 if check(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)) else 1)
