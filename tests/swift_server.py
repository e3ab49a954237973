"""One OpenStack Swift node with its S3 API on loopback: `python swift_server.py FOLDER PORT`.

Run with the interpreter that `scripts/services` makes, not imported. Swift is four servers
(account, container, object, proxy); each is a child of this process on its own port, PORT and the
three after it, and dies with it. All data lies under FOLDER, so that a killed server can be started
there again. No root, no memcached.
"""

from __future__ import annotations

import ctypes
import fcntl
import getpass
import os
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

ACCESS, SECRET, REGION = "test:tester", "testing", "us-east-1"
USER = f"user_{ACCESS.replace(':', '_')}"
STORES = ("account", "container", "object")  # on PORT + 1, + 2, + 3
PIPELINE = "catch_errors gatekeeper cache listing_formats bulk s3api tempauth copy slo"
FILTERS = {
    **{name: {"use": f"egg:swift#{name}"} for name in PIPELINE.split() if name != "cache"},
    "cache": {"paste.filter_factory": "septet_cache:filter_factory"},
    "s3api": {"use": "egg:swift#s3api", "location": REGION},
    "tempauth": {
        "use": "egg:swift#tempauth",
        f"user_{ACCESS.replace(':', '_')}": f"{SECRET} .admin",
    },
}


def settings(sections: dict[str, dict[str, Any]]) -> str:
    """The text of a paste configuration."""
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items()), ""]
    return "\n".join(lines)


def configure(root: Path, port: int) -> Path:
    """Writes the configuration and, once, the rings that say where data lies; their folder."""
    etc = root / "etc"
    for folder in (etc, root / "srv" / "disk", root / "cache"):
        folder.mkdir(parents=True, exist_ok=True)
    default = {
        "bind_ip": "127.0.0.1",
        "swift_dir": etc,
        "user": getpass.getuser(),
        "workers": 0,  # serve in the process itself
        "log_address": "/nonexistent",
        "log_level": "WARNING",
    }
    hashes = {"swift_hash_path_suffix": "septet", "swift_hash_path_prefix": "septet"}
    policy = {"name": "one", "default": "yes"}
    (etc / "swift.conf").write_text(settings({"swift-hash": hashes, "storage-policy:0": policy}))
    store = {
        "devices": root / "srv",
        "mount_check": "false",
        "recon_cache_path": root / "cache",
        "disable_fallocate": "true",
    }
    for number, name in enumerate(STORES, start=1):
        sections = {
            "DEFAULT": {**default, **store, "bind_port": port + number},
            "pipeline:main": {"pipeline": f"{name}-server"},
            f"app:{name}-server": {"use": f"egg:swift#{name}"},
        }
        (etc / f"{name}.conf").write_text(settings(sections))
    proxy = {"use": "egg:swift#proxy", "account_autocreate": "true", "node_timeout": 60}
    sections = {
        "DEFAULT": {**default, "bind_port": port},
        "pipeline:main": {"pipeline": f"{PIPELINE} proxy-server"},
        "app:proxy-server": proxy,
    }
    sections |= {f"filter:{name}": values for name, values in FILTERS.items()}
    (etc / "proxy.conf").write_text(settings(sections))
    build_rings(etc, port)
    return etc


def build_rings(etc: Path, port: int) -> None:
    """One replica on one device, for each kind of store."""
    from swift.common.ring import RingBuilder

    for number, name in enumerate(STORES, start=1):
        path = etc / f"{name}.ring.gz"
        if path.exists():
            continue
        place = {"ip": "127.0.0.1", "port": port + number}
        device = {"id": 0, "region": 1, "zone": 1, "device": "disk", "weight": 1.0, "meta": ""}
        builder = RingBuilder(part_power=4, replicas=1, min_part_hours=1)
        builder.add_dev(
            {**device, **place, "replication_ip": place["ip"], "replication_port": place["port"]}
        )
        builder.rebalance()
        builder.get_ring().save(str(path))


class Cache:
    """What the proxy wants of memcached, in its own process."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[Any, float]] = {}

    def get(self, key: str, *_: Any, **__: Any) -> Any:
        value, until = self.values.get(key, (None, 0.0))
        return value if not until or until > time.time() else None

    def set(self, key: str, value: Any, *_: Any, **options: Any) -> None:
        lasts = options.get("time", 0)
        self.values[key] = (value, time.time() + lasts if lasts else 0.0)

    def incr(self, key: str, delta: int = 1, **options: Any) -> int:
        value = max(0, int(self.get(key) or 0) + delta)
        self.set(key, value, **options)
        return value

    def decr(self, key: str, delta: int = 1, **options: Any) -> int:
        return self.incr(key, -delta, **options)

    def delete(self, key: str, *_: Any, **__: Any) -> None:
        self.values.pop(key, None)


def cache_filter(_: dict[str, str], **__: str) -> Any:
    """A paste filter that puts a `Cache` where the proxy looks for memcached."""
    cache = Cache()

    def around(app: Any) -> Any:
        def handle(environ: dict[str, Any], start: Any) -> Any:
            environ["swift.cache"] = cache
            return app(environ, start)

        return handle

    return around


def serve(name: str, etc: Path) -> None:
    """Runs one of the four servers in this process, until it is killed."""
    module = types.ModuleType("septet_cache")
    module.filter_factory = cache_filter  # type: ignore[attr-defined]
    sys.modules["septet_cache"] = module
    import swift.common.utils
    from swift.common import constraints, storage_policy, wsgi

    swift.common.utils.SWIFT_CONF_FILE = str(etc / "swift.conf")
    swift.common.utils.validate_hash_conf()
    storage_policy.reload_storage_policies()
    constraints.reload_constraints()
    options: dict[str, Any] = {}
    if name == "object":
        from swift.obj.server import global_conf_callback

        options["global_conf_callback"] = global_conf_callback
    sys.exit(wsgi.run_wsgi(str(etc / f"{name}.conf"), f"{name}-server", **options))


def main() -> None:
    """Configures, starts the four, and waits."""
    root, port = Path(sys.argv[1]).absolute(), int(sys.argv[2])
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Swift would share a taken port silently
        etc = configure(root, port)
        parent = os.getpid()
        for name in (*STORES, "proxy"):
            if os.fork() == 0:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the parent
                if os.getppid() == parent:
                    serve(name, etc)
                os._exit(1)
        os.wait()  # one of the four has ended: so do the others


if __name__ == "__main__":
    main()
