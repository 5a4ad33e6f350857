"""Cases of a test that are too small to be tests: each would take longer to set up than to run."""

import functools
import inspect
import itertools

from _problems import check_all


def for_all(**axes):
    """Runs a test with every combination of these arguments, as one test that names all combinations that fail.

    Fixtures are those of the one test: what is for one case alone, the test makes itself.
    """

    def decorate(test):
        signature = inspect.signature(test)

        @functools.wraps(test)
        def run(**fixtures):
            check_all(
                itertools.product(*axes.values()),
                lambda *case: test(**fixtures, **dict(zip(axes, case, strict=True))),
            )

        fixtures = [parameter for name, parameter in signature.parameters.items() if name not in axes]
        assert len(fixtures) + len(axes) == len(signature.parameters), f"{test.__name__} has no parameter of this name"
        run.__signature__ = signature.replace(parameters=fixtures)
        return run

    return decorate
