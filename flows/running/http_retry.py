"""HTTP transport that immediately retries requests to a server whose database is busy, as SQLite often is.

Prefect's own client waits two seconds before the first retry, then four, then eight: longer than many cells
take.
"""

import time
from typing import Any

import httpx

PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Pauses between retries; afterwards Prefect's client retries. With SQLite and two busy workers about every
second new flow run is refused once."""


class RetryOn503Transport(httpx.HTTPTransport):
    """Retries requests that the server could not handle at the moment; a refused request has changed
    nothing.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, retrying it after each of the pauses."""
        for pause in PAUSES_S:
            response = super().handle_request(request)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or "Retry-After" in response.headers:
                return response
            response.close()
            time.sleep(pause)
        return super().handle_request(request)


def client_settings() -> dict[str, Any] | None:
    """Return the `httpx_settings` for `get_client`, or None if the server is not reached by plain HTTP.

    Other kinds of connection need transport settings of their own.
    """
    from prefect.settings import PREFECT_API_URL

    return (
        {"transport": RetryOn503Transport()}
        if (PREFECT_API_URL.value() or "").startswith("http://")
        else None
    )
