"""The training loop: one for every launcher, device and number of replicas.

A run is a sequence of updates 0, 1, 2, ... cut into epochs, with an evaluation after each. All of
its state is weights, velocities, the rows of the epochs so far, the sums of the epoch in hand, and
the number of updates made. Everything random is a pure function of that number, the seed and the
sample, so a run that was stopped anywhere goes on as if it had not been.
"""

from __future__ import annotations

import time

import torch

from train.job import Job
from train.replica import ALONE, Replica
from train.run import Run
from train.schedule import rates
from train.sight import QUIET, Observer


def fit(job: Job, *, replica: Replica = ALONE, observer: Observer = QUIET) -> bool:
    """Trains the job's member from its last checkpoint to its end; `open_run` went before.

    True when the member is finished, False when the observer asked to stop: a checkpoint holds all
    that was done, and `fit` again goes on from it. Every replica calls this alike. Raises
    `RunError` when the loss is not finite, `DamageError` for harmed data, `StorageError`.
    """
    torch.set_num_threads(job.recipe.compute.cores)  # the same sums in every launcher
    run = Run(job, replica, observer)
    state, saved_at = run.state, time.monotonic()
    try:
        while run.epoch < job.recipe.schedule.epochs:
            learning = rates(job.recipe, run.epoch, [row["top1_error"] for row in state.history])

            done_at = time.monotonic()
            for batch in run.batches():
                arrived_at = time.monotonic()
                update = run.update(batch, learning)
                begun_at, done_at = done_at, time.monotonic()
                run.count(update, done_at - begun_at, arrived_at - begun_at)
                leaving = update.look and run.leaving()  # asked by all replicas together
                if update.stop or leaving or done_at - saved_at >= job.checkpoint_s:
                    run.save()
                    saved_at = time.monotonic()
                if update.stop:
                    return False

            evaluated_from = time.monotonic()
            score = run.evaluate()
            if score is None:
                run.save()
                return False
            run.finish_epoch(score, learning, time.monotonic() - evaluated_from)
            saved_at = time.monotonic()

        run.publish()
        return True
    finally:
        run.close()
