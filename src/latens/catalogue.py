"""What can be chosen by name, and each one's options, read off the source of its class.

`class VampPrior(Prior, name="vamp")` makes `--prior vamp`, and its constructor's arguments that
have a default are options: `components: int = 500` makes `--components`, whose help is the
argument's line in the docstring. Nothing is registered anywhere else. The source is parsed, not
imported: importing torch takes far longer than `--help` may.
"""

import ast
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from latens.errors import LatensError, unknown

# Where the classes of each kind are, and the class that they derive from.
KINDS = {
    "network": ("model/networks", "Encoder"),
    "posterior": ("model/posteriors.py", "Posterior"),
    "prior": ("model/priors.py", "Prior"),
    "likelihood": ("model/likelihoods.py", "Likelihood"),
    "objective": ("training/objectives.py", "Objective"),
}
# A network's decoder has its encoder's name and options.
_PLACES = KINDS | {"decoder": ("model/networks", "Decoder")}
_TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "tuple[int, ...]": tuple[int, ...],
}
# Set by the data or by the composition, not by the user
_STRUCTURE = {"dataset_size", "out_channels"}


@dataclass(frozen=True)
class Option:
    """An option of one or more choices.

    Attributes:
        name: of the argument.
        type: of its values: int, float, bool, str, or tuple[int, ...].
        default: the value where none is given.
        help: one sentence.
    """

    name: str
    type: Any
    default: Any
    help: str


@dataclass(frozen=True)
class Choice:
    """One class that can be chosen by name.

    Attributes:
        kind: a key of `KINDS`.
        name: what it is called on the command line.
        class_name, module: where it is.
        summary: the first sentence of its docstring.
        options: its constructor's arguments that have a default.
    """

    kind: str
    name: str
    class_name: str
    module: str
    summary: str
    options: Mapping[str, Option]

    def load(self) -> type:
        """The class itself."""
        return getattr(importlib.import_module(self.module), self.class_name)


@cache
def choices(kind: str) -> Mapping[str, Choice]:
    """All that can be chosen of one kind, by name."""
    place, base = _PLACES[kind]
    root = Path(__file__).parent
    paths = sorted((root / place).glob("*.py")) if (root / place).is_dir() else [root / place]
    found = {}
    for path in paths:
        module = ".".join(("latens", *path.relative_to(root).with_suffix("").parts))
        classes = {
            node.name: node
            for node in ast.parse(path.read_text("utf-8")).body
            if isinstance(node, ast.ClassDef)
        }
        for node in classes.values():
            name = _registered_name(node)
            if name is not None and _derives_from(node, base, classes):
                found[name] = _choice(kind, name, node, module, classes)
    return found


def find(kind: str, name: str) -> Choice:
    """The choice of that name.

    Raises:
        LatensError: there is none.
    """
    if name not in choices(kind):
        raise unknown(kind, name, choices(kind))
    return choices(kind)[name]


def part_options() -> dict[str, list[tuple[Choice, Option]]]:
    """Every option by its name, with the choices that take it."""
    found: dict[str, list[tuple[Choice, Option]]] = {}
    for kind in KINDS:
        for choice in choices(kind).values():
            for option in choice.options.values():
                found.setdefault(option.name, []).append((choice, option))
    return found


def kind_of_option(name: str) -> str:
    """The kind of choice that takes the option."""
    return part_options()[name][0][0].kind


def build(kind: str, name: str, options: Mapping[str, Any], **structure: Any) -> Any:
    """An object of the class chosen.

    Args:
        options: those of its options that are not left at their defaults.
        structure: arguments that follow from the composition, such as shapes; it gets those that
            it has.

    Raises:
        LatensError: no such choice, an option that it does not have, or one that it refuses.
    """
    choice = find(kind, name)
    for option in options:
        if option not in choice.options:
            raise LatensError(f"{option} is no option of the {kind} {name}: leave it out")
    cls = choice.load()
    arguments = set(argument_names(cls))
    return cls(**{key: v for key, v in structure.items() if key in arguments}, **options)


def argument_names(cls: type) -> list[str]:
    """The names of the constructor's arguments."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # without self
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind not in variadic]


# ---- reading the source ----------------------------------------------------------------------


def _registered_name(node: ast.ClassDef) -> str | None:
    for keyword in node.keywords:
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return None


def _base_names(node: ast.ClassDef) -> list[str]:
    return [base.id for base in node.bases if isinstance(base, ast.Name)]


def _derives_from(node: ast.ClassDef, base: str, classes: Mapping[str, ast.ClassDef]) -> bool:
    names = _base_names(node)
    return base in names or any(
        _derives_from(classes[name], base, classes) for name in names if name in classes
    )


def _choice(
    kind: str, name: str, node: ast.ClassDef, module: str, classes: Mapping[str, ast.ClassDef]
) -> Choice:
    doc = ast.get_docstring(node) or ""
    arguments = _arguments(node, classes)
    helps = _argument_help(node, classes)
    options = {
        argument: Option(argument, _type(annotation, argument), default, helps.get(argument, ""))
        for argument, (annotation, default) in arguments.items()
        if argument not in _STRUCTURE
    }
    summary = " ".join(doc.partition("\n\n")[0].split())
    return Choice(kind, name, node.name, module, summary, options)


def _arguments(
    node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]
) -> dict[str, tuple[str, Any]]:
    """Annotation and default of the constructor's arguments that have a default."""
    init = next(
        (f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None
    )
    if init is not None:
        defaults = init.args.defaults
        named = init.args.args[len(init.args.args) - len(defaults) :]
        return {
            argument.arg: (ast.unparse(argument.annotation or ast.Name("str")), _literal(default))
            for argument, default in zip(named, defaults, strict=True)
        }
    found = {}
    for base in _base_names(node):
        if base in classes:
            found |= _arguments(classes[base], classes)
    for field in node.body:  # a dataclass
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.value:
            found[field.target.id] = (ast.unparse(field.annotation), _literal(field.value))
    return found


def _literal(node: ast.expr) -> Any:
    return ast.literal_eval(node)


def _type(annotation: str, argument: str) -> Any:
    """The type of the first of the alternatives in an annotation such as `float | None`."""
    first = annotation.split(" | ", maxsplit=1)[0]
    if first not in _TYPES:
        raise TypeError(f"the option {argument} has the annotation {annotation}: use {[*_TYPES]}")
    return _TYPES[first]


def _argument_help(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> dict[str, str]:
    """The lines of the docstring's section Args, each joined into one, bases first."""
    found: dict[str, str] = {}
    for base in _base_names(node):
        if base in classes:
            found |= _argument_help(classes[base], classes)
    lines = (ast.get_docstring(node) or "").splitlines()
    if "Args:" not in lines:
        return found
    names: tuple[str, ...] = ()
    for line in lines[lines.index("Args:") + 1 :]:
        if line.startswith("        "):
            for name in names:
                found[name] += f" {line.strip()}"
        elif line.startswith("    ") and ":" in line:
            head, _, text = line.strip().partition(":")
            names = tuple(head.split(", "))
            found |= {name: text.strip() for name in names}
        elif line.strip():
            break
    return found
