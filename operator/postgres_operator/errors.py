"""The error tree. Each error says which object, what was wrong and what to do."""


class OperatorError(Exception):
    """Base of all errors that this operator raises itself."""


class TemplateInvalid(OperatorError):
    """A Job template cannot be rendered, or what it renders is not a Job we may create."""


class NotLeading(OperatorError):
    """A write was refused here, before it was sent: this replica does not hold the lease."""


class ApiError(OperatorError):
    """The API server refused or did not answer; retried with backoff."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Conflict(ApiError):
    """The object changed since it was read (409 on a write): read again and decide again."""


class AlreadyExists(ApiError):
    """An object of that name exists (409 on a create)."""


class NotFound(ApiError):
    """The object is gone (404 on a write)."""


class Forbidden(ApiError):
    """403: our RBAC or a terminating namespace; also, with any code, what an admission policy or a webhook denies."""


class Invalid(ApiError):
    """422 or 400: the API server does not take the object as it is; a retry cannot help."""
