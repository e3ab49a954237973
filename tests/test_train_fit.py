"""The loop: the update it makes, the rows it writes, and how it ends when it must."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from handmade import TRAIN_SHARDS, tiny_recipe, write_dataset

from infra.errors import ConfigError, DamageError, DataError, RunError
from infra.manifest import sha256
from infra.storage import open_place
from train.augment import sample_keys, training_batch
from train.job import Job
from train.local import train_here
from train.member import load_member, open_run, read_member
from train.network import DropoutKey, build, canonical_state
from train.optimizer import Momentum
from train.order import Order
from train.replica import ALONE
from train.run import Run
from train.samples import Samples
from train.schedule import rates
from train.sight import QUIET, Observer, Row, line

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TRAIN = sum(TRAIN_SHARDS)
WIDER = {
    "fc6": {
        "kind": "fc",
        "kernels": 32,
        "sees": "both",
        "std": 0.05,
        "after": ("relu", "dropout"),
    }
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset, not to be changed."""
    return write_dataset(tmp_path_factory.mktemp("fit") / "data")


def job(dataset: Path, run: Path, **changes: object) -> Job:
    """A job of the tiny recipe; recipe changes as `tiny_recipe` takes them."""
    return Job(dataset=str(dataset), run=str(run), recipe=tiny_recipe(**changes))


