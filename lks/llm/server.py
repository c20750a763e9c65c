"""Address and key of a chat server, neither of which is shown in full, and advice when it fails."""

import os
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from lks.errors import UserError
from lks.io.untrusted import one_line

NO_KEY = "none"
"""Key that is sent to a server that needs none."""


class NoCompletion(Exception):
    """The server returned something other than a chat completion."""


@dataclass(frozen=True, slots=True, repr=False)
class ChatServer:
    """Where a chat model is served.

    Attributes:
        who: what the server is for, as messages name it ("The judge").
        url: base address.
        key: never shown.
    """

    who: str
    url: str
    key: str

    @classmethod
    def named(cls, who: str, base_url: str | None = None, api_key: str | None = None) -> "ChatServer":
        """Return a server by its address and key, or by `OPENAI_BASE_URL` and `OPENAI_API_KEY`.

        Raises:
            UserError: neither a key nor a server that needs none.
        """
        url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        key = api_key or os.environ.get("OPENAI_API_KEY") or (NO_KEY if "api.openai.com" not in url else "")
        if not key:
            raise UserError(
                f"{who} has no key. Set OPENAI_API_KEY, or name a server that needs none with "
                "OPENAI_BASE_URL."
            )
        return cls(who, url, key)

    @property
    def shown(self) -> str:
        """The address without a password or parameters."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def without_key(self, text: str) -> str:
        """Remove the key and the password from a text that a server sent."""
        password = urlsplit(self.url).password
        for secret in (self.key if self.key != NO_KEY else "", password or ""):
            text = text.replace(secret, "(the key)") if secret else text
        return text

    def advice(self, error: Exception, model: str) -> str:
        """Return what went wrong with a request, and what to do about it."""
        import openai

        where, said = f"{self.who}'s server {self.shown}", self.without_key(one_line(error, 200))
        if isinstance(error, NoCompletion):
            return f"{where} returned no chat completion. Check its address; it usually ends in /v1."
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            return (
                f"{where} did not answer in time. Replies so far are kept: resume later, with less "
                "concurrency or a longer timeout."
            )
        if isinstance(error, openai.APIConnectionError):
            return (
                f"{where} cannot be reached ({said}). Start it, or set another one with OPENAI_BASE_URL. "
                "Replies so far are kept."
            )
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"{where} refuses the key ({said}). Set OPENAI_API_KEY to one that it accepts."
        if isinstance(error, openai.NotFoundError):
            return (
                f"{where} has no model {model!r}, or no chat completions at this address ({said}). Check "
                "both; the address usually ends in /v1."
            )
        if isinstance(error, openai.RateLimitError):
            return (
                f"{where} accepts no more requests now ({said}). Replies so far are kept: resume later, or "
                "with less concurrency."
            )
        return (
            f"{where} failed with the model {model!r} ({said}). Replies so far are kept: fix the cause and "
            "start again."
        )
