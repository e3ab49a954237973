"""Two halves equal one grouped network of PyTorch's own modules, to 1e-10 in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.recipes import Recipe, load_recipe
from train import draws
from train.network import DROPOUT, AlexNet, DropoutKey, build
from train.optimizer import Momentum
from train.schedule import rates

CPU = torch.device("cpu")
CLASSES, IMAGES = 7, 5
WIDTHS = {"conv1": 12, "conv2": 16, "conv3": 20, "conv4": 12, "conv5": 8, "fc6": 24, "fc7": 28}
KEY = DropoutKey(seed=5, step=11, first=256)


def narrow(*changes: str) -> Recipe:
    """The paper's recipe with few kernels; every other number is the paper's."""
    widths = [f"layers.{name}.kernels={width}" for name, width in WIDTHS.items()]
    return load_recipe("paper", [*widths, *changes])


class Grouped(nn.Module):
    """The paper's network on one device, written without our table: groups are PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        c1, c2, c3, c4, c5, f6, f7 = WIDTHS.values()
        self.conv1 = nn.Conv2d(3, c1, 11, stride=4)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=2)
        self.fc6, self.fc7 = nn.Linear(c5 * 36, f6), nn.Linear(f6, f7)
        self.fc8 = nn.Linear(f7, CLASSES)
        self.norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        self.pool = nn.MaxPool2d(3, 2)

    def halves_norm(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat((self.norm(a), self.norm(b)), 1)

    def dropped(self, x: Tensor, name: str, key: DropoutKey | None) -> Tensor:
        if key is None:
            return x * 0.5
        sample = key.first + np.arange(len(x))[:, None]
        layer = draws.key(DROPOUT, key.seed, key.step, *name.encode())
        kept = draws.uniform(layer, sample, np.arange(x.shape[1])) < 0.5
        return x * torch.from_numpy(kept)

    def forward(self, images: Tensor, key: DropoutKey | None) -> Tensor:
        x = F.relu(self.conv1(F.pad(images, (0, 3, 0, 3))))
        x = self.pool(self.halves_norm(x))
        x = self.pool(self.halves_norm(F.relu(self.conv2(x))))
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        x = self.pool(F.relu(self.conv5(x))).flatten(1)
        x = self.dropped(F.relu(self.fc6(x)), "fc6", key)
        x = self.dropped(F.relu(self.fc7(x)), "fc7", key)
        return self.fc8(x)


class Joint(Grouped):
    """The same with one response norm over all maps, as in Caffe."""

    def halves_norm(self, x: Tensor) -> Tensor:
        return self.norm(x)


def pair(
    devices: tuple[torch.device, torch.device] = (CPU, CPU), *changes: str
) -> tuple[AlexNet, Grouped]:
    """Our network and PyTorch's with the same weights, float64."""
    ours = build(narrow(*changes), CLASSES, devices, seed=2).to(torch.float64)
    oracle = Joint() if changes else Grouped()
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            own = ours.shares(name)
            for share in own:
                share.mul_(4.0)  # with 0.01 signals fade: gradients of 1e-12 would prove little
            parameter.data = torch.cat([share.cpu() for share in own]).clone()
    return ours, oracle


def photographs(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((IMAGES, 3, 224, 224), generator=generator, dtype=torch.float64) * 60
    return images, torch.arange(IMAGES) % CLASSES


def close(found: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().clamp_min(1e-300)
    assert (found.cpu() - expected).abs().max() / scale < 1e-10


PLACES = [
    (CPU, CPU),
    (CPU, torch.device("cpu:0")),  # one processor by two names: the way of two GPUs, on any machine
    pytest.param(
        (torch.device("cuda:0"), torch.device("cuda:0")),
        marks=pytest.mark.skipif(torch.cuda.device_count() < 1, reason="needs a GPU"),
    ),
    pytest.param(
        (torch.device("cuda:0"), torch.device("cuda:1")),
        marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
    ),
]


@pytest.mark.parametrize("devices", PLACES, ids=str)
@pytest.mark.parametrize("key", [None, KEY], ids=["test", "training"])
def test_halves_equal_the_grouped_network(
    devices: tuple[torch.device, torch.device], key: DropoutKey | None
) -> None:
    ours, oracle = pair(devices)
    images, labels = photographs()
    logits, expected = ours(images.to(devices[0]), key), oracle(images, key)
    assert logits.device == devices[0]
    close(logits, expected)

    F.cross_entropy(logits, labels.to(devices[0])).backward()
    F.cross_entropy(expected, labels).backward()
    for name, parameter in oracle.named_parameters():
        gradients = [share.grad for share in ours.shares(name)]
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        close(torch.cat([g.cpu() for g in gradients if g is not None]), parameter.grad)

    Momentum(ours, narrow()).step(rates(narrow(), 0, []))
    torch.optim.SGD(
        [
            {"params": [p for n, p in oracle.named_parameters() if "weight" in n]},
            {"params": [p for n, p in oracle.named_parameters() if "bias" in n], "weight_decay": 0},
        ],
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
    ).step()
    for name, parameter in oracle.named_parameters():
        close(torch.cat([share.cpu() for share in ours.shares(name)]), parameter.detach())


def activations(net: AlexNet, images: Tensor) -> dict[str, list[Tensor]]:
    """What each half's linear parts give, by layer."""
    seen: dict[str, list[Tensor]] = {row.name: [] for row in net.rows}
    hooks = [
        net.halves[half][row.name].register_forward_hook(
            lambda _module, _inputs, output, name=row.name: seen[name].append(output.clone())
        )
        for row in net.rows
        for half in range(row.halves)
    ]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    ("changed", "crosses_at"),
    [("conv1", "conv3"), ("conv2", "conv3"), ("conv3", "fc6"), ("conv5", "fc6"), ("fc6", "fc7")],
)
def test_halves_meet_only_at_conv3_fc6_fc7_and_fc8(changed: str, crosses_at: str) -> None:
    net, _ = pair()
    images, _ = photographs()
    before = activations(net, images)
    with torch.no_grad():
        net.shares(f"{changed}.weight")[1].mul_(1.5)
    after = activations(net, images)
    names = [row.name for row in net.rows]
    for name in names:
        same = torch.equal(before[name][0], after[name][0])  # half a's
        assert same == (names.index(name) < names.index(crosses_at)), name
    assert not torch.equal(before[changed][1], after[changed][1])


def test_fc8_lives_on_the_first_device_and_reads_both_halves() -> None:
    net, _ = pair()
    assert len(net.shares("fc8.weight")) == 1
    assert list(net.halves[1]) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    images, _ = photographs()
    before = net(images)
    with torch.no_grad():
        net.shares("fc7.bias")[1].add_(1.0)
    assert not torch.equal(net(images), before)


def test_norm_within_the_layer_lets_neighbours_cross_the_seam() -> None:
    joint, oracle = pair((CPU, CPU), "norm.within=layer")
    images, labels = photographs()
    apart, _ = pair()
    assert (joint(images, KEY) - apart(images, KEY)).abs().max() > 1e-6  # the seam is seen
    logits, expected = joint(images, KEY), oracle(images, KEY)
    close(logits, expected)
    F.cross_entropy(logits, labels).backward()
    F.cross_entropy(expected, labels).backward()
    (one, two), whole = joint.shares("conv1.weight"), oracle.conv1.weight
    assert one.grad is not None and two.grad is not None and whole.grad is not None
    close(torch.cat((one.grad, two.grad)), whole.grad)


def test_dropout_does_not_depend_on_how_a_batch_is_split() -> None:
    net, _ = pair()
    images, _ = photographs()
    whole = net(images, KEY)
    first = net(images[:2], KEY)
    rest = net(images[2:], DropoutKey(seed=KEY.seed, step=KEY.step, first=KEY.first + 2))
    close(torch.cat((first, rest)), whole.detach())
    for other in (
        DropoutKey(seed=6, step=11, first=256),
        DropoutKey(seed=5, step=12, first=256),
        DropoutKey(seed=5, step=11, first=257),
    ):
        assert not torch.allclose(net(images, other), whole)


def test_half_of_the_units_are_dropped_and_each_layer_drops_others() -> None:
    net = build(narrow("layers.fc6.kernels=4096", "layers.fc7.kernels=4096"), 3, (CPU, CPU), seed=0)
    kept: dict[str, Tensor] = {}
    with torch.no_grad():
        for name in ("fc6", "fc7"):
            for share in net.shares(f"{name}.weight"):
                share.zero_()  # all outputs are then the bias, 1, or dropped
        net.halves[0]["fc7"].register_forward_hook(
            lambda _m, inputs, _o: kept.update(fc6=inputs[0].clone())
        )
        net.halves[0]["fc8"].register_forward_hook(
            lambda _m, inputs, _o: kept.update(fc7=inputs[0].clone())
        )
        net(torch.zeros(4, 3, 224, 224), KEY)
    for mask in kept.values():
        assert set(mask.unique().tolist()) == {0.0, 1.0}  # mask only, no rescaling (section 4.2)
        assert abs(mask.mean() - 0.5) < 0.02
        assert abs(mask[:, :2048].mean() - mask[:, 2048:].mean()) < 0.04
    assert (kept["fc6"] != kept["fc7"]).float().mean() > 0.4
    assert (kept["fc6"][0] != kept["fc6"][1]).float().mean() > 0.4
    assert (kept["fc6"][:, :2048] != kept["fc6"][:, 2048:]).float().mean() > 0.4
