from harp_tf.report import results_table, verdict

EXPECTED = """\
model             natural  PGD-20  sparsity  non-zero    file    gzip
---------------------------------------------------------------------
dense (Keras)        97.1    90.2     0.0 %    19,856  1.1 MB  990 kB
pruned (Keras)       96.0    89.0    97.2 %       560  1.1 MB   30 kB
dense (.tflite)      97.1    90.2     0.0 %    19,856  1.0 MB  930 kB
pruned (.tflite)     96.0    89.0    97.2 %       560   24 kB   15 kB

Accuracies in %, on 360 test images; standard error up to 1.6 points.
97.2 % of the weights removed: natural 97.1 -> 96.0 (-1.1 points), PGD-20 90.2 -> 89.0 (-1.2); the
file shrinks 42x, from 1.0 MB to 24 kB."""


def test_the_table_says_it_all(results):
    assert results_table(results) == EXPECTED


def test_balanced_accuracy_is_shown_where_it_differs(results):
    assert "balanced" not in results_table(results)
    results["tflite_sparse"]["balanced_accuracy"] = 0.951
    header, _, *rows = results_table(results).splitlines()
    assert header.split()[1:4] == ["natural", "balanced", "PGD-20"]
    assert rows[3].split()[2:5] == ["96.0", "95.1", "89.0"]


def test_many_attacks_still_fit_a_terminal(results):
    for result in results.values():
        result["robust_accuracy"] = {f"attack_number_{i}": 0.5 for i in range(4)}
        result["nonzero"] = 138_000_000
    text = results_table(results)
    assert max(map(len, text.splitlines())) <= 100
    accuracies, sizes, _ = text.split("\n\n")
    assert accuracies.count("50.0") == 16 and sizes.count("138,000,000") == 4


def test_what_is_missing_shows_as_a_dash(results):
    del results["tflite"]["gzip_bytes"], results["tflite"]["robust_accuracy"]
    results["tflite"]["natural_accuracy"] = None
    row = results_table(results).splitlines()[4]
    assert row.split() == ["dense", "(.tflite)", "-", "-", "0.0", "%", "19,856", "1.0", "MB", "-"]


def test_unequal_numbers_of_images_are_said(results):
    for result in results.values():
        result["n_test"] = 10_000
        result["n_robust"] = 1_000
    results["tflite"]["n_robust"] = 200
    text = " ".join(results_table(results).split())
    assert "on 10,000 test images, under attack on 200 to 1,000; standard error up to 2.1 points." in text


def test_verdict_names_gains_and_growth(results):
    results["pruned"]["natural_accuracy"] = 0.975
    results["pruned"]["robust_accuracy"]["pgd20"] = 0.902
    results["tflite_sparse"]["file_bytes"] = 2_000_000
    assert verdict(results) == (
        "97.2 % of the weights removed: natural 97.1 -> 97.5 (+0.4 points), PGD-20 90.2 -> 90.2 (0.0); "
        "the file does not shrink, from 1.0 MB to 2.0 MB."
    )


def test_verdict_of_a_part_of_the_results(results):
    del results["tflite"], results["dense"]["robust_accuracy"]
    assert verdict(results) == "97.2 % of the weights removed: natural 97.1 -> 96.0 (-1.1 points)."
    del results["dense"]
    assert verdict(results) == "97.2 % of the weights removed: natural 96.0, PGD-20 89.0; the file has 24 kB."
    assert results_table({}).split() == ["model", "natural", "sparsity", "non-zero", "file", "gzip", "-" * 46]


def test_verdict_of_a_dense_model(results):
    assert verdict({key: results[key] for key in ("dense", "tflite")}) == (
        "Dense model: natural 97.1, PGD-20 90.2; the file has 1.0 MB."
    )
    assert verdict({}) == ""
