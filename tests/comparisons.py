"""Settings of comparisons from the names of their fields, whatever their section."""

from secateur.pipeline import CompareSettings


def compare_settings(**fields):
    """Of fields by name, as ``compare_settings(criteria=("lrp",), repeats=0)``; retraining's are ``retrain_NAME``."""
    found = {}
    for name, value in fields.items():
        section, key = _place(name)
        found.setdefault(section, {})[key] = value
    return CompareSettings(**found)


def _place(name):
    if name.startswith("retrain_"):
        return "retraining", name.removeprefix("retrain_")
    if name.startswith("timed_"):
        return "timed", name.removeprefix("timed_")
    sections = ("variants", "targets", "sampling", "timing", "execution")
    fields = CompareSettings.model_fields
    return next((section, name) for section in sections if name in fields[section].annotation.model_fields)
