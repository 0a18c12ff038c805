"""benchmarks/reliability.py, cut down to one script and three blows: it works, and what it checks can fail."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT


def test_killed_runs_resume_to_the_same_bits_and_trouble_is_a_sentence(tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, ROOT / "benchmarks/reliability.py", "--scripts", "vae", "--kills", 3, "--out", out]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["total"].pop("runs resumed to their end") >= 1
    assert found["total"] == {"SIGKILL": 1, "SIGTERM": 1, "SIGINT": 1, "kills": 3}
    facts = found["scripts"]["vae"]
    assert "cannot be written" in facts["full disk"] or facts["full disk"].startswith("not tried")
    assert "might run code" in facts["bad files"]["hostile"] and "cut short" in facts["bad files"]["cut"]


def test_half_a_file_is_seen(tmp_path):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import reliability
    finally:
        sys.path.pop(0)
    (tmp_path / "log.csv").write_text("step,loss\n1,2\n2,3")
    reliability.check_whole(tmp_path, torn=True)
    with pytest.raises(AssertionError, match="torn"):
        reliability.check_whole(tmp_path)
    (tmp_path / "log.csv").write_text("step,loss\n1\n2,3\n")
    with pytest.raises(AssertionError, match="too short"):
        reliability.check_whole(tmp_path)
    (tmp_path / "log.csv").unlink()
    for name in ("last.pt", "curves.png", "args.json"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 half")
        with pytest.raises(Exception, match="."):
            reliability.check_whole(tmp_path)
        (tmp_path / name).unlink()
