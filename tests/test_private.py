"""What is shared does not tell in which folders its files lay."""

import pytest

from latens.run.private import command_without_folders, without_folders


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("latens train /home/me/faces --epochs 2", "latens train faces --epochs 2"),
        ("latens train '/home/me/my faces'", "latens train 'my faces'"),
        ("latens train a/b --hidden 5,6", "latens train a/b --hidden 5,6"),
        ("latens.train('/home/me/x.npy', model=…)", "latens.train('x.npy', model=…)"),
        (
            "latens train /a/b && latens train digits --init-from /a/c --out '/d e/f'",
            "latens train b && latens train digits --init-from c --out 'f'",
        ),
        ("latens train hf://me/x", "latens train hf://me/x"),
    ],
)
def test_commands_and_calls_keep_the_last_part_of_each_path(command, expected):
    assert command_without_folders(command) == expected


def test_options_do_so_in_each_section():
    options = {"model": {"init_from": "/home/me/run", "latent_dim": 2}, "data": {"size": None}}
    assert without_folders(options) == options | {"model": {"init_from": "run", "latent_dim": 2}}
