"""Reviews by the API server: the user of a token, and the permissions of that user."""

from __future__ import annotations

import msgspec
from kubernetes.aio.client.api.authentication_v1_api import AuthenticationV1Api
from kubernetes.aio.client.api.authorization_v1_api import AuthorizationV1Api
from kubernetes.aio.client.models.v1_resource_attributes import V1ResourceAttributes
from kubernetes.aio.client.models.v1_subject_access_review import V1SubjectAccessReview
from kubernetes.aio.client.models.v1_subject_access_review_spec import V1SubjectAccessReviewSpec
from kubernetes.aio.client.models.v1_token_review import V1TokenReview
from kubernetes.aio.client.models.v1_token_review_spec import V1TokenReviewSpec

from sidecar.cluster.client import ApiServer, malformed
from sidecar.cluster.errors import ApiError


class User(msgspec.Struct, frozen=True):
    """The user of a token; RBAC, webhooks and impersonation rules judge by all of it."""

    name: str
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}


class Action(msgspec.Struct, frozen=True):
    """A verb on a resource; without a name: on every object of its kind."""

    verb: str
    namespace: str
    group: str
    resource: str
    subresource: str
    name: str = ""


class Reviews:
    """Has the API server review tokens and permissions.

    Args:
        server: creates the reviews.
    """

    def __init__(self, server: ApiServer) -> None:
        self._url = server.url
        self._authentication = AuthenticationV1Api(server.client)
        self._authorization = AuthorizationV1Api(server.client)

    async def user(self, token: str, audience: str) -> User | None:
        """Return the user of a token; None: it is not valid, or not issued for the audience.

        Raises:
            ApiError: the token has not been reviewed.
        """
        kind, spec = "TokenReview", V1TokenReviewSpec(token=token, audiences=[audience])
        review = await self._authentication.create_token_review(
            V1TokenReview(api_version="authentication.k8s.io/v1", kind=kind, spec=spec)
        )
        status = review.status
        if status is None or review.kind != kind:
            raise ApiError(malformed(self._url, kind))
        # An API server that ignores audiences returns none: then the token may be for any service of the cluster.
        if not status.authenticated or audience not in (status.audiences or ()):
            return None
        user = status.user
        if user is None or not user.username:
            raise ApiError(f"The API server at {self._url} has accepted a token without naming its user.")
        return User(user.username, user.uid or "", user.groups or [], user.extra or {})

    async def allowed(self, user: User, action: Action) -> bool:
        """Return whether a user may do something.

        Raises:
            ApiError: the permission has not been reviewed.
        """
        kind = "SubjectAccessReview"
        spec = V1SubjectAccessReviewSpec(
            user=user.name,
            uid=user.uid or None,
            groups=user.groups or None,
            extra=user.extra or None,
            resource_attributes=V1ResourceAttributes(
                verb=action.verb,
                namespace=action.namespace,
                group=action.group,
                resource=action.resource,
                subresource=action.subresource,
                name=action.name or None,
            ),
        )
        review = await self._authorization.create_subject_access_review(
            V1SubjectAccessReview(api_version="authorization.k8s.io/v1", kind=kind, spec=spec)
        )
        if review.status is None or review.kind != kind:
            raise ApiError(malformed(self._url, kind))
        return review.status.allowed
