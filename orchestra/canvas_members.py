"""`.s()`, `.si()` and `.signature()`: flows and tasks as members of users' own Celery canvases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestra import lazy
from orchestra.errors import DefinitionError


class CanvasMember:
    """What can be made a native Celery signature.

    Each time a signature is applied, or its turn in a canvas comes, a run starts; what comes behind it goes on when
    that run has ended, also if it waits for hours in between.
    """

    def s(self, *args: Any, **kwargs: Any) -> Any:
        """A signature with these arguments; the result of the member before comes in front of them."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Any:
        """A signature with just these arguments, whatever the member before gives."""
        return self.signature(args, kwargs, immutable=True)

    def signature(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **more: Any,
    ) -> Any:
        """A native Celery signature, for `chain`, `group`, `chord`, `link` and `link_error`, or to be applied.

        Args:
            args: Positional arguments. What JSON cannot say goes signed, in orchestra's own encoding.
            kwargs: Arguments by name.
            options: As of `apply_async` in Celery: queue, priority, countdown, eta, link, link_error, …
            immutable: Takes nothing from the member before.
            more: As `options`.

        Raises:
            NotImportable: A worker could not import it.
            ParameterBindError: It is immutable, and the arguments do not fit.
            SerializationError: An argument cannot be encoded.
            DefinitionError: It is the method of an object, and not immutable.
        """
        decorated: Any = self  # a Flow or a Task
        if decorated._bound and not immutable:
            raise DefinitionError(
                f"{self!r} is the method of an object, in front of which Celery would put the result of the member "
                "before: use .si(), or a function that takes the result"
            )
        return lazy.load("signature")(
            decorated.spec,
            (*decorated._bound, *(args or ())),
            dict(kwargs or {}),
            immutable=immutable,
            options={**(options or {}), **more},
        )
