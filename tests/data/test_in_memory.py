"""Images given from Python; stand-ins behave as the data sets of torchvision and Hugging Face."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from latens import Images, LatensError, load_data
from latens.data import IN_MEMORY, load_split, name_of, source_of
from latens.data import in_memory as module

COUNT = 40
NAMES = tuple(f"digit {i}" for i in range(10))


def real_digits(count=COUNT):
    values, labels = load_digits(return_X_y=True)
    pixels = np.rint(values.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return pixels[:count], labels[:count]


DIGITS, LABELS = real_digits()
COLOUR = np.stack([DIGITS, 255 - DIGITS, DIGITS // 2], -1)  # [N, H, W, C]


def to_tensor(image):
    """As torchvision's ToTensor: float [C, H, W] in [0, 1]."""
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    return torch.from_numpy(array.transpose(2, 0, 1).copy()).float().div(255)


class MNIST(torch.utils.data.Dataset):
    """As torchvision's."""

    classes = NAMES

    def __init__(self, pixels=DIGITS, labels=LABELS, transform=None, target_transform=None):
        self.data, self.targets = torch.from_numpy(pixels), torch.from_numpy(labels)
        self.transform = transform

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image = Image.fromarray(self.data[index].numpy())
        return self.transform(image) if self.transform else image, int(self.targets[index])


class CIFAR10(MNIST):
    """Colour, and labels of plain integers."""

    def __init__(self, transform=None):
        super().__init__(COLOUR, transform=transform)


class ImageFolder(torch.utils.data.Dataset):
    """Opens its files as they are asked for."""

    def __init__(self, folder, transform=None):
        self.classes = sorted(path.name for path in folder.iterdir())
        self.samples = [
            (path, i)
            for i, name in enumerate(self.classes)
            for path in sorted(folder.glob(f"{name}/*"))
        ]
        self.transform = transform

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        path, label = self.samples[index]
        with path.open("rb") as file:
            image = Image.open(file).convert("RGB")
        return self.transform(image) if self.transform else image, label


class ClassLabel:
    def __init__(self, names):
        self.names = names


class Dataset:
    """As Hugging Face's: rows are dictionaries, features know the classes."""

    def __init__(self, images, labels=None, image="image", label="label", names=None):
        self.rows = [{"id": str(i), image: x} for i, x in enumerate(images)]
        for row, value in zip(self.rows, [] if labels is None else labels, strict=False):
            row[label] = value
        self.features = {"id": object(), image: object()}
        if labels is not None:
            self.features[label] = ClassLabel(names) if names else object()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        assert isinstance(key, int)
        return self.rows[key]


class DatasetDict(dict):
    pass


def pictures(pixels=DIGITS):
    return [Image.fromarray(x) for x in pixels]


@pytest.fixture(params=["grey", "colour"])
def saved(request, tmp_path):
    """The pixels and the folder of PNG files that holds the same, sub-folders being classes."""
    pixels = DIGITS if request.param == "grey" else COLOUR
    for i, (x, label) in enumerate(zip(pixels, LABELS, strict=True)):
        path = tmp_path / "folder" / NAMES[label]
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(path / f"{i:03d}.png")
    order = np.argsort(LABELS, kind="stable")  # as files are found
    return pixels[order], LABELS[order], tmp_path / "folder"


def every(data):
    """All images and labels, in the order of the splits."""
    images = data.split("all")
    return images.pixels, images.labels


def assert_same(one, two):
    assert one.fingerprint() == two.fingerprint()
    assert one.classes == two.classes


# ---- equal to files --------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [None, to_tensor, np.asarray])
def test_a_torchvision_data_set_is_a_folder_to_the_bit(saved, transform):
    pixels, labels, folder = saved
    assert_same(load_data(MNIST(pixels, labels, transform)), load_data(folder))


