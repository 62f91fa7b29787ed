"""The one exception for mistakes that a user can put right."""


class InputError(ValueError):
    """Input that cannot be used: the message names the file or field, the value, what was expected and the likely fix.

    The command line prints it without a traceback and exits with status 2.
    """
