"""The client configuration, a TOML file: the addresses of the services and the caller's certificate."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdm_wire.errors import Invalid
from mdm_wire.tls import TlsFiles

DEFAULT_PATH = Path("~/.config/mdm/client.toml")
MAX_SHARE_INDEX = 16
SITE_SECONDS = 2.0
MAX_SITE_SECONDS = 3600

_SITE_KEYS = {"srm", "curator", "metadata_sites", "site_seconds", "sites"}
_KEYS = {"certificate", "key", "ca", "catalog", "metadata", "threshold", "keystores"} | _SITE_KEYS
_KEYSTORE_KEYS = {"name", "index", "addresses"}
_KIND_NAMES: dict[type, str] = {int: "an integer", list: "a list", str: "a string"}


@dataclass(frozen=True)
class KeystoreAddress:
    """One keystore: its name in messages, the index of its shares, its addresses."""

    name: str
    index: int
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class ClientConfig:
    """The configuration of a client. Addresses are `host:port`; several addresses of a service are used in turn.

    `curator` are listeners on the hospital's side, for its curators.
    For `site_seconds`, a query over several sites tries a site that cannot be reached: of `metadata_sites`, or of `sites`, which have a
    grid of their own, each with the file of the client's configuration there.
    """

    tls: TlsFiles
    catalog: tuple[str, ...]
    metadata: tuple[str, ...]
    threshold: int
    keystores: tuple[KeystoreAddress, ...]
    srm: Mapping[str, tuple[str, ...]]
    curator: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metadata_sites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    site_seconds: float = SITE_SECONDS
    sites: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | str) -> "ClientConfig":
        """Return the configuration in a TOML file; its relative paths are relative to the file.

        Raises:
            Invalid: CONFIG_NOT_FOUND or CONFIG_INVALID, naming the file and the key.
        """
        file = Path(path).expanduser()
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise Invalid(
                "CONFIG_NOT_FOUND", f"{file}: cannot read the configuration ({error.strerror}); give --config FILE or set MDM_CONFIG"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Invalid("CONFIG_INVALID", f"{file}: not valid TOML: {error}") from error
        try:
            return cls.from_mapping(values, file.parent.resolve())
        except Invalid as error:
            raise error.at(str(file)) from None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], base: Path) -> "ClientConfig":
        """Return the configuration in `values`, such as a table in another program's settings.

        Relative paths are relative to `base`.

        Raises:
            Invalid: CONFIG_INVALID, naming the key.
        """
        _refuse_unknown(values, _KEYS, "")
        keystores = tuple(_keystore(item) for item in _list(values, "keystores", dict))
        threshold = _value(values, "threshold", int)
        _check_keystores(keystores, threshold)
        return cls(
            tls=TlsFiles(*(base / Path(_value(values, key, str)).expanduser() for key in ("certificate", "key", "ca"))),
            catalog=_addresses(values, "catalog"),
            metadata=_addresses(values, "metadata"),
            threshold=threshold,
            keystores=keystores,
            srm=_sites(values, "srm"),
            curator=_sites(values, "curator"),
            metadata_sites=_sites(values, "metadata_sites"),
            site_seconds=_site_seconds(values),
            sites=_own_grids(values, base),
        )


def _sites(values: Mapping[str, Any], key: str) -> dict[str, tuple[str, ...]]:
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise _invalid(f"{key}: must be a table of site = [addresses]")
    return {site: _addresses(table, site, f"{key}.{site}") for site in table}


def _own_grids(values: Mapping[str, Any], base: Path) -> dict[str, Path]:
    table = values.get("sites", {})
    if not isinstance(table, dict) or not all(isinstance(file, str) and file for file in table.values()):
        raise _invalid("sites: must be a table of site = configuration file")
    return {site: base / Path(file).expanduser() for site, file in table.items()}


def _site_seconds(values: Mapping[str, Any]) -> float:
    found = values.get("site_seconds", SITE_SECONDS)
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found <= MAX_SITE_SECONDS:
        raise _invalid(f"site_seconds: must be a number above 0 and at most {MAX_SITE_SECONDS}")
    return float(found)


def _keystore(values: Mapping[str, Any]) -> KeystoreAddress:
    _refuse_unknown(values, _KEYSTORE_KEYS, "keystores.")
    index = _value(values, "index", int)
    if not 1 <= index <= MAX_SHARE_INDEX:
        raise _invalid(f"keystores.index: must be 1 to {MAX_SHARE_INDEX}")
    return KeystoreAddress(_value(values, "name", str), index, _addresses(values, "addresses", "keystores.addresses"))


def _check_keystores(keystores: tuple[KeystoreAddress, ...], threshold: int) -> None:
    for what, found in (("name", [k.name for k in keystores]), ("index", [k.index for k in keystores])):
        if len(set(found)) != len(found):
            raise _invalid(f"keystores: two have the same {what}")
    if not 2 <= threshold <= len(keystores):
        raise _invalid(f"threshold: must be 2 to {len(keystores)}, the number of keystores")


def _addresses(values: Mapping[str, Any], key: str, name: str = "") -> tuple[str, ...]:
    found = _list(values, key, str, name)
    if not found:
        raise _invalid(f"{name or key}: needs at least one address host:port")
    for address in found:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise _invalid(f"{name or key}: {address!r} is not host:port")
    return tuple(found)


def _list(values: Mapping[str, Any], key: str, kind: type, name: str = "") -> list[Any]:
    found = _value(values, key, list, name)
    if not all(isinstance(item, kind) for item in found):
        raise _invalid(f"{name or key}: must be a list of {'tables' if kind is dict else 'strings'}")
    return list(found)


def _value(values: Mapping[str, Any], key: str, kind: type, name: str = "") -> Any:
    if key not in values:
        raise _invalid(f"{name or key}: missing")
    if not isinstance(values[key], kind) or isinstance(values[key], bool):
        raise _invalid(f"{name or key}: must be {'an integer' if kind is int else 'a list' if kind is list else 'a string'}")
    return values[key]


def _refuse_unknown(values: Mapping[str, Any], known: set[str], prefix: str) -> None:
    unknown = sorted(set(values) - known)
    if unknown:
        raise _invalid(f"{prefix}{unknown[0]}: unknown key")


def _invalid(message: str) -> Invalid:
    return Invalid("CONFIG_INVALID", message)
