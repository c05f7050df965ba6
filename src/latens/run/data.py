"""The data that a run was trained on."""

import zlib
from typing import Any

from latens.config import TrainConfig
from latens.data import IN_MEMORY, DataSet, Target, can_be_resized, load_data, source_of
from latens.errors import LatensError
from latens.run.directory import Run


def data_options(config: TrainConfig) -> dict[str, Any]:
    """The options of `load_data` in a configuration."""
    data = config.data
    return {
        "size": data.image_size,
        "grey": data.grey,
        "binarisation": data.binarisation,
        "validation": data.validation,
        "split_seed": data.split_seed,
        "labels": data.labels,
        "skip_bad": data.skip_bad,
        "strict": data.strict,
        "value_range": data.value_range,
    }


def target_of(run: Run) -> Target:
    """What image files are converted to for a run's model, as its training images were."""
    data, options = run.record["data"], run.config.data
    channels, height, width = data["shape"]
    return Target((height, width), channels, data.get("crop"), value_range=options.value_range)


def is_own(run: Run, data: Any) -> bool:
    """Whether these are the data that a run was trained on, by what they were read from.

    A `DataSet` keeps that when its images are replaced, so its images are looked at too: they may
    be split or labelled otherwise.
    """
    source = run.record["data"]["source"]
    if source_of(data) != source:
        return False
    if not isinstance(data, DataSet) or source == IN_MEMORY:
        return True
    if data.fingerprint() == run.record["data"]["fingerprint"]:
        return True
    return _checksums(data) == _checksums(data_of(run))


def _checksums(data: DataSet) -> list[int]:
    """One for each image, sorted."""
    return sorted(zlib.crc32(image.tobytes()) for image in data.split("all").pixels.numpy())


def data_of(run: Run, data: Any = None) -> DataSet:
    """The data that a run was trained on, in the same splits.

    Args:
        data: the same data again, of a run whose data came from Python.

    Raises:
        LatensError: they are not available, or have changed since.
    """
    source = run.record["data"]["source"] if data is None else data
    options = data_options(run.config)
    found = load_data(source, **options)
    _, height, width = run.record["data"]["shape"]
    if isinstance(source, str) and found.shape[1:] != (height, width) and can_be_resized(source):
        # How a size is chosen may have changed since then
        options["size"] = (height, width)
        found = load_data(source, **options)
    recorded = run.record["data"]["fingerprint"]
    if found.fingerprint() != recorded and found.fingerprint(known_only=True) != recorded:
        raise LatensError(
            f"the images of {found.name} have changed since {run.path} was trained, so its splits "
            "cannot be found again: put the old ones back"
        )
    return found
