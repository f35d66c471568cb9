"""The pages of docs/ keep their promises: programs run, commands are legal, links lead somewhere."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from absl import flags

from harp_tf import cli_flags

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import write_pages  # noqa: E402

PAGES = {str(path.relative_to(ROOT)): path for path in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]}
RUN_WHOLE = [
    pytest.param("docs/tutorial.md", marks=pytest.mark.slow),
    pytest.param("docs/own_data.md", marks=pytest.mark.slow),
    pytest.param("docs/own_layer.md", marks=pytest.mark.slow),
    pytest.param("docs/own_method.md", marks=pytest.mark.slow),
]
SHORTER = [
    (r"(_epochs=)\d+", r"\g<1>1"),
    (r"--attack_steps=\d+", "--attack_steps=1"),
    (r"--attacks=\S+", "--attacks=fgsm"),
    (r"--robust_limit=\d+", "--robust_limit=100"),
]


def blocks(path: Path, *languages: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page in these languages, (language, text)."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [(language, text) for language, text in found if language in languages]


def commands(text: str) -> list[list[str]]:
    """The commands of a block that run a program of harp_tf, in words."""
    lines = [line.split("  #")[0] for line in text.splitlines() if line.startswith("python -m harp_tf.")]
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("page", RUN_WHOLE)
def test_a_page_runs_from_top_to_bottom(page, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the runs of a comparison
    names: dict = {"__name__": "page"}
    ran = 0
    for language, text in blocks(PAGES[page], "python", "bash"):
        file = re.match(r"# (\w+\.py)\n", text)
        if file:
            Path(file[1]).write_text(text)
        elif language == "python":
            exec(compile(text, page, "exec"), names)
            ran += 1
        for pattern, short in SHORTER:
            text = re.sub(pattern, short, text)
        for _, _, module, *arguments in commands(text):
            ended = program(module.removeprefix("harp_tf."), *arguments)
            assert ended.status == 0, (arguments, ended.err)
            ran += 1
    assert ran > 0


COMMANDS = sorted(
    {
        (page, shlex.join(words))
        for page, path in PAGES.items()
        for _, text in blocks(path, "", "bash", "sh")
        for words in commands(text)
    }
)


@pytest.mark.parametrize("page, command", COMMANDS)
def test_a_command_is_legal(page, command, fresh_flags, monkeypatch):
    """Every flag exists and its value is in range; flagfiles are there."""
    _, _, module, *arguments = shlex.split(command)
    fresh_flags()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [f"{module}.py", *arguments])
    read = []

    def parse_only(main) -> None:
        assert flags.FLAGS(sys.argv) == sys.argv[:1]
        read.append(cli_flags.read_settings())

    monkeypatch.setattr(cli_flags, "run", parse_only)
    runpy.run_module(module, run_name="__main__")
    assert len(read) == 1


def anchors(path: Path) -> set[str]:
    """The anchors that the headings of a page get on the hosting sites."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return set(map(write_pages.anchor, titles))


LINKS = [
    (page, target)
    for page, path in PAGES.items()
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    if "://" not in target
]


@pytest.mark.parametrize("page, target", LINKS)
def test_a_link_leads_somewhere(page, target):
    file, _, anchor = target.partition("#")
    path = PAGES[page].parent / file if file else PAGES[page]
    assert path.exists()
    if anchor:
        assert anchor in anchors(path)


def test_every_page_is_reached_from_the_readme():
    reached, new = set(), {"README.md"}
    while new:
        reached |= new
        linked = {(PAGES[page].parent / target.split("#")[0]).resolve() for page, target in LINKS if page in new}
        new = {page for page, path in PAGES.items() if path in linked} - reached
    assert {page for page in PAGES if page.startswith("docs/")} <= reached
