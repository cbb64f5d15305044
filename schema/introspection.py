"""Access to the schema through the API: for all clients, for signed-in clients, or for none."""

from __future__ import annotations

from collections.abc import Iterator

from graphql import FieldNode, GraphQLError, Visitor, visit
from strawberry.extensions import SchemaExtension

from candlegraph.errors import CandlegraphError, Forbidden, Unauthenticated
from resolvers.context import Context, Introspection


class IntrospectionLimit(SchemaExtension):
    """Refuses `__schema` and `__type` to clients without access to the schema."""

    def on_validate(self) -> Iterator[None]:
        """Check a valid document."""
        execution = self.execution_context
        document, context = execution.graphql_document, execution.context
        refusal = introspection_refusal(context) if isinstance(context, Context) else None
        if document and not execution.pre_execution_errors and refusal:
            found = _IntrospectionFinder()
            visit(document, found)
            if found.found:
                execution.pre_execution_errors = [GraphQLError(refusal.message, original_error=refusal)]
        yield


def introspection_refusal(context: Context) -> CandlegraphError | None:
    """The reason why the viewer may not read the schema; None if the viewer may."""
    if context.may_introspect:
        return None
    if context.services.introspection is Introspection.SIGNED_IN:
        return Unauthenticated("Sign in to read the schema.")
    return Forbidden("This server does not show its schema (INTROSPECTION=off).")


class _IntrospectionFinder(Visitor):
    found = False

    def enter_field(self, node: FieldNode, *_: object) -> None:
        self.found |= node.name.value in ("__schema", "__type")


def without_suggestion(message: str) -> str:
    """A validation error without the names of the schema that graphql-core suggests."""
    return message.partition(" Did you mean ")[0]
