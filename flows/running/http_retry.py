"""Requests to a server whose database is busy for a moment, as SQLite often is: they are made again at once.

Prefect's client waits two seconds before it tries again, then four, then eight: longer than many cells take.
"""

import time
from typing import Any

import httpx

PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""After these it is left to Prefect's client. With SQLite every second new flow run is refused once while two workers are busy."""


class RetryOn503Transport(httpx.HTTPTransport):
    """Makes a request again that the server could not deal with now: a refused one has changed nothing."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it, some times at most."""
        for pause in PAUSES_S:
            response = super().handle_request(request)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or "Retry-After" in response.headers:
                return response
            response.close()
            time.sleep(pause)
        return super().handle_request(request)


def client_settings() -> dict[str, Any] | None:
    """What `get_client` takes as `httpx_settings`; none where a server is spoken to by other means than plain HTTP, with settings of their own."""
    from prefect.settings import PREFECT_API_URL

    return (
        {"transport": RetryOn503Transport()}
        if (PREFECT_API_URL.value() or "").startswith("http://")
        else None
    )
