"""Who embeds a corpus: services that run, services to start and to stop again, bare addresses."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from launcher.app import named_model
from launcher.app.prepare import Request, prepare, profiles_dir, require_fit
from launcher.app.running_service import api_key
from launcher.app.server_address import api_url
from launcher.corpus.endpoints import Endpoint
from launcher.documents.plan import Plan
from launcher.documents.service_state import FINAL, UP, ServiceState
from launcher.errors import ExitCode, QlaunchError
from launcher.paths import dirs
from launcher.service import control, keys, store

ASK_S = 10.0
"""For a server's list of models."""
ASK_AGAIN_S = 0.5
NOT_YET = (502, 503, 504)
"""What a server, or a proxy before it, answers while it starts."""
Say = Callable[[str], None]
Follow = Callable[[ServiceState], object]


@dataclass
class Servers:
    """Who will embed."""

    plans: list[Plan] = field(default_factory=list)
    """Of the services, running or to be started."""
    to_start: Plan | None = None
    """The one of them that does not run."""
    urls: tuple[str, ...] = ()
    """Bare addresses, `http://host:port/v1`."""
    url_model: str | None = None
    """Name to send to those."""
    url_key: str | None = None
    url_wait_s: float = 0.0
    """For one that must be asked which model it serves, and is not there yet."""

    @property
    def plan(self) -> Plan | None:
        """What is known of the model; None where only addresses were given."""
        return self.plans[0] if self.plans else None


def names_service(word: str) -> bool:
    """Whether `word` names a service of this home, or a profile or model that `up` takes."""
    return named_model.names_service_or_start(word, profiles_dir(dirs()))


def find(services: Sequence[str], profile: str | None, *, offline: bool, say: Say) -> Servers:
    """The services of these names; at most one of them need not run.

    Args:
        services: running, or run before, or profiles, or models as `up` takes them.
        profile: brought up for this run, under its own name; or a model.
        offline: fetch nothing for a start.
        say: told of what is fetched.

    Raises:
        QlaunchError: `several_stopped` (exit 3), `not_one_model` (exit 2); those of `prepare`.
    """
    servers = Servers()
    for name in (named_model.meant(each, profiles_dir(dirs())) for each in services):
        state = known(name)
        if state is not None and state.state not in FINAL:
            servers.plans.append(store.read_plan(store.folder(name)))
            continue
        plan = _startable(name, known=state is not None, offline=offline, say=say)
        _add_stopped(servers, plan)
    if profile is not None:
        plan = _prepared(profile, offline=offline, say=say)
        _require_stopped(plan.service)
        _add_stopped(servers, plan)
    _check_one_model(servers.plans)
    return servers


def known(name: str) -> ServiceState | None:
    """The state of a service; None where there is none of that name."""
    try:
        return control.status(name)
    except QlaunchError as error:
        if error.code in ("no_such_service", "bad_service_name"):
            return None
        raise


def _startable(name: str, *, known: bool, offline: bool, say: Say) -> Plan:
    if known:
        return store.read_plan(store.folder(name))
    return _prepared(name, offline=offline, say=say)


def _prepared(profile: str, *, offline: bool, say: Say) -> Plan:
    # Nobody else asks a service that lives as long as this run: any free port will do.
    given = {"port": "0", **({"offline": True} if offline else {})}
    prepared = prepare(Request(profile=profile, given=given), say)
    require_fit(prepared)
    return prepared.plan


def _require_stopped(name: str) -> None:
    state = known(name)
    if state is not None and state.state not in FINAL:
        raise QlaunchError(
            f"service {name!r} runs already ({state.state}): --profile starts one of its own",
            code="already_running",
            exit_code=ExitCode.CONFLICT,
            fix=f"ask it, with --service {name} in place of --profile; or stop it: "
            f"qlaunch down {name}",
        )


def _add_stopped(servers: Servers, plan: Plan) -> None:
    if servers.to_start is not None:
        raise QlaunchError(
            f"neither {servers.to_start.service} nor {plan.service} runs, and one service is"
            " started for a run at most",
            code="several_stopped",
            exit_code=ExitCode.NOT_RUNNING,
            fix=f"start one first: qlaunch up {plan.service}",
        )
    servers.to_start = plan
    servers.plans.append(plan)


def _check_one_model(plans: Sequence[Plan]) -> None:
    for plan in plans[1:]:
        first = plans[0]
        if plan.fingerprint != first.fingerprint:
            raise QlaunchError(
                f"{plan.service} serves {plan.model_name} and {first.service} {first.model_name}:"
                " their vectors do not belong in one output",
                code="not_one_model",
                fix="name services of one model",
            )


def the_one_that_runs() -> str:
    """Name of the only service that runs.

    Raises:
        QlaunchError: `service_unnamed` (exit 2): there is none, or there are several.
    """
    names = [state.service for state in control.services() if state.state in UP]
    if len(names) == 1:
        return names[0]
    listed = f"several run: {', '.join(names)}" if names else "none runs"
    raise QlaunchError(
        f"no service is named, and {listed}",
        code="service_unnamed",
        fix="name a service or a profile after the files, such as cpu-minilm; or give --url",
    )


