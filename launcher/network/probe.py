"""Asking an address whether it answers, as the client libraries would ask it.

By requests, which obeys the same variables for proxies, certificates and credentials as they do.
Only the head of the answer is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher.network import causes, classify
from launcher.network.causes import Cause

if TYPE_CHECKING:
    import requests


@dataclass(frozen=True)
class Question:
    """What to ask, and by which of a client's own settings."""

    url: str
    limit_s: float
    """For connecting, and for each wait on an answer: a server that trickles takes longer."""
    headers: Mapping[str, str] = field(default_factory=dict)
    proxy: str | None = None
    """Before those of the environment."""
    verify: bool | str = True
    """False: no certificate is looked at. A path: the authorities that are trusted."""
    cert: str | None = None
    """A client's own certificate."""
    means_no: frozenset[int] = frozenset({404})
    """Statuses that say "not here": the address answers all the same."""
    json: bool = False
    """Whether an answer is JSON: a login page is not."""

    @property
    def proxies(self) -> dict[str, str] | None:
        """The proxy as requests takes it."""
        return dict.fromkeys(("http", "https"), self.proxy) if self.proxy else None


def ask(question: Question) -> Cause | None:
    """Why the address does not answer as it should; None where it does."""
    import requests
    import urllib3

    if question.verify is False:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    try:
        with (
            requests.Session() as session,
            session.get(
                question.url,
                headers=dict(question.headers),
                timeout=(question.limit_s, question.limit_s),
                proxies=question.proxies,
                # The environment's file of certificates holds where the client names none.
                verify=None if question.verify is True else question.verify,
                cert=question.cert,
                stream=True,
            ) as answer,
        ):
            return _judge(question, answer)
    except (requests.RequestException, OSError) as error:
        found = classify.of_exception(error, question.url, question.proxy)
        return found or Cause("connection_failed", question.url, type(error).__name__)


def _judge(question: Question, answer: requests.Response) -> Cause | None:
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    good = answer.status_code < 400 or answer.status_code in question.means_no
    if good and question.json and not kind.endswith("json"):
        return Cause("unexpected_answer", question.url, f"HTTP {answer.status_code}, {kind or '?'}")
    if good:
        return None
    return causes.of_status(answer.status_code, question.url, answer.headers.get("Retry-After"))
