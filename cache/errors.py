"""The one exception tree. Every error a user can cause is an `OnepassError`; the CLI prints it as one line.

    OnepassError                 exit code 1: the run ended, but a promise was not met
    ├── RejectLimitExceeded      1  more inputs were rejected than --max-rejects allows
    ├── ParityError              1  verify found features below the parity bound
    ├── InputError               2  a path, flag, manifest or label file cannot be used
    │   ├── SourceError          2  nothing to extract, or a source tree that is not understood
    │   └── LabelError           2  labels that do not join, are not binary, or are missing
    ├── CacheError               3  a cache cannot be used
    │   ├── CacheNotFound        3
    │   ├── CacheCorrupt         3  structure or contents contradict the format
    │   ├── CacheLocked          3  another process writes to it
    │   └── FingerprintMismatch  3  features made in different ways would be mixed
    ├── WeightsError             4  model weights are missing, unreadable or of the wrong shape
    ├── HeadError                4  a head checkpoint is missing, unreadable or does not fit
    ├── DeviceError              4  the device cannot run the models: no memory left, wrong results, no answer
    ├── StorageFull              5  the disk is full; nothing committed was lost
    └── LimitReached             5  no memory, file handles or processes left; likewise

A message says what was wrong, which file or value it was, and what to do next.
"""

from __future__ import annotations


class OnepassError(Exception):
    """Base of every error that the command line reports as one line and an exit code."""

    exit_code = 1


class RejectLimitExceeded(OnepassError):
    """More inputs were rejected than `--max-rejects` allows."""


class ParityError(OnepassError):
    """Stored features differ from the plainly run backbone by more than the bound."""


class InputError(OnepassError):
    """A path, flag, manifest or label file cannot be used."""

    exit_code = 2


class SourceError(InputError):
    """The source holds nothing to extract or is laid out in a way that is not understood."""


class LabelError(InputError):
    """Labels do not join, are not binary or are missing."""


class CacheError(OnepassError):
    """A cache cannot be used."""

    exit_code = 3


class CacheNotFound(CacheError):
    """No cache at the given path."""


class CacheCorrupt(CacheError):
    """The structure or the contents of a cache contradict the format."""


class CacheLocked(CacheError):
    """Another process writes to the cache."""


class FingerprintMismatch(CacheError):
    """Features made in different ways would be mixed."""


class WeightsError(OnepassError):
    """Model weights are missing, unreadable or of the wrong shape."""

    exit_code = 4


class HeadError(OnepassError):
    """A head checkpoint is missing, unreadable or does not fit the features."""

    exit_code = 4


class DeviceError(OnepassError):
    """The device cannot run the models: its memory is full, it computes wrongly, or it does not answer."""

    exit_code = 4


class StorageFull(OnepassError):
    """The disk is full. What was committed before is intact."""

    exit_code = 5


class LimitReached(OnepassError):
    """The machine or its limits give no more memory, file handles or processes. What was committed before is intact."""

    exit_code = 5
