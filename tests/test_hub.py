"""A model is pushed to a server that speaks the Hub's protocol, and comes back from it."""

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

import latens

SMALL = {"recipe": "mlp", "latent_dim": 2, "hidden": "16", "epochs": 1, "film": False}
REVISION = "a" * 40
TOKEN = "hf_test"


FAILS = {"secret": 403, "broken": 500}  # models at which the server refuses or fails
ONE_LINE = """
import contextlib, io, json, sys
from latens.cli import main
for words in json.loads(sys.argv[1]):
    said, status = io.StringIO(), 0
    with contextlib.redirect_stderr(said):
        try:
            main(words)
        except SystemExit as stop:
            status = stop.code
    print(json.dumps([status, said.getvalue()]))
"""


class Hub(BaseHTTPRequestHandler):
    """What `create_repo`, `upload_folder` and `snapshot_download` ask for; files in memory."""

    protocol_version = "HTTP/1.1"
    models: dict[str, dict[str, bytes]]

    def log_message(self, *arguments):
        pass

    def answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "who are you?"}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            if asked["name"] in FAILS:
                return self.answer({"error": "no"}, FAILS[asked["name"]])
            if asked["name"] == "dropped":
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
            if asked["name"] == "page":
                return self.answer(b"<html>Log in</html>", Content_Type="text/html")
            name = f"{asked['organization']}/{asked['name']}"
            self.models.setdefault(name, {})
            return self.answer({"url": f"http://{self.headers['Host']}/{name}"})
        if self.path == "/api/validate-yaml":  # of the card
            return self.answer({"errors": [], "warnings": []})
        name, action = "/".join(self.path.split("/")[3:5]), self.path.split("/")[5]
        if action == "preupload":
            files = json.loads(body)["files"]
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self.answer({"files": [{"path": file["path"]} | modes for file in files]})
        if action == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.models[name][line["value"]["path"]] = content
            url = f"http://{self.headers['Host']}/{name}/commit/{REVISION}"
            return self.answer({"success": True, "commitOid": REVISION, "commitUrl": url})
        return self.answer({"error": f"what is {self.path}?"}, 400)

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/").split("/")
        if path[3:4] == ["page"]:
            return self.answer(b"<html>Log in</html>", Content_Type="text/html")
        if path[3:4] and path[3] in FAILS:
            return self.answer({"error": "no"}, FAILS[path[3]])
        if path[:2] == ["api", "models"]:
            files = self.models.get("/".join(path[2:4]))
            if files is None:
                missing = {"X_Error_Code": "RepoNotFound", "X_Error_Message": "Not here"}
                return self.answer({"error": "Repository not found"}, 404, **missing)
            if path[4:5] == ["tree"]:
                entries = [
                    {"type": "file", "path": name, "size": len(content), "oid": REVISION}
                    for name, content in files.items()
                ]
                return self.answer(json.dumps(entries).encode())
            about = {"id": "/".join(path[2:4]), "sha": REVISION, "private": False, "tags": []}
            return self.answer(about | {"siblings": [{"rfilename": name} for name in files]})
        content = self.models.get("/".join(path[:2]), {}).get("/".join(path[4:]))
        if content is None:
            return self.answer({"error": "no file"}, 404, X_Error_Code="EntryNotFound")
        tag = hashlib.sha256(content).hexdigest()
        return self.answer(content, X_Repo_Commit=REVISION, ETag=f'"{tag}"')

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(tmp_path):
    """A server, and the environment in which a command finds it; returns models and environment."""
    Hub.models = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield (
        Hub.models,
        {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        },
    )
    server.shutdown()
    server.server_close()


