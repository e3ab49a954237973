"""A node that is announced to go: a checkpoint at once, and the same bits on another node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from handmade import tiny_recipe, write_dataset
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from infra.cluster import connect
from infra.storage import open_place
from train.checkpoint import steps
from train.job import Job
from train.launch import train_on_ray
from train.local import train_here
from train.sight import Observer

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    # Ray Train 2.60 reads settings of Ray Data that Ray Data calls deprecated
    pytest.mark.filterwarnings("ignore:`use_.*is deprecated:DeprecationWarning:ray"),
]
GRACE_S = 20.0  # between the notice and the node's end


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without cores, to which nodes are added."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def announce_the_end(address: str, node: str) -> None:
    """Tells Ray that a node will be preempted, as a cloud's notice does."""
    accepted, reason = GcsClient(address=address).drain_node(
        node,
        autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
        "taken back by its owner",
        int((time.time() + GRACE_S) * 1000),
    )
    assert accepted, reason


def test_a_notice_saves_and_another_node_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """The first node is announced to go in mid-epoch; a second one comes; nothing is lost."""
    dataset = write_dataset(tmp_path / "data", train=(60, 60))
    recipe = tiny_recipe(schedule__epochs=8, optimizer__batch=1, optimizer__lr=1e-4)
    job = Job(dataset=str(dataset), run=str(tmp_path / "whole"), recipe=recipe)
    whole = train_here(job)
    first = cluster.add_node(num_cpus=1)
    connect(cluster.address)
    warnings, done = list[str](), list[int]()
    observer = Observer(warn=warnings.append, tick=lambda images, total: done.append(images))
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train_on_ray, replace(job, run=str(tmp_path / "run")), observer)
        while not done and not training.done():
            time.sleep(0.05)
        announce_the_end(cluster.address, first.node_id)
        cluster.add_node(num_cpus=1)
        member = training.result()
    (gone,) = (node for node in ray.nodes() if node["NodeID"] == first.node_id)
    assert not gone["Alive"]
    assert any("will be taken away: saving after step" in text for text in warnings)
    assert member.weights_sha256 == whole.weights_sha256
    assert steps(open_place(tmp_path / "run").child("checkpoints"))[0] == 960
