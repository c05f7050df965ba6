"""Figures of runs side by side, ranked only where they are of one kind."""

import csv
import hashlib
import html
import io
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from latens.console import in_one_line
from latens.data import IN_MEMORY
from latens.errors import LatensError
from latens.evaluation.metrics import evaluate_each
from latens.evaluation.paired import Difference, paired_difference
from latens.evaluation.proposals import PosteriorName
from latens.hub import address_in_cache, is_of_hub
from latens.model.parts import to_config
from latens.run.data import data_of
from latens.run.directory import Run

COLUMNS = ("run", "kind", "−elbo", "nll", "difference", "reconstruction", "kl", "bits per dim")
COLUMNS += ("active", "accuracy", "data", "recipe", "dims", "objective", "parameters", "minutes")
SEED = re.compile(r"[,/]?seed=\d+")

Configurations = Mapping[str, Sequence[Run]]  # runs that differ in their seed alone, by a name


def named(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs under the last parts of their paths that tell them apart.

    Raises:
        LatensError: the same run twice.
    """
    paths = [run.path.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise LatensError("the same run is given twice")
    paths = [Path(address_in_cache(path)) if is_of_hub(path) else path for path in paths]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    raise AssertionError("paths that differ have names that differ")


def configurations(runs: Mapping[str, Run]) -> dict[str, list[Run]]:
    """Runs grouped by all but the seed: data, options, model and objective, in the order given.

    Two runs of one seed are no two seeds: one training and its export, mostly. Each has its own.

    Raises:
        LatensError: a training that has not ended.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    of_seed: Counter[tuple[str, ...]] = Counter()
    for name, run in runs.items():
        figures_of(name, run)
        data = run.record["data"]
        alike = run.config.with_options(seed=0).command(data["name"]), data["fingerprint"]
        # What was given from Python, or fitted later, is not among the options
        own = json.dumps([to_config(run.vae), run.record.get("objective")], sort_keys=True)
        of_seed[key := (*alike, own, str(run.config.run.seed))] += 1
        groups.setdefault((*alike, own, str(of_seed[key])), []).append(name)
    found: dict[str, list[Run]] = {}
    for names in groups.values():
        short = _common(names)
        if len(names) > 1 and (short in runs or short in found):
            short = f"{names[0]} to {names[-1]}"
        found[short] = [runs[name] for name in names]
    return found


def _common(names: Sequence[str]) -> str:
    """A name for runs that differ in their seed, such as "beta=1" of "beta=1,seed=0"."""
    if len(names) == 1:
        return names[0]
    short = {SEED.sub("", name) for name in names}
    return next(iter(short)) if len(short) == 1 and short != {""} else f"{names[0]} to {names[-1]}"


# ---- figures ---------------------------------------------------------------------------------


def figures_of(name: str, run: Run) -> dict[str, Any]:
    """The figures on the test set.

    Raises:
        LatensError: the training has not ended.
    """
    if run.figures is None:
        raise LatensError(f"{name} has no figures: its training has not ended; go on by --resume")
    return run.figures


def kind_of(name: str, run: Run) -> tuple[str, str, str]:
    """What must agree before −elbo may be compared: what it is of, which test images, which q."""
    figures, data = figures_of(name, run), run.record["data"]
    given = ", given the label" if run.vae.label_embedding is not None else ""
    size = "×".join(map(str, data["shape"]))
    images = f"{figures['images']:,} images of {data['name']}, {size}"
    return figures["kind"] + given, images, f"q(z|x): {figures.get('posterior', 'encoder')}"


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


def refusal(runs: Mapping[str, Run], any_q: bool = False) -> str | None:
    """Why figures of these runs must not be ranked; None where they may.

    Args:
        any_q: all will be measured under one q, whatever their own figures are of.
    """
    words = "Not ranked: {}, and no order of them means anything."
    kinds = [kind_of(name, run) for name, run in runs.items()]
    for part in zip(*kinds, strict=True) if not any_q else [*zip(*kinds, strict=True)][:2]:
        if len(set(part)) > 1:
            listed = "; ".join(sorted(set(part)))
            return words.format(f"their figures are of different kinds ({listed})")
    if not _same_test_images(runs.values()):
        return words.format("their figures are of different test images")
    return None


def unmeasurable(runs: Mapping[str, Run]) -> str | None:
    """Why these runs cannot be measured again, image by image; None where they can."""
    if figures_of(*next(iter(runs.items())))["images"] == 1:
        return "Not ranked: a single test image tells no difference."
    if IN_MEMORY in {run.record["data"]["source"] for run in runs.values()}:
        return "Not ranked: their images came from Python, and cannot be measured again."
    return None


def ranking(runs: Mapping[str, Run]) -> tuple[list[str], str]:
    """The names from the least −elbo to the largest, and what to say of it.

    Figures of different kinds are not ranked: the names stay in their order.
    """
    refused = refusal(runs)
    if refused is not None:
        return list(runs), refused
    order = sorted(runs, key=lambda name: -figures_of(name, runs[name])["elbo"])
    kind = kind_of(order[0], runs[order[0]])[0]
    return order, f"Ranked by −elbo ({kind}), the least first: {order[0]}."


# ---- differences -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """Configurations measured on the same test images, the best first.

    Attributes:
        cost: what they are ranked by: "-elbo", or "nll" of K importance samples.
        importance_samples: K.
        means: the cost of each in nats per image, averaged over its seeds.
        differences: of each to the best one, which has none itself.
        kind: what the cost is of.
        posterior: the q(z|x) of all, where it was chosen; None: that of their own figures.
    """

    cost: str
    importance_samples: int | None
    means: dict[str, float]
    differences: dict[str, Difference]
    kind: str
    posterior: PosteriorName | None = None

    @property
    def order(self) -> list[str]:
        """The names, the best first."""
        return list(self.means)

    @property
    def comment(self) -> str:
        """What the ranking says, and whether the first two are told apart."""
        k = f" of {self.importance_samples:,} samples" if self.importance_samples else ""
        q = f" under q(z|x): {self.posterior}" if self.posterior else ""
        words = f"Ranked by {self.cost.replace('-', '−')}{k}{q} ({self.kind}), the least first: "
        words += f"{self.order[0]}."
        if len(self.order) == 1:
            return words
        second = self.order[1]
        if not self.differences[second].is_clear:
            words += f" It and {second} are not told apart: the interval of their difference holds "
            words += "0."
        return words + " Differences to it are paired over the test images, with 95 % intervals."


def rank(
    groups: Configurations,
    importance_samples: int | None = None,
    posterior: PosteriorName | None = None,
) -> Ranking:
    """Measure runs on their test images again, image by image, and rank them.

    Args:
        groups: runs of one kind and of the same test images: see `refusal`.
        importance_samples: K of −log p(x), by which they are then ranked; None ranks by −elbo.
        posterior: the q of all; None takes the one that their own figures are of.

    Raises:
        LatensError: data that are not there, or a q that a model cannot have.
    """
    cost = "-elbo" if importance_samples is None else "nll"

    def measure(run: Run) -> torch.Tensor:
        own: PosteriorName = "grid" if _is_grid(run) else "encoder"
        test, q = data_of(run).test, posterior or own
        return evaluate_each(run.vae, test, importance_samples, posterior=q)[cost]

    costs = {name: torch.stack([measure(run) for run in runs]) for name, runs in groups.items()}
    order = sorted(costs, key=lambda name: costs[name].mean().item())
    best = costs[order[0]]
    return Ranking(
        cost=cost,
        importance_samples=importance_samples,
        means={name: costs[name].mean().item() for name in order},
        differences={name: paired_difference(costs[name], best) for name in order[1:]},
        kind=kind_of(order[0], groups[order[0]][0])[0],
        posterior=posterior,
    )


def _is_grid(run: Run) -> bool:
    return (run.figures or {}).get("posterior", "").startswith("grid")


# ---- tables ----------------------------------------------------------------------------------


def rows_of(groups: Configurations, ranking: Ranking | None = None) -> list[dict[str, str]]:
    """The figures of each configuration as texts under `COLUMNS`, in their order or the ranking's.

    Figures of several seeds are their mean ± their standard deviation.
    """
    order = ranking.order if ranking else list(groups)
    rows = [_row(name, groups[name], ranking) for name in order]
    runs = groups[order[0]]
    if len(order) == 1 and len(runs) > 1:  # nothing beside it: there is room for its seeds
        rows = [_row(run.path.name, [run], None) for run in runs] + rows
    return rows


def _row(name: str, runs: Sequence[Run], ranking: Ranking | None) -> dict[str, str]:
    every, run = [figures_of(name, run) for run in runs], runs[0]
    minutes = [run.metrics[-1]["seconds"] / 60 for run in runs if run.metrics]

    def shown(key: str, form: str, sign: int = 1) -> str:
        return _spread([sign * float(f[key]) for f in every if f.get(key) is not None], form)

    cells = {
        "run": f"{name} ({len(runs)} seeds)" if len(runs) > 1 else name,
        "kind": kind_of(name, run)[0],
        "−elbo": shown("elbo", ".2f", -1),
        "nll": "",
        "difference": "",
        "reconstruction": shown("reconstruction", ".2f"),
        "kl": shown("kl", ".2f"),
        "bits per dim": shown("bits_per_dim", ".3f"),
        "active": f"{shown('active_units', '.3g')} of {run.latent_dims}"
        + " at the top" * (run.levels > 1),
        "accuracy": shown("accuracy", ".2%"),
        "data": run.name,
        "recipe": run.config.model.recipe,
        "dims": "×".join(map(str, run.latent_shape)),
        "objective": run.objective,
        "parameters": f"{run.record['parameters']:,}",
        "minutes": _spread(minutes, ".1f"),
    }
    if ranking is not None:
        if ranking.posterior is not None:  # no figures of another q beside those of this one
            cells |= dict.fromkeys(("−elbo", "reconstruction", "kl", "bits per dim"), "")
        if ranking.cost == "nll" or ranking.posterior is not None:
            cells[ranking.cost.replace("-", "−")] = f"{ranking.means[name]:.2f}"
        difference = ranking.differences.get(name)
        if difference is not None:
            low, high = (f"{value:+.2f}" for value in (difference.low, difference.high))
            cells["difference"] = f"{difference.mean:+.2f} [{low}, {high}]"
    numbers = ("−elbo", "nll", "difference", "reconstruction")
    return cells | {name: cells[name].replace("-", "−") for name in numbers}


def _spread(values: Sequence[float], form: str) -> str:
    """The mean, and of several values ± their standard deviation."""
    if not values:
        return ""
    mean = format(statistics.fmean(values), form)
    return mean if len(values) == 1 else f"{mean} ± {format(statistics.stdev(values), form)}"


def columns_of(rows: Sequence[dict[str, str]]) -> list[str]:
    """The columns in which anything stands."""
    return [column for column in rows[0] if any(row[column] for row in rows)]


def as_markdown(rows: Sequence[dict[str, str]]) -> str:
    """A table in Markdown, without columns in which nothing stands."""
    columns = columns_of(rows)
    cells = ([_markdown(row[c]) for c in columns] for row in rows)
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _markdown(text: str) -> str:
    """As it stands, where names may hold what Markdown or HTML would take for its own."""
    return html.escape(in_one_line(text), quote=False).replace("|", r"\|")


def as_csv(rows: Sequence[dict[str, str]]) -> str:
    """The same table as comma-separated values."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(rows), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_latex(rows: Sequence[dict[str, str]]) -> str:
    """The same table in LaTeX, for the package booktabs."""
    columns = columns_of(rows)
    body = [" & ".join(_latex(row[c]) for c in columns) + r" \\" for row in rows]
    header = " & ".join(map(_latex, columns)) + r" \\"
    layout = r"\begin{tabular}{" + "l" * len(columns) + "}"
    lines = [layout, r"\toprule", header, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}
LATEX |= {"−": "$-$", "±": r"$\pm$", "×": r"$\times$", "β": r"$\beta$", "λ": r"$\lambda$"}


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def as_data(groups: Configurations, ranking: Ranking | None, comment: str) -> dict[str, Any]:
    """All figures, unrounded, JSON-ready."""
    return {
        "comment": comment,
        "ranking": None if ranking is None else asdict(ranking),
        "configurations": {
            name: [
                {
                    "run": str(run.path),
                    "seed": run.config.run.seed,
                    "figures": figures_of(name, run),
                }
                for run in runs
            ]
            for name, runs in groups.items()
        },
    }