def test_an_epoch_is_the_textbook_loop(dataset: Path, tmp_path: Path) -> None:
    """Two epochs equal a dozen plain lines: mean loss over each batch, the last one smaller."""
    wanted = job(dataset, tmp_path / "run", schedule__epochs=2)
    train_here(wanted)
    recipe, samples = wanted.recipe, Samples(open_place(dataset), "train")
    order = Order(shard_sizes=TRAIN_SHARDS, batch=8, seed=0)
    stats = Run(wanted, ALONE, QUIET).stats
    network = build(recipe, 3, (CPU, CPU), 0)
    optimizer, step, sizes = Momentum(network, recipe), 0, []
    for epoch in range(2):
        ids = order.epoch(epoch)
        for start in range(0, TRAIN, 8):
            batch = ids[start : start + 8]
            images, labels = samples.fetch(batch)
            keys = sample_keys(batch, seed=0, epoch=epoch, recipe=recipe)
            images = training_batch(images, keys, stats=stats, recipe=recipe)
            loss = F.cross_entropy(network(images, DropoutKey(seed=0, step=step, first=0)), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step(rates(recipe, epoch, []))
            step, sizes = step + 1, [*sizes, len(batch)]
    assert sizes == [8, 8, 8, 2] * 2
    trained = load_member(open_place(tmp_path / "run")).network
    for ours, theirs in zip(trained.parameters(), network.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


def test_rows_are_those_of_the_run(dataset: Path, tmp_path: Path) -> None:
    """One an epoch, told and written alike; the member's figures are the last row's."""
    rows: list[Row] = []
    ticks: list[tuple[int, int]] = []
    observer = Observer(record=rows.append, tick=lambda *tick: ticks.append(tick))
    member = train_here(job(dataset, tmp_path), observer)
    written = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert written == rows and [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert [done for done, _ in ticks[:6]] == [0, 8, 16, 24, 26, 34] and ticks[-1] == (78, 78)
    assert member.metrics["top1_error"] == rows[-1]["top1_error"]
    assert all(0 <= row["data_wait"] <= 1 and row["images_per_s"] > 0 for row in rows)
    assert line("seed 0", rows[0], 3).split()[2] == "1/3"


def test_a_finished_run_is_left_alone(dataset: Path, tmp_path: Path) -> None:
    """The second time reads the member and touches nothing."""
    first = train_here(job(dataset, tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train_here(job(dataset, tmp_path), Observer(tick=pytest.fail)) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_another_job_in_the_folder_is_refused_by_name(dataset: Path, tmp_path: Path) -> None:
    """What differs is named with both values; cores may differ."""
    train_here(job(dataset, tmp_path, schedule__epochs=1))
    train_here(job(dataset, tmp_path, schedule__epochs=1, compute__cores=2))
    with pytest.raises(ConfigError, match=r"recipe\.schedule\.epochs is 1 there and 2 now"):
        train_here(job(dataset, tmp_path, schedule__epochs=2))
    other = write_dataset(tmp_path / "other", train=(9, 10, 8))
    with pytest.raises(ConfigError, match="dataset_sha256 is"):
        train_here(job(other, tmp_path, schedule__epochs=1))


def test_seeds_differ_and_repeat(dataset: Path, tmp_path: Path) -> None:
    """A seed is a member."""
    digests = [
        train_here(
            Job(
                dataset=str(dataset),
                run=str(tmp_path / name),
                recipe=tiny_recipe(schedule__epochs=1),
                seed=seed,
            )
        ).weights_sha256
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_fine_tuning_starts_from_all_layers_but_the_last(dataset: Path, tmp_path: Path) -> None:
    """A member of three classes is carried on with five; the last layer starts anew."""
    first = job(dataset, tmp_path / "first", schedule__epochs=1)
    train_here(first)
    other = write_dataset(tmp_path / "other", classes=5)
    second = Job(
        dataset=str(other), run=str(tmp_path / "b"), recipe=first.recipe, init=first.run, seed=2
    )
    open_run(open_place(second.run), second, Samples(open_place(other), "train").digest)
    start = canonical_state(Run(second, ALONE, QUIET).network)
    taken = canonical_state(load_member(open_place(first.run)).network)
    fresh = canonical_state(build(second.recipe, 5, (CPU, CPU), 2))
    for name, value in start.items():
        assert torch.equal(value, fresh[name] if name.startswith("fc8") else taken[name])
    member = train_here(second)
    assert member.init is not None
    assert member.init["weights_sha256"] == read_member(open_place(first.run)).weights_sha256
    with pytest.raises(ConfigError, match="init is "):
        train_here(replace(second, init=None))
    wider = job(other, tmp_path / "c", layers={**first.recipe.to_dict()["layers"], **WIDER})
    with pytest.raises(DataError, match=r"'fc6.weight' of .* has shape \(16, 32\)"):
        train_here(replace(wider, init=first.run))


def test_a_loss_that_is_no_number_stops_the_run(dataset: Path, tmp_path: Path) -> None:
    """With the step, the batch's keys and the last good checkpoint; no member appears."""
    wild = job(dataset, tmp_path, optimizer__lr=1e18, optimizer__batch=13)
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at step \d+") as failed:
        train_here(wild)
    assert "checkpoint is " in str(failed.value) and str(failed.value).count("train-0") == 13
    assert not (tmp_path / "member.json").exists()


def test_a_harmed_member_is_never_used(dataset: Path, tmp_path: Path) -> None:
    """Weights, statistics and member.json are compared with their digests."""
    train_here(job(dataset, tmp_path, schedule__epochs=1))
    place, member = open_place(tmp_path), read_member(open_place(tmp_path))
    assert sha256(place.read("weights.safetensors")) == member.weights_sha256
    for name in ("weights.safetensors", "stats.npz"):
        good = place.read(name)
        place.write(name, good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(DamageError, match=name):
            load_member(place)
        place.write(name, good)
    place.write("member.json", place.read("member.json")[:-40])
    with pytest.raises(DamageError, match="member.json"):
        read_member(place)


def test_the_core_needs_torch_alone(dataset: Path, tmp_path: Path) -> None:
    """Without Ray, MLflow, boto3, click and rich, a member is trained and read all the same."""
    code = f"""
import sys
for name in ("ray", "mlflow", "boto3", "click", "rich"):
    sys.modules[name] = None
sys.path.insert(0, {str(ROOT / "tests")!r})
from handmade import tiny_recipe
from train.job import Job
from train.local import train_here
job = Job(dataset={str(dataset)!r}, run={str(tmp_path / "run")!r}, recipe=tiny_recipe())
print(train_here(job).weights_sha256)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == train_here(job(dataset, tmp_path / "here")).weights_sha256


def test_a_first_layer_filter_moves(dataset: Path, tmp_path: Path) -> None:
    """Training changes every parameter that has a rate."""
    train_here(job(dataset, tmp_path, schedule__epochs=1))
    before = build(tiny_recipe(), 3, (CPU, CPU), 0)
    after = load_member(open_place(tmp_path)).network
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        assert not np.array_equal(old.detach().numpy(), new.detach().numpy())
