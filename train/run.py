"""A run in hand: a job's data, network and state on one replica, from its last checkpoint on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import get_total_norm

from infra.errors import RunError
from infra.manifest import read_checked
from infra.storage import open_place
from train.augment import ImageStatistics, sample_keys, training_batch
from train.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    newest_checkpoint,
    read_checkpoint,
)
from train.evaluate import Score, evaluate
from train.job import Job
from train.member import initial_weights, write_member, write_metrics
from train.network import DropoutKey, build, canonical_state, load_canonical
from train.optimizer import Momentum
from train.order import Ids, Order
from train.prefetch import ahead
from train.replica import Replica
from train.samples import Samples
from train.schedule import Rates
from train.sight import Observer, Row
from train.tally import Tally, Update

LOOK_S = 5.0  # seconds between two questions whether a machine is about to be taken away


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """This replica's part of the global batch `ids`, from position `first` of it on.

    images (N, 3, px, px) float32 augmented, labels (N,) int64; `weight` is 0 for the one sample
    that stands in where a part is empty, so that every replica takes part in the backward pass.
    """

    ids: Ids
    images: Tensor
    labels: Tensor
    first: int
    weight: float = 1.0


@dataclass(kw_only=True, slots=True)
class State:
    """What changes while a run goes, but for the weights and velocities."""

    step: int = 0
    history: tuple[Row, ...] = ()
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0


class Run:
    """A job on this replica: its data, network and state, put where the last run left off."""

    def __init__(self, job: Job, replica: Replica, observer: Observer) -> None:
        self.job, self.replica, self.observer = job, replica, observer
        self.place, dataset = open_place(job.run), open_place(job.dataset)
        self.train, self.val = Samples(dataset, "train"), Samples(dataset, "val")
        manifest = self.train.manifest
        self.stats_bytes = read_checked(dataset, "stats.npz", manifest.stats_sha256)
        self.stats = ImageStatistics.read(self.stats_bytes)
        self.order = Order(
            shard_sizes=tuple(self.train.shard_sizes),
            batch=job.recipe.optimizer.batch,
            seed=job.seed,
        )
        self.network = build(job.recipe, self.train.num_classes, replica.devices, job.seed)
        self.optimizer = Momentum(self.network, job.recipe)
        self.state = State()
        self.checkpoints = self.place.child("checkpoints")
        self.writer = CheckpointWriter(self.checkpoints, job.keep)
        self._looked_at = time.monotonic()
        self._resume()
        self.wrapped = replica.wrap(self.network)
        self._show_progress()

    @property
    def epoch(self) -> int:
        """The epoch in hand, 0 = the first; also the number of epochs evaluated."""
        return len(self.state.history)

    def _resume(self) -> None:
        """Goes back to the newest whole checkpoint; replica 0 chooses it for all."""
        found = None
        if self.replica.rank == 0:
            found = newest_checkpoint(self.checkpoints, self.observer.warn)
        (step,) = self.replica.total([found.step + 1 if found else 0])
        if self.replica.rank and step:
            found = read_checkpoint(self.checkpoints, int(step) - 1)
        if found is None:
            if self.job.init:
                fresh = canonical_state(self.network)
                load_canonical(self.network, initial_weights(self.job, fresh))
            return
        load_canonical(self.network, found.weights)
        self.optimizer.load_state(found.velocities)
        self.state = State(
            step=found.step, history=found.history, tally=found.tally, seconds=found.seconds
        )

    def save(self) -> None:
        """Hands the state to the background writer; on replica 0 alone, whose state is all's."""
        if self.replica.rank:
            return
        self.writer.write(
            Checkpoint(
                step=self.state.step,
                weights=canonical_state(self.network),
                velocities=self.optimizer.state(),
                history=self.state.history,
                tally=self.state.tally.copy(),
                seconds=self.state.seconds,
            )
        )

    def batches(self) -> Iterator[Batch]:
        """What is left of the epoch in hand, decoded and augmented ahead of time."""
        if self.state.step == (self.epoch + 1) * self.order.steps:
            return  # stopped between the epoch's last update and its evaluation
        yield from ahead(
            partial(self._load, epoch=self.epoch),
            self._announced(),
            self.job.recipe.compute.cores,
        )

    def _announced(self) -> Iterator[Ids]:
        for step, ids in enumerate(self.order.batches(self.state.step), start=self.state.step):
            if self.train.shards.remote:
                self.train.shards.expect(self.order.shards_near(step).tolist())
            yield ids

    def _load(self, ids: Ids, *, epoch: int) -> Batch:
        part = self.replica.part(len(ids))
        weight = 1.0 if len(ids[part]) else 0.0
        keys = sample_keys(ids, seed=self.job.seed, epoch=epoch, recipe=self.job.recipe)
        keys = keys.part(part if weight else slice(1))
        images_u8, labels = self.train.fetch(keys.ids)
        images = training_batch(
            images_u8.to(self.replica.devices[0]), keys, stats=self.stats, recipe=self.job.recipe
        )
        labels = labels.to(images.device)
        return Batch(ids=ids, images=images, labels=labels, first=part.start, weight=weight)

    def update(self, batch: Batch, learning: Rates) -> Update:
        """One update of the weights, from the mean loss over the global batch.

        Replicas' gradients are averaged, so each one's sum is divided by its share of the batch.
        Raises `RunError` when the loss is not finite; the weights are then as they were before.
        """
        key = DropoutKey(seed=self.job.seed, step=self.state.step, first=batch.first)
        logits = self.wrapped(batch.images, key)
        loss = batch.weight * F.cross_entropy(logits, batch.labels, reduction="sum")
        self.optimizer.zero_grad()
        torch.autograd.backward(loss * (self.replica.count / len(batch.ids)))
        wrong = batch.weight * (logits.argmax(1) != batch.labels).sum()
        mine = [
            float(loss.detach()),
            float(wrong),
            float(self._asked()),
            float(self._time_to_look()),
        ]
        total, misses, stop, look = self.replica.total(mine)
        if not math.isfinite(total):
            raise self._diverged(batch, total)
        self.optimizer.step(learning)
        return Update(
            images=len(batch.ids),
            loss=total,
            wrong=int(misses),
            norms=self._norms(),
            stop=bool(stop),
            look=bool(look),
        )

    def _norms(self) -> tuple[float, ...]:
        halves = ([share.grad for share in half.parameters()] for half in self.network.halves)
        return tuple(
            float(get_total_norm([grad for grad in grads if grad is not None])) for grads in halves
        )

    def _time_to_look(self) -> bool:
        """Now and then true on replica 0, whose answer all replicas follow."""
        if self.replica.rank or time.monotonic() - self._looked_at < LOOK_S:
            return False
        self._looked_at = time.monotonic()
        return True

    def leaving(self) -> bool:
        """Whether a replica's machine will be taken away; asked on all replicas together."""
        leaving = self.replica.any(self.observer.leaving())
        if leaving and self.replica.rank == 0:
            self.observer.warn(
                f"a machine of this run will be taken away: saving after step {self.state.step}."
            )
        return leaving

    def _asked(self) -> bool:
        return self.replica.rank == 0 and self.observer.stop()

    def count(self, update: Update, spent_s: float, waited_s: float) -> None:
        """Books an update: the cursor, the epoch's sums, the time."""
        self.state.step += 1
        self.state.seconds += spent_s
        self.state.tally.add(update, spent_s, waited_s)
        self._show_progress()

    def _show_progress(self) -> None:
        if self.replica.rank:
            return
        epochs, samples = self.job.recipe.schedule.epochs, self.order.samples
        self.observer.tick(self.epoch * samples + self.state.tally.images, epochs * samples)

    def evaluate(self) -> Score | None:
        """The validation split's score; None when the observer asked to stop before its end."""
        return evaluate(
            self.network,
            self.val,
            self.stats,
            replica=self.replica,
            stop=self._asked,
        )

    def _diverged(self, batch: Batch, loss: float) -> RunError:
        return RunError(
            f"the loss is {loss} at step {self.state.step} (epoch {self.epoch + 1}) in "
            f"'{self.job.run}'; the last good checkpoint is {self._last_good()}; lower the "
            f"learning rate; the batch held {', '.join(self.train.keys(batch.ids))}."
        )

    def _last_good(self) -> str:
        self.writer.wait()
        found = newest_checkpoint(self.checkpoints, lambda _: None)
        return f"of step {found.step}" if found else "none"

    def finish_epoch(self, score: Score, learning: Rates, spent_s: float) -> None:
        """Adds the epoch's row to the history, saves, and tells the observer."""
        state = self.state
        if not math.isfinite(score.loss):
            raise RunError(
                f"the validation loss is {score.loss} after step {state.step} in "
                f"'{self.job.run}'; the last good checkpoint is {self._last_good()}."
            )
        state.seconds += spent_s
        row: Row = {
            "epoch": self.epoch + 1,
            "step": state.step,
            "lr": learning.lr,
            **state.tally.row(score),
            "seconds": state.seconds,
        }
        state.history, state.tally = (*state.history, row), Tally()
        self.save()
        if self.replica.rank == 0:
            write_metrics(self.place, state.history)
            self.observer.record(row)

    def close(self) -> None:
        """Ends the background threads; the checkpoint that is being written is finished first."""
        self.writer.close()
        self.train.shards.close()

    def publish(self) -> None:
        """Writes the finished member, on replica 0 alone."""
        if self.replica.rank:
            return
        self.writer.wait()
        write_member(
            self.place,
            self.job,
            dataset=self.train.manifest,
            stats=self.stats_bytes,
            weights=canonical_state(self.network),
            history=self.state.history,
        )