@pytest.mark.parametrize("kind", ["pil", "uint8", "chw"])
def test_a_hugging_face_data_set_is_a_folder_to_the_bit(saved, kind):
    pixels, labels, folder = saved
    make = {"pil": Image.fromarray, "uint8": torch.from_numpy, "chw": to_tensor}[kind]
    rows = Dataset([make(x) for x in pixels], labels.tolist(), names=list(NAMES))
    assert_same(load_data(rows), load_data(folder))


def test_arrays_are_a_folder_to_the_bit(saved):
    pixels, labels, folder = saved
    expected = load_data(folder)
    channels_first = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    for array in (pixels, channels_first, (channels_first / 255).astype(np.float32)):
        for given in (array, torch.from_numpy(array.copy())):
            data = load_data((given, labels))
            assert torch.equal(every(data)[0], every(expected)[0])
            assert torch.equal(every(data)[1], every(expected)[1])
    assert data.classes == tuple("0123456789")


def test_mixed_sizes_are_resized_as_those_of_a_folder(colour_folder):
    expected = load_data(colour_folder)
    data = ImageFolder(colour_folder)
    assert_same(load_data(data), expected)
    assert_same(load_data(ImageFolder(colour_folder, np.asarray)), expected)
    for options in ({"size": (24, 40)}, {"grey": True}, {"size": (9, 9), "grey": True}):
        assert_same(load_data(data, **options), load_data(colour_folder, **options))


def test_images_are_asked_for_twice_rather_than_all_kept(colour_folder, monkeypatch):
    expected = load_data(ImageFolder(colour_folder))
    monkeypatch.setattr(module, "BYTES_KEPT", 20_000)
    assert_same(load_data(ImageFolder(colour_folder)), expected)


def test_size_and_grey_are_for_arrays_too():
    data = load_data((COLOUR, LABELS), size=(4, 6), grey=True)
    assert data.shape == (1, 4, 6)
    assert_same(
        data, load_data(list(zip(pictures(COLOUR), LABELS, strict=True)), size=(4, 6), grey=True)
    )


def test_modes_are_converted_as_those_of_files(tmp_path):
    images = [Image.new("RGBA", (8, 8), (0, 0, 9 * i, 99)) for i in range(6)]
    images += [Image.new("CMYK", (8, 8), (0, 99, i, 3)) for i in range(6)]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i:02d}.tiff")
    assert_same(load_data(images), load_data(tmp_path))


# ---- labels and names ------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["image", "img", "pixel_values", "the only one"])
@pytest.mark.parametrize("label", ["label", "labels", "fine_label"])
def test_columns_go_by_their_usual_names(image, label):
    data = load_data(Dataset(pictures(), LABELS.tolist(), image, label, list(NAMES)))
    assert data.classes == NAMES
    assert torch.equal(every(data)[1], every(load_data((DIGITS, LABELS)))[1])


def test_classes_without_names_are_the_sorted_labels():
    data = load_data(Dataset(pictures(), [(3, 11)[i % 2] for i in range(COUNT)]))
    assert data.classes == ("3", "11")
    assert sorted(every(data)[1].tolist()) == [0] * 20 + [1] * 20
    texts = load_data(list(zip(pictures(), ["b", "a"] * 20, strict=True)))
    assert texts.classes == ("a", "b")


def test_classes_of_several_names_and_of_a_subset():
    mnist = MNIST()
    mnist.classes = [(name, "other") for name in NAMES]
    part = torch.utils.data.Subset(mnist, range(30))
    data = load_data(part)
    assert data.classes[0] == "digit 0, other"
    assert (data.name, sum(data.sizes().values())) == ("mnist", 30)


@pytest.mark.parametrize("unknown", [None, -1])
def test_some_labels_or_all_are_unknown(unknown):
    labels = [unknown if i % 4 == 0 else int(x) for i, x in enumerate(LABELS)]
    data = load_data(list(zip(DIGITS, labels, strict=True)))
    assert (every(data)[1] == -1).sum() == 10
    assert every(load_data(Dataset(pictures(), [unknown] * COUNT, names=NAMES)))[1] is None
    assert every(load_data(pictures()))[1] is None


