"""Several processes train one model: torchrun starts them, each reads windows of its own, and what they find adds up.

A step's loss and gradients are sums over processes before anything is divided, so a step is the same as that of one
process, but for rounding. With `stage.shard` no process holds all of what is trained, nor of the optimizer's state:
FSDP2 gathers a layer's weights before it is computed and adds up its gradients behind it.
"""

import contextlib
import dataclasses
import datetime
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from vlmlab.batch import IGNORE, Images
from vlmlab.model.vlm import PARTS, VLM
from vlmlab.train.prepare import Prepared, blind
from vlmlab.train.recipe import Stage

T = TypeVar("T")

BUCKET = 1 << 25
"""How many numbers of gradients are added up at once."""

PATIENCE = datetime.timedelta(hours=2)
"""How long a process waits for another, which may be measuring or writing a model."""


@dataclasses.dataclass(frozen=True)
class Team:
    """The processes of a run: this one is number `rank` of `size`, and computes on `device`.

    What they tell each other is plain data, as JSON, over `line`; alone, each method gives back what it was given.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    line: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1

    def gather(self, told: Any) -> list[Any]:
        """What each process tells, by rank; all get it. It waits for the last of them."""
        if self.alone:
            return [told]
        own = torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(own)]), group=self.line)
        sent = own.new_zeros(max(int(length) for length in lengths))
        sent[: len(own)] = own
        found = [torch.zeros_like(sent) for _ in range(self.size)]
        dist.all_gather(found, sent, group=self.line)
        return [json.loads(some[: int(n)].numpy().tobytes()) for some, n in zip(found, lengths, strict=True)]

    def most(self, number: int) -> int:
        """The largest number that any process has."""
        if self.alone:
            return number
        told = torch.tensor([number])
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self.line)
        return int(told)

    def led(self, work: Callable[[], T]) -> T:
        """What `work` gives the first process; the others do not do it. Its ValueError or OSError is raised in all."""
        given, wrong, kind = None, "", ""
        error: Exception | None = None
        if self.leads:
            try:
                given = work()
            except (ValueError, OSError) as caught:
                error, wrong, kind = caught, str(caught), type(caught).__name__
        told = self.gather([given, wrong, kind])[0]
        if error is not None:
            raise error
        if told[1]:
            raise ValueError(told[1]) if told[2] == "ValueError" else OSError(told[1])
        result: T = told[0]
        return result

    def in_step(self, own: Iterator[T], well: Callable[[], bool]) -> Iterator[T | None]:
        """The passes of every process side by side: None where another has one more than this one.

        They end at once for all when one of them is not well.
        """
        while True:
            some = next(own, None) if well() else None
            told = self.most(2 if not well() else int(some is not None))
            if told != 1:
                return
            yield some

    def add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Let each gradient be the sum over processes; one that is nowhere stays away."""
        if self.alone:
            return
        there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
        dist.all_reduce(there, dist.ReduceOp.MAX, group=self.line)
        some = [p for p, has in zip(parameters, there.tolist(), strict=True) if has]
        for parameter in some:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets(some):
            grads = [p.grad for p in bucket if p.grad is not None]
            flat = torch.cat([grad.flatten() for grad in grads])
            dist.all_reduce(flat)
            for grad, summed in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(summed.view_as(grad))


ALONE = Team()


@contextlib.contextmanager
def joined(device: str = "") -> Iterator[Team]:
    """The processes that torchrun started together with this one; ALONE without it.

    On a machine with CUDA each takes the device of its local rank, unless `device` says cpu.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    on_cuda = torch.cuda.is_available() if not device else device.startswith("cuda")
    place = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=PATIENCE)
    try:
        line = dist.new_group(backend="gloo", timeout=PATIENCE) if on_cuda else dist.group.WORLD
        yield Team(dist.get_rank(), size, place, line)
    finally:
        dist.destroy_process_group()


def sharded(model: nn.Module) -> bool:
    """Whether a model's weights are spread over processes."""
    return isinstance(model, FSDPModule)


def layers(model: VLM, stage: Stage) -> dict[str, list[nn.Module]]:
    """The layers of each part that are spread by themselves: they are gathered one by one, when they are computed."""
    found: dict[str, list[nn.Module]] = {part: [] for part in PARTS}
    for part in PARTS:
        if part == "fusion" or (part == "vision" and not stage.learns("vision")):
            continue
        for some in model.get_submodule(part).children():
            if isinstance(some, nn.ModuleList):
                found[part] += some
    return found


def shard(model: VLM, stage: Stage, team: Team) -> None:
    """Spread a model over processes: each layer by itself, what is left as a whole; a tower that stays is left out.

    What learns must be known (see `freeze`): parameters are others afterwards. What is added to a decoder between its
    layers is part of the whole, because its keys are made outside its blocks.
    """
    mesh = init_device_mesh(team.device.type, (team.size,))
    apart = set() if stage.learns("vision") else set(model.vision.parameters())
    for tensor in itertools.chain(apart, model.vision.buffers()):
        tensor.data = tensor.data.to(team.device)
    for layer in itertools.chain.from_iterable(layers(model, stage).values()):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=apart)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The sum over processes, not their mean: what it is divided by is the tokens of all.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    for name in ("see", "read"):  # measuring calls them alone
        register_fsdp_forward_method(model, name)


def idle(model: VLM, features: bool) -> Prepared:
    """A document of one picture of one patch, of which nothing is learned: it moves no bit of what others learn.

    A pass without pictures carries it when the model is sharded, because all processes have to run the same layers.
    """
    grid = torch.ones(1, 2, dtype=torch.long)
    tokens = torch.full((model.placeholders(grid)[0],), model.config.fusion.image_token)
    images = Images(torch.zeros(1, 3 * model.config.vision.patch**2), grid)
    targets = torch.full_like(tokens, IGNORE)
    if features:
        return Prepared(tokens, targets, blind(images), torch.zeros(1, model.config.vision.width))
    return Prepared(tokens, targets, images)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with what other processes hold of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    held: list[nn.Parameter] = []
    for parameter in parameters:
        if held and (sum(p.numel() for p in held) + parameter.numel() > BUCKET or parameter.dtype != held[0].dtype):
            yield held
            held = []
        held.append(parameter)
    if held:
        yield held
