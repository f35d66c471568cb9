import logging
import os
import sys

import pytest

from harp_tf.deploy.quiet import captured_output


def test_python_and_native_output_is_caught_and_comes_back(capfd):
    with captured_output() as text:
        print("python")
        os.write(1, b"native out\n")
        os.write(2, b"native err\n")
        assert text() == "python\nnative out\nnative err\n"
    print("after", file=sys.stderr)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "after\n")


def test_output_comes_back_after_an_error(capfd):
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(KeyError), captured_output():
        raise KeyError
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"
    assert len(os.listdir("/dev/fd")) == before


def test_logging_goes_on_as_it_was(capfd, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest has some
    with captured_output() as text:
        logging.warning("inside")
        assert "inside" in text()
    assert logging.root.handlers == []
    logging.warning("after")
    captured = capfd.readouterr()
    assert "after" in captured.err and "inside" not in captured.err