class CelebA(torch.utils.data.Dataset):
    """Attributes in place of classes; torchvision's last name is empty."""

    attr_names = "odd", "twos", "fours", ""

    def __init__(self):
        self.attr = torch.from_numpy(LABELS)[:, None] >> torch.arange(3) & 1

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return Image.fromarray(COLOUR[index]), self.attr[index]


def test_attributes():
    data = load_data(CelebA())
    assert data.attributes == ("odd", "twos", "fours")
    assert data.classes == ()
    arrays = load_data((COLOUR, CelebA().attr))
    assert arrays.attributes == ("0", "1", "2")
    assert arrays.fingerprint() == data.fingerprint()


# ---- splits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("validation", ["validation", "val", "valid"])
def test_a_mapping_has_the_splits_that_it_names(validation):
    def rows(part):
        return Dataset(pictures(DIGITS[part]), LABELS[part].tolist(), names=list(NAMES))

    parts = {"train": slice(0, 20), validation: slice(20, 25), "test": slice(25, 40)}
    data = load_data(DatasetDict({name: rows(part) for name, part in parts.items()}))
    arrays = load_data({name: (DIGITS[part], LABELS[part]) for name, part in parts.items()})
    assert data.sizes() == {"train": 20, "validation": 5, "test": 15}
    assert (data.test.pixels[:, 0].numpy() == DIGITS[25:]).all()
    assert data.test.labels.tolist() == LABELS[25:].tolist()
    assert data.fingerprint() == arrays.fingerprint()
    mixed = load_data({"train": (DIGITS[:20], LABELS[:20]), "test": rows(slice(25, 40))})
    assert mixed.test.pixels.equal(data.test.pixels)
    assert mixed.sizes() == {"train": 18, "validation": 2, "test": 15}


def test_all_splits_are_brought_to_one_size():
    small = [image.resize((6, 5)) for image in pictures()]
    data = load_data({"train": pictures(), "test": small})
    assert data.train.shape == data.test.shape == (1, 5, 5)


def test_a_data_set_of_latens_is_returned_as_it_is(digits):
    assert load_data(digits) is digits
    again = load_data(digits, binarisation="dynamic", labels=100, validation=400)
    assert again.binary
    assert again.train.stochastic_binarize
    assert again.sizes() == {"train": 1038, "validation": 400, "test": 179}
    assert (again.train.labels >= 0).sum() == 100
    assert (again.name, again.source) == ("digits", "digits")
    assert load_data(again, labels=50).binary


def test_images_of_latens_are_split(digits):
    data = load_data(digits.train)
    assert data.sizes() == {"train": 1438 - 143 - 129, "validation": 129, "test": 143}
    assert data.classes == digits.classes
    assert data.train.array.data_ptr() == digits.train.array.data_ptr()
    assert load_data({"train": digits.train, "test": digits.test}).test.pixels.equal(
        digits.test.pixels
    )


def test_a_split_for_a_trained_model(digits):
    shape = (1, 8, 8)
    images = load_split(MNIST(), None, shape, names=NAMES)
    assert (len(images), images.shape) == (COUNT, shape)
    assert images.labels.tolist() == LABELS.tolist()
    assert load_split(CIFAR10(), "all", shape).shape == shape
    assert load_split((DIGITS, LABELS), None, (1, 4, 4)).shape == (1, 4, 4)
    parts = {"train": MNIST(), "test": MNIST(DIGITS[:7], LABELS[:7])}
    assert len(load_split(parts, None, shape)) == 7
    assert len(load_split(parts, "all", shape)) == COUNT + 7
    assert load_split(digits, None, shape).pixels.equal(digits.test.pixels)
    assert load_split(digits.test, None, shape).pixels.equal(digits.test.pixels)
    assert set(load_split(MNIST(), None, shape, "static").pixels.unique().tolist()) == {0, 255}
    with pytest.raises(LatensError, match="the data set has no test split of its own"):
        load_split(MNIST(), "test", shape)


