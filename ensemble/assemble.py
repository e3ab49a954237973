"""Makes `ensemble.json` out of finished members: their digests, and what they score together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime

from ensemble.average import NOTHING, Scores
from ensemble.examples import Example, write_examples
from ensemble.manifest import (
    EXAMPLES,
    MEMBER_FILES,
    NAME,
    Ensemble,
    Failure,
    File,
    Part,
    check_files,
    read_ensemble,
)
from ensemble.measure import Request
from ensemble.plan import Claim, EnsemblePlan
from infra import provenance
from infra.errors import DamageError, DataError
from infra.manifest import read_checked, sha256, to_json
from infra.storage import Place, open_place
from train.member import Member, read_member

WEIGHT = 1.0  # of each member: the paper's plain average


def read_finished(place: Place) -> tuple[Member, dict[str, File]]:
    """The finished member in a run folder and its files; raises `DamageError` if one is harmed."""
    member = read_member(place)
    known = {"weights.safetensors": member.weights_sha256, "stats.npz": member.stats_sha256}
    files = {}
    for name in MEMBER_FILES:
        data = read_checked(place, name, known[name]) if name in known else place.read(name)
        files[name] = File(bytes=len(data), sha256=known.get(name) or sha256(data))
    return member, files


def assemble(
    plan: EnsemblePlan,
    claimed: Claim,
    members: Mapping[int, dict[str, File]],
    failures: tuple[Failure, ...],
    measure: Callable[[Request], tuple[Scores, list[Example]]],
) -> tuple[Ensemble, str]:
    """The measured ensemble of these members (number: files) and the digest of `ensemble.json`.

    One that is there and up to date is returned as it is, without measuring it again.
    """
    place = open_place(plan.out)
    draft = _draft(plan, claimed, members, failures)
    if (found := _current(place, draft)) is not None:
        return found
    request = Request(
        runs=tuple(plan.job(number).run for number in members),
        weights=(WEIGHT,) * len(members),
        dataset=open_place(plan.dataset).uri,
        views=plan.views,
        device=plan.device,
        cores=plan.recipe.compute.cores,
    )
    scores, examples = measure(request)
    return _publish(place, draft, scores, examples)


def _draft(
    plan: EnsemblePlan,
    claimed: Claim,
    members: Mapping[int, dict[str, File]],
    failures: tuple[Failure, ...],
) -> Ensemble:
    """The ensemble before it is measured: its scores are empty, the examples' file is missing."""
    splits = claimed.dataset.splits.items()
    counts = {name: {"samples": of.samples, "rejects": of.rejects} for name, of in splits}
    parts = tuple(
        Part(number=number, seed=plan.job(number).seed, weight=WEIGHT, score=NOTHING)
        for number in members
    )
    return Ensemble(
        classes=claimed.dataset.classes,
        image=claimed.dataset.image,
        dataset={
            "uri": open_place(plan.dataset).uri,
            "sha256": claimed.dataset_sha256,
            "splits": counts,
        },
        recipe=plan.recipe,
        views=plan.views,
        planned=plan.members,
        members=parts,
        averaged=(NOTHING,) * len(parts),
        failed=failures,
        code=asdict(provenance.code()),
        libraries=provenance.libraries(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        files={
            f"members/{number}/{name}": file
            for number, files in members.items()
            for name, file in files.items()
        },
    )


def _current(place: Place, draft: Ensemble) -> tuple[Ensemble, str] | None:
    """The ensemble that is there, if it is the drafted one, measured and whole."""
    try:
        found, digest = read_ensemble(place)
        check_files(place, found, small_only=True)
    except (DataError, DamageError):
        return None
    same = replace(
        draft,
        members=tuple(
            replace(part, score=there.score)
            for part, there in zip(draft.members, found.members, strict=False)
        ),
        averaged=found.averaged,
        code=found.code,
        libraries=found.libraries,
        finished=found.finished,
        files=draft.files | {EXAMPLES: found.files[EXAMPLES]},
    )
    return (found, digest) if same == found else None


def _publish(
    place: Place, draft: Ensemble, scores: Scores, examples: list[Example]
) -> tuple[Ensemble, str]:
    made = replace(
        draft,
        members=tuple(
            replace(part, score=score)
            for part, score in zip(draft.members, scores.members, strict=True)
        ),
        averaged=scores.averaged,
        files=draft.files | {EXAMPLES: write_examples(place, examples)},
    )
    data = to_json(made)
    place.write(NAME, data)
    return made, sha256(data)
