"""Names that stay the same from export to export and that nobody without the key can undo."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from srmri_data.errors import FormatError, InputError
from srmri_data.safe_io import read_bounded

KEY_BYTES = 32
_SHIFT_DAYS = 365 * 20


@dataclass(frozen=True)
class Pseudonyms:
    """Keyed hashes of names.

    Parameters
    ----------
    key : bytes
        32 secret bytes. Who has them can link pseudonyms to names they guess.
    """

    key: bytes = field(repr=False)

    @classmethod
    def from_file(cls, path: Path, *, create: bool = True) -> Pseudonyms:
        """Read the key of this laboratory; make one at first use.

        Parameters
        ----------
        path : Path
            A file of 64 hexadecimal digits that its owner alone may read.
        create : bool
            Make it when it is missing.

        Returns
        -------
        Pseudonyms
            Names under this key.

        Raises
        ------
        InputError
            If others may read the file, or it is missing and not to be made.
        FormatError
            If it does not hold a key.
        """
        path = Path(path)
        if create:
            _create(path)
        text = read_bounded(path, 4096)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise InputError(
                f"{path}: the key of the pseudonyms can be read by others",
                hint=f"chmod 600 {path}",
            )
        try:
            key = bytes.fromhex(text.decode("ascii").strip())
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise FormatError(
                f"{path}: expected a key of {2 * KEY_BYTES} hexadecimal digits",
                hint="move the file away; a new key gives new pseudonyms",
            )
        return cls(key)

    def digest(self, kind: str, name: str) -> str:
        """Return the keyed hash of a name.

        Parameters
        ----------
        kind : str
            What is named: the same word names a subject and a reviewer differently.
        name : str
            The name.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        message = f"{kind}\0{name}".encode()
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()

    def subject(self, name: str) -> str:
        """Return the pseudonym of a subject.

        Parameters
        ----------
        name : str
            As the scanner knows it.

        Returns
        -------
        str
            ``s`` and ten hexadecimal digits, a valid BIDS label.
        """
        return f"s{self.digest('subject', name)[:10]}"

    def reviewer(self, name: str) -> str:
        """Return the pseudonym of a reviewer.

        Parameters
        ----------
        name : str
            As in the log.

        Returns
        -------
        str
            ``r`` and ten hexadecimal digits.
        """
        return f"r{self.digest('reviewer', name)[:10]}"

    def shifted(self, day: date, subject: str) -> date:
        """Move a date into the past by a secret number of days, the same for all of a subject.

        Parameters
        ----------
        day : date
            When it was.
        subject : str
            The subject's real name.

        Returns
        -------
        date
            Before 1926, as BIDS asks for; intervals between dates of a subject stay.
        """
        secret = int(self.digest("date", subject)[:8], 16) % _SHIFT_DAYS
        # A fixed century and some secret years: nobody takes the result for a real date.
        return day - timedelta(days=36525 + secret)


def default_key_path() -> Path:
    """Return where the key of the pseudonyms is kept when nothing else is said.

    Returns
    -------
    Path
        ``srmri/pseudonyms.key`` among the user's own settings.
    """
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "srmri" / "pseudonyms.key"


def _create(path: Path) -> None:
    """Make a key without ever leaving half of one, or one that others could read."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    building = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(KEY_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link, unlike a rename, never replaces a key somebody else made meanwhile.
            os.link(building, path)
        except FileExistsError:
            return
    finally:
        building.unlink(missing_ok=True)
