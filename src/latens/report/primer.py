"""What z is and what the two terms of the loss cost, told with one image of a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from latens import pictures
from latens.model.vae import VAE
from latens.report.context import Picture, ReportContext
from latens.report.html import Shown, sheet_of

DRAWN = 8  # images, each with what is decoded for it
NAMED = 3  # numbers of z that are written out
SAMPLES = 100  # of z, for the two costs of an image


@dataclass(frozen=True)
class Primer:
    """Paragraphs before and after a picture.

    Attributes:
        before, after: paragraphs.
        shown: the picture.
    """

    before: Sequence[str]
    shown: Shown
    after: Sequence[str]


@torch.no_grad()
def primer_of(context: ReportContext) -> Primer | None:
    """About some validation images; None of a model whose latents have several levels."""
    vae, some = context.vae, context.data.validation.some(DRAWN)
    x, y = some.unit(), some.labels
    if not isinstance(vae, VAE):
        return None
    q = vae.encode(x, y)
    rows = {
        "image": x,
        "decoded from the mean of q(z|x)": vae.decode_images(q.mean, y),
        "decoded from a sample of q(z|x)": vae.decode_images(q.sample(), y),
        "decoded from a sample of p(z)": vae.decode_images(vae.draw_prior(len(x), y), y),
    }
    picture = Picture(
        "primer",
        [pictures.table(torch.stack(list(rows.values())), rows=list(rows))],
        "Images, what their posteriors decode to, and what samples of the prior decode to",
        "Images that the model was not trained on; what the mean of q(z|x) decodes to, and one "
        "sample of it; and what samples of the prior decode to, with no image given.",
    )
    draw = vae.draw(x[:1], None if y is None else y[:1], SAMPLES)
    costs = -draw.log_px_z.mean().item(), draw.kl.item()
    return Primer(_before(context, q), sheet_of(picture), _after(context, *costs))


def _before(context: ReportContext, q: torch.distributions.Distribution) -> list[str]:
    values = math.prod(context.vae.image_shape)
    mean, sigma = q.mean[0].flatten().tolist(), q.stddev[0].flatten().tolist()
    order = context.ranked_dims[:NAMED]
    numbers = ", ".join(f"{context.dim_names[d]} = {mean[d]:.2f} ± {sigma[d]:.2f}" for d in order)
    dims = f"{context.dims} numbers" if context.dims > 1 else "one number"
    return [
        f"An image here is {values:,} numbers. The encoder describes it by {dims}, z, the latent "
        "variables; the decoder makes an image of any z. So z is what the model says about an "
        "image, in its own words: images that are alike lie close together in z, and the space "
        "between them holds images that nobody drew.",
        "The encoder does not give one z but a cloud of them, the posterior q(z|x): for the first "
        f"image below, {numbers.replace('-', '−')}{' and so on' if context.dims > NAMED else ''}. "
        "All z of the cloud must decode to about the same image, which makes neighbours alike.",
    ]


def _after(context: ReportContext, cost: float, kl: float) -> list[str]:
    bits = kl / math.log(2)
    beta = "β weighs the KL in training. " if context.run.config.objective.has_beta else ""
    mean = (
        ""
        if context.baseline is None
        else f" (the mean image would cost {context.baseline:,.1f} on average)"
    )
    return [
        f"Two costs are added up, in nats. The KL, for the first image {kl:.1f} nats or {bits:.1f} "
        "bits, is how much the cloud says about this image beyond what the prior p(z) says of any. "
        f"The reconstruction, {cost:,.1f} nats{mean}, is what is left to say of the pixels once z "
        f"is known. Their sum, {cost + kl:,.1f} nats, is −ELBO: training makes it small on "
        "average, so z keeps what saves more in the second than it costs in the first.",
        "In words that the rest of this page uses: a nat is a unit of information, 1.44 bits. The "
        "prior p(z) is where z is expected before any image is seen"
        f"{', here a Gaussian of mean 0 and σ 1' if context.unit_prior else ''}. The aggregated "
        "posterior is where the clouds of all images lie together; where it leaves a hole in the "
        "prior, samples look like nothing. The posterior has collapsed where every image gets the "
        "prior itself for its cloud, and z says nothing. "
        f"{beta}The mean image is what a model would draw that knows nothing of the image.",
        "Because clouds are kept near the prior, a z drawn from the prior falls among them, and "
        "decodes to a new image: the last row.",
    ]
