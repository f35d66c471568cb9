"""The reference is generated, complete, and in the form that the sources have."""

import inspect
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import write_reference  # noqa: E402


def test_the_page_is_up_to_date():
    assert write_reference.PAGE.read_text(encoding="utf-8") == write_reference.page(), (
        "run python tools/write_reference.py"
    )


@pytest.mark.parametrize("name", sorted(write_reference.public_objects()))
def test_a_public_name_is_documented(name):
    """Arguments are named one by one, in the docstring of the class, of a class above it, or of the function."""
    value = write_reference.public_objects()[name]
    text = value.__doc__ or ""
    assert len(text) > 20
    if inspect.isclass(value) and issubclass(value, Exception):
        return
    for argument, parameter in inspect.signature(value).parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            kinds = (*getattr(value, "__mro__", ()), value, getattr(value, "__init__", None))
            documented = "".join(inspect.getdoc(kind) or "" for kind in kinds)
            assert f"{argument}:" in documented, argument


def test_sections_become_lists():
    text = write_reference.markdown("""Does it.

    Args:
        x: float32 [n]; goes
            on here.

    Returns:
        Something.
    """)
    assert text == "Does it.\n\n**Args**\n\n- `x`: float32 [n]; goes\n  on here.\n\n**Returns**\n\nSomething."
