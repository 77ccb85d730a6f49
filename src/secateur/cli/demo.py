"""secateur demo."""

from __future__ import annotations

from pathlib import Path

from secateur.cli.options import DeviceOption, DryOption, OutOption, PrintOption, SetOption, begin, recipe_from


def command(
    device: DeviceOption = None,
    overrides: SetOption = None,
    out: OutOption = Path("out/demo"),
    print_config: PrintOption = False,
    dry_run: DryOption = False,
) -> None:
    """Train on digits, prune by four criteria, report.

    Real digits; to a fifth of the MACs; with an epoch of fine-tuning.
    """
    recipe = recipe_from("demo", overrides, device=device)
    if not begin(recipe, "demo", out, print_config):
        return
    from secateur.cli.demonstration import demonstrate
    from secateur.cli.present import show_plan
    from secateur.pipeline.jobs import TrainJob

    job = TrainJob.of(recipe)
    if dry_run:
        show_plan(job, out)
        return
    demonstrate(job, out)
