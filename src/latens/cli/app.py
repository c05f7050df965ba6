"""The application: how arguments are read, and how errors are told."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, get_args

from cyclopts import App, ArgumentCollection, CycloptsError, MissingArgumentError, Parameter
from cyclopts.config import Dict

from latens import __version__
from latens.config import RENAMED, SECTIONS, TrainConfig, check_names
from latens.console import IS_MAIN, in_one_line
from latens.errors import LatensError
from latens.help import EVERY, Help
from latens.signals import ENDINGS, end_with_parent, handled


def before_parsing(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take options from `--config FILE`, and leave no fraction to be cut off unseen."""
    argument = arguments.get("--config", default=None)
    if argument is not None and argument.tokens:
        path = argument.tokens[-1].value
        options = Dict(_options_in(Path(path)), source=path, use_commands_as_keys=False)
        options(app, commands, arguments)
    for argument in arguments:
        if int in (argument.hint, *get_args(argument.hint)):
            for token in argument.tokens:
                if not token.value.strip().lstrip("+-").isdecimal():
                    raise LatensError(
                        f"{argument.name} is {token.value}: it must be a whole number"
                    )


def _options_in(path: Path) -> dict[str, Any]:
    """The options in a YAML file, or in a run's config.yaml, by the names of their flags."""
    from latens.run.directory import read_yaml

    options = read_yaml(path)
    options = options.get("options", options)
    if not isinstance(options, dict):
        raise LatensError(f"{path} is no run's config.yaml: its options are no names and values")
    if SECTIONS.keys() & options.keys() and all(map(SECTIONS.__contains__, options)):
        options = TrainConfig.from_record(options).options()
        options = {
            n: ",".join(map(str, v)) if isinstance(v, tuple) else v for n, v in options.items()
        }
    check_names(str(name).replace("-", "_") for name in options)
    return {
        f"{RENAMED.get(str(name), str(name))}".replace("_", "-"): value
        for name, value in options.items()
        if value is not None
    }


help_ = Help()
app = App(
    name="latens",
    help="Variational autoencoders on images: train, measure, look inside.",
    help_epilogue=f"All options, and all of each: latens COMMAND {EVERY}",
    help_formatter=help_,
    version=__version__,
    config=before_parsing,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # it would end without a word
)


app.register_install_completion_command(help="Complete commands and options in this shell.")


# ---- errors ----------------------------------------------------------------------------------


def _fail(message: str, status: int = 2) -> NoReturn:
    if IS_MAIN:
        print(f"latens: error: {in_one_line(message)}", file=sys.stderr)
    sys.exit(status)


@contextlib.contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except MissingArgumentError as error:
        if error.argument is None or error.keyword or error.tokens_so_far:  # given without a value
            _fail(str(error))
        command = " ".join(["latens", *(error.command_chain or ())])
        _fail(f"{error.argument.name} is missing: see {command} --help")
    except CycloptsError as error:
        _fail(str(error))
    except LatensError as error:
        _fail(str(error), status=1 if type(error).__name__ == "Diverged" else 2)
    except MemoryError:
        _fail("out of memory: use a smaller --size, --batch-size or --latent-dim")
    except BrokenPipeError:  # `latens data | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        _fail(f"cannot read or write{where}: {error.strerror or error}")
    except KeyboardInterrupt as stop:
        _fail("stopped", stop.args[0] if stop.args else 130)


def _end(number: int, _frame: Any) -> NoReturn:
    """As Ctrl-C: what was begun is cleared away."""
    raise KeyboardInterrupt(128 + number)


def main(argv: list[str] | None = None) -> None:
    """The command `latens`.

    A user's mistake ends in one line on stderr and exit status 2.
    """
    words = sys.argv[1:] if argv is None else argv
    help_.every = EVERY in words
    argv = ["--help" if word == EVERY else word for word in words]
    end_with_parent()
    with handled(ENDINGS[1:], _end), _errors_in_one_line():
        app(argv, exit_on_error=False, print_error=False, result_action="return_value")
