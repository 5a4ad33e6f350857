"""What a scrape gets, as a dictionary; in both formats of Prometheus, which have to agree."""

from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from gaudi3_rt.metrics import PREFIX


def scrape(registry, *, rank="0"):
    """Values by name without the prefix, then by labels without the rank, as text ``a=1,b=2``."""
    found, twice = scrape_text(registry, rank=rank), set()
    for name, samples in _read(parse_openmetrics(openmetrics.generate_latest(registry).decode()), rank).items():
        assert samples.keys() == found[name].keys()
        twice.add(name)
    assert twice == found.keys()
    return found


def scrape_text(registry, *, rank="0"):
    """The same in the older format alone, for figures that change meanwhile."""
    return _read(parse(generate_latest(registry).decode()), rank)


def of_section(figures, *sections):
    """Those whose names begin so."""
    return {name: samples for name, samples in figures.items() if name.startswith(sections)}


def _read(families, rank):
    found = {}
    for family in families:
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("rank") == rank
            key = ",".join(f"{label}={value}" for label, value in sorted(labels.items()))
            samples = found.setdefault(sample.name.removeprefix(PREFIX), {})
            assert key not in samples
            samples[key] = sample.value
    return found
