"""Replies of chat models, stored on disk as they arrive, so that nothing is asked or paid for twice."""

import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from lks.io.json_lines import Entry, JsonLinesFile
from lks.llm.client import ChatModel, ChatReply, Request
from lks.llm.limits import RequestUsage
from lks.progress import no_progress


class Correspondence:
    """A chat model whose replies are stored: requests that were answered before are read from disk.

    A reply is identified by the hash of the model's name, the messages, the parameters, the sample's number
    and the version; neither key nor address is part of it or of the file.

    Args:
        chat: the model that is asked.
        file: the stored replies.
        version: version of everything the messages do not show; another one asks again.
    """

    def __init__(self, chat: ChatModel, file: Path, version: str) -> None:
        self._chat, self._version = chat, version
        self._lines = JsonLinesFile(file)
        chat.budget.spent = self.kept
        chat.on_loss = self._lose

    @property
    def chat(self) -> ChatModel:
        """The model that is asked."""
        return self._chat

    @property
    def kept(self) -> RequestUsage:
        """Usage of all replies in the file, and of requests that were charged without one."""
        return sum((usage_of(entry) for entry in self._lines.entries.values()), RequestUsage())

    def known(self, request: Request) -> bool:
        """Return whether a request was answered before."""
        return self._key(request) in self._lines.entries

    def ask(self, requests: Sequence[Request], arrived: Callable[[], None] = no_progress) -> list[ChatReply]:
        """Return the replies in the order of the requests; each is on disk before `arrived` is called.

        Must not be called from a running event loop.

        Raises:
            UserError: the server cannot be used, or the ceiling is reached; replies up to then are kept.
            StoreError: a reply cannot be stored.
        """
        waiting = list(dict.fromkeys(request for request in requests if not self.known(request)))

        def keep(index: int, reply: ChatReply) -> None:
            request = waiting[index]
            entry = {
                "messages": request.messages,
                "sample": request.sample,
                "reply": reply.text,
                "refused": reply.refused,
            }
            used = {"prompt_tokens": reply.usage.prompt, "reply_tokens": reply.usage.reply}
            self._lines.keep(self._key(request), {**entry, **used})
            arrived()

        self._chat.ask(waiting, keep)
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> ChatReply:
        """Return the stored reply to a request."""
        entry = self._lines.entries[self._key(request)]
        return ChatReply(str(entry["reply"]), usage_of(entry), entry.get("refused") is True)

    def _lose(self, usage: RequestUsage) -> None:
        """Record usage that may have been charged without a reply: the ceiling holds over all runs."""
        self._lines.keep(
            f"lost {uuid.uuid4()}", {"reply": "", "prompt_tokens": usage.prompt, "reply_tokens": usage.reply}
        )

    def _key(self, request: Request) -> str:
        """Return the hash that identifies a request."""
        parts = [
            self._chat.model,
            self._version,
            request.messages,
            request.temperature,
            request.longest,
            request.sample,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def usage_of(entry: Entry) -> RequestUsage:
    """Return the usage of an entry; a value that is not a number counts as 0."""
    prompt, reply = entry.get("prompt_tokens"), entry.get("reply_tokens")
    return RequestUsage(prompt if isinstance(prompt, int) else 0, reply if isinstance(reply, int) else 0)
