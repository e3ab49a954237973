"""Object storage that fails: a run ends in the bytes of an undisturbed one, or in one sentence.

A fault proxy stands before a real server (OpenStack Swift). Whatever it did, no reader is fooled
meanwhile, no message shows a secret, and a run without faults finishes the work.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import KEYS, S3Server
from fault_proxy import FaultProxy, Rule, When, always, on, once_each, share
from photos import class_folders, tree, tree_at

from infra.errors import DataError, SeptetError, StorageError
from infra.storage import open_place
from pipeline.run import Job, in_process, preprocess

pytestmark = pytest.mark.s3
MIXED = ("500", "reset", "lost", "cut")  # faults that a share of requests gets


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of five images: three shards of four, four, two."""
    return class_folders(tmp_path_factory.mktemp("source") / "s", classes=2, images=5)


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of a run on disk."""
    place = tmp_path_factory.mktemp("disk")
    preprocess(Job(source=str(source), dataset=str(place), shard_samples=5), in_process)
    return tree(place)


@pytest.fixture
def proxy(
    bucket: str, source: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """A transparent one that AWS_ENDPOINT_URL leads to; the source is there in `photos/`."""
    photos = open_place(f"{bucket}/photos")
    for path in source.rglob("*.JPEG"):
        photos.write(path.relative_to(source).as_posix(), path.read_bytes())
    monkeypatch.setattr("infra.s3.PAUSE_S", 0.01)
    monkeypatch.setattr("infra.s3.SILENCE_S", 1.0)
    with FaultProxy(s3_server.port) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        yield between


def attempt(job: Job) -> SeptetError | None:
    """Runs; how it failed, if it did."""
    try:
        preprocess(job, in_process)
    except SeptetError as error:
        return error
    return None


def run_through(
    proxy: FaultProxy, job: Job, undisturbed: dict[str, str], *rules: Rule
) -> SeptetError | None:
    """Runs with faults, and again without if that failed; holds what every fault must leave true.

    How the first run failed, if it did.
    """
    proxy.rules[:], proxy.hits[:] = rules, []
    error = attempt(job)
    proxy.rules.clear()
    assert proxy.hits or error is None
    if error is not None:
        said = str(error)
        assert error.exit_code in (1, 2)
        assert said.endswith(".") and not said.endswith("..") and "\n" not in said
        assert not any(secret in said for secret in secrets())
        assert open_place(job.dataset).size("dataset.json") is None
        preprocess(job, in_process)
    assert tree_at(job.dataset) == undisturbed
    return error


def secrets() -> list[str]:
    """What no message may show: both keys, and what a signed request is made of."""
    return [KEYS["AWS_SECRET_ACCESS_KEY"], KEYS["AWS_ACCESS_KEY_ID"], "Signature=", "Credential="]


def from_s3(bucket: str) -> Job:
    """From the bucket into the bucket."""
    return Job(source=f"{bucket}/photos", dataset=f"{bucket}/d", shard_samples=5)


@pytest.mark.parametrize("fault", ["500", "503", "reset", "lost", "cut", "short", "flip"])
def test_a_fault_that_passes_does_not_show(
    proxy: FaultProxy, bucket: str, undisturbed: dict[str, str], fault: str
) -> None:
    """Every request fails once (503: some, boto3 waits up to a second each), reads and writes.

    "short" and "flip" hit objects: listings and what the server says on errors have no digest.
    """
    when: When = on(3, 13, 33) if fault == "503" else once_each()
    rules = [Rule(fault, when)]
    if fault in ("short", "flip"):
        rules = [Rule(fault, when, "GET", path) for path in ("/photos/n", "/d/_commits/")]
    assert run_through(proxy, from_s3(bucket), undisturbed, *rules) is None
    assert len(proxy.hits) >= 3


@pytest.mark.parametrize("part", [0.01, 0.1, 0.3])
def test_a_share_of_all_requests_fails(
    proxy: FaultProxy, bucket: str, undisturbed: dict[str, str], part: float
) -> None:
    """Four kinds mixed, drawn from seeds: 1 % and 10 % do not show."""
    rules = [
        Rule(fault, share(part / len(MIXED), seed=number)) for number, fault in enumerate(MIXED)
    ]
    error = run_through(proxy, from_s3(bucket), undisturbed, *rules)
    assert error is None or part == 0.3
    assert proxy.hits or part == 0.01


@pytest.mark.parametrize(
    "fault,where,code",
    [
        ("403", "/photos/n", 1),
        ("403", "/d/_commits/plan.json", 1),
        ("403", "/d/train", 1),
        ("404", "/photos/n", 2),
        ("404", "/d/dataset.json", 2),
        ("500", "/photos/n", 1),
        ("500", "/d/train", 1),
        ("reset", "/d/dataset.json", 1),
    ],
)
def test_a_fault_that_stays_is_one_sentence(
    proxy: FaultProxy, bucket: str, undisturbed: dict[str, str], fault: str, where: str, code: int
) -> None:
    """Refused, no bucket, broken or reset, for the source, the plan, the shards or the manifest."""
    error = run_through(proxy, from_s3(bucket), undisturbed, Rule(fault, always(), path=where))
    assert error is not None and error.exit_code == code
    assert bucket.removeprefix("s3://") in str(error)


def test_a_stall_is_waited_out(proxy: FaultProxy, bucket: str, undisturbed: dict[str, str]) -> None:
    """A second without a byte, here; a minute by default: then the request is sent again."""
    rules = [
        Rule("stall", on(1), methods, path)
        for methods, path in (("GET", "/photos/n"), ("PUT", "/d/train"))
    ]
    started = time.monotonic()
    assert run_through(proxy, from_s3(bucket), undisturbed, *rules) is None
    assert len(proxy.hits) == 2
    assert 2 < time.monotonic() - started < 30


def test_an_object_replaced_between_two_halves_of_its_reading(
    proxy: FaultProxy, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading begins anew: the first half of the old and the second of the new are no photo."""
    place, other = open_place(f"{bucket}/d"), b"B" * 3000
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    behind = open_place(f"{bucket}/d")

    def cut_then_replaced(number: int, request: str) -> bool:
        if number == 2:
            behind.write("x", other)
        return number == 1

    for read in (lambda: place.read("x"), lambda: place.read_range("x", 100, 900)):
        behind.write("x", b"A" * 1000)
        proxy.rules[:] = [Rule("cut", cut_then_replaced, "GET", "/d/x")]
        assert read() in (other, other[:900])


