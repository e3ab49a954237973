"""`ensemble.json`: read back as written; whatever is harmed, missing or strange is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from seven import copy, make_ensemble

from ensemble.manifest import NAME, check_files, read_ensemble
from ensemble.model import load_model
from infra.errors import DamageError, DataError
from infra.manifest import to_json
from infra.storage import open_place


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of two tiny members."""
    return make_ensemble(tmp_path_factory.mktemp("manifest"), members=2)


def test_it_is_read_back_as_written(made: Path) -> None:
    """Parsed and written again, the bytes are the same."""
    ensemble, _ = read_ensemble(open_place(made))
    assert to_json(ensemble) == (made / NAME).read_bytes()
    assert [part.seed for part in ensemble.members] == [1, 2]
    assert ensemble.averaged[0] == ensemble.members[0].score
    check_files(open_place(made), ensemble)


@pytest.mark.parametrize(
    "name",
    [
        "members/2/weights.safetensors",
        "members/1/stats.npz",
        "members/1/metrics.jsonl",
        "members/2/member.json",
        "report/examples.json",
    ],
)
@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_harmed_file_is_named_and_never_used(
    made: Path, tmp_path: Path, name: str, harm: str
) -> None:
    """One flipped bit, a missing byte, a missing file: no model comes of it."""
    folder = copy(made, tmp_path / "copy")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 4
    if harm == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data if harm == "flipped" else data[:-1])
    with pytest.raises((DamageError, DataError), match=Path(name).name):
        load_model(open_place(folder))


def _edit(change: Callable[[dict[str, Any]], Any], folder: Path) -> None:
    raw = json.loads((folder / NAME).read_bytes())
    change(raw)
    (folder / NAME).write_text(json.dumps(raw))


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["files"].update({"../outside": {"bytes": 1, "sha256": "0"}}),
        lambda raw: raw["files"].update({"members/1/evil.pkl": {"bytes": 1, "sha256": "0"}}),
        lambda raw: raw["files"].update({"members/9/stats.npz": {"bytes": 1, "sha256": "0"}}),
        lambda raw: raw["files"].pop("members/1/stats.npz"),
        lambda raw: raw.pop("classes"),
        lambda raw: raw["members"].clear(),
        lambda raw: raw["averaged"].pop(),
        lambda raw: raw.update(surprise=1),
        lambda raw: raw["members"][0].update(score=3),
        lambda raw: raw["recipe"].update(name=7),
    ],
)
def test_a_strange_ensemble_is_refused(
    made: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    """Foreign files, missing or surplus fields: one sentence, no file of it is read."""
    folder = copy(made, tmp_path / "copy")
    _edit(change, folder)
    with pytest.raises(DamageError, match=NAME):
        read_ensemble(open_place(folder))


def test_weights_of_another_member_are_refused(made: Path, tmp_path: Path) -> None:
    """A member that is whole in itself, but is not the one that the ensemble names."""
    folder = copy(made, tmp_path / "copy")
    for name in ("weights.safetensors", "member.json", "metrics.jsonl"):
        data = (made / "members/2" / name).read_bytes()
        (folder / "members/1" / name).write_bytes(data)
    with pytest.raises(DamageError, match="members/1"):
        load_model(open_place(folder))


def test_another_format_and_no_ensemble_say_so(made: Path, tmp_path: Path) -> None:
    """A later version's ensemble; a folder that is none."""
    folder = copy(made, tmp_path / "copy")
    _edit(lambda raw: raw.update(format=99), folder)
    with pytest.raises(DataError, match="format 99"):
        read_ensemble(open_place(folder))
    with pytest.raises(DataError, match="neither a member nor an ensemble"):
        load_model(open_place(tmp_path / "nothing"))


def test_pictures_made_by_another_rule_are_refused(made: Path, tmp_path: Path) -> None:
    """A model that was trained on differently resized pictures would only seem to work."""
    folder = copy(made, tmp_path / "copy")
    member = folder / "members/1/member.json"
    raw = json.loads(member.read_bytes())
    raw["image"] = {"short_side": 300}
    member.write_text(json.dumps(raw))
    with pytest.raises(DataError, match="short_side '300'"):
        load_model(open_place(folder / "members/1"))
