"""Figures of runs side by side, ranked only where they are of one kind."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from latens.errors import LatensError
from latens.run.data import data_of
from latens.run.directory import Run

COLUMNS = ("run", "kind", "−elbo", "reconstruction", "kl", "bits per dim", "active", "accuracy")
COLUMNS += ("data", "recipe", "dims", "objective", "parameters", "minutes")


def named(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs under the last parts of their paths that tell them apart.

    Raises:
        LatensError: the same run twice.
    """
    paths = [run.path.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise LatensError("the same run is given twice")
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    raise AssertionError("paths that differ have names that differ")


# ---- figures ---------------------------------------------------------------------------------


def figures_of(name: str, run: Run) -> dict[str, Any]:
    """The figures on the test set.

    Raises:
        LatensError: the training has not ended.
    """
    if run.figures is None:
        raise LatensError(f"{name} has no figures: its training has not ended; go on by --resume")
    return run.figures


def kind_of(name: str, run: Run) -> tuple[str, str]:
    """What must agree before −elbo may be compared: what it is of, and of which test images."""
    figures, data = figures_of(name, run), run.record["data"]
    given = ", given the label" if run.vae.label_embedding is not None else ""
    size = "×".join(map(str, data["shape"]))
    return figures["kind"] + given, f"{figures['images']:,} images of {data['name']}, {size}"


def _same_test_images(runs: Iterable[Run]) -> bool:
    """Whether all runs are measured on the same pixels, whatever else was split how.

    Raises:
        LatensError: their data are not there to be looked at.
    """
    by_data = {run.record["data"]["fingerprint"]: run for run in runs}
    if len(by_data) == 1:
        return True
    tests = (data_of(run).test for run in by_data.values())
    return len({hashlib.sha256(test.pixels.numpy().tobytes()).digest() for test in tests}) == 1


def ranking(runs: Mapping[str, Run]) -> tuple[list[str], str]:
    """The names from the least −elbo to the largest, and what to say of it.

    Figures of different kinds are not ranked: the names stay in their order.
    """
    kinds = {name: kind_of(name, run) for name, run in runs.items()}
    refusal = "Not ranked: {}, and no order of them means anything."
    for part in range(2):
        different = sorted({kind[part] for kind in kinds.values()})
        if len(different) > 1:
            reason = f"their figures are of different kinds ({'; '.join(different)})"
            return list(runs), refusal.format(reason)
    if not _same_test_images(runs.values()):
        return list(runs), refusal.format("their figures are of different test images")
    order = sorted(runs, key=lambda name: -figures_of(name, runs[name])["elbo"])
    return order, f"Ranked by −elbo ({kinds[order[0]][0]}), the least first: {order[0]}."


def rows_of(runs: Mapping[str, Run], order: Iterable[str]) -> list[dict[str, str]]:
    """The figures of each run as texts under `COLUMNS`, in this order of names."""
    return [_row(name, runs[name]) for name in order]


def _row(name: str, run: Run) -> dict[str, str]:
    figures, config = figures_of(name, run), run.config
    bits, accuracy = figures.get("bits_per_dim"), figures.get("accuracy")
    values = (
        name,
        kind_of(name, run)[0],
        f"{-figures['elbo']:.2f}",
        f"{figures['reconstruction']:.2f}",
        f"{figures['kl']:.2f}",
        "" if bits is None else f"{bits:.3f}",
        f"{figures['active_units']} of {run.latent_dims}",
        "" if accuracy is None else f"{accuracy:.2%}",
        run.name,
        config.model.recipe,
        "×".join(map(str, run.latent_shape)),
        run.objective,
        f"{run.record['parameters']:,}",
        f"{run.metrics[-1]['seconds'] / 60:.1f}" if run.metrics else "",
    )
    row = dict(zip(COLUMNS, values, strict=True))
    return row | {name: row[name].replace("-", "−") for name in ("−elbo", "reconstruction")}


def as_markdown(rows: Sequence[dict[str, str]]) -> str:
    """A table in Markdown, without columns in which nothing stands."""
    columns = columns_of(rows)
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def columns_of(rows: Sequence[dict[str, str]]) -> list[str]:
    """The columns in which anything stands."""
    return [column for column in rows[0] if any(row[column] for row in rows)]
