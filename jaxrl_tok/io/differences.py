"""How two configurations differ, key by key."""

import json
from collections.abc import Mapping
from typing import Any


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns one phrase for each key whose value is not the same, with both values.

    Nested tables are compared key by key: `model.layers`. A key that one side lacks is `unset` there.
    """
    there, here = _flat(stored), _flat(now)
    return [
        f"{key} is {there.get(key, 'unset')} there and {here.get(key, 'unset')} here"
        for key in sorted(there.keys() | here.keys())
        if (key in there) != (key in here) or there[key] != here[key]
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return flat
