"""Commands that list what there is, and figures in a sentence."""

from typing import Any

from latens import catalogue
from latens.cli.app import app


@app.command
def recipes() -> None:
    """List the models with their sources and figures, and the parts with their options."""
    from latens.model.recipes import RECIPES
    from latens.model.recipes import describe as about
    from latens.run.directory import Run, pretrained

    runs = [Run.open(name) for name in pretrained()]
    for name in RECIPES:
        summary, source = about(name)
        print(f"{name:<16} {summary}\n{'':<16} {source}")
        for run in runs:
            if run.config.model.recipe == name:
                print(f"{'':<16} {run.path.name}: {sentence(run.figures or {})}")
        print()
    for kind in catalogue.KINDS:
        print(f"--{kind}")
        for choice in catalogue.choices(kind).values():
            flags = [f"--{name.replace('_', '-')}" for name in choice.options]
            print(f"  {choice.name:<22} {choice.summary}")
            if flags:
                print(f"  {'':<22} {', '.join(flags)}")
        print()


@app.command
def data() -> None:
    """List the named data sets, and what else a training takes."""
    from latens.data import NAMES
    from latens.data.cache import cache_path
    from latens.data.sources import data_folder

    for name, about in NAMES.items():
        print(f"{name:<16} {about}")
    print(
        f"{'PATH':<16} a folder of images (sub-folders are classes), of IDX, Parquet or tar files, "
        "a .npy, a .npz"
    )
    print(f"{'URL':<16} tar files on a server, such as https://example.org/set-{{000..099}}.tar")
    print(f"\nDownloads are kept in {data_folder()} (LATENS_DATA chooses another folder),")
    print(f"decoded images in {cache_path()} (LATENS_CACHE; it can be deleted at any time).")


def sentence(figures: dict[str, Any]) -> str:
    """The figures of a split in one line."""
    from latens.evaluation.tables import active_dimensions

    parts = [
        f"−elbo {-figures['elbo']:.2f} = reconstruction {figures['reconstruction']:.2f} + kl "
        f"{figures['kl']:.2f} nats per image ({figures['kind']})"
    ]
    if figures.get("bits_per_dim") is not None:
        parts.append(f"{figures['bits_per_dim']:.3f} bits per dim")
    if figures.get("mse") is not None:
        parts.append(f"mean squared error {figures['mse']:.5f}")
    parts.append(f"{figures['active_units']} active {active_dimensions(figures)}")
    if figures.get("accuracy") is not None:
        parts.append(f"classifier {figures['accuracy']:.2%} right")
    return f"{figures['split']}: {', '.join(parts)}"
