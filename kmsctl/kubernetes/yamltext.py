"""Documents in YAML or JSON, read with bounds and so that no error repeats what stands in them. Pure."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final

import yaml

from kmsctl.diagnostics import UsageError

DOCUMENTS_MAX: Final = 1000
"""Documents that are read of one text; those after them are left out."""
NOT_YAML: Final = "it is not YAML"
TWICE: Final = "a name stands twice in one mapping"


class _Strict(yaml.SafeLoader):
    """A loader that refuses a mapping in which a name stands twice, as strict decoders of Kubernetes do."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if name.value in names:
                    raise yaml.constructor.ConstructorError(problem=TWICE, problem_mark=name.start_mark)
                names.add(name.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def load(text: str, what: str, *, strict: bool = False) -> list[Any]:
    """Return the documents of a text. what: it is called in errors. strict: refuse a name that a mapping has twice.
    Raises UsageError."""
    if text.lstrip().startswith("{") and not strict:
        # JSON may have tabs, which YAML has not.
        with contextlib.suppress(ValueError, RecursionError):
            return [json.loads(text)]
    try:
        found: list[Any] = []
        for document in yaml.load_all(text, _Strict if strict else yaml.SafeLoader):
            found.append(document)
            if len(found) > DOCUMENTS_MAX:
                break
        return found
    except yaml.MarkedYAMLError as error:
        # Only the place: the words of the parser repeat what stands there.
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = TWICE if error.problem == TWICE else NOT_YAML
        raise UsageError(f"{what} cannot be read: {why}{where}", "mend it there") from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError):
        raise UsageError(f"{what} cannot be read: {NOT_YAML}", "it may hold control characters") from None
