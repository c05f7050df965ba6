"""Whether a step as a CUDA graph is the step; for a machine with such a card."""

import torch
import torch._inductor.config
from learning import small_setup

import latens
from latens.training.processes import Processes
from latens.training.trainer import learner_of

torch._inductor.config.fallback_random = True  # draw the noise that torch draws
digits = latens.load_data("digits")
batches = list(digits.train.take(slice(0, 640)).batches(32))
processes = Processes.launch("cuda", 1)
eager, captured = (
    learner_of(
        small_setup(digits, batch_size=32, compile=compiled, device="cuda", precision="float32"),
        processes,
    )
    for compiled in (False, True)
)
for i, batch in enumerate(batches):
    one, other = (t.step(batch, 32, {"beta": 0.1 * i}, 1e-3, i) for t in (eager, captured))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-3)
assert captured._captured is not None
for name, value in captured.tensors().items():
    torch.testing.assert_close(value, eager.tensors()[name], rtol=1e-2, atol=1e-3)
with torch.no_grad():  # a gradient that is no number changes nothing, and is told of
    captured.parameters[0].fill_(torch.nan)
before = captured.parameters[1].detach().clone()
assert not captured.step(batches[0], 32, {"beta": 1.0}, 1e-3, 0)["loss"].isfinite()
assert torch.equal(before, captured.parameters[1])
print("the same")