def test_labels_of_a_split_go_by_the_models_classes(digits):
    shape, names = (1, 8, 8), ("zero", "one", *NAMES[2:])
    for data in ((DIGITS, LABELS), Images(torch.from_numpy(DIGITS)[:, None], torch.tensor(LABELS))):
        assert load_split(data, None, shape, names=names).labels.tolist() == LABELS.tolist()
    backwards = tuple(str(9 - i) for i in range(10))
    labels = load_split((DIGITS, LABELS), None, shape, names=backwards).labels
    assert labels.tolist() == (9 - LABELS).tolist()
    with pytest.raises(LatensError, match="labels from 0 to 9, but 2 class names"):
        load_split((DIGITS, LABELS), None, shape, names=("cat", "dog"))


# ---- names -----------------------------------------------------------------------------------


def test_names_and_sources(digits, tmp_path):
    hub = Dataset(pictures())
    hub.info = type("DatasetInfo", (), {"dataset_name": "fashion_mnist"})()
    cases = {
        "arrays": [DIGITS, torch.from_numpy(DIGITS), (DIGITS, LABELS), {"train": DIGITS}],
        "images": [pictures(), digits.train, [(x, 1) for x in pictures()]],
        "mnist": [MNIST(), {"train": MNIST(), "test": MNIST()}],
        "cifar10": [CIFAR10()],
        "dataset": [Dataset(pictures())],
        "fashion_mnist": [hub, DatasetDict(train=hub)],
    }
    for name, given in cases.items():
        for data in given:
            assert (name_of(data), source_of(data)) == (name, IN_MEMORY)
            found = load_data(data)
            assert (found.name, found.source) == (name, IN_MEMORY)
    assert (name_of(digits), source_of(digits)) == ("digits", "digits")
    assert (name_of("digits"), name_of(tmp_path / "faces")) == ("digits", "faces")
    assert source_of(IN_MEMORY) == IN_MEMORY


def test_data_from_python_cannot_be_found_again():
    with pytest.raises(LatensError, match=r"given from Python: .*evaluate\(run, data=") as failure:
        load_data(IN_MEMORY)
    assert "\n" not in str(failure.value)


# ---- pixels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_floats_that_are_grey_levels_are_exact_and_others_are_noted(dtype, capsys):
    levels = torch.arange(256, dtype=torch.uint8).repeat(16).reshape(64, 8, 8)
    data = load_split((levels / 255).to(dtype), None, (1, 8, 8))
    assert data.pixels[:, 0].equal(levels)
    assert capsys.readouterr().err == ""
    load_data(torch.rand(20, 8, 8))
    load_data(list(torch.rand(20, 8, 8)))
    assert capsys.readouterr().err.count("rounded to 8 bits") == 2


def test_any_memory_layout():
    expected = load_data(DIGITS[::-1].copy()).fingerprint()
    fixed = DIGITS[::-1].copy()
    fixed.flags.writeable = False
    for array in (DIGITS[::-1], fixed, torch.from_numpy(DIGITS).flip(0), np.asfortranarray(fixed)):
        assert load_data(array).fingerprint() == expected


# ---- errors ----------------------------------------------------------------------------------


def expect_failure(data, words, **options):
    with pytest.raises(LatensError, match=words) as failure:
        load_data(data, **options)
    assert "\n" not in str(failure.value)


