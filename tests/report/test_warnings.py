from harp_tf.report import warnings
from harp_tf.report.warnings import found

ZERO, FEW = {"check": "zero_gradients", "warning": "Gradients are 0."}, {"check": "few", "warning": "Too few."}


def entry(*checks, eps=0.1, **more):
    return {"eps": eps, "checks": list(checks), **more}


def test_a_warning_is_told_once_for_all_that_it_concerns():
    results = {
        "dense": {"attacks": {"pgd20": [entry(ZERO, FEW)], "apgd_ce": [entry(ZERO)]}},
        "pruned": {"attacks": {"pgd20": [entry(ZERO)]}},
        "tflite": {"attacks": {"pgd20": [entry(ZERO, crafted_on="dense")]}},
    }
    assert found(results) == [
        ("dense (Keras): PGD-20, APGD-CE", "zero_gradients", "Gradients are 0."),
        ("dense (Keras): PGD-20", "few", "Too few."),
        ("pruned (Keras): PGD-20", "zero_gradients", "Gradients are 0."),
    ]
    text = warnings(results)
    assert text.count("WARNING") == 3 and "WARNING (few) dense (Keras): PGD-20. Too few." in text


def test_a_file_alone_tells_what_was_found_in_the_model_that_was_attacked():
    results = {"phone": {"attacks": {"pgd20": [entry(ZERO, crafted_on="phone.keras")]}}}
    assert found(results) == [("phone: PGD-20", "zero_gradients", "Gradients are 0.")]


def test_radii_are_told_where_there_are_several():
    results = {"dense": {"attacks": {"pgd20": [entry(ZERO), entry(ZERO, eps=0.2), entry(eps=0.3)]}}}
    assert found(results)[0][0] == "dense (Keras): PGD-20 at 0.1, PGD-20 at 0.2"


def test_nothing_found_and_nothing_attacked():
    assert warnings({"dense": {"attacks": {"pgd20": [entry()]}}}).strip() == "Checks of the attacks: nothing found."
    assert warnings({"dense": {"robust_accuracy": {"pgd20": 0.5}}}) == ""  # results.json of an earlier version


def test_lines_fit_a_terminal():
    long = {"check": "few", "warning": "word " * 60}
    lines = warnings({"dense": {"attacks": {"pgd20": [entry(long)]}}}).splitlines()
    assert len(lines) > 3 and max(map(len, lines)) <= 100
