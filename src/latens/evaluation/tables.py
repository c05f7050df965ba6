"""Figures as lines of text, for a terminal."""

from typing import Any


def active_dimensions(figures: dict[str, Any]) -> str:
    """What `active_units` counts, such as "latent dimensions of the topmost level"."""
    of = " of the topmost level" if len(figures.get("kl_per_level") or ()) > 1 else ""
    return f"latent dimensions{of}"


def figures_table(figures: dict[str, Any]) -> str:
    """The figures as lines of name, value and unit."""
    of = "nats per image"
    rows = [
        ("−elbo", f"{-figures['elbo']:.3f}", f"{_error(figures, 'elbo')}{of}, {figures['kind']}"),
        (
            "reconstruction",
            f"{figures['reconstruction']:.3f}",
            f"{_error(figures, 'reconstruction')}{of}, −E log p(x|z)",
        ),
        ("kl", f"{figures['kl']:.3f}", f"{_error(figures, 'kl')}{of}"),
    ]
    levels = figures["kl_per_level"] or ()
    rows += [(f"kl of level {i}", f"{kl:.3f}", of) for i, kl in enumerate(levels, start=1)]
    if figures["nll"] is not None:
        samples = f"{figures['importance_samples']:,} importance samples"
        effective = f"{figures['effective_samples']:,.1f} of them effective"
        unit = f"{_error(figures, 'nll')}{of}, {figures['kind']}, {samples}, {effective}"
        rows.append(("nll", f"{figures['nll']:.3f}", unit))
    if figures["bits_per_dim"] is not None:
        rows.append(("bits per dim", f"{figures['bits_per_dim']:.4f}", ""))
    if figures["mse"] is not None:
        rows.append(("mse", f"{figures['mse']:.5f}", "mean squared error of pixels in [0, 1]"))
    rows.append(("active units", str(figures["active_units"]), active_dimensions(figures)))
    for name in ("accuracy", "neighbour_accuracy"):
        if figures[name] is not None:
            what = {"accuracy": "of the classifier", "neighbour_accuracy": "of the nearest images"}
            rows.append((name.replace("_", " "), f"{figures[name]:.2%}", what[name]))
    if figures["posterior"] != "encoder":
        rows.append(("q(z|x)", "", figures["posterior"]))
    rows.append(("images", f"{figures['images']:,}", figures["split"] or f"of {figures['data']}"))
    rows.append(("time", f"{figures['seconds']:.1f}", "s"))
    if figures["errors"]:
        rows.append(("±", "", "standard errors: of the images, then of sampling z"))
    return "\n".join(f"{name:<18} {value:>10}  {unit}".rstrip() for name, value, unit in rows)


def _error(figures: dict[str, Any], name: str) -> str:
    """The standard errors of a figure, such as "± 0.351 ± 0.012 "."""
    error = figures["errors"].get(name)
    if error is None:
        return ""
    parts = [error["images"], *([] if error["sampling"] is None else [error["sampling"]])]
    return "".join(f"± {part:.3f} " for part in parts)


def full_table(figures: dict[str, Any]) -> str:
    """All figures of `latens.evaluate_all`, under a heading each."""
    parts = [_splits(figures)]
    for name, lines in (
        ("−log p(x)", _nll(figures)),
        ("parts of the KL", _kl_parts(figures.get("kl_parts"))),
        ("samples", [line for part in figures.get("samples", []) for line in _samples(part)]),
        ("latents and classes", _latents(figures.get("latents"))),
        ("latents and factors", _factors(figures.get("factors"))),
    ):
        if lines:
            parts.append("\n".join([f"{name}:", *(f"  {line}" for line in lines)]))
    parts.append("±: standard errors; where there are two, of the images and of sampling z")
    return "\n\n".join(parts)


