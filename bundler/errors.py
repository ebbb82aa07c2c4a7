"""Every way this can fail, what to do about it, and its exit code."""

from __future__ import annotations

from collections.abc import Mapping


class BundleError(Exception):
    """A failure that a person can act on.

    ``str(error)`` says what failed; ``where`` names the file, field, member or address; ``hint``
    says what to do next. ``code`` is the exit code of the program and the ``code`` of ``--json``.
    """

    code = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.hint = hint

    def in_context(self, context: str) -> BundleError:
        """Put ``context``, what was being done, before the message; all else that the error holds stays."""
        self.args = (f"{context}: {self}", *self.args[1:])
        return self

    @property
    def detail(self) -> Mapping[str, object]:
        """What a program may want to know besides, as ``--json`` shows it."""
        return {}


class UsageError(BundleError):
    """The command line asks for something that makes no sense."""

    code = 2


class ManifestError(BundleError):
    """The manifest is wrong; the message lists all of its faults."""

    code = 3


class ResolveError(BundleError):
    """What was asked for does not exist, or does not fit together, for the target."""

    code = 4


class FetchError(BundleError):
    """A file could not be brought here whole."""

    code = 5


class IntegrityError(BundleError):
    """Bytes are not the bytes that the lock promises: damaged, cut short or altered."""

    code = 6


class TrustError(BundleError):
    """Whole, perhaps, but not from whom it must be: unsigned, strangely signed, revoked, or older than what is live."""

    code = 7


class UnsafeError(BundleError):
    """Content that could harm a host, such as a path that climbs out of its folder."""

    code = 8


class HostError(BundleError):
    """This machine does not fit: platform, Python, disk, memory, permissions."""

    code = 9


class ProgramError(BundleError):
    """A program that was run for this failed, or is not there."""

    code = 10


class SmokeError(BundleError):
    """An installed model did not prove itself."""

    code = 11


class BlockedRequestError(SmokeError):
    """A load asked for something that is not on this host; the message names every call."""

    code = 12


class BusyError(BundleError):
    """Another run holds the prefix."""

    code = 13


class UnhealthyError(BundleError):
    """Something is wrong with what is installed, or with the host; ``words`` and ``result`` are all that was found."""

    code = 14

    def __init__(self, message: str, *, where: str, hint: str, text: str, result: dict[str, object]) -> None:
        super().__init__(message, where=where, hint=hint)
        self.text = text
        self.result = result


INTERRUPTED = 130
