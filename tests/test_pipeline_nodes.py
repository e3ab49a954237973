"""Two Ray nodes: work spreads over both, and losing one in the midst loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from photos import class_folders, tree

from pipeline.run import Job, in_process, preprocess

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TWO_NODES = """
import json, sys, time
import ray
from ray.cluster_utils import Cluster
from infra import cluster as ours
from pipeline.run import Job, on_ray, preprocess

source, dataset, lose = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()

def losing(tasks):
    for number, outcome in enumerate(on_ray(None, cluster.address)(tasks)):
        if number == 3 and lose == "yes":
            cluster.remove_node(second, allow_graceful=False)
        yield outcome

ours.connect(cluster.address)
nodes = {node["NodeID"] for node in ray.nodes()}
job = Job(source=source, dataset=dataset, shard_samples=10)
summary = preprocess(job, losing)
print(json.dumps({"nodes": len(nodes), "images": summary.made_images, "cores": ours.cores()}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.parametrize("lose", ["no", "yes"])
def test_two_nodes_and_the_loss_of_one(tmp_path: Path, lose: str) -> None:
    """The same bytes as without Ray; the second raylet is killed after the third shard."""
    source = class_folders(tmp_path / "s", classes=4, images=50)
    preprocess(Job(source=str(source), dataset=str(tmp_path / "a"), shard_samples=10), in_process)
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_NODES, str(source), str(tmp_path / "b"), lose],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert '"images": 200' in done.stdout and '"nodes": 2' in done.stdout
    assert tree(tmp_path / "b") == tree(tmp_path / "a")
