"""Who is calling: the protocol era, what the client can do, what it calls itself, and what it answers in this request.

Two eras are spoken in the field: 2025-11-25 and before ("legacy": sessions, requests from server to client) and
2026-07-28 ("modern": every request stands alone and carries the client's capabilities).
"""

from __future__ import annotations

from dataclasses import dataclass

from fastmcp import Context
from mcp.server.request_state import authenticated_principal
from mcp.server.session import ServerSession
from mcp_types import ElicitResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

UNNAMED = "an MCP client"


@dataclass(frozen=True, slots=True)
class Caller:
    """The client behind the request that is being served."""

    session: ServerSession
    request_id: str
    modern: bool
    #: Whether it shows forms to a person (elicitation in form mode).
    shows_forms: bool
    #: How it names itself; whatever it likes, so it proves nothing.
    name: str
    #: Who is authenticated; "" where nobody is.
    principal: str
    #: Unsealed ``requestState`` of a retried call, in the modern era.
    state: str | None
    #: What it answers to the questions of the round before, by their keys.
    responses: dict[str, ElicitResult]

    @classmethod
    def of(cls, context: Context, *, retries: bool = True) -> Caller:
        """The caller of the request in `context`; `retries`: of a tool, whose calls can be retried with answers.

        Raises RuntimeError outside of a request.
        """
        request = context.request_context
        if request is None:
            message = "there is no MCP request here"
            raise RuntimeError(message)
        session = context.session
        given = (context.input_responses or {}) if retries else {}
        return cls(
            session=session,
            request_id=context.request_id,
            modern=request.protocol_version in MODERN_PROTOCOL_VERSIONS,
            shows_forms=shows_forms(session),
            name=client_name(session),
            # fastmcp's documented way to the SDK's own context
            principal=authenticated_principal(request._srctx) or "",  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            state=context.request_state if retries else None,
            responses={key: answer for key, answer in given.items() if isinstance(answer, ElicitResult)},
        )


def shows_forms(session: ServerSession) -> bool:
    """Whether the client has declared elicitation in form mode; a bare ``elicitation: {}`` means that, too."""
    capabilities = session.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def client_name(session: ServerSession) -> str:
    """How the client names itself."""
    params = session.client_params
    if params is None or not params.client_info.name:
        return UNNAMED
    info = params.client_info
    return f"{info.name} {info.version}".strip()[:200]
