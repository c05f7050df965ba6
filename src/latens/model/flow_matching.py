"""A density of latents fitted after the model: a flow whose velocity is learned by regression."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latens.errors import LatensError
from latens.model.networks.mlp import check_sizes
from latens.model.parts import Part

HEADS, WIDENING = 4, 4  # of each layer
FREQUENCIES, FASTEST = 32, 1000.0  # of the features of time
STEPS = 25  # of the integration, each of two evaluations


class FlowMatching(Part):
    """z by dz/dt = v(z, t), from noise at t = 0 to latents at t = 1.

    Lipman et al. 2023, "Flow Matching for Generative Modeling", equation 23 with σ_min = 0, on
    straight paths z_t = (1 − t) ε + t z (Liu et al. 2023, "Flow Straight and Fast"). v is a
    transformer whose tokens are the places of a map, or the dimensions of a vector.

    Args:
        event_shape: Z, `(D,)` or `(D, h, w)`.
        flow_width: of a token's features.
        layers: of the transformer.

    Raises:
        LatensError: an argument below 1, or a width that the heads do not divide.
    """

    def __init__(self, event_shape: tuple[int, ...], flow_width: int = 192, layers: int = 6):
        super().__init__()
        check_sizes(flow_width=flow_width, layers=layers)
        if flow_width % HEADS:
            raise LatensError(f"flow_width is {flow_width}: it must be a multiple of {HEADS}")
        self.event_shape = tuple(event_shape)
        self.flow_width = flow_width
        self.layers = layers
        self.features, *places = event_shape if len(event_shape) > 1 else (1, *event_shape)
        tokens = math.prod(places)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(self.features, tokens))
        self.register_buffer("scale", torch.ones(self.features, tokens))
        self.place = nn.Parameter(0.02 * torch.randn(tokens, flow_width))
        self.input = nn.Linear(self.features, flow_width)
        self.time = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, flow_width), nn.SiLU(), nn.Linear(flow_width, flow_width)
        )
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                flow_width,
                HEADS,
                WIDENING * flow_width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.output = nn.Sequential(nn.LayerNorm(flow_width), nn.Linear(flow_width, self.features))

    def standardise(self, z: Float[Tensor, "N *Z"]) -> None:
        """Keep the mean and the scale of these latents, which every other step is relative to."""
        rows = z.reshape(len(z), self.features, -1)
        self.mean.copy_(rows.mean(0))
        self.scale.copy_(rows.std(0).clamp(min=1e-6))

    def velocity(
        self, z: Float[Tensor, "N D tokens"], t: Float[Tensor, " N"]
    ) -> Float[Tensor, "N D tokens"]:
        """v(z, t) of standardised latents."""
        powers = torch.linspace(0, math.log(FASTEST), FREQUENCIES, device=z.device)
        angles = t[:, None] * powers.exp()
        time = self.time(torch.cat((angles.sin(), angles.cos()), 1))
        h = self.input(z.transpose(1, 2)) + self.place + time[:, None]
        for block in self.blocks:
            h = block(h)
        return self.output(h).transpose(1, 2)

    def forward(self, z: Float[Tensor, "N *Z"]) -> Float[Tensor, " N"]:
        """The loss of latents: E ‖v(z_t, t) − (z − ε)‖² over t and ε, a sum over dimensions."""
        end = (z.reshape(len(z), self.features, -1) - self.mean) / self.scale
        noise, t = torch.randn_like(end), torch.rand(len(z), device=z.device)
        between = torch.lerp(noise, end, t[:, None, None])
        return (self.velocity(between, t) - (end - noise)).square().sum((1, 2))

    @torch.no_grad()
    def sample(self, n: int, steps: int = STEPS) -> Float[Tensor, "n *Z"]:
        """`n` latents, by the midpoint method.

        Args:
            steps: of the integration.
        """
        z = torch.randn(n, *self.mean.shape, device=self.mean.device)
        for step in range(steps):
            t = torch.full((n,), step / steps, device=z.device)
            half = z + self.velocity(z, t) / (2 * steps)
            z = z + self.velocity(half, t + 1 / (2 * steps)) / steps
        return (self.mean + self.scale * z).reshape(n, *self.event_shape)
