"""Activation patching: patch a component's value from one run into another, and see how much of the behaviour comes or goes.

There are two directions, named as in Heimersheim & Nanda (2024, arXiv:2404.15255). **Denoising** puts clean values into the
corrupted run and finds what is *sufficient* to restore the behaviour. **Noising** puts corrupted (or otherwise ablated) values
into the clean run and finds what is *necessary* for it. Everything downstream of the patch is recomputed in full: this is not
path patching. The defaults follow Zhang & Nanda (2023, arXiv:2309.16042): corrupted prompts that differ in a few tokens instead
of noise, and the logit difference as the metric.

Deviations:

* Effects are signed: a positive effect always means that the component helps the clean behaviour, for every direction and
  metric.
* The share of metric(clean) - metric(corrupted) is a ratio of means over prompts, not a mean of ratios.
* A head's value is what it writes to the residual stream, so a patched mean is the mean of writes.
"""

from __future__ import annotations

import warnings

from circuitfind.errors import OptionError
from circuitfind.patching.component_effects import ALL, PatchingEffects
from circuitfind.patching.patched_runs import DENOISING, NOISING, measure_patches
from circuitfind.patching.sites import Components, patches_of
from circuitfind.setting.defaults import N_PATCHED
from circuitfind.setting.pieces import in_setting
from circuitfind.setting.value import Setting
from circuitfind.task.spans import PARTS_AXES, about_positions


@in_setting(N_PATCHED)
def activation_patch(
    setting: Setting,
    what: Components = "head",
    *,
    by: str = "",
    direction: str = DENOISING,
    split: str = "train",
    per_example: bool = True,
) -> PatchingEffects:
    """The effect of patching components, at every part of the prompt or at all positions at once.

    Args:
        what: ``"residual"`` (the residual stream before every block, and the final one), ``"head"``, ``"mlp"``,
            ``"attention"`` (all heads of a layer together), ``"node"`` (every sender); or one component by name
            (``"a3.h5"``, ``"m1"``, ``"input"``, ``"m3.n17"``, ``"resid_mid.2"``); or a list of names, patched together; or a
            list of such lists, patched one after the other.
        by: ``"position"`` (absolute positions), ``"span"`` (the labelled tokens of the task), ``"length"``
            (positions, for every length of prompt by itself), or ``""`` for all at once.
        direction: ``"denoising"`` or ``"noising"``. Noising takes its values from the setting's ablation; denoising is only
            defined for ``"corrupted"``.
        per_example: keep the effect on every prompt, not only the means.

    A prompt without a part (a position beyond its end, or a label it does not have) does not count for that part.

    Raises:
        OptionError: an unsupported direction, ablation or kind of component, or parts that the pairs do not have.
        UnknownNameError: a component that the model does not have.

    Example:
        >>> import circuitfind as cf
        >>> found = cf.activation_patch("induction-2l", "induction", "head", n=8)
        >>> found.values.shape
        (16, 1)
    """
    check_options(by, direction, setting.ablated_by)
    setting.require_corrupted()
    patches = patches_of(setting.transformer, what)
    names = [name for name, _ in patches]
    options = {"what": what if isinstance(what, str) else names, "by": by, "direction": direction}
    problem = setting.problem(split, parts=by, algorithm="activation-patching", options=options)
    if note := about_positions(problem.pairs, by):
        warnings.warn(note, stacklevel=3)
    return PatchingEffects.of(
        measure_patches(problem, [patch for _, patch in patches], direction),
        names,
        problem.spans.labels if problem.spans else (ALL,),
        direction=direction,
        by=by,
        sign=problem.metric.sign,
        provenance=problem.provenance,
        per_example=per_example,
    )


def check_options(by: str, direction: str, ablation: str) -> None:
    """Refuse unsupported options, before anything is loaded.

    Raises:
        OptionError: the message says what is supported.
    """
    if direction not in (DENOISING, NOISING):
        raise OptionError(
            f"direction {direction!r}: use {DENOISING!r} (clean values into the corrupted run) or {NOISING!r}"
        )
    if by not in ("", *PARTS_AXES):
        raise OptionError(f"by={by!r}: use 'position', 'span', 'length' or '' (all positions at once)")
    if direction == DENOISING and ablation != "corrupted":
        raise OptionError(
            f"denoising puts clean values into the corrupted run, and {ablation} ablation has no run to put them into; use "
            f"ablation='corrupted', or direction={NOISING!r}"
        )
