"""A Label Studio server as its REST API is: the requests that are needed, and its refusals as errors with a mend.

What the requests are for belongs in `push.py` and `pull.py`, what people see in `form.py`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import requests
from pydantic import SecretStr

from finetune_platform.errors import BadInput, Unreachable

TIMEOUT_S = (5.0, 25.0)
"""To connect, and without a byte of an answer."""
PAGE = 100

Json = dict[str, Any]


class Page(NamedTuple):
    """Some of a project's tasks, of `total`, as the server had them when its clock said `at`."""

    tasks: list[Json]
    total: int
    at: datetime


class LabelStudioServer:
    """A server and whom to be there.

    A personal access token is no password of requests: it is exchanged for one that lasts minutes.

    Args:
        url: Its address, with the path where it is not at the root.
        token: A personal access token.
    """

    def __init__(self, url: str, token: SecretStr) -> None:
        self.url = url.rstrip("/")
        self._token = token.get_secret_value()
        self._session = requests.Session()

    def page_of(self, project_id: int) -> str:
        """Where people label."""
        return f"{self.url}/projects/{project_id}"

    def close(self) -> None:
        self._session.close()

    def projects(self) -> list[Json]:
        """Every project that the token's owner sees: `id` and `description`, the oldest first."""
        found: list[Json] = []
        page = 1
        while True:
            query = {"include": "id,description", "ordering": "id", "page": page, "page_size": PAGE}
            answer = self._ask("GET", "/api/projects/", params=query)
            found += answer["results"]
            if not answer["next"]:
                return sorted(found, key=lambda project: int(project["id"]))
            page += 1

    def project(self, project_id: int) -> Json | None:
        """A project; None where it is gone."""
        return self._ask("GET", f"/api/projects/{project_id}/", missing_ok=True)

    def make_project(self, fields: Json) -> Json:
        return self._ask("POST", "/api/projects/", body=fields)

    def change_project(self, project_id: int, fields: Json) -> None:
        self._ask("PATCH", f"/api/projects/{project_id}/", body=fields)

    def delete_project(self, project_id: int) -> None:
        self._ask("DELETE", f"/api/projects/{project_id}/", missing_ok=True)

    def tasks(self, project_id: int, page: int, fields: Sequence[str]) -> Page:
        """One page of a project's tasks, from 1, in the order of their ids."""
        return self._page({"include": ",".join(fields)}, project_id, page, {"ordering": ["tasks:id"]})

    def changed_tasks(self, project_id: int, since: datetime, after: int) -> Page:
        """The first whole tasks, by their ids above `after`, of those that changed at that time or later.

        A task counts as changed when an annotation of it is made, edited or deleted.
        """
        moment = since.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        conditions = [
            ("filter:tasks:updated_at", "greater_or_equal", "Datetime", moment),
            ("filter:tasks:id", "greater", "Number", after),
        ]
        items = [dict(zip(("filter", "operator", "type", "value"), one, strict=True)) for one in conditions]
        query: Json = {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}
        return self._page({"fields": "all"}, project_id, 1, query)

    def import_tasks(self, project_id: int, tasks: Sequence[Json]) -> None:
        """Adds tasks with their predictions.

        Raises:
            BadInput: It takes them, and adds them later: whether they have come cannot be known.
        """
        answer = self._ask("POST", f"/api/projects/{project_id}/import", body=list(tasks))
        if answer.get("task_count") != len(tasks):
            raise BadInput(
                f"{self.url}: imports tasks in the background, as the paid editions do",
                "use the community edition, or the built-in pages (labeling.backend: pages)",
            )

    def change_task(self, task_id: int, fields: Json) -> Json | None:
        """The task as it is then; None where it is gone."""
        return self._ask("PATCH", f"/api/tasks/{task_id}/", body=fields, missing_ok=True)

    def delete_task(self, task_id: int) -> None:
        self._ask("DELETE", f"/api/tasks/{task_id}/", missing_ok=True)

    def annotators(self, project_id: int) -> dict[int, str]:
        """The e-mail addresses of everybody who annotated in a project, by id."""
        return {
            int(user["id"]): str(user["email"]) for user in self._ask("GET", f"/api/projects/{project_id}/annotators/")
        }

    def _page(self, options: Json, project_id: int, page: int, query: Json) -> Page:
        params = {**options, "project": project_id, "page": page, "page_size": PAGE, "query": json.dumps(query)}
        answer = self._answer("GET", "/api/tasks", params, missing_ok=True)
        at = parsedate_to_datetime(answer.headers["Date"])
        # A page past the end is answered 404.
        if answer.status_code == 404:
            return Page([], 0, at)
        found = self._read(answer)
        return Page(found["tasks"], int(found["total"]), at)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        missing_ok: bool = False,
    ) -> Any:
        """The JSON that a request is answered with; None where nothing is there."""
        answer = self._answer(method, path, params, body, missing_ok=missing_ok)
        return None if answer.status_code in (204, 404) else self._read(answer)

    def _answer(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Any = None, *, missing_ok: bool
    ) -> requests.Response:
        """What a request is answered with, signed in.

        Raises:
            BadInput: It refuses, and would again.
            Unreachable: It does not answer, or has trouble of its own.
        """
        if "Authorization" not in self._session.headers:
            self._sign_in()
        answer = self._send(method, path, params, body)
        if answer.status_code == 401:
            # The short-lived token has expired, or the personal one was taken back: the exchange tells.
            self._sign_in()
            answer = self._send(method, path, params, body)
        if answer.status_code >= 400 and not (answer.status_code == 404 and missing_ok):
            raise self._refusal(answer, f"{method} {path}")
        return answer

    def _sign_in(self) -> None:
        if not self._token:
            raise BadInput(
                "LABEL_STUDIO_TOKEN: is not set",
                f"set it to a personal access token of {self.url} (there: Account & Settings, Personal Access Token)",
            )
        self._session.headers.pop("Authorization", None)
        answer = self._send("POST", "/api/token/refresh/", None, {"refresh": self._token})
        if answer.status_code in (400, 401, 403):
            raise BadInput(
                f"LABEL_STUDIO_TOKEN: {self.url} does not take it as a personal access token",
                "make another there (Account & Settings, Personal Access Token); a legacy token will not do",
            )
        if answer.status_code >= 400:
            raise self._refusal(answer, "POST /api/token/refresh/")
        self._session.headers["Authorization"] = f"Bearer {self._read(answer)['access']}"

    def _send(self, method: str, path: str, params: Mapping[str, Any] | None, body: Any) -> requests.Response:
        try:
            # A redirect would turn a POST into a GET, and could lead the token elsewhere.
            answer = self._session.request(
                method, self.url + path, params=params, json=body, timeout=TIMEOUT_S, allow_redirects=False
            )
        except requests.RequestException as error:
            raise Unreachable(
                f"{self.url}: {type(error).__name__}", "check that Label Studio runs there and can be reached from here"
            ) from error
        if 300 <= answer.status_code < 400:
            raise BadInput(
                f"{self.url}: leads to {answer.headers.get('Location', 'another place')}",
                "correct labeling.label_studio.url",
            )
        return answer

    def _refusal(self, answer: requests.Response, asked: str) -> BadInput | Unreachable:
        said = f"{self.url}: answers {asked} with {answer.status_code}: {_words(answer)}"
        if answer.status_code >= 500 or answer.status_code == 429:
            return Unreachable(said, "nothing is lost; it is tried again, and Label Studio's log says more")
        if answer.status_code == 403:
            return BadInput(said, "let the token's owner see and change the project, or use another's token")
        return BadInput(said, "check labeling.label_studio.url; Label Studio 1.23.2 is what this was made for")

    def _read(self, answer: requests.Response) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise BadInput(f"{self.url}: is no Label Studio", "correct labeling.label_studio.url") from error


def _words(answer: requests.Response) -> str:
    """What a refusal says, in a line."""
    try:
        said = answer.json()
    except ValueError:
        return answer.reason
    if isinstance(said, dict):
        said = said.get("validation_errors") or said.get("detail") or said
    text = " ".join((said if isinstance(said, str) else json.dumps(said)).split())
    return text if len(text) <= 300 else f"{text[:299]}…"
