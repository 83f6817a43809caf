"""A stage that was cut off, and a run that is not the one it was cut off in: what differs, and whether it may go on.

The rule. It goes on where the difference cannot change what is learnt: how much is in memory at once, what is kept or
shown beside it, which guards watch; and, with a warning, under other versions of the libraries, as long as what they
wrote can be read. Other settings, other data, another base, or other adapters to start from would make a result that is
neither the one run's nor the other's: that is refused, and nothing is removed. Where a guard stopped the stage, other
settings are what it asked for: the stage begins again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kit import notices
from kit.config import Config
from kit.errors import RunError
from kit.runs.checkpoints import newest_manifest
from kit.runs.folder import RunFolder, versions
from kit.runs.inputs import changed_inputs, checkpoint_inputs, is_done
from kit.runs.steps import Step

_SHOWN = 6


def settle_changes(steps: Sequence[Step], config: Config, fingerprint: str, folder: RunFolder) -> None:
    """Before anything is trained: what kept checkpoints and this run differ in, by the rule above.

    Raises RunError where a stage may not go on, with all that differs and what to do. Nothing is removed then.
    """
    remade: set[str] = set()
    for step in steps:
        if is_done(step, config, fingerprint, folder) and not remade.intersection(step.needs):
            continue
        remade.add(step.name)
        manifest = newest_manifest(folder.checkpoints_path(step.name))
        if manifest is None:
            continue
        earlier = [name for name in step.needs if name in remade]
        inputs = checkpoint_inputs(step, config, fingerprint, folder)
        differing = changed_inputs(manifest["inputs"], inputs) if inputs is not None else []
        differing += [f"{name} is made again first" for name in earlier]
        if not differing:
            _tell_versions(step.name, manifest)
        elif folder.ledger()["stages"].get(step.name, {}).get("status") == "stopped":
            notices.say(f"{step.name}: a guard stopped it; begins again, as this changed: {_listed(differing)}")
            folder.forget_checkpoints(step.name)
        else:
            raise RunError(_refusal(step.name, manifest, differing, folder))


def _tell_versions(stage: str, manifest: Mapping[str, Any]) -> None:
    before, now = manifest.get("versions", {}), versions()
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        listed = _listed([f"{name} {before.get(name)} -> {now.get(name)}" for name in changed])
        notices.warn(
            f"{stage}: goes on under other versions than it began with: {listed}. The result is sound, but not to the "
            "bit that of an unbroken run"
        )


def _refusal(stage: str, manifest: Mapping[str, Any], differing: Sequence[str], folder: RunFolder) -> str:
    minutes = manifest.get("seconds", 0) / 60
    return (
        f"{stage}: {manifest['step']:,} steps ({minutes:,.0f} minutes) are done and kept in {folder.path}, but were "
        f"made of something else: {_listed(differing)}. Put it back as it was to go on from there; or drop what is "
        f'kept and begin the stage again: kit run CONFIG --restart {stage} (restart=["{stage}"] in Python); or give '
        "the run another name="
    )


def _listed(differing: Sequence[str]) -> str:
    more = len(differing) - _SHOWN
    return "; ".join(differing[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
