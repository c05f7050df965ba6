"""The routes of a model's HTTP service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse

from latens import __version__
from latens.console import in_one_line
from latens.errors import LatensError
from latens.features import opened
from latens.run.directory import Run
from latens.serving.batching import Batcher, Busy
from latens.serving.functions import SCORES
from latens.serving.limits import Limits
from latens.serving.middleware import Limited
from latens.serving.schemas import (
    LARGEST_SEED,
    Figures,
    Health,
    Interpolation,
    Latents,
    NewImages,
    Reconstructions,
    SampleRequest,
    Scores,
)
from latens.serving.service import Service

MOST_STEPS = 64

Uploads = Annotated[list[UploadFile], File(description="Image files, resized to the model's size.")]
Labels = Annotated[
    list[str] | None,
    Form(description="The class of each image, for a conditional model; none: the likeliest."),
]


def app_of(
    path: str | Path | Run,
    limits: Limits | None = None,
    batch_size: int = 256,
    device: str = "auto",
) -> FastAPI:
    """The service of a run's model, for any ASGI server.

    Args:
        path: a run, its directory, or a pretrained model by name.
        limits: of requests; None: the defaults of `Limits`.
        batch_size: images of several requests that are computed at once.

    Raises:
        LatensError: a run that cannot be used, or a model whose images no image file can hold.
    """
    limits = limits or Limits()
    run, vae = opened(path, device)
    service = Service(run, vae, limits, Batcher(batch_size, limits.waiting))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        service.batcher.close()
        service.decoding.shutdown()

    app = FastAPI(title="latens", version=__version__, description=run.title, lifespan=lifespan)
    app.add_middleware(Limited, limits=limits)
    _add_errors(app)
    _add_routes(app, service)
    _add_routes_of_images(app, service)
    _add_score(app, service)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(LatensError)
    async def of_the_client(_request: Request, error: LatensError) -> JSONResponse:
        return JSONResponse({"detail": in_one_line(str(error))}, 422)

    @app.exception_handler(RequestValidationError)
    async def of_a_field(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        if first["type"] == "json_invalid":
            detail = f"the request is no JSON: {first['ctx']['error']} at character {place}"
        elif place:
            detail = f"{place}: {first['msg']}"
        else:
            detail = "the request is no JSON object, or lacks the header content-type: "
            detail += "application/json"
        return JSONResponse({"detail": in_one_line(detail)}, 422)

    @app.exception_handler(Busy)
    async def busy(_request: Request, _error: Busy) -> JSONResponse:
        detail = "too many images wait to be computed: come again later"
        return JSONResponse({"detail": detail}, 503, {"Retry-After": "1"})


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    @app.get("/health")
    async def health() -> Health:
        """Whether the service answers."""
        batcher = service.batcher
        return Health(status="ok", requests=batcher.requests, batches=batcher.batches)

    @app.get("/model")
    async def model() -> Figures:
        """What the model is, and its figures."""
        return service.about()

    @app.post("/sample")
    async def sample(asked: SampleRequest) -> NewImages:
        """New images: the same for the same seed."""
        return NewImages(**await service.answer(await service.sample(asked)))


def _add_routes_of_images(app: FastAPI, service: Service) -> None:
    functions, batcher = service.functions, service.batcher

    @app.post("/reconstruct")
    async def reconstruct(images: Uploads, labels: Labels = None) -> Reconstructions:
        """Images as the model decodes their latents."""
        pixels, y = await service.uploaded(images, labels)
        found = await batcher(
            ("reconstruct", y is None), functions.reconstruct, pixels, y, rows=len(pixels)
        )
        return Reconstructions(**await service.answer(found))

    @app.post("/embed")
    async def embed(images: Uploads, labels: Labels = None) -> Latents:
        """The latent representation of images."""
        pixels, y = await service.uploaded(images, labels)
        found = await batcher(("embed", y is None), functions.embed, pixels, y, rows=len(pixels))
        return Latents(**await service.answer(found))

    @app.post("/interpolate")
    async def interpolate(
        images: Uploads,
        labels: Labels = None,
        steps: Annotated[int, Form(ge=2, le=MOST_STEPS, description="Both ends included.")] = 8,
        spherical: Annotated[bool, Form(description="Along a great circle.")] = False,
    ) -> Interpolation:
        """The way from one image to another through latent space."""
        if len(images) != 2:
            raise LatensError(f"{len(images)} images: give two, from and to")
        pixels, y = await service.uploaded(images, labels)
        found = await batcher(
            ("interpolate", y is None, steps, spherical),
            lambda pairs, y: functions.interpolate(pairs, y, steps, spherical),
            pixels[None],
            None if y is None else y[None],
            rows=1,
            cost=steps,
        )
        return Interpolation(**await service.answer({"images": found["images"][0]}))


def _add_score(app: FastAPI, service: Service) -> None:
    functions, batcher, limits = service.functions, service.batcher, service.limits

    @app.post("/score")
    async def score(
        images: Uploads,
        labels: Labels = None,
        scores: Annotated[
            list[str] | None, Form(description=f"Which of {', '.join(SCORES)}; none: all.")
        ] = None,
        importance_samples: Annotated[
            int, Form(ge=1, le=limits.samples, description="K, of nll.")
        ] = 100,
        seed: Annotated[int, Form(ge=0, lt=LARGEST_SEED, description="Of the noise.")] = 0,
    ) -> Scores:
        """How unusual images are to the model."""
        names = tuple(dict.fromkeys(scores or SCORES))
        for name in names:
            if name not in SCORES:
                raise LatensError(f"no score {name}: there are {', '.join(SCORES)}")
        pixels, y = await service.uploaded(images, labels)
        found = await batcher(
            ("score", y is None, names, importance_samples, seed),
            lambda pixels, y: functions.score(pixels, y, names, importance_samples, seed),
            pixels,
            y,
            rows=len(pixels),
        )
        return Scores(scores=await service.answer(found))
