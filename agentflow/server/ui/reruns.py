"""Pages for ended runs: the button that has one go on, and the form of a run that begins where another one stood."""

from __future__ import annotations

from typing import Any, cast

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from agentflow.engine.forks import Cut, cut_at, in_words
from agentflow.errors import CodecError, ParameterError, RunOwnedError, RunStateError
from agentflow.model.runs import Run
from agentflow.payloads.opening import open_for_people
from agentflow.server import forms
from agentflow.server.api.runs import find_run, origin_of
from agentflow.server.bodies import form_of
from agentflow.server.rendering import render
from agentflow.server.site import caller_of, path_id, site_of
from agentflow.server.ui.runs import run_page
from agentflow.views import plain


def retry(request: Request) -> Response:
    """POST /runs/{id}/retry."""
    run_id = path_id(request)
    site = site_of(request)
    try:
        site.worker.retry_run(run_id, origin=origin_of(caller_of(request)))
    except (RunStateError, RunOwnedError) as error:  # it has not ended, or somebody was faster
        return run_page(request, site.hub.feed(run_id).refresh(), error=str(error), status=409)
    return RedirectResponse(f"/runs/{run_id}", 303)


def fork_page(request: Request) -> Response:
    """GET /runs/{id}/fork?from=STEP: the arguments of the new run, and what the other one did from that step on."""
    run, cut = _cut(request, request.query_params.get("from", ""))
    return _page(request, run, cut, _fields(request, run))


def fork(request: Request) -> Response:
    """POST /runs/{id}/fork: begin the new run."""
    form = form_of(request)
    run, cut = _cut(request, form.get("from_step", ""))
    worker = site_of(request).worker
    schema = worker.flow_of(run).parameters_schema
    values, fields, fault = forms.read(forms.fill(_fields(request, run), form), schema)
    if fault or any(field.error for field in fields):
        return _page(request, run, cut, fields, error=fault, status=422)
    changed = {
        field.name: values[field.name] for field in fields if field.is_touched and field.name in values
    }
    try:
        made, _ = worker.fork_run(run.id, cut.step, changed, origin=origin_of(caller_of(request)))
    except (ParameterError, CodecError) as error:
        return _page(request, run, cut, fields, error=str(error), status=422)
    return RedirectResponse(f"/runs/{made.id}", 303)


def _cut(request: Request, step: str) -> tuple[Run, Cut]:
    journal = site_of(request).journal
    run = find_run(journal, path_id(request))
    return run, cut_at(journal, run, step)


def _fields(request: Request, run: Run) -> list[forms.Field]:
    flow = site_of(request).worker.flow_of(run)
    values = plain(run.parameters, open_for_people(site_of(request).journal))
    return forms.fields_of(
        flow.parameters_schema, cast("dict[str, Any]", values) if isinstance(values, dict) else {}
    )


def _page(
    request: Request, run: Run, cut: Cut, fields: list[forms.Field], *, error: str = "", status: int = 200
) -> Response:
    context = {
        "run_id": run.id,
        "flow": run.flow,
        "step": cut.step,
        "name": cut.name,
        "kept": len({(row.scope, row.key, row.branch, row.occurrence) for row in cut.rows}),
        "happened": [in_words(effect) for effect in cut.happened],
        "fields": fields,
        "error": error,
    }
    return render(request, "fork.html", context, status=status)
