"""The options of `latens train` side by side, as one dataclass that the command line reads.

It is made of the sections of `latens.config` and of the options of parts in `latens.catalogue`, so
that an option is declared in one place.
"""

import ast
from collections.abc import Mapping
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from cyclopts import Parameter

from latens import catalogue, config

# Options that name a part: their values, and the kind of part
_NAMES = {
    "likelihood": "likelihood",
    "prior": "prior",
    "posterior": "posterior",
    "network": "network",
    "decoder_network": "network",
    "objective": "objective",
}
_AUTO: dict[str, tuple[str, ...]] = {
    "likelihood": (config.AUTO,),
    "network": (config.AUTO,),
    "decoder_network": (config.AUTO,),
}


def _documentation() -> dict[str, dict[str, str]]:
    """The text below each field of each class of the configuration."""
    module = ast.parse(Path(config.__file__).read_text("utf-8"))
    found: dict[str, dict[str, str]] = {}
    for cls in (node for node in module.body if isinstance(node, ast.ClassDef)):
        texts = found.setdefault(cls.name, {})
        for item, after in zip(cls.body, cls.body[1:], strict=False):
            match item, after:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    texts[name] = " ".join(text.split())
    return found


def _of_sections() -> list[tuple[str, Any, Any]]:
    """Name, annotated type and default of the options that belong to no part."""
    documentation, found = _documentation(), []
    for section, cls in config.SECTIONS.items():
        for item in fields(cls):
            if item.name == "options":
                continue
            name = config.flat_name(section, item.name)
            text = documentation[cls.__name__][item.name]
            kind, hint = _NAMES.get(name), item.type
            if kind is not None:
                names = (*catalogue.choices(kind), *_AUTO.get(name, ()))
                hint = Literal[names]  # pyright: ignore[reportInvalidTypeForm]
                summaries = [f"{c.name}: {c.summary}" for c in catalogue.choices(kind).values()]
                text = " ".join([text, *(summaries if name != "decoder_network" else [])])
            negative = name == "range"  # its low end may be below 0
            parameter = Parameter(
                help=text, group=section.capitalize(), allow_leading_hyphen=negative
            )
            found.append((name, Annotated[hint, parameter], field(default=item.default)))
    return found


def _of_parts() -> list[tuple[str, Any, Any]]:
    """The same of the options that belong to parts; None is the part's own default."""
    found = []
    for name, owners in catalogue.part_options().items():
        choice, option = owners[0]
        hint = str if get_origin(option.type) is tuple else option.type
        flags = [f"--{n.replace('_', '-')}" for n in (name, *_old_names(name))]
        group = "Objective" if choice.kind == "objective" else "Model"
        parameter = Parameter(name=flags, help=_help_of(owners), group=group)
        found.append((name, Annotated[hint | None, parameter], field(default=None)))
    return found


def _help_of(owners: list[tuple[catalogue.Choice, catalogue.Option]]) -> str:
    """What an option means, and its default, for each part that has it."""
    texts: dict[str, list[str]] = {}
    for choice, option in owners:
        texts.setdefault(option.help, []).append(f"{choice.name}: {_in_words(option.default)}")
    kind = owners[0][0].kind
    return " ".join(
        f"{_capitalised(text).rstrip('.')} [{kind} {', '.join(names)}]."
        for text, names in texts.items()
    )


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:] if text[:1].isascii() else text


def _old_names(name: str) -> list[str]:
    return [old for old, new in config.RENAMED.items() if new == name]


def _in_words(value: Any) -> str:
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


TrainOptions: Any = make_dataclass(
    "TrainOptions",
    [*_of_sections(), *_of_parts()],
    frozen=True,
    kw_only=True,
    namespace={"__module__": __name__},  # it would be that of a built-in class
)


def given(options: Any) -> Mapping[str, Any]:
    """Those of a `TrainOptions` that are not left at their defaults."""
    defaults = TrainOptions()
    return {
        item.name: getattr(options, item.name)
        for item in fields(options)
        if getattr(options, item.name) != getattr(defaults, item.name)
    }
