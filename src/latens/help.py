"""`--help` in one screen, and every option under `--help-all`."""

from typing import Any

import attrs
from cyclopts.help import DefaultFormatter, HelpEntry, HelpPanel
from rich.text import Text

EVERY = "--help-all"
# Groups of many options, those that a first training may need, and the last of the groups
GROUPS, LAST = ("Data", "Model", "Objective", "Optimiser", "Run"), "Run"
COMMON = {
    *("--size", "--recipe", "--latent-dim", "--likelihood", "--beta"),
    *("--learning-rate", "--epochs", "--minutes", "--seed", "--device"),
}
RARE = {"--log", "--seeds", "--cells", "--refine", "--precision"}
FEW_CHOICES = 6


class Help(DefaultFormatter):
    """Panels with the common options, each in a sentence; or with all of every option.

    Attributes:
        every: show all.
    """

    every = False

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._held: list[HelpEntry] = []

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        """Print a panel; of the groups of many options one with the common ones."""
        if not self.every:
            panel = self._shortened(panel)
        if panel.entries:
            super().__call__(console, options, panel)

    def _shortened(self, panel: HelpPanel) -> HelpPanel:
        short = [_short(entry) for entry in panel.entries if not RARE & {*entry.positive_names}]
        title = str(panel.title)
        if title not in GROUPS:
            return attrs.evolve(panel, entries=short)
        self._held += [entry for entry in short if COMMON & {*entry.positive_names}]
        if title != LAST:
            return attrs.evolve(panel, entries=[])
        held, self._held = self._held, []
        return attrs.evolve(panel, title="Common options", entries=held)


def _short(entry: HelpEntry) -> HelpEntry:
    """With the first sentence alone, and without a long list of choices."""
    text = getattr(entry.description, "primary_renderable", entry.description)
    words = text.plain if isinstance(text, Text) else str(text or "")
    first, more, _ = words.partition(". ")
    if entry.choices and len(entry.choices) > FEW_CHOICES:
        entry = attrs.evolve(entry, choices=())
    return attrs.evolve(entry, description=f"{first}." if more else words)
