"""Whether a compiled step is the step, and goes on with the same bits from what was saved."""

from pathlib import Path

import torch
import torch._inductor.config
from learning import learner, small_setup

import latens
from latens.training.processes import Processes
from latens.training.trainer import learner_of

torch._inductor.config.fallback_random = True  # draw the noise that torch draws
OPTIONS = {"weight_decay": 0.1, "batch_size": 32}


def steps(t, which):
    """Steps on some batches, with everything that moves moving."""
    return [
        t.step(batches[i], len(batches[i]), {"beta": 0.1 * i}, 1e-3 * (i + 1), i) for i in which
    ]


digits = latens.load_data("digits")
batches = list(digits.train.take(slice(0, 240)).batches(32))  # the last one has 16
eager, compiled = learner(digits, **OPTIONS), learner(digits, **OPTIONS, compile=True)
for one, other in zip(steps(eager, range(8)), steps(compiled, range(5)), strict=False):
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-3)
assert compiled._compiled is not None
saved = {name: value.clone() for name, value in compiled.tensors().items()}
resumed = learner(digits, **OPTIONS, compile=True)
resumed.restore(saved, Path(), begun=True)
for t in (compiled, resumed):
    steps(t, range(5, 8))
for name, value in compiled.tensors().items():
    assert torch.equal(value, resumed.tensors()[name]), name
    torch.testing.assert_close(value, eager.tensors()[name], rtol=1e-3, atol=1e-4)

# A gradient that is no number changes nothing
with torch.no_grad():
    compiled.parameters[0].fill_(torch.nan)
before = {name: value.clone() for name, value in compiled.tensors().items()}
assert not steps(compiled, [0])[0]["loss"].isfinite()
for name, value in compiled.model.state_dict().items():
    torch.testing.assert_close(value, before[f"model.{name}"], rtol=0, atol=0, equal_nan=True)
assert torch.equal(compiled.usual_norm, before["usual_norm."])

# Frozen parameters
frozen = small_setup(digits, **OPTIONS, compile=True, beta=0.0)
frozen.model.encoder.requires_grad_(False)
frozen.model.posterior.requires_grad_(False)
t = learner_of(frozen, Processes.launch("cpu", 1))
before = {name: value.clone() for name, value in frozen.model.encoder.state_dict().items()}
steps(t, range(3))
assert t._compiled is not None
for name, value in frozen.model.encoder.state_dict().items():
    assert torch.equal(value, before[name]), name
assert all(value.isfinite().all() for value in t.tensors().values())
print("the same")
