"""The one exception that is shown to a person as a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake its user can mend: the message names the option or file and what to do."""
