"""What is shown to a person as a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake its user can mend: the message names the option or file and what to do."""


class Damaged(UserError):
    """A file is unreadable, or not what was written; the message names it."""


class JobFailed(UserError):
    """One job of a sweep failed, for the reason that its message gives; the traceback of a defect is in its log."""
