"""Commands for other programs: features, scores, exports, a service."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from latens.cli.annotations import (
    DataPath,
    DeviceOption,
    ImportanceSamples,
    Number,
    RunPath,
    Scores,
    Seed,
    Steps,
    Temperature,
)
from latens.cli.app import app
from latens.errors import LatensError


@dataclass(frozen=True)
class ScoreOptions:
    """The options of scores."""

    scores: Scores = None
    importance_samples: ImportanceSamples = 100
    steps: Steps = 50
    seed: Seed = 0

    def given(self) -> dict[str, Any]:
        """By name; of scores none are the usual ones."""
        return asdict(self) | {"scores": self.scores.split(",") if self.scores else None}


@app.command
def embed(
    run: RunPath,
    data: DataPath | None = None,
    /,
    *,
    out: Path,
    levels: int | None = None,
    device: DeviceOption = "auto",
) -> None:
    """Write the latents of each image to a file: path, split, label, μ and σ of each dimension.

    Parameters
    ----------
    data
        A name, a folder, a .npy, a .npz, Parquet or tar files; none: the run's own, in its splits.
    out
        A .csv, .parquet or .npz file.
    levels
        Of a ladder, how many levels from the topmost on stand in a row, without σ; none: the
        topmost.
    """
    from latens.features import embed

    print(embed(run, data, out=out, levels=levels, device=device))


@app.command
def score(
    run: RunPath,
    data: DataPath | None = None,
    /,
    *,
    out: Path,
    options: Annotated[ScoreOptions, Parameter(name="*")] = ScoreOptions(),
    device: DeviceOption = "auto",
) -> None:
    """Write to a file how unusual each image is to a model: scores, larger if more so.

    Parameters
    ----------
    data
        A name, a folder, a .npy, a .npz, Parquet or tar files; none: the run's own, in its splits.
    out
        A .csv or .parquet file.
    """
    from latens.features import score

    print(score(run, data, out=out, device=device, **options.given()))


@app.command
def anomaly(
    run: RunPath,
    /,
    *,
    good: DataPath,
    bad: DataPath,
    out: Path = Path("anomaly"),
    false_positive_rate: float = 0.05,
    number: Annotated[int, Number] = 12,
    options: Annotated[ScoreOptions, Parameter(name="*")] = ScoreOptions(),
    device: DeviceOption = "auto",
) -> None:
    """Say how well a model trained on good images finds bad ones: AUROC, a threshold, error maps.

    Parameters
    ----------
    good
        Good images that the model was not trained on: a folder, a .npy, or a name (its test split).
    bad
        Bad ones.
    out
        The folder for the page, scores.csv and anomaly.json.
    false_positive_rate
        At which the threshold is set: the share of good images that may lie above it.
    number
        How many of the most unusual images are shown.
    """
    from latens.detection import anomaly, rows_of

    found = anomaly(
        run,
        good,
        bad,
        out=out,
        false_positive_rate=false_positive_rate,
        number=number,
        device=device,
        **options.given(),
    )
    for row in rows_of(found.scores):
        print("  ".join(f"{name} {text}" for name, text in row.items()))
    print(found.path)


@app.command
def search(
    run: RunPath,
    image: Path,
    data: DataPath | None = None,
    /,
    *,
    out: Path = Path("nearest.png"),
    number: Annotated[int, Number] = 12,
    device: DeviceOption = "auto",
) -> None:
    """Find the images that are nearest to one in latent space, and show them in a PNG.

    Parameters
    ----------
    image
        An image file.
    data
        Where to search: a name, a folder, a .npy, a .npz, Parquet or tar files; none: the run's own
        data.
    number
        Of images.
    """
    from latens.features import search

    for row in search(run, image, data, out=out, number=number, device=device):
        words = (row["path"], row["split"], row["label"])
        print("  ".join([f"{row['distance']:.4f}", *filter(None, words)]))
    print(out)


@app.command
def export(
    run: RunPath,
    /,
    *,
    out: Path | None = None,
    bits: Literal[8, 16, 32] = 16,
    onnx: Path | None = None,
    quantise: Literal["int8"] | None = None,
    temperature: Temperature = None,
) -> None:
    """Write a run's model to be shared, or as programs for ONNX that run without latens.

    Parameters
    ----------
    out
        The folder, which must not exist yet, for the weights in few bits, the card and the figures.
    bits
        Of a weight; of 8, layers that lose by it get 16. The figures are measured anew, with the
        weights as they are written.
    onnx
        The folder, which must not exist yet, for encoder, decoder, sampler and classifier, as .onnx
        and as .pt2 for torch.export, with the lines that use them.
    quantise
        Write encoder and decoder in 8 bits too, and measure what that costs in nats.
    temperature
        With --out, of samples where none is asked for; of a ladder one for all levels, or one for
        each. None leaves the model's own.
    """
    if (out is None) == (onnx is None):
        raise LatensError("name a folder, by --out for the model or by --onnx for programs")
    if quantise and onnx is None:
        raise LatensError("--quantise is for --onnx; for --out there is --bits 8")
    if temperature and onnx is not None:
        raise LatensError("--temperature is for --out: programs sample at 1")
    if onnx is None:
        from latens import api
        from latens.analysis.generation import temperatures_of

        of_samples = temperatures_of(temperature)
        print(api.export(run, out or "", bits=bits, temperature=of_samples).path)
        return
    from latens.deployment import export_onnx

    written = export_onnx(run, onnx, quantise)
    for name, difference in written.differences.items():
        print(f"{name}: differs from the model by {difference:.1g} at most")
    if written.cost is not None:
        print(f"int8: costs {round(written.cost, 2) + 0.0:.2f} nats of −elbo per test image")
    print(written.path)


@app.command
def push(
    run: RunPath,
    name: str,
    /,
    *,
    private: bool = False,
    bits: Literal[8, 16, 32] = 16,
) -> None:
    """Put a run's model on the Hugging Face Hub, with its card, figures and pictures.

    hf://USER/NAME can then be used wherever a run directory can.

    Parameters
    ----------
    name
        USER/NAME.
    private
        Only for you to see, where it does not exist yet.
    bits
        Of a weight.
    """
    from latens import api

    print(api.push(run, name, private, bits=bits))


@app.command
def serve(
    run: RunPath,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    images: int = 64,
    megabytes: float = 16.0,
    megapixels: float = 200.0,
    rate: int = 100,
    batch_size: int = 256,
    device: DeviceOption = "auto",
) -> None:
    """Answer HTTP requests for samples, reconstructions, latents, scores and interpolations.

    Prints the address; /docs there says what can be asked. Ends with Ctrl-C or SIGTERM, when
    requests that have begun are answered.

    Parameters
    ----------
    host
        Where to listen; 0.0.0.0: at every address of this machine.
    port
        Of the address; 0: any that is free.
    images
        That one request may send or ask for.
    megabytes
        MiB that one request may have.
    megapixels
        That the images of one request may have, before they are brought to the model's size.
    rate
        Requests in a second from one address; 0: any number.
    batch_size
        Images of several requests that are computed at once.
    """
    from latens.serving.limits import Limits
    from latens.serving.server import serve

    limits = Limits(images, megabytes, megapixels, rate)
    serve(run, host, port, batch_size=batch_size, limits=limits, device=device)