def test_a_claim_whose_answer_is_lost_is_ours(proxy: FaultProxy, bucket: str) -> None:
    """The conditional PUT is repeated, refused, and what is there is found to be ours."""
    place = open_place(f"{bucket}/d")
    for times in (1, 6):  # repeated by boto3, which gives up after 5, and by us
        proxy.rules[:] = [Rule("lost", on(*range(1, times + 1)), "PUT")]
        assert place.create(f"plan{times}", b"mine")
        assert not place.create(f"plan{times}", b"yours")
        assert place.read(f"plan{times}") == b"mine"


def test_a_bucket_that_does_not_exist_is_an_input_error(source: Path, bucket: str) -> None:
    """As target and as source: exit code 2, naming the bucket."""
    for job in (
        Job(source=str(source), dataset="s3://no-such-bucket/d"),
        Job(source="s3://no-such-bucket/photos", dataset=f"{bucket}/d"),
    ):
        error = attempt(job)
        assert isinstance(error, DataError) and "no bucket 'no-such-bucket'" in str(error)
        assert error.exit_code == 2
    assert list(open_place(bucket).names()) == []


def test_a_wrong_secret_is_not_shown(
    source: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, what to check, and nothing else."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    error = attempt(Job(source=str(source), dataset=f"{bucket}/d"))
    assert isinstance(error, StorageError) and "check the credentials" in str(error)
    assert not any(secret in str(error) for secret in ["a-wrong-secret", *secrets()])
