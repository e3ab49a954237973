"""Two runs into one place at once, on disk and on S3: one dataset or a clear word, no mixture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from photos import class_folders, tree_at
from runs import CONTEXT, start

from infra.errors import DataError
from infra.storage import open_place
from pipeline.run import Job, in_process, preprocess
from pipeline.verify import verify

ROUNDS = int(os.environ.get("SEPTET_ROUNDS", "3"))  # of each test


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three images: three shards of two."""
    return class_folders(tmp_path_factory.mktemp("source") / "s", classes=2, images=3)


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The digests of lone runs, with seed 0 and with seed 1."""
    places = [str(tmp_path_factory.mktemp("alone")) for _ in range(2)]
    for seed, place in enumerate(places):
        preprocess(job(source, place, seed), in_process)
    return [tree_at(place) for place in places]


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place on either kind of storage."""
    yield request.getfixturevalue("bucket") if request.param == "s3" else str(tmp_path / "disk")


def job(source: Path, place: str, seed: int = 0) -> Job:
    """The one job of these tests."""
    return Job(source=str(source), dataset=place, shard_samples=2, seed=seed)


def compete(source: Path, place: str, seeds: tuple[int, int], folder: Path) -> list[str | None]:
    """Two processes that begin at the same moment; what each said if it failed, else None."""
    together = CONTEXT.Barrier(2)
    said = [folder / "first", folder / "second"]
    runs = [
        start(job(source, place, seed), path, together)
        for seed, path in zip(seeds, said, strict=True)
    ]
    for run in runs:
        run.join()
    for run, path in zip(runs, said, strict=True):
        assert (run.exitcode == 0) != path.exists(), run.exitcode
    words = [path.read_text() if path.exists() else None for path in said]
    for path in said:
        path.unlink(missing_ok=True)
    return words


def test_with_the_same_plan_both_make_it(
    source: Path, root: str, undisturbed: list[dict[str, str]], tmp_path: Path
) -> None:
    """Each object is written whole and is the same whoever writes it."""
    for number in range(ROUNDS):
        place = f"{root}/{number}"
        assert compete(source, place, (0, 0), tmp_path) == [None, None]
        assert tree_at(place) == undisturbed[0]


def test_with_different_plans_one_makes_it(
    source: Path, root: str, undisturbed: list[dict[str, str]], tmp_path: Path
) -> None:
    """Another seed: the loser is told, and puts no shard among the winner's."""
    for number in range(ROUNDS):
        place = f"{root}/{number}"
        words = compete(source, place, (0, 1), tmp_path)
        assert words.count(None) == 1
        loser = next(word for word in words if word is not None)
        assert "begun" in loser and place in loser
        assert tree_at(place) == undisturbed[words.index(None)]
        assert verify(open_place(place), deep=True).problems == ()


def test_a_run_whose_plan_is_replaced_stops_before_its_next_shard(
    source: Path, tmp_path: Path
) -> None:
    """As it may be where a conditional PUT is not atomic; the other's shards stay as they are."""
    place = open_place(tmp_path / "d")

    def replaced(tasks):  # type: ignore[no-untyped-def]
        for number, task in enumerate(tasks):
            if number == 1:
                place.write("_commits/plan.json", b"{}\n")
            yield from in_process([task])

    with pytest.raises(DataError, match="another run has begun"):
        preprocess(job(source, place.uri), replaced)
    assert [name for name in place.names() if name.endswith(".tar")] == ["train/000000.tar"]
