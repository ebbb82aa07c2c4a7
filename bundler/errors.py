"""Every error that the program reports, each with an exit code of its own."""

from __future__ import annotations

from collections.abc import Mapping


class BundleError(Exception):
    """A failure that a person can act on.

    ``str(error)`` says what failed. ``where`` names the file, field, member or URL. ``hint`` says what to do next.
    ``code`` is the exit code of the program and the ``code`` of ``--json``.
    """

    code = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.hint = hint

    def add_context(self, context: str) -> BundleError:
        """Put ``context`` (what was being done) before the message and keep everything else."""
        self.args = (f"{context}: {self}", *self.args[1:])
        return self

    @property
    def detail(self) -> Mapping[str, object]:
        """More facts for a program, shown by ``--json``."""
        return {}


class UsageError(BundleError):
    """The command line is wrong or asks for something impossible."""

    code = 2


class ManifestError(BundleError):
    """The manifest is wrong. The message lists every problem in it."""

    code = 3


class ResolveError(BundleError):
    """Something in the manifest does not exist for the target, or its parts do not fit together."""

    code = 4


class FetchError(BundleError):
    """A file could not be fetched completely."""

    code = 5


class IntegrityError(BundleError):
    """Bytes differ from what the lock says: damaged, truncated or altered."""

    code = 6


class TrustError(BundleError):
    """The bundle may not be trusted: unsigned, wrongly signed, signed by a revoked key, or older than the live release."""

    code = 7


class UnsafeError(BundleError):
    """Content that could harm a host, such as a path that leads out of its folder."""

    code = 8


class HostError(BundleError):
    """This machine is unsuitable: platform, Python, disk, memory or permissions."""

    code = 9


class ProgramError(BundleError):
    """Another program failed or is not installed."""

    code = 10


class SmokeError(BundleError):
    """An installed model did not pass its smoke load."""

    code = 11


class BlockedRequestError(SmokeError):
    """A load requested something that is not on this host. The message names every blocked request."""

    code = 12


class BusyError(BundleError):
    """Another run is using the same prefix or bundle."""

    code = 13


class UnhealthyError(BundleError):
    """The installation or the host is unhealthy. ``text`` and ``result`` hold all findings."""

    code = 14

    def __init__(self, message: str, *, where: str, hint: str, text: str, result: dict[str, object]) -> None:
        super().__init__(message, where=where, hint=hint)
        self.text = text
        self.result = result


INTERRUPTED = 130
"""Exit code after Ctrl-C."""
