"""Every mutant by its name: a copy of a plain optimizer with one thing changed, which an audit has to find.

Each has a defect that was found in a published optimizer, or one that is near to such. They override one method of the
plain one, or two where a defect has two places.
"""

import _mutants_numbers
import _mutants_plain
import _mutants_runs
import _mutants_use

PLAIN = {name: one for name, one in vars(_mutants_plain).items() if name.startswith("Plain")}
MUTANTS = {
    name: one
    for module in (_mutants_numbers, _mutants_use, _mutants_runs)
    for name, one in vars(module).items()
    if isinstance(one, type) and one.__module__ == module.__name__
}
globals().update(PLAIN | MUTANTS)
