"""Every exception srmri raises on purpose.

The tree, with the exit code the command line maps each branch to::

    SrmriError
    ├── UsageError                 2   the options do not fit together
    │   └── AmbiguousScanError     2   several scans fit; the candidates are listed
    ├── HubError                   6   a hub does not do what publishing needs
    │   ├── HubAuthError           6   no token, or one that may not do this
    │   └── HubMovedError          6   somebody else changed the repository meanwhile
    └── InputError                 3   the data can not be used as it is
        ├── MissingInputError      3   also FileNotFoundError
        ├── NoScanError            3   nothing readable in this place
        ├── FormatError            3   also ValueError; a damaged or unsupported file
        │   ├── TruncatedError     3   fewer bytes than the header claims
        │   ├── SizeLawError       3   the header claims more than the file can hold
        │   └── ChecksumError      3   stored checksum and content differ
        ├── AffineError            3   also ValueError; geometry missing or singular
        ├── SubjectMismatchError   3   LR and HR name different subjects
        ├── ResolutionError        3   LR and HR swapped, or no common field of view
        ├── RegistrationError      3   the two scans can not be aligned
        ├── TrimError              3   trimming leaves too few slices
        ├── SplitError             3   one subject in two splits, or under two names
        ├── PrivacyError           3   something that identifies would leave, or a person's consent
        │                              is not stated
        ├── WeightsError           3   network weights missing or not the expected ones
        ├── CheckpointError        3   also ValueError; a damaged or unsupported checkpoint
        ├── TrainingError          3   training left the numbers: the loss is not finite
        └── SamplingError          3   sampling left the numbers: the image is not finite

A message says which file, what was found and what was expected; the hint says
what to do next. `cli.main` is the only place that turns them into exit codes.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes, the same for every command."""

    DONE = 0
    BUG = 1
    USAGE = 2
    BAD_INPUT = 3
    PARTIAL = 4
    REVIEW_NEEDED = 5
    HUB = 6
    INTERRUPTED = 130


class SrmriError(Exception):
    """Base of all expected errors.

    Parameters
    ----------
    message : str
        What went wrong: which file, what was found, what was expected.
    hint : str, optional
        What the user can do about it.
    """

    exit_code: ExitCode = ExitCode.BAD_INPUT

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SrmriError):
    """The options do not fit together or do not fit the data."""

    exit_code = ExitCode.USAGE


class AmbiguousScanError(UsageError):
    """Several scans fit the request; the message lists them."""


class HubError(SrmriError):
    """A hub does not do what publishing needs."""

    exit_code = ExitCode.HUB


class HubAuthError(HubError):
    """No token, or one that may not do what is asked."""


class HubMovedError(HubError):
    """Somebody else changed the repository meanwhile."""


class InputError(SrmriError):
    """The data can not be used as it is."""


class MissingInputError(InputError, FileNotFoundError):
    """A path that does not exist, or a file a scan can not do without."""


class NoScanError(InputError):
    """A place that holds no scan srmri can read."""


class FormatError(InputError, ValueError):
    """A damaged or unsupported file."""


class TruncatedError(FormatError):
    """A file with fewer bytes than its header claims."""


class SizeLawError(FormatError):
    """A header that claims more voxels than the file can hold."""


class ChecksumError(FormatError):
    """A file whose stored checksum does not match its content."""


class AffineError(InputError, ValueError):
    """Geometry that is missing, singular or not finite."""


class SubjectMismatchError(InputError):
    """LR and HR come from different subjects according to their headers."""


class ResolutionError(InputError):
    """LR and HR are swapped, or share no field of view."""


class RegistrationError(InputError):
    """The two scans can not be aligned."""


class TrimError(InputError):
    """Trimming leaves too few slices to pair."""


class SplitError(InputError):
    """One subject in two splits, or the same scan under two names."""


class PrivacyError(InputError):
    """Something that identifies somebody would leave, or a needed statement is missing."""


class WeightsError(InputError):
    """Network weights that are missing or not the expected ones."""


class CheckpointError(InputError, ValueError):
    """A checkpoint that is damaged, unsupported or does not fit its own description."""


class TrainingError(InputError):
    """Training that can not go on, because its loss is not a number."""


class SamplingError(InputError):
    """Sampling that can not go on, because its images are not numbers."""
