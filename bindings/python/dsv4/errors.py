"""Exceptions: one class for each status of dsv4/base.h, with the library's own words as the message."""


class Error(Exception):
    """A refused or failed call. `status` is the C library's code, the message names field, value and rule."""

    status = 0


class InvalidArgument(Error, ValueError):
    """An argument breaks its rule; the text names it, its value and what was expected."""

    status = -1


class OutOfMemory(Error, MemoryError):
    """An allocation failed, a cache is full, or a size does not fit."""

    status = -2


class FileError(Error, OSError):
    """The operating system refused a file operation."""

    status = -3

    def __str__(self) -> str:
        return str(self.args[0])


class BadFile(Error, ValueError):
    """A file's content breaks its format."""

    status = -4


class Unsupported(Error, RuntimeError):
    """Valid, but this build or this machine cannot do it."""

    status = -5


class DeviceError(Error, RuntimeError):
    """A call to a GPU failed; the text has its driver's words."""

    status = -6


_BY_STATUS = {c.status: c for c in (InvalidArgument, OutOfMemory, FileError, BadFile, Unsupported, DeviceError)}


def from_status(status: int, text: str) -> Error:
    """The exception for a status of the C library."""
    error = _BY_STATUS.get(status, Error)(text)
    error.status = status
    return error
