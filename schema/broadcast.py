"""Subscriptions: an event is executed and encoded once for all subscribers with the same selection, variables and scope.

A listener costs a write to its socket and no execution. Listeners share an execution if nothing that shapes an answer
differs: the selection, the variables it uses, and what the viewer may see. The arguments of the subscription itself,
``since`` among them, select the events and not their shape, so they do not count; snapshots are each listener's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import aclosing
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from graphql import (
    DocumentNode,
    ExecutionResult,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    TypeInfo,
    TypeInfoVisitor,
    VariableNode,
    Visitor,
    get_operation_ast,
    parse,
    print_ast,
    visit,
)
from graphql.execution import Executor, execute_subscription_event

from candlegraph.errors import Overloaded
from candlegraph.event import Event, EventKind
from schema.encoding import JsonAnswer

Code = Callable[[list[GraphQLError]], list[GraphQLError]]

_PER_LISTENER_KINDS = (EventKind.SNAPSHOT, EventKind.RESYNC)
_ABSENT = object()
MAX_CACHED_LENGTH = 20_000  # characters of a text that is worth keeping


class OperationRefused(Exception):
    """Nothing was executed; ``errors`` hold the reasons."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        """Store the errors in the client's form."""
        super().__init__(errors[0].message)
        self.errors = errors


def encode(data: Any, errors: list[GraphQLError] | None) -> str:
    """Encode a result as JSON."""
    return b"".join(answer(data, errors).pieces()).decode()


def answer(data: Any, errors: list[GraphQLError] | None) -> JsonAnswer:
    """A result as JSON that is not encoded yet."""
    payload: dict[str, Any] = {"data": data}
    if errors:
        payload["errors"] = [error.formatted for error in errors]
    return JsonAnswer(payload)


class SharedExecution:
    """The shared execution of one selection: each event's payload is made once, and cached as long as the event lives."""

    def __init__(self, executor: Executor[Any]) -> None:
        """Execute with ``executor``, whose context belongs to no particular viewer."""
        self._executor = executor
        self._payloads: WeakKeyDictionary[Event, str | asyncio.Future[str | None] | None] = WeakKeyDictionary()

    async def payload(self, event: Event) -> str | None:
        """The shared payload of an event; None if it has errors, which point into the document of each listener."""
        try:
            payload = self._payloads[event]
        except KeyError:
            result = execute(self._executor, event)
            payload = asyncio.ensure_future(_later(result)) if isinstance(result, Awaitable) else _shareable(result)
            self._payloads[event] = payload
        if isinstance(payload, asyncio.Future):
            payload = await asyncio.shield(payload)
        return payload


_shared_executions: WeakValueDictionary[Hashable, SharedExecution] = WeakValueDictionary()


def shared_execution(
    executor: Executor[Any], text: str, scope: Hashable, make_context: Callable[[], Any]
) -> SharedExecution | None:
    """Find or create the shared execution of a subscription; None if a variable cannot be compared.

    ``text`` is the document's, ``scope`` what the viewer may see; ``make_context`` gives a context with nothing more.
    """
    name = executor.operation.name
    read = _selection if len(text) <= MAX_CACHED_LENGTH else _selection.__wrapped__  # 500 padded texts took 540 MB
    selection, names = read(executor.schema, text, name.value if name else None)
    coerced = executor.variable_values.coerced
    values = tuple((name, type(value), value) for name in names for value in [coerced.get(name, _ABSENT)])
    key = (executor.schema, selection, values, scope)
    try:
        found = _shared_executions.get(key)
    except TypeError:  # a list or an object among them
        return None
    if found is None:
        shared = copy(executor)
        shared.context_value = make_context()
        found = _shared_executions[key] = SharedExecution(shared)
    return found


def execute(executor: Executor[Any], event: object) -> ExecutionResult | Awaitable[ExecutionResult]:
    """Execute a subscription's selection for one event."""
    return execute_subscription_event(executor.build_per_event_executor(event))


async def follow(
    source: AsyncGenerator[Any, None],
    executor: Executor[Any],
    shared: SharedExecution | None,
    code: Code,
    begun: Callable[[], None],
) -> AsyncGenerator[str, None]:
    """The payloads of a subscription; an error of its source is the last one. ``code`` gives errors their codes.

    ``begun`` is called whenever the history of a series has been sent, or the series has failed. OperationRefused if the
    server is overloaded: the client should subscribe again, which it would not do after a `complete`.
    """
    async with aclosing(source) as events:
        try:
            async for event in events:
                if shared and isinstance(event, Event) and event.kind not in _PER_LISTENER_KINDS:
                    payload = await shared.payload(event)
                    if payload is not None:
                        yield payload
                        continue
                result = execute(executor, event)
                if isinstance(result, Awaitable):
                    result = await result
                yield encode(result.data, code(result.errors) if result.errors else None)
                if not isinstance(event, Event) or event.caught_up or event.kind is EventKind.RESYNC:
                    begun()
        except Exception as error:
            located = error if isinstance(error, GraphQLError) else GraphQLError(str(error), original_error=error)
            if isinstance(error, Overloaded):
                raise OperationRefused(code([located])) from error
            yield encode(None, code([located]))


async def _later(result: Awaitable[ExecutionResult]) -> str | None:
    return _shareable(await result)


def _shareable(result: ExecutionResult) -> str | None:
    return None if result.errors else encode(result.data, None)


@lru_cache(maxsize=500)
def _selection(schema: GraphQLSchema, text: str, operation_name: str | None) -> tuple[str, tuple[str, ...]]:
    """The selection of an operation in a canonical text, and the variables in it."""
    document = parse(text, no_location=True)
    operation = get_operation_ast(document, operation_name)
    fragments = (one for one in document.definitions if isinstance(one, FragmentDefinitionNode))
    types = TypeInfo(schema)
    bare = _SelectionNormalizer(types, schema)
    meant = DocumentNode(definitions=tuple(filter(None, (operation, *fragments))))
    return print_ast(visit(meant, TypeInfoVisitor(types, bare))), tuple(sorted(bare.variables))


class _SelectionNormalizer(Visitor):
    """Removes the name, the variable definitions and the root fields' arguments from an operation."""

    def __init__(self, types: TypeInfo, schema: GraphQLSchema) -> None:
        super().__init__()
        self._types = types
        self._root = schema.subscription_type
        self.variables: set[str] = set()

    def enter_operation_definition(self, node: OperationDefinitionNode, *_: Any) -> OperationDefinitionNode:
        return replace(node, name=None, variable_definitions=())

    def enter_field(self, node: FieldNode, *_: Any) -> FieldNode | None:
        return replace(node, arguments=()) if node.arguments and self._types.get_parent_type() is self._root else None

    def enter_variable(self, node: VariableNode, *_: Any) -> None:
        self.variables.add(node.name.value)
