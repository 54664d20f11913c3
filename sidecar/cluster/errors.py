"""The one error that requests to the API server raise."""

from __future__ import annotations


class ApiError(Exception):
    """A request to the API server has failed. No credential is ever part of this error.

    Args:
        detail: the cause, and what to check; of a response only what its status means.
        status: of the response; 0: there was no response.
        message: of the response's Status object; empty: it had none.
        retry_after: seconds after which to retry.
    """

    def __init__(self, detail: str, *, status: int = 0, message: str = "", retry_after: int = 1) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.message = message
        self.retry_after = retry_after
