"""A network as a list of operations that a page can run, with its weights in few bits.

The operations are recorded while the network computes, so any network can travel that is made of
those in `OPERATIONS`, one's own too. `templates/network.js` runs them.
"""

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latens.errors import LatensError
from latens.model.serialization import quantised

BITS = (8, 12, 16)  # of a weight: the fewest that are close enough
CLOSE = 1.0  # steps of 1/255 by which an output may differ from that of the full weights
FIRST_CONSTANT = 1_000_000  # numbers of values; those below are inputs and results
MOST_PRODUCTS = 60_000_000  # of a pass, which plain JavaScript makes in about 0.1 s

Value = Any  # a tensor, a number or nothing


class _Tape(TorchDispatchMode):
    """Keeps every operation that runs inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Sequence[Any], dict[str, Any], Any]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: else torch would load its compiler to skip it."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result


@dataclass(frozen=True)
class Step:
    """One operation of a program.

    Attributes:
        name: one of those that `templates/network.js` knows.
        inputs: values by number, or numbers as they are.
        options: of the operation.
        output: the number of the value that it makes.
        shape: of that value, without the batch.
    """

    name: str
    inputs: Sequence[Any]
    options: dict[str, Any]
    output: int
    shape: Sequence[int]


@dataclass
class Program:
    """A network for one image or one z: its steps, and what they are applied to.

    Attributes:
        inputs: numbers of the values that are given.
        steps: in their order.
        constants: weights and other tensors that do not change, by number.
        output: the number of the result.
        bits: of a weight.
        difference: from the network itself, at most, in units of the output.
    """

    inputs: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    constants: dict[int, Tensor] = field(default_factory=dict)
    output: int = -1
    bits: int = 16
    difference: float = 0.0

    @property
    def products(self) -> int:
        """Multiplications of a pass in linear layers and convolutions."""
        total = 0
        for step in self.steps:
            if step.name in ("linear", "convolution"):
                weight = self.constants[step.inputs[1][0]]
                places = math.prod(step.shape[2:]) if step.name == "convolution" else 1
                total += weight.numel() * places
        return total

    def as_json(self) -> dict[str, Any]:
        """What the page's script reads."""
        packed, entries = bytearray(), []
        for number, value in self.constants.items():
            content, bits = pack(value, self.bits)
            entries.append([number, list(value.shape), bits, len(packed)])
            packed += content
        return {
            "inputs": self.inputs,
            "steps": [[s.name, s.inputs, s.options, s.output, list(s.shape)] for s in self.steps],
            "constants": entries,
            "weights": base64.b64encode(packed).decode(),
            "output": self.output,
        }


# ---- recording -------------------------------------------------------------------------------


def record(network: Callable[..., Tensor], *inputs: Tensor) -> Program:
    """The program of a network, as it runs on these inputs, a batch of one.

    Raises:
        LatensError: an operation that a page cannot run.
    """
    with torch.no_grad(), _Tape() as tape:
        result = network(*inputs)
    return _Recorder(inputs).program(tape, result)


