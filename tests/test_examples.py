"""The examples run, as they are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest

from cli import pair_all

PROJECT = Path(__file__).resolve().parents[1]
SNAKEFILE = PROJECT / "examples" / "snakemake" / "Snakefile"


def test_the_snakefile_uses_options_that_exist():
    commands = re.findall(r"srmri pair-all[^\"]*(?:\"\s*\"[^\"]*)*", SNAKEFILE.read_text())
    assert len(commands) == 2
    options = {name.replace("_", "-") for name in signature(pair_all).parameters}
    for command in commands:
        used = re.findall(r"--([a-z-]+)", command)
        assert {"out", "quiet"} <= set(used) <= options


@pytest.mark.slow
def test_snakemake_pairs_two_shards(tiny_pair, tmp_path):
    snakemake = shutil.which("snakemake")
    if snakemake is None:
        pytest.skip("snakemake is not installed")
    rows = [f"m0{n}\t{tiny_pair.low}\t{tiny_pair.high}" for n in (1, 2, 3)]
    (tmp_path / "mapping.tsv").write_text("\n".join(["subject\tlr\thr", *rows, "bad\tx\ty\n"]))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [snakemake, "--snakefile", str(SNAKEFILE), "--cores", "2", "--config", "shards=2",
               "out=out", "options=--method paper --voters ssim --trim 0"]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "out" / "cohort.json").read_text())["counts"]
    assert (counts["done"], counts["failed"]) == (3, 1)
