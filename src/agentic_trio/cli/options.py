"""The options of ``agentic-trio serve``, made of the settings; help shows them in groups."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from agentic_trio.settings import CONFIG_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentic_trio.settings import Setting


class GroupedOption(click.Option):
    """An option that stands under a heading of its own in help."""

    def __init__(self, declarations: list[str], *, group: str, **options: Any) -> None:
        super().__init__(declarations, **options)
        self.group = group


class OnceCommand(click.Command):
    """A command whose options are given at most once, shown in groups."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse an option that is given twice: one of the two values would be lost without a word."""
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(list(args))
            for parameter, count in Counter(order).items():
                if count > 1 and not parameter.multiple:
                    raise click.UsageError(f"{parameter.opts[0]} is given {count} times: give it once", ctx)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings, in the order of their declaration."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "Command"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def options_of(settings: Mapping[str, Setting]) -> list[click.Parameter]:
    """An option for each setting. Its value is the text that was given, or None."""
    return [_option(each) for each in settings.values()]


def _option(setting: Setting) -> GroupedOption:
    help = f"{setting.help} [{setting.default_text}; ${', $'.join(reversed(setting.variables))}]"
    if setting.type is bool:
        flags = f"{setting.flag}/{setting.flag.replace('--', '--no-', 1)}"
        return GroupedOption([flags, setting.name], group=setting.group, default=None, help=help)
    if setting.choices:
        kind: click.ParamType[Any] = click.Choice(setting.choices)
        return GroupedOption([setting.flag, setting.name], group=setting.group, type=kind, help=help)
    return GroupedOption(
        [setting.flag, setting.name],
        group=setting.group,
        multiple=setting.repeatable,
        callback=_joined if setting.repeatable else None,
        metavar=(setting.unit or setting.name).upper(),
        help=help,
    )


def _joined(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> str | None:
    return ",".join(given) if given else None


def config_option() -> click.Option:
    """``--config``, which names the configuration file."""
    return click.Option(
        ["--config", "file"],
        type=click.Path(),
        metavar="FILE",
        help=f"a TOML file with settings [none by default; ${CONFIG_VARIABLE}]",
    )