def _splits(figures: dict[str, Any]) -> str:
    splits = [name for name in ("train", "validation", "test") if name in figures]
    lines = ["".join([f"{'nats per image':<18}", *(f"{name:>26}" for name in splits)])]
    for name in ("elbo", "reconstruction", "kl"):
        sign = -1 if name == "elbo" else 1
        cells = [
            f"{sign * figures[split][name]:.2f} {_error(figures[split], name).strip()}"
            for split in splits
        ]
        lines.append(
            f"{'−elbo' if name == 'elbo' else name:<18}" + "".join(f"{c:>26}" for c in cells)
        )
    counts = "".join(f"{figures[split]['images']:>26,}" for split in splits)
    return "\n".join([*lines, f"{'images':<18}{counts}", f"kind: {figures['test']['kind']}"])


def _nll(figures: dict[str, Any]) -> list[str]:
    nll = figures["nll"]
    lines = [
        f"{nll['nll']:.2f} {_error(nll, 'nll')}by {nll['importance_samples']:,} importance samples "
        f"({nll['effective_samples']:.1f} effective) of {nll['images']:,} test images, whose −elbo "
        f"is {-nll['elbo']:.2f}"
    ]
    if "refined" in figures:
        gain = figures["refined"]["elbo"] - figures["unrefined"]["elbo"]
        lines.append(
            f"amortisation gap {gain:.2f}: so much q(z|x) refined for each of "
            f"{figures['refined']['images']:,} images gains over the encoder's"
        )
    if "bracket" in figures:
        b = figures["bracket"]
        lines.append(
            f"log p(x) of {b['images']} samples of the model: {b['lower']:.2f} to {b['upper']:.2f} "
            f"by annealing, {b['importance']:.2f} by {b['importance_samples']} importance samples"
        )
    return lines


def _kl_parts(parts: dict[str, Any] | None) -> list[str]:
    if parts is None:
        return []
    names = ("mutual_information", "total_correlation", "dimension_kl", "marginal_kl")
    how = "exact sum" if parts["exact"] else "stratified estimate"
    rows = [
        f"{name.replace('_', ' '):<20}{parts[name]:>8.2f} {_error(parts, name)}" for name in names
    ]
    return [*(row.rstrip() for row in rows), f"{how} over {parts['images']:,} images"]


def _samples(quality: dict[str, Any]) -> list[str]:
    def shown(name: str, digits: int) -> str:
        value, error = quality[name], quality["errors"].get(name)
        text = f"{name.replace('_', ' ')} {value:.{digits}f}"
        return text if error is None else f"{text} ± {error:.{digits}f}"

    names = [("fid", 2), ("kid", 4), ("precision", 3), ("recall", 3), ("near_copies", 3)]
    figures = [shown(name, digits) for name, digits in names if quality[name] is not None]
    of = f"{quality['samples']:,} {quality['of']} beside {quality['images']:,} test images"
    return [of, "  " + ", ".join(figures), f"  features: {quality['features']}"]


def _latents(quality: dict[str, Any] | None) -> list[str]:
    if quality is None:
        return []
    errors, clusters = quality["errors"], quality["clustering"]
    return [
        f"linear probe {quality['probe']:.2%} ± {errors['probe']:.2%}, ten nearest neighbours "
        f"{quality['neighbours']:.2%} ± {errors['neighbours']:.2%} ({quality['train']:,} training, "
        f"{quality['test']:,} test images)",
        f"clusters by {clusters['method']}: accuracy {clusters['accuracy']:.2%}, NMI "
        f"{clusters['nmi']:.3f}, ARI {clusters['ari']:.3f}",
    ]


def _factors(scores: dict[str, Any] | None) -> list[str]:
    if scores is None:
        return []
    names = ("mig", "disentanglement", "completeness", "informativeness", "sap", "factor_vae")
    figures = ", ".join(f"{name.replace('_', ' ')} {scores[name]:.3f}" for name in names)
    return [figures, f"{scores['rows']:,} images; factors: {', '.join(scores['factors'])}"]