@contextlib.contextmanager
def serving(
    servers: Servers, ours: str | None, say: Say, follow: Follow
) -> Iterator[tuple[list[Endpoint], str | None]]:
    """All servers, up, and the life of the one that is stopped at the end, whatever the end is.

    Args:
        servers: running, or to be started.
        ours: the life that an earlier run started, and did not come to stop.
        say: told of steps.
        follow: told of a start's states.

    Raises:
        QlaunchError: a start's own; `not_running` (exit 3); `models_unknown` (exit 1).
    """
    started = servers.to_start
    if started is not None:
        say(f"starting {started.service}: {started.model_name} on {started.engine.release}")
        ours = control.launch(started, on_change=follow).run
    else:
        started = _started_before(servers, ours)
        ours = None if started is None else ours
    try:
        endpoints = [endpoint(plan) for plan in servers.plans]
        endpoints += [of_url(url, servers, say) for url in servers.urls]
        yield endpoints, ours
    finally:
        if started is not None:
            done = control.down(started.service)
            say(f"{started.service}: stopped in {done.seconds:.1f} s, nothing left running")


def _started_before(servers: Servers, life: str | None) -> Plan | None:
    """The service that an earlier run of the same output started, while it is in that life."""
    for plan in servers.plans if life is not None else ():
        if (state := known(plan.service)) is not None and state.run == life:
            return plan
    return None


def endpoint(plan: Plan) -> Endpoint:
    """Where a service is, and again after a restart.

    Raises:
        QlaunchError: `not_running` (exit 3).
    """
    refresh = functools.partial(_address, plan.service)
    return Endpoint(plan.service, refresh() or "", plan.model_name, api_key(plan), refresh)


def _address(name: str) -> str | None:
    """Where a service is; None while it starts again.

    Raises:
        QlaunchError: `not_running` (exit 3): it was stopped, or has failed.
    """
    state = control.status(name)
    if state.state in UP and state.endpoint is not None:
        return state.endpoint
    if state.state in FINAL or state.state == "stopping":
        why = f": {state.detail}" if state.detail else ""
        raise QlaunchError(
            f"service {name!r} is {state.state}{why}",
            code="not_running",
            exit_code=ExitCode.NOT_RUNNING,
            fix=f"see qlaunch status {name}; then run the same command again to go on",
        )
    return None


def of_url(url: str, servers: Servers, say: Say) -> Endpoint:
    """The server at an address, and the model to ask it for.

    Raises:
        QlaunchError: `models_unknown` (exit 1; 8 where none answered in time).
    """
    plan = servers.plan
    model = servers.url_model or (plan.model_name if plan is not None else None)
    until, told = time.monotonic() + servers.url_wait_s, False
    while model is None:
        try:
            model = served_model(url, servers.url_key)
        except QlaunchError as error:
            if error.exit_code != ExitCode.TIMEOUT or time.monotonic() > until:
                raise
            if not told:
                told = True
                say(f"{error.message}; asking again for up to {servers.url_wait_s:.0f} s (--wait)")
            time.sleep(ASK_AGAIN_S)
    return Endpoint(url, url, model, servers.url_key)


def read_url_key(path: str | None) -> str | None:
    """The key for bare addresses; `api_key_unusable` (exit 2)."""
    return None if path is None else keys.read_key(path)


def clean_url(url: str) -> str:
    """`url` as other parts want it, with its `/v1`.

    Raises:
        QlaunchError: `bad_url` (exit 2).
    """
    return api_url(url, option="--url", example="http://127.0.0.1:30000/v1")


def served_model(url: str, key: str | None) -> str:
    """Name of the model at an address, by `/v1/models`.

    Raises:
        QlaunchError: `models_unknown` (exit 1; 8 where nothing answers).
    """
    import requests

    session = requests.Session()
    session.trust_env = False  # no proxy between us and it, and no key of .netrc
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    why, exit_code = "its answer lists no model", ExitCode.UNEXPECTED
    try:
        answer = session.get(f"{url}/models", headers=headers, timeout=ASK_S, allow_redirects=False)
        answer.raise_for_status()
        document: Any = answer.json()
        name = document["data"][0]["id"]
        if isinstance(name, str):
            return name
    except requests.Timeout:
        why, exit_code = f"no answer within {ASK_S:.0f} s", ExitCode.TIMEOUT
    except requests.ConnectionError:
        why, exit_code = "cannot connect", ExitCode.TIMEOUT
    except requests.HTTPError as error:
        why = f"HTTP {error.response.status_code}"
        if error.response.status_code in NOT_YET:
            exit_code = ExitCode.TIMEOUT
    except (requests.RequestException, ValueError, LookupError, TypeError):
        pass  # it answered, and not as a server of models does
    finally:
        session.close()
    raise QlaunchError(
        f"{url} does not say which model it serves: {why}",
        code="models_unknown",
        exit_code=exit_code,
        fix="is the address right, and the server up? --model NAME names the model",
    )
