"""Legacy names: arguments, defaults and formulas of other packages, to change an import line and see what differs."""