class Unsized:
    def __iter__(self):
        return iter(DIGITS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (7, "data cannot be of type int"),
        (None, "data cannot be of type NoneType"),
        (Unsized(), "data cannot be of type Unsized: .*__getitem__"),
        (torch.utils.data.DataLoader(MNIST()), "data cannot be of type DataLoader"),
        ([], "data is empty"),
        ({}, "a mapping with no splits"),
        ({"test": DIGITS}, "a mapping with test: its keys must be train"),
        ({"train": DIGITS, "dev": DIGITS}, "a mapping with train, dev"),
        ({"train": DIGITS, "val": DIGITS, "valid": DIGITS}, "train, val, valid"),
        ({"train": DIGITS, "test": DIGITS[:0]}, "the test split is empty"),
        ({"train": DIGITS, "test": DIGITS[:, :7]}, "in the test split"),
        (DIGITS[:0], "data is empty"),
        (DIGITS[:9], "the data set has 9 images: at least 10"),
        (pictures()[:3], "the data set has 3 images: at least 10"),
        ((DIGITS, LABELS[:-1]), "40 images but 39 labels"),
        ((DIGITS, [*LABELS, 1]), "40 images but 41 labels"),
        ((DIGITS, LABELS + 0.5), "labels that are not classes"),
        ((DIGITS, ["a", 1] * 20), "labels that are not classes"),
        (DIGITS.reshape(COUNT, 64), "the data set has shape"),
        ((DIGITS.reshape(COUNT, 64), LABELS), "the data set has shape"),
        (DIGITS / 100, "floats from 0 to 2.55: scale them"),
        (torch.full((20, 8, 8), torch.nan), "holds NaN"),
        ([*pictures(), "text"], "item 40 is not an image but of type str"),
        ([*DIGITS, DIGITS[0] / 100], "item 40 holds floats from 0 to 2"),
        (
            [(x, 1, 2) for x in DIGITS],
            "item 0 is not an image but of type tuple with ndarray, int, int",
        ),
        ([DIGITS], r"item 0 is an array of shape \(40, 8, 8\)|1 channel"),
        (list(DIGITS[None, None]), "item 0 is not an image but of type ndarray of shape"),
        ([{"a": 1, "b": 2}] * 20, "item 0 is a mapping with a, b: it must have one image"),
        ([{"a": x, "b": x} for x in DIGITS], "item 0 is a mapping with a, b"),
        ([(x, {}) for x in DIGITS], "item 0 has a label of type dict"),
        ([(x, [1, 2]) for x in DIGITS], "item 0 has a label of type tuple"),
        ([(x, [[1, 0], 1][i % 2]) for i, x in enumerate(DIGITS)], "labels of different kinds"),
        (MNIST(labels=LABELS + 1), "labels from 1 to 10, but 10 class names"),
        (Dataset(pictures(), ["x"] * COUNT, names=list(NAMES)), "not among its classes: x"),
        ([Image.fromarray(x / np.float32(255)) for x in DIGITS], "item 0 .*floating-point"),
    ],
)
def test_what_cannot_be_used(data, words):
    expect_failure(data, words)


def test_what_is_of_latens_has_its_own_size(digits):
    expect_failure(digits, "size and grey do not apply", size=(4, 4))
    expect_failure(digits.train, "size and grey do not apply", grey=True)


def test_bad_items_are_named_and_left_out_only_when_told(tmp_path, capsys):
    for i, image in enumerate(pictures()):
        (tmp_path / str(i % 2)).mkdir(exist_ok=True)
        image.save(tmp_path / str(i % 2) / f"{i:02d}.png")
    path = tmp_path / "1" / "07.png"
    path.write_bytes(path.read_bytes()[:60])
    expect_failure(ImageFolder(tmp_path), "item 23 is damaged")
    assert sum(load_data(ImageFolder(tmp_path), skip_bad=True).sizes().values()) == COUNT - 1
    assert "left out 1 of 40 images" in capsys.readouterr().err


def test_an_animation_is_named(tmp_path):
    frames = pictures()[:3]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "film.gif") as film:
        expect_failure([*pictures(), film], "item 40 is animated .3 frames")
