"""MLflow, for the ensemble: runs, the registry and its artifacts; nothing else imports mlflow.

Without a URI (argument or MLFLOW_TRACKING_URI) everything goes into `./mlflow.db`, a SQLite file,
with artifacts in `./mlflow-artifacts` beside it. Runs are found again by a key in a tag, so that a
second attempt continues the same run, and an epoch's figures are logged once, at its last update.
"""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import DataError, InputError, RunError

LOCAL = "sqlite:///mlflow.db"
EXPERIMENT = "septet"
KEY_TAG = "septet.key"
PARAMS_AT_ONCE = 100  # MLflow's limits of one log_batch
ROWS_AT_ONCE = 50  # of at most 20 figures; a row is logged whole: 1,000 are the limit of metrics
DIGEST_CHARS = 36  # longest digest of a dataset that MLflow stores; the whole one is a tag
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # would add the working directory's uv.lock to the model
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 7 by default: four minutes for an absent server
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """How MLflow serves a folder: `loader`'s `_load_pyfunc(folder)`, with the code it needs.

    `inputs`, `outputs` and `params` are MLflow schemas as plain lists. No pickle is made: the
    loader is a module's name, `packages` are source folders copied beside the data.
    """

    loader: str
    packages: tuple[Path, ...]
    requirements: tuple[str, ...]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    params: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One version of a registered model. `uri` is `models:/NAME/VERSION`."""

    name: str
    version: str
    run_id: str
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        """The address of exactly this version."""
        return f"models:/{self.name}/{self.version}"


class Tracking:
    """One MLflow server or database. Raises `RunError` when it does not answer."""

    def __init__(self, uri: str | None = None, experiment: str = EXPERIMENT) -> None:
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or LOCAL
        if "://" not in self.uri:
            raise InputError(
                f"tracking URI '{self.uri}' is not one; write http://HOST:PORT or sqlite:///FILE."
            )
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        with self._asking("open"), _quietly():
            from mlflow import MlflowClient

            for name in ("mlflow", "alembic", "urllib3.connectionpool"):
                logging.getLogger(name).setLevel(logging.ERROR)
            self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            self.experiment = self._experiment(experiment)

    def run(self, name: str, key: str, parent: Run | None = None) -> Run:
        """The run tagged with `key`, made when there is none; it is set to running."""
        tags = {KEY_TAG: key, "mlflow.runName": name}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent.id
        with self._asking("open a run in"):
            found = self.client.search_runs(
                [self.experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1
            )
            if found:
                self.client.update_run(found[0].info.run_id, status="RUNNING")
                return Run(self, found[0].info.run_id)
            made = self.client.create_run(self.experiment, tags=tags, run_name=name)
            return Run(self, made.info.run_id)

    def register(
        self, run: Run, folder: Path, model: ServedModel, name: str, tags: Mapping[str, str]
    ) -> Version:
        """Logs the folder as a model of `run` and registers it under `name` with `tags`."""
        import mlflow

        with self._asking(f"register '{name}' in"), _quietly():
            self._use()
            with mlflow.start_run(run_id=run.id):
                info = mlflow.pyfunc.log_model(
                    name=name,
                    loader_module=model.loader,
                    data_path=str(folder),
                    code_paths=[str(package) for package in model.packages],
                    pip_requirements=list(model.requirements),
                    signature=_signature(model),
                )
            self._named(name)
            made = self.client.create_model_version(
                name, info.model_uri, run.id, tags=dict(tags), model_id=info.model_id
            )
        return Version(name=name, version=str(made.version), run_id=run.id, tags=dict(tags))

    def set_alias(self, version: Version, alias: str) -> None:
        """Points `models:/NAME@ALIAS` at this version."""
        with self._asking(f"set the alias '{alias}' in"):
            self.client.set_registered_model_alias(version.name, alias, version.version)

    def version(self, uri: str) -> Version:
        """The version behind `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

        Raises `InputError` for another form, `DataError` when the registry has no such model.
        """
        from mlflow.exceptions import MlflowException

        name, at, alias = uri.removeprefix("models:/").partition("@")
        name, slash, number = (name, "", "") if at else name.partition("/")
        if not uri.startswith("models:/") or not name or not (alias or number.isdigit()):
            raise InputError(
                f"'{uri}' names no registered model; write models:/NAME@ALIAS or models:/NAME/3."
            )
        try:
            with self._asking(f"look up '{uri}' in", passing=MlflowException):
                found = (
                    self.client.get_model_version_by_alias(name, alias)
                    if at
                    else self.client.get_model_version(name, number)
                )
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise DataError(
                    f"there is no '{uri}' in MLflow at '{self.uri}'; "
                    "check its name and the tracking URI."
                ) from None
            raise self._failed(f"look up '{uri}' in", error) from error
        return Version(
            name=found.name,
            version=str(found.version),
            run_id=found.run_id or "",
            tags=dict(found.tags),
        )

    def files(self, version: Version) -> dict[str, int]:
        """Every file of the registered model and its bytes, without reading any."""
        with self._asking(f"list '{version.uri}' in"):
            self._use()
            return dict(self._walk(version.uri, ""))

    def download(self, version: Version, path: str, target: Path) -> Path:
        """Copies the file or folder `path` of the registered model into the folder `target`."""
        import mlflow

        with self._asking(f"download '{version.uri}' from"):
            self._use()
            return Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{version.uri}/{path}",
                    dst_path=str(target),
                    tracking_uri=self.uri,
                    registry_uri=self.uri,
                )
            )

    def _walk(self, uri: str, path: str) -> Iterator[tuple[str, int]]:
        import mlflow

        where = f"{uri}/{path}" if path else uri
        for entry in mlflow.artifacts.list_artifacts(artifact_uri=where, tracking_uri=self.uri):
            if entry.is_dir:
                yield from self._walk(uri, entry.path)
            else:
                yield entry.path, int(entry.file_size or 0)

    def _named(self, name: str) -> None:
        """Makes the registered model `name` unless it is there."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(name, artifact_location=self._artifacts()))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # somebody made it meanwhile
                raise
            return self._experiment(name)

    def _artifacts(self) -> str | None:
        """Beside the SQLite file; a server has a place of its own."""
        if not self.uri.startswith("sqlite:///"):
            return None
        file = Path(self.uri.removeprefix("sqlite:///")).absolute()
        return (file.parent / "mlflow-artifacts").as_uri()

    def _use(self) -> None:
        """The functions that take no URI read MLflow's process-wide one."""
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)

    @contextmanager
    def _asking(self, verb: str, passing: type[BaseException] | tuple[()] = ()) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except passing:
            raise
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise self._failed(verb, error) from error

    def _failed(self, verb: str, error: BaseException) -> RunError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        if "Max retries exceeded" in reason:
            reason = "it does not answer; check the tracking URI, or that the server runs"
        return RunError(f"cannot {verb} MLflow at '{self.uri}': {reason}.")


class Run:
    """One MLflow run; every method may be called again with the same values."""

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self.tracking, self.id = tracking, run_id
        self._logged: set[int] | None = None  # steps of rows

    def params(self, values: Mapping[str, Any]) -> None:
        """Logs nested values as flat parameters: `{"a": {"b": 1}}` becomes `a.b`."""
        from mlflow.entities import Param

        with self.tracking._asking("log parameters to"):
            for some in _parts([Param(*pair) for pair in flatten(values)], PARAMS_AT_ONCE):
                self.tracking.client.log_batch(self.id, params=some)

    def tags(self, values: Mapping[str, str]) -> None:
        """Sets tags."""
        from mlflow.entities import RunTag

        with self.tracking._asking("log tags to"):
            self.tracking.client.log_batch(
                self.id, tags=[RunTag(key, value) for key, value in values.items()]
            )

    def dataset(self, uri: str, sha256: str, profile: Mapping[str, Any]) -> None:
        """Logs the dataset at `uri` as the run's input, known by its digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=uri.rstrip("/").rpartition("/")[2] or uri,
            digest=sha256[:DIGEST_CHARS],
            source_type="septet",
            source=json.dumps({"uri": uri, "sha256": sha256}),
            profile=json.dumps(profile),
        )
        tags = [InputTag("mlflow.data.context", "training"), InputTag("sha256", sha256)]
        with self.tracking._asking("log the dataset to"):
            self.tracking.client.log_inputs(self.id, [DatasetInput(dataset, tags)])

    def epochs(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Logs each row's numbers as metrics of the step `row["step"]`, unless they are there."""
        logged = self._logged_steps()
        new = [row for row in rows if row["step"] not in logged]
        for some in _parts(new, ROWS_AT_ONCE):
            metrics = [figure for row in some for figure in _metrics(row, row["step"], skip="step")]
            with self.tracking._asking("log metrics to"):
                self.tracking.client.log_batch(self.id, metrics=metrics)
            logged.update(row["step"] for row in some)

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Logs each number, unless it is what that step has already."""
        client = self.tracking.client
        with self.tracking._asking("log metrics to"):
            new = [
                metric
                for metric in _metrics(values, step)
                if _newest(client.get_metric_history(self.id, metric.key), step) != metric.value
            ]
            client.log_batch(self.id, metrics=new)

    def finish(self, ok: bool) -> None:
        """Closes the run as finished or failed."""
        with self.tracking._asking("close a run in"):
            self.tracking.client.set_terminated(self.id, "FINISHED" if ok else "FAILED")

    def _logged_steps(self) -> set[int]:
        if self._logged is None:
            with self.tracking._asking("read metrics from"):
                # one log_batch is one transaction, so one name speaks for its row
                history = self.tracking.client.get_metric_history(self.id, "top1_error")
            self._logged = {metric.step for metric in history}
        return self._logged


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values as text, sorted by name; lists become JSON."""
    for key in sorted(values):
        value = values[key]
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", json.dumps(value)
        else:
            yield f"{prefix}{key}", str(value)


def _metrics(values: Mapping[str, Any], step: int, skip: str = "") -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [
        Metric(key, float(value), now, step)
        for key, value in sorted(values.items())
        if key != skip and isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _newest(history: list[Any], step: int) -> float | None:
    at_step = [metric for metric in history if metric.step == step]
    return max(at_step, key=lambda metric: metric.timestamp).value if at_step else None


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@contextmanager
def _quietly() -> Iterator[None]:
    """MLflow 3.17 warns of its own parts while it is imported, whatever the caller does."""
    with warnings.catch_warnings():
        for module in ("mlflow", "sqlalchemy", "alembic"):
            warnings.filterwarnings("ignore", module=module)
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy")
        yield


def _signature(model: ServedModel) -> Any:
    from mlflow.models import ModelSignature

    return ModelSignature.from_dict(
        {
            "inputs": json.dumps(model.inputs),
            "outputs": json.dumps(model.outputs),
            "params": json.dumps(model.params),
        }
    )
