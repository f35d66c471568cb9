"""Both pages of results in a real browser."""

import json

import numpy as np

from harp_tf.report import write_comparison, write_examples, write_report
from tests.browser import check, look, needs_chromium

pytestmark = needs_chromium


def test_the_page_of_a_run(run_dir, results, tmp_path):
    rng = np.random.default_rng(0)
    (run_dir / "plots").mkdir()
    images, labels = rng.random((8, 6, 6, 1)), np.arange(8)
    names = tuple("abcdefgh")
    write_examples(run_dir / "plots" / "adversarial_examples.png", images, images, labels, labels, names, "pgd20")
    curve = {"norm": "linf", "eps": [0.0, 0.1, 0.2], "robust_accuracy": [0.9, 0.5, 0.1]}
    results["pruned"]["security_curve"] = {"pgd20": curve}
    (run_dir / "results.json").write_text(json.dumps(results))
    row = {"name": "model_sparse.tflite", "threads": 1, "median_ms": 0.2, "p10_ms": 0.1, "p90_ms": 0.3, "ratio": 1.0}
    (run_dir / "latency.json").write_text(json.dumps({"rows": [row]}))
    (seen,) = check([write_report(run_dir)], tmp_path)
    assert len(seen["figures"]) == 9 + 1 + 1 and len(seen["images"]) == 1


def test_the_page_of_a_comparison(compared, tmp_path):
    page = write_comparison(compared())
    (seen,) = check([page], tmp_path)
    assert len(seen["figures"]) == 7 and seen["background"] == "rgb(245, 247, 249)"
    (dark,), errors = look([page], tmp_path, dark=True)
    assert errors == [] and dark["background"] == "rgb(16, 19, 23)"


def test_what_is_broken_is_noticed(compared, tmp_path):
    page = write_comparison(compared())
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</main>", '<div style="width: 500px">x</div><script>throw 1</script></main>'))
    (seen,), errors = look([page], tmp_path)
    assert errors and seen["page"] == 512 and len(seen["wide"]) == 1