def test_there_and_back(hub, shell_latens, tmp_path):
    models, env = hub
    out = tmp_path / "run"
    latens.train("digits", out=out, report=False, **SMALL)
    (out / "pictures").mkdir()  # as of a report
    Image.new("L", (8, 8)).save(out / "pictures" / "samples.png")
    done = shell_latens("push", out, "me/digits", "--bits", "32", env=env | {"HF_TOKEN": TOKEN})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("/me/digits")
    files = models["me/digits"]
    assert {"config.json", "model.safetensors", "config.yaml", "README.md"} <= set(files)
    card = files["README.md"].decode()
    assert 'from_pretrained("me/digits")' in card
    assert "![samples](pictures/samples.png)" in card
    assert files["pictures/samples.png"].startswith(b"\x89PNG")

    program = """
import sys, latens, torch
x = torch.rand(3, 1, 8, 8)
there, here = latens.load("hf://me/digits"), latens.load(sys.argv[1])
assert (there.embed(x) == here.embed(x)).all()
assert not latens.Run.open("hf://me/digits").home.is_absolute()
from latens.cli import main
main("sample hf://me/digits --out sample.png".split())
main("evaluate hf://me/digits --json".split())
"""
    words = [sys.executable, "-c", program, str(out)]
    known = os.environ | env
    again = subprocess.run(
        words, env=known, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    sampled, evaluated = again.stdout.split("\n", 1)
    assert sampled == "sample.png"
    assert (tmp_path / "sample.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((out / "figures.json").read_text())
    assert json.loads(evaluated)["elbo"] == pytest.approx(figures["elbo"])


def test_nothing_tells_where_the_data_lie(hub, shell_latens, run_latens, tmp_path):
    models, env = hub
    place = tmp_path / "private place"
    place.mkdir()
    np.save(place / "mine.npy", latens.load_data("digits").train.pixels[:100].numpy())
    out = tmp_path / "run"
    words = f"--recipe mlp --epochs 1 --no-report --out {out}".split()
    assert run_latens("train", place / "mine.npy", *words).returncode == 0
    done = shell_latens("push", out, "me/mine", env=env | {"HF_TOKEN": TOKEN})
    assert done.returncode == 0, done.stderr
    for name, content in models["me/mine"].items():
        assert b"private place" not in content, name
        assert str(tmp_path).encode() not in content, name


def errors_of(commands, env):
    """The status of each of these commands and what it says, all in one process."""
    words = [sys.executable, "-c", ONE_LINE, json.dumps(commands)]
    done = subprocess.run(words, env=os.environ | env, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("token", [None, TOKEN])
def test_what_cannot_be_is_one_line(hub, digits_run, token):
    models, env = hub
    pushed = f"push {digits_run.path} --bits 32"
    models["me/foreign"] = {"model.safetensors": b"of another library"}
    expected = {
        "sample hf://me/nothing": "the Hub has no hf://me/nothing",
        "sample hf://nothing": "is no address",
        "sample hf://me/foreign": "hf://me/foreign is no run directory",
        "sample hf://me/secret": "the Hub refuses hf://me/secret to you (403)",
        "sample hf://me/broken": "the Hub failed (500) at hf://me/broken",
        "sample hf://me/page": "this is not how the Hub answers",
        "push no-run me": "no-run",
        f"{pushed} me": "is no name on the Hub",
    }
    if token:
        expected |= {
            f"{pushed} me/secret": "the Hub refuses me/secret to you (403)",
            f"{pushed} me/broken": "the Hub failed (500) at me/broken",
            f"{pushed} me/page": "this is not how the Hub answers",
            f"{pushed} me/dropped": "the connection to the Hub failed: push again",
        }
    else:
        expected |= {f"{pushed} me/two": "log in by `hf auth login`"}
    env |= {"HF_TOKEN": token} if token else {}
    said = errors_of([words.split() for words in expected], env)
    for (words, message), (status, line) in zip(expected.items(), said, strict=True):
        assert status == 2, (words, line)
        assert line.startswith("latens: error: "), (words, line)
        assert message in line, (words, line)
        assert line.count("\n") == 1, (words, line)


def test_no_connection(shell_latens, tmp_path):
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    done = shell_latens("sample", "hf://me/digits", env=env)
    assert done.returncode == 2
    assert "no connection to the Hub" in done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr
