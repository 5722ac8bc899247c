"""A setting is declared once: that gives its field, flag, variables, file key, check, help and docs.

A value is taken from the first of these that has one: the flag, the environment variable, the
configuration file, the default.
"""

from __future__ import annotations

import difflib
import logging
import math
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from agentic_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

T = TypeVar("T")

PREFIX = "AGENTIC_TRIO_"

CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Names the configuration file, as ``--config`` does."""

_METADATA = "setting"

_UNREADABLE = (msgspec.ValidationError, UnicodeEncodeError)
"""A variable or an argument that is not UTF-8 is a text of surrogates, which msgspec can't take."""

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """Where a value came from, and the name of that flag, variable or file."""

    kind: Literal["flag", "variable", "file", "program", "default"]
    name: str = ""


class Found(NamedTuple):
    """A value that was set, and where."""

    value: Any
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What was declared of one field.

    Attributes:
        name: the field, which is also the key in a configuration file.
        type: the field's type; ``Literal`` gives the values there are.
        default: the value if nobody sets one.
        flag: the option of ``agentic-trio serve``.
        aliases: variables that are read if ``variable`` is not set.
        group: the heading that it stands under in help and docs.
        help: what it does, in a phrase.
        more: what the docs say beyond that, in sentences.
        unit: what a number counts, or what a text is; stands for the value in help.
        repeatable: the flag may be given several times; the texts are joined by commas.
        secret: the value is shown nowhere, and can be read from the file that ``..._FILE`` names.
        reloads: whether a gateway that runs takes another value when it is told to reload.
        above, at_least, at_most: the bounds of a number, which must be finite too.
        parse: makes the value of a text where the type doesn't say how.
        check: returns what is wrong with a value, as what follows the setting's name.
    """

    name: str = ""
    type: Any = None
    default: Any
    flag: str
    aliases: tuple[str, ...]
    group: str
    help: str
    more: str
    unit: str
    repeatable: bool
    secret: bool
    reloads: bool
    above: float | None
    at_least: float | None
    at_most: float | None
    parse: Callable[[str], Any] | None
    check: Callable[[Any], str | None] | None

    @property
    def variable(self) -> str:
        """The environment variable that is named after the field."""
        return PREFIX + self.name.upper()

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that set it; the first that is not empty counts."""
        return (self.variable, *self.aliases)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values there are, if they can be listed."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def default_text(self) -> str:
        """The default as help says it."""
        if self.default in (None, (), ""):
            return "none by default"
        if isinstance(self.default, bool):
            return "on by default" if self.default else "off by default"
        return f"default {self.default:g}" if isinstance(self.default, float) else f"default {self.default}"

    def read(self, given: Any, label: str) -> Any:
        """The value that a text or a TOML value stands for.

        Raises:
            ConfigError: it stands for none. The message names ``label``, and no secret.
        """
        if self.parse is not None:
            return self._parsed(given, label)
        if isinstance(given, str):
            if self._is_text:
                return given
            given = given.strip()
        try:
            return msgspec.convert(given, self.type, strict=False)
        except _UNREADABLE:
            raise ConfigError(f"{label} {self._mismatch(given)}") from None

    def _parsed(self, given: Any, label: str) -> Any:
        assert self.parse is not None
        if isinstance(given, list) and all(isinstance(each, str) for each in given):
            given = ",".join(given)
        if not isinstance(given, str):
            raise ConfigError(f"{label} {self._mismatch(given)}")
        return self.parse(given)

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, in one line that begins with the name; None if nothing is."""
        try:
            msgspec.convert(value, self.type)
        except _UNREADABLE:
            wrong: str | None = self._mismatch(value)
        else:
            wrong = self._out_of_bounds(value) or (self.check and self.check(value))
        return f"{self.name} {wrong}" if wrong else None

    @property
    def _is_text(self) -> bool:
        return self.type in (str, str | None)

    def _mismatch(self, value: Any) -> str:
        if self._is_text:
            # Not the value: it may be a secret that stands in the wrong place.
            return f"must be text, not {type(value).__name__}"
        if self.choices:
            kind = " or ".join(self.choices)
        elif self.type in (int, float):
            kind = "a number"
        else:
            kind = "true or false" if self.type is bool else "a list of texts"
        if self.secret:
            return f"must be {kind}, not {type(value).__name__}"
        return f"must be {kind}, not {value!r}"

    def _out_of_bounds(self, value: Any) -> str | None:
        # Compared with infinity, as NaN and integers too large for a float must pass through here.
        if self.above is not None and not self.above < value < math.inf:
            return f"must be more than {self.above:g}, not {value}"
        if self.at_least is None or (self.at_least <= value < math.inf and not self._too_large(value)):
            return None
        if self.at_most is None:
            return f"must be {self.at_least:g} or more, not {value}"
        return f"must be from {self.at_least:g} to {self.at_most:g}, not {value}"

    def _too_large(self, value: float) -> bool:
        return self.at_most is not None and value > self.at_most


def setting(
    default: T,
    flag: str,
    *,
    group: str,
    help: str,
    more: str = "",
    aliases: tuple[str, ...] = (),
    unit: str = "",
    repeatable: bool = False,
    secret: bool = False,
    reloads: bool = False,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    parse: Callable[[str], T] | None = None,
    check: Callable[[T], str | None] | None = None,
) -> T:
    """A dataclass's field that is a setting. :class:`Setting` says what the arguments mean."""
    declared = Setting(
        default=default,
        flag=flag,
        aliases=aliases,
        group=group,
        help=help,
        more=more,
        unit=unit,
        repeatable=repeatable,
        secret=secret,
        reloads=reloads,
        above=above,
        at_least=at_least,
        at_most=at_most,
        parse=parse,
        check=check,
    )
    # Typed as the value, as dataclasses.field() is, so that the field's annotation is checked.
    return field(default=default, repr=not secret, metadata={_METADATA: declared})


def settings_of(declaring: type) -> dict[str, Setting]:
    """The settings that a dataclass declares, by name."""
    types = get_type_hints(declaring)
    return {
        each.name: replace(each.metadata[_METADATA], name=each.name, type=types[each.name])
        for each in fields(declaring)
        if _METADATA in each.metadata
    }


def read_flags(settings: Mapping[str, Setting], flags: Mapping[str, Any]) -> dict[str, Found]:
    """The values of a command line: field -> text, or None for a flag that was not given."""
    return {
        name: Found(settings[name].read(given, settings[name].flag), Source("flag", settings[name].flag))
        for name, given in flags.items()
        if given is not None
    }


def read_variables(settings: Mapping[str, Setting], environ: Mapping[str, str]) -> dict[str, Found]:
    """The values that the environment sets. An empty variable counts as unset.

    Raises:
        ConfigError: a value can't be read, or a secret's file, or both a variable and its ``_FILE`` are set.
    """
    found = {}
    for name, each in settings.items():
        for variable, text in _texts(each, environ):
            found[name] = Found(each.read(text, variable), Source("variable", variable))
            break
    return found


def _texts(setting: Setting, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable in setting.variables:
        text, file_variable = environ.get(variable), f"{variable}_FILE"
        path = environ.get(file_variable) if setting.secret else None
        if text and path:
            raise ConfigError(f"{variable} and {file_variable} are both set: give one of them")
        if path:
            yield file_variable, _secret_in(path, file_variable)
        elif text:
            yield variable, text


def _secret_in(path: str, variable: str) -> str:
    text = _text_of(path, f"the file that {variable} names")
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise ConfigError(f"the file that {variable} names is empty")
    return secret


def read_file(settings: Mapping[str, Setting], path: str) -> dict[str, Found]:
    """The values that a TOML file sets, whose keys are the settings' names.

    Raises:
        ConfigError: the file or a value in it can't be read, or a key is no setting's name.
    """
    file = f"the configuration file {printable(path)}"
    try:
        values = tomllib.loads(_text_of(path, file))
    except ValueError as error:
        raise ConfigError(f"{file} is not TOML: {' '.join(str(error).split())}") from None
    for key in values:
        if key not in settings:
            raise ConfigError(f"{file} has an unknown key {key!r}{_suggestion(key, settings)}")
    return {
        key: Found(settings[key].read(value, f"{key} in {file}"), Source("file", path))
        for key, value in values.items()
    }


def _text_of(path: str, file: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror or error}") from None
    except ValueError:
        raise ConfigError(f"{file} can't be read: it is not UTF-8 text") from None


def warn_of_unknown_variables(settings: Mapping[str, Setting], environ: Mapping[str, str]) -> None:
    """Log a warning for each variable that looks like a setting's and is none. Names only, no values."""
    known = {CONFIG_VARIABLE}
    for each in settings.values():
        known |= {each.variable, f"{each.variable}_FILE"} if each.secret else {each.variable}
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in known:
            near = _suggestion(variable, known)
            logger.warning("%s is not a setting and has no effect%s", printable(variable), near)


def _suggestion(name: str, known: Collection[str]) -> str:
    # The prefix that all variables share would make any two of them look alike.
    if name.removesuffix("_FILE") in known:
        # It is no secret, so no file is read for it.
        return f": did you mean {name.removesuffix('_FILE')}?"
    names = {each.removeprefix(PREFIX): each for each in known}
    near = difflib.get_close_matches(name.removeprefix(PREFIX), names, n=2)
    return f": did you mean {' or '.join(names[each] for each in near)}?" if near else ""


def printable(name: str) -> str:
    """A name as it may stand in one line of a log."""
    return name if name.isprintable() else ascii(name)
