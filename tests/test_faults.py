"""A part of what `make faults` injects."""

import re
import subprocess
import sys
from pathlib import Path

QUICK = ("train", "train, film", "export", "cache", "download")


def printed(script, *options):
    """What a script prints that finds no defect."""
    command = [sys.executable, Path(__file__).with_name(script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_damaged_inputs_are_refused_in_one_line_or_read():
    assert " 0 defects" in printed("faults.py", "--quick", "--count", "12", "--seed", "1")


def test_a_training_that_is_killed_goes_on_to_the_same_bits():
    kills = [
        int(found)
        for found in re.findall(
            r"(\d+) kills", printed("kills.py", "--step", "13", "--only", *QUICK)
        )
    ]
    assert len(kills) == len(QUICK)
    assert min(kills) >= 1
