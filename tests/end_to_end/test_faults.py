"""The fault campaign: killed, damaged, out of room, and at its end as if nothing had happened."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_forty_kills_and_all_other_faults(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "tools" / "fault_campaign.py"),
        "--kills=40",
        f"--output={tmp_path / 'tally'}",
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600, check=False)
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    tally = json.loads((tmp_path / "tally").read_text())
    assert tally["failed"] == [] and tally["sigkills"] >= 40
    for stage in ("pretrain", "prune", "finetune", "export", "evaluate"):
        assert tally["faults"].get(f"SIGKILL in {stage}", 0) > 0, stage
