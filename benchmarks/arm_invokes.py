"""Run by benchmarks/arm_sparse.py under emulation: times .tflite files in turn, in CPU seconds, on one thread.

Command: python arm_invokes.py RESULT.json ROUNDS NAME=FILE.tflite...
"""

import json
import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main() -> None:
    result, rounds, *files = sys.argv[1:]
    interpreters, logits = {}, {}
    for name, path in (file.split("=", 1) for file in files):
        interpreter = Interpreter(path, num_threads=1)
        interpreter.allocate_tensors()
        image = interpreter.get_input_details()[0]
        interpreter.set_tensor(image["index"], np.random.default_rng(0).random(image["shape"], np.float32))
        interpreter.invoke()
        interpreter.invoke()
        logits[name] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0].tolist()
        interpreters[name] = interpreter
    seconds: dict[str, list[float]] = {name: [] for name in interpreters}
    for _ in range(int(rounds)):
        for name, interpreter in interpreters.items():
            start = time.process_time()  # CPU time: other work on the machine does not count
            interpreter.invoke()
            seconds[name].append(time.process_time() - start)
    with open(result, "w", encoding="utf-8") as file:
        json.dump({"seconds": seconds, "logits": logits}, file)


if __name__ == "__main__":
    main()
