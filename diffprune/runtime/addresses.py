"""Addresses of the web without their secrets, as they are stored, logged and shown."""

import hashlib
import json
import os
import re
import sys

END = r"""(?:,https?://|['"](?:[\s,\]})]|$))"""       # the next address of a sweep, or the quote around the address
# Scheme; user and password; host and path; query.
ADDRESS = re.compile(rf"(https?://)([^\s/?#]*@)?((?:(?!{END})[^\s?#])*)([?#](?:(?!{END})\S)*)?")
MASK = "***"
MASKED = re.compile(r"[?#](([^&=]*=)?\*{3}&?)+-[0-9a-f]{8}")
KEPT = "DIFFPRUNE_ADDRESSES"        # environment variable, JSON: {address without secrets: complete address}


def without_secrets(text: str) -> str:
    """`text` with *** for user and password and for every value of the query in each of its addresses.

    The query may say which file is meant: 8 hex digits of its SHA-256 follow, so that addresses of two files stay two.
    """
    return ADDRESS.sub(masked, text)


def masked(match: re.Match[str]) -> str:
    """The address of the `match` without its secrets; one that has none left stays as it is."""
    scheme, user, path, query = match.groups()
    if query and not MASKED.fullmatch(query):
        entries = [entry.partition("=") for entry in query[1:].split("&")]
        names = "&".join(f"{name}={MASK}" if equals else MASK for name, equals, _ in entries)
        query = f"{query[0]}{names}-{hashlib.sha256(query.encode()).hexdigest()[:8]}"
    return f"{scheme}{MASK + '@' if user else ''}{path}{query or ''}"


def hide_secrets() -> None:
    """Takes the secrets in addresses out of the command line, before it is read; `complete_address` still knows them in
    this process and its children."""
    complete = {without_secrets(match[0]): match[0] for word in sys.argv[1:] for match in ADDRESS.finditer(word)}
    if secret := {short: address for short, address in complete.items() if short != address}:
        os.environ[KEPT] = json.dumps(json.loads(os.environ.get(KEPT, "{}")) | secret)
        sys.argv[1:] = map(without_secrets, sys.argv[1:])


def complete_address(address: str) -> str:
    """The address of the command line that `hide_secrets` has made `address` of; any other address itself."""
    return json.loads(os.environ.get(KEPT, "{}")).get(address, address)
