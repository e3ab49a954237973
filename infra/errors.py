"""What can go wrong, as one small tree; the front door turns it into exit codes.

SeptetError                 1  a run that began and failed
├── StorageError            1  storage refused, timed out or returned harmed bytes
├── RunError                1  training, preprocessing or a member failed; the message names it
├── DamageError             1  a file that exists does not match its recorded digest
└── InputError              2  nothing was started: what was asked for cannot work
    ├── ConfigError         2  a recipe or an option: unknown key, value out of range
    └── DataError           2  a source, dataset, member or ensemble is missing or is not one
        └── MissingError    2  one object is not there, in a place that answers

Every message is one sentence that names the thing and says what to do about it.
"""

from __future__ import annotations


class SeptetError(Exception):
    """Base of all errors shown to a user; `exit_code` is what the command returns."""

    exit_code = 1


class StorageError(SeptetError):
    """Storage refused, timed out or ended early, after the retries that make sense."""


class RunError(SeptetError):
    """A stage began and could not finish; names the shard, member or step."""


class DamageError(SeptetError):
    """Stored bytes differ from the digest recorded for them; names both."""


class InputError(SeptetError):
    """The request itself cannot work; nothing was started or changed."""

    exit_code = 2


class ConfigError(InputError):
    """A recipe or option is unknown or out of range; names field, value and what is allowed."""


class DataError(InputError):
    """A source, dataset, member or ensemble is absent or not what it should be."""


class MissingError(DataError):
    """There is no object of that name, and storage says so: no bucket gone, no server away."""