class _Recorder:
    """Turns operations on tensors into steps on numbered values."""

    def __init__(self, inputs: Sequence[Tensor]):
        self.recorded = Program(inputs=list(range(len(inputs))))
        self.numbers = {id(tensor): i for i, tensor in enumerate(inputs)}
        self.alive: list[Any] = list(inputs)  # an id is a tensor's own only while it lives
        self.transposed: dict[int, Tensor] = {}

    def program(self, tape: _Tape, result: Tensor) -> Program:
        for func, args, kwargs, output in tape.operations:
            self.alive.append(output)
            name = func.name().removeprefix("aten::").partition(".")[0]
            if name == "t" and id(args[0]) not in self.numbers:
                self.transposed[id(output)] = args[0]  # of a linear layer's weight
            elif not any(id(a) in self.numbers for a in _tensors(args)):
                continue  # of constants alone, and so a constant
            elif name not in OPERATIONS:
                raise LatensError(f"a page cannot run the operation {name}")
            else:
                OPERATIONS[name](self, args, kwargs, output)
        self.recorded.output = self.numbers[id(result)]
        _drop_unused(self.recorded)
        return self.recorded

    def number(self, value: Value) -> Any:
        """A value as steps name it: [its number], or the number that it is."""
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self.numbers:
            self.alive.append(value)
            self.numbers[id(value)] = FIRST_CONSTANT + len(self.recorded.constants)
            self.recorded.constants[self.numbers[id(value)]] = value.detach().float()
        return [self.numbers[id(value)]]

    def step(self, name: str, inputs: Sequence[Value], output: Tensor, **options: Any) -> None:
        self.numbers[id(output)] = number = len(self.recorded.inputs) + len(self.recorded.steps)
        values = [self.number(value) for value in inputs]
        shape = tuple(output.shape)
        self.recorded.steps.append(Step(name, values, options, number, shape))


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    flat = []
    for value in args:
        if isinstance(value, Tensor):
            flat.append(value)
        elif isinstance(value, list | tuple):
            flat += _tensors(value)
    return flat


def _drop_unused(program: Program) -> None:
    """Leave out steps and constants on which the output does not depend."""
    needed, kept = {program.output}, []
    for step in reversed(program.steps):
        if step.output in needed:
            kept.append(step)
            needed |= {value[0] for value in step.inputs if isinstance(value, list)}
    program.steps = kept[::-1]
    program.constants = {n: value for n, value in program.constants.items() if n in needed}


Operation = Callable[[_Recorder, Sequence[Any], dict[str, Any], Any], None]


def _same(r: _Recorder, args: Sequence[Any], _kwargs: dict[str, Any], output: Tensor) -> None:
    r.step("view", args[:1], output)


def _unary(name: str) -> Operation:
    return lambda r, args, _, output: r.step(name, args[:1], output)


def _check_one(*values: Tensor) -> None:
    """Raise a LatensError for values of several rows, of which the page's script sees the first."""
    if any(value.shape[0] != 1 for value in values):
        raise LatensError("a page runs layers of one row at a time alone")


def _moved(name: str) -> Operation:
    def operation(r: _Recorder, args: Sequence[Any], _: dict[str, Any], output: Tensor) -> None:
        _check_one(args[0])
        r.step(name, args[:1], output)

    return operation


