"""`latens serve`, as a process, under a real client."""

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import latens
from latens.evaluation.scores import image_scores

REPOSITORY = Path(__file__).parents[2]
JSON = {"content-type": "application/json"}


@contextlib.contextmanager
def serving(*arguments):
    """The process, and a client of it."""
    command = [sys.executable, "-m", "latens", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://"), process.stderr.read()
        with httpx.Client(base_url=address, timeout=60) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A model of digits that knows its classes."""
    out = tmp_path_factory.mktemp("serving") / "run"
    options = {"recipe": "mlp", "latent_dim": 4, "hidden": "64", "epochs": 6}
    return latens.train("digits", out=out, report=False, film=False, **options)


@pytest.fixture(scope="module")
def client(run):
    with serving(run.path, "--rate", 0) as (_, client):
        yield client


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def pixels_of(text):
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def files(images):
    return [("images", (f"{i}.png", png(each), "image/png")) for i, each in enumerate(images)]


@pytest.fixture(scope="session")
def images(digits):
    return digits.test.pixels[:12].numpy()


@torch.no_grad()
def test_answers_are_those_of_the_model(client, run, images):
    x = torch.from_numpy(images) / 255
    q = run.vae.encode(x)
    found = client.post("/embed", files=files(images)).json()
    np.testing.assert_allclose(found["mu"], q.mean, atol=1e-5)
    np.testing.assert_allclose(found["sigma"], q.stddev, atol=1e-5)

    found = client.post("/reconstruct", files=files(images)).json()
    again = run.vae.reconstruct(x)
    shown = np.stack([pixels_of(text) for text in found["images"]])
    assert np.abs(shown - 255 * again.numpy()).max() <= 0.5 + 1e-3
    errors = (again - x).square().flatten(1).mean(1)
    np.testing.assert_allclose(found["mean_squared_error"], errors, rtol=1e-4)

    asked = {"importance_samples": 20, "seed": 3}
    found = client.post("/score", files=files(images), data=asked).json()["scores"]
    names = ("-elbo", "nll", "reconstruction")
    for name, values in image_scores(run.vae, x, names, None, 20, seed=3).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)

    found = client.post("/interpolate", files=files(images[:2]), data={"steps": 5}).json()
    between = run.vae.interpolate(x[:1], x[1:2], 5)[0]
    shown = np.stack([pixels_of(text) for text in found["images"]])
    assert np.abs(shown - 255 * between.numpy()).max() <= 0.5 + 1e-3


def test_samples_are_those_of_their_seeds_and_labels(client, run):
    def asked(**options):
        return client.post("/sample", json=options).json()

    four = asked(number=4, seed=10)
    assert asked(number=1, seed=12)["images"][0] == four["images"][2]
    assert len(set(four["images"])) == 4
    threes = asked(number=5, label="3")
    assert threes["labels"] == ["3"] * 5
    assert min(threes["probability"]) > 0.5
    assert asked(number=2, temperature=0.5) != asked(number=2)


def test_what_the_model_is(client, run):
    about = client.get("/model").json()
    assert about["image_shape"] == [1, 8, 8]
    assert about["classes"] == [str(i) for i in range(10)]
    assert about["figures"]["elbo"] == run.figures["elbo"]
    assert str(run.path) not in json.dumps(about)
    assert client.get("/health").json()["status"] == "ok"
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/sample", "/reconstruct", "/embed", "/score", "/interpolate"} <= paths.keys()
    assert client.get("/").headers["location"] == "/docs"


def test_what_cannot_be_answered_is_one_line(client, images):
    def refused(status, words, path, **request):
        answer = client.post(path, **request)
        assert answer.status_code == status, answer.text
        assert words in str(answer.json()["detail"])
        assert "\n" not in str(answer.json()["detail"])

    broken = [("images", ("a.png", png(images[0])[:60], "image/png"))]
    refused(422, "a.png", "/embed", files=broken)
    refused(422, "not an image", "/embed", files=[("images", ("b.png", b"hello", "image/png"))])
    refused(422, "1 to 64", "/embed", files=files([images[0]] * 65))
    blank = io.BytesIO()
    Image.new("L", (6000, 6000)).save(blank, "PNG")
    many = [("images", (f"{i}.png", blank.getvalue())) for i in range(6)]
    refused(422, "216 megapixels: a request may have 200", "/embed", files=many)
    refused(422, "give two", "/interpolate", files=files(images[:3]))
    refused(422, "no score beauty", "/score", files=files(images[:1]), data={"scores": "beauty"})
    refused(422, "1000", "/score", files=files(images[:1]), data={"importance_samples": 10**9})
    three = {"files": files(images[:1]), "data": {"labels": "3"}}
    refused(422, "does not depend on labels", "/embed", **three)
    refused(422, "unknown label", "/sample", json={"label": "eleven"})
    refused(422, "unknown label", "/sample", content=b'{"label": "\\ud800"}', headers=JSON)
    refused(422, "is no JSON: ", "/sample", content=b'{"number": }', headers=JSON)
    refused(422, "1 to 64", "/sample", json={"number": 1000})
    refused(422, "number: ", "/sample", json={"number": 0})
    refused(422, "n: ", "/sample", json={"n": 2})
    refused(422, "images: ", "/embed", data={"labels": "3"})
    refused(422, "temperature", "/sample", json={"temperature": -1})
    refused(422, "2 temperatures", "/sample", json={"temperature": [1, 1]})
    refused(413, "16 MiB", "/embed", content=b"x" * (17 * 2**20))
    start = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    whole = (b"x" * 2**20 if i else start for i in range(18))  # its length is not declared
    form = {"content-type": "multipart/form-data; boundary=x"}
    refused(413, "16 MiB", "/embed", content=whole, headers=form)
    bomb = Image.new("L", (9_500, 9_500))
    file = io.BytesIO()
    bomb.save(file, "PNG")
    refused(
        422, "more than 89,478,485 pixels", "/embed", files=[("images", ("c.png", file.getvalue()))]
    )


def test_under_load_no_request_is_lost_and_each_has_its_own_answer(client, run, images):
    expected = run.vae.embed(torch.from_numpy(images) / 255).numpy()
    bodies = [files([each]) for each in images]
    before = client.get("/health").json()

    async def load():
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=client.base_url, limits=limits, timeout=60) as many:
            asked = (many.post("/embed", files=bodies[i % 12]) for i in range(400))
            return await asyncio.gather(*asked)

    for i, answer in enumerate(asyncio.run(load())):
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["mu"][0], expected[i % 12], atol=1e-5)
    after = client.get("/health").json()
    assert after["requests"] - before["requests"] == 400
    assert after["batches"] - before["batches"] < 400


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_requests_that_have_begun_are_answered_before_it_ends(run, images, end):
    with serving(run.path) as (process, client):
        batches = client.get("/health").json()["batches"]

        async def asked_and_ended():
            async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as many:
                data = {"importance_samples": 1_000}
                asked = [
                    asyncio.create_task(many.post("/score", files=files(images), data=data))
                    for _ in range(12)
                ]
                while (await many.get("/health")).json()["requests"] < 12:
                    await asyncio.sleep(0.01)
                process.send_signal(end)
                return await asyncio.gather(*asked)

        answers = asyncio.run(asked_and_ended())
        assert [answer.status_code for answer in answers] == [200] * 12
        assert batches == 0
        assert process.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            client.get("/health")
        assert process.stderr.read() == ""


def test_an_address_that_asks_too_often_is_told_to_come_again(run):
    with serving(run.path, "--rate", 3) as (_, client):
        answers = [client.get("/model") for _ in range(20)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert refused[0].headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200  # of whoever watches it


def test_a_conditional_model_takes_the_labels_of_its_images(images, tmp_path):
    options = {"recipe": "conditional", "network": "mlp", "hidden": "16", "epochs": 1}
    options |= {"latent_dim": 2, "report": False, "film": False}
    run = latens.train("digits", out=tmp_path / "run", **options)
    x, y = torch.from_numpy(images[:2]) / 255, torch.tensor([3, 7])
    with serving(run.path) as (_, client):
        data = {"labels": ["3", "7"]}
        found = client.post("/embed", files=files(images[:2]), data=data).json()
        np.testing.assert_allclose(found["mu"], run.vae.embed(x, y), atol=1e-5)
        lacking = client.post("/embed", files=files(images[:3]), data=data)
        assert lacking.status_code == 422
        assert "give one for each" in lacking.text
        alone = client.post("/embed", files=files(images[:1])).json()
        beside = client.post("/embed", files=files(images[:3])).json()
        np.testing.assert_allclose(alone["mu"][0], beside["mu"][0], atol=1e-5)
        assert (
            client.post("/sample", json={"number": 3, "label": "7"}).json()["labels"] == ["7"] * 3
        )
        assert len(client.post("/sample", json={"number": 20}).json()["labels"]) == 20


def test_it_says_why_it_does_not_start(run, run_latens, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_latens("serve", run.path, "--port", taken.getsockname()[1])
    assert done.returncode == 2
    assert "cannot listen at 127.0.0.1" in done.stderr
    assert run_latens("serve", run.path, "--port", 99999).returncode == 2
    assert run_latens("serve", run.path, "--images", 0).returncode == 2
    assert "no such run" in run_latens("serve", tmp_path / "none").stderr
    spectral = np.random.default_rng(0).integers(0, 256, (40, 5, 8, 8), np.uint8)
    options = {"recipe": "mlp", "hidden": "8", "epochs": 1, "report": False, "film": False}
    five = latens.train(spectral, out=tmp_path / "five", **options)
    assert "5 channels" in run_latens("serve", five.path).stderr


def test_the_dockerfile_starts_what_there_is(run):
    """The command in it is one of latens, and the health check asks for what is answered."""
    text = (REPOSITORY / "Dockerfile").read_text()
    command = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)[1])
    assert command[:2] == ["latens", "serve"]
    assert "/health" in text
    sent = (REPOSITORY / ".dockerignore").read_text().splitlines()
    copied = [
        name
        for words in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE)
        for name in words.split()
    ]
    assert {f"!{name}" for name in copied} == {line for line in sent if line.startswith("!")}
    arguments = json.loads(re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)[1])
    with serving(*arguments, *command[2:]) as (_, client):
        assert client.get("/health").json()["status"] == "ok"