def _binary(name: str) -> Operation:
    def operation(
        r: _Recorder, args: Sequence[Any], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        if kwargs not in ({}, {"alpha": 1}):
            raise LatensError(f"a page cannot run {name} with {', '.join(kwargs)}")
        r.step(name, args[:2], output)

    return operation


def _linear(r: _Recorder, args: Sequence[Any], _: dict[str, Any], output: Tensor) -> None:
    bias, x, weight = args if len(args) == 3 else (None, *args)
    _check_one(x)
    known = r.transposed.get(id(weight), None)
    known = weight.t().contiguous() if known is None else known
    r.alive.append(known)
    r.step("linear", (x, known, bias), output)


def _convolution(r: _Recorder, args: Sequence[Any], _: dict[str, Any], output: Tensor) -> None:
    x, weight, bias, stride, padding, dilation, transposed, _output_padding, groups = args
    _check_one(x)
    side = weight.shape[-1]
    plain = set(stride) == {1} and set(dilation) == {1} and groups == 1 and not transposed
    if not plain or side not in (1, 3) or set(padding) != {side // 2}:
        raise LatensError("a page runs convolutions of 1x1 and 3x3 that keep the size alone")
    r.step("convolution", (x, weight, bias), output)


def _clamp(r: _Recorder, args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> None:
    low = kwargs.get("min", args[1] if len(args) > 1 else None)
    high = kwargs.get("max", args[2] if len(args) > 2 else None)
    r.step("clamp", args[:1], output, low=low, high=high)


def _concatenate(r: _Recorder, args: Sequence[Any], _: dict[str, Any], output: Tensor) -> None:
    if (args[1] if len(args) > 1 else 0) not in (1, -output.dim() + 1):
        raise LatensError("a page concatenates channels alone")
    _check_one(*args[0])
    r.step("concatenate", args[0], output)


def _split(r: _Recorder, args: Sequence[Any], _: dict[str, Any], output: Any) -> None:
    if args[2] % args[0].dim() != 1:
        raise LatensError("a page splits channels alone")
    first = 0
    for part in output:
        starts = [0] * part.dim()
        starts[1] = first
        first += part.shape[1]
        r.step("slice", args[:1], part, starts=starts)


def _slice(r: _Recorder, args: Sequence[Any], _: dict[str, Any], output: Tensor) -> None:
    x, (dim, start, _end, step) = args[0], (*args[1:], *(0, 0, None, 1)[len(args) - 1 :])
    if step != 1:
        raise LatensError("a page takes whole ranges alone")
    starts = [0] * x.dim()
    starts[dim % x.dim()] = max(0, start or 0)
    r.step("slice", (x,), output, starts=starts)


def _rows(r: _Recorder, args: Sequence[Any], _: dict[str, Any], output: Tensor) -> None:
    r.step("rows", (args[0], *args[1]), output)


def _pad(r: _Recorder, args: Sequence[Any], _: dict[str, Any], output: Tensor) -> None:
    _check_one(args[0])
    r.step("pad", args[:1], output, left=args[1][0], top=args[1][2])


UNARY = ("relu", "sigmoid", "sin", "cos", "tanh", "exp", "log", "neg", "sqrt")
BINARY = ("add", "sub", "mul", "div")
OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys(
        (
            *("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "expand", "alias"),
            *("detach", "clone", "_to_copy", "flatten"),
        ),
        _same,
    ),
    **{name: _unary(name) for name in UNARY},
    **{name: _moved(name) for name in ("pixel_shuffle", "pixel_unshuffle")},
    **{name: _binary(name) for name in (*BINARY, "ge")},
    "addmm": _linear,
    "mm": _linear,
    "convolution": _convolution,
    "clamp": _clamp,
    "cat": _concatenate,
    "split": _split,
    "slice": _slice,
    "index": _rows,
    "replication_pad2d": _pad,
}


# ---- weights in few bits ---------------------------------------------------------------------


def restored(value: Float[Tensor, "..."], bits: int) -> Float[Tensor, "..."]:
    """What is left of a tensor that travels: a vector is sent whole, a matrix in so many bits."""
    if value.dim() < 2:
        return value
    whole, scale = quantised(value, bits)
    return (whole * scale).reshape(value.shape)


def pack(value: Float[Tensor, "..."], bits: int) -> tuple[bytes, int]:
    """The bytes of a tensor, little-endian, and in how many bits a number of it is.

    A vector is in float32. Of a matrix come the scales of its rows in float32 and then its whole
    numbers; two of 12 bits take three bytes.
    """
    if value.dim() < 2:
        return value.numpy().astype("<f4").tobytes(), 32
    whole, scale = quantised(value, bits)
    numbers = whole.to(torch.int32).flatten()
    head = scale.numpy().astype("<f4").tobytes()
    if bits == 12:
        return head + _in_twelve_bits(numbers).numpy().tobytes(), bits
    return head + numbers.numpy().astype("<i1" if bits == 8 else "<i2").tobytes(), bits


def _in_twelve_bits(numbers: Tensor) -> UInt8[Tensor, " N"]:
    pairs = torch.cat((numbers, numbers.new_zeros(len(numbers) % 2))).reshape(-1, 2) & 0xFFF
    a, b = pairs.T
    return torch.stack((a & 0xFF, (a >> 8) | ((b & 0xF) << 4), b >> 4), 1).flatten().byte()


def portable(
    network: Callable[..., Tensor], inputs: Sequence[Sequence[Tensor]], unit: float, room: int
) -> Program:
    """The program of a network in the fewest bits that change its outputs by less than `unit`.

    Args:
        network: with weights that are its own, of which none is changed.
        inputs: on which it is tried, each a batch of one.
        room: characters that its weights may take.

    Raises:
        LatensError: a network that a page cannot run or whose recording does not compute what it
            does, or too large a one.
    """
    try:
        program = record(network, *inputs[0])
    except LatensError:
        raise
    except Exception as error:  # of a network of one's own, written in whatever way
        raise LatensError("the network is written in a way that a page cannot run") from error
    if program.products > MOST_PRODUCTS:
        raise LatensError("the network is too large to be run by a page")
    with torch.no_grad():
        expected = [network(*given) for given in inputs]
    for bits in BITS:
        weights = {n: restored(value, bits) for n, value in program.constants.items()}
        found = [run(program, weights, given) for given in inputs]
        program.bits = bits
        program.difference = max(
            (a - b).abs().max().item() for a, b in zip(expected, found, strict=True)
        )
        if program.difference <= CLOSE * unit:
            break
    if not program.difference <= CLOSE * unit:
        raise LatensError("a page cannot compute this network closely enough")
    size = sum(len(pack(value, program.bits)[0]) for value in program.constants.values())
    if size * 4 / 3 > room:
        raise LatensError("the network is too large to travel with a page")
    return program


def run(
    program: Program, constants: dict[int, Tensor], inputs: Sequence[Tensor]
) -> Float[Tensor, "..."]:
    """What a page computes, by torch: the oracle of `templates/network.js`."""
    values = dict(constants) | dict(zip(program.inputs, inputs, strict=True))
    for step in program.steps:
        args = [values[v[0]] if isinstance(v, list) else v for v in step.inputs]
        values[step.output] = RUNS[step.name](args, step)
    return values[program.output]


def _taken(args: list[Any], step: Step) -> Tensor:
    starts = step.options["starts"]
    ranges = [slice(a, a + n) for a, n in zip(starts, step.shape, strict=True)]
    return args[0][tuple(ranges)]


def _padded(args: list[Any], step: Step) -> Tensor:
    x, left, top = args[0], step.options["left"], step.options["top"]
    right, bottom = step.shape[-1] - x.shape[-1] - left, step.shape[-2] - x.shape[-2] - top
    return torch.nn.functional.pad(x, (left, right, top, bottom), mode="replicate")


def _factor(args: list[Any], step: Step) -> int:
    a, b = args[0].shape[-1], step.shape[-1]
    return max(a, b) // min(a, b)


def _by_torch(name: str) -> Callable[[list[Any], Step], Tensor]:
    operation = getattr(torch, name)
    return lambda args, _: operation(*args)


RUNS: dict[str, Callable[[list[Any], Step], Tensor]] = {
    "view": lambda args, step: (
        args[0].expand(step.shape)
        if args[0].numel() != math.prod(step.shape)
        else args[0].reshape(step.shape)
    ),
    "linear": lambda args, _: torch.nn.functional.linear(*args),
    "convolution": lambda args, _: torch.nn.functional.conv2d(*args, padding="same"),
    "concatenate": lambda args, _: torch.cat(args, 1),
    "slice": _taken,
    "rows": lambda args, _: args[0][args[1].long()],
    "pad": _padded,
    "clamp": lambda args, step: args[0].clamp(step.options["low"], step.options["high"]),
    "pixel_shuffle": lambda a, s: torch.nn.functional.pixel_shuffle(a[0], _factor(a, s)),
    "pixel_unshuffle": lambda a, s: torch.nn.functional.pixel_unshuffle(a[0], _factor(a, s)),
    "ge": lambda args, _: (args[0] >= args[1]).float(),
    **{name: _by_torch(name) for name in (*UNARY, *BINARY)},
}
