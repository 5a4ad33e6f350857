"""The state of an optimizer in the layout of another library, with a certificate of what that does to its updates."""

from gaudi3_rt.numerics.convert._certificate import Certificate
from gaudi3_rt.numerics.convert._convert import Conversion, Options, convert_state
from gaudi3_rt.numerics.convert._files import convert_file, names_in
from gaudi3_rt.numerics.convert._layouts import LAYOUTS

__all__ = ["LAYOUTS", "Certificate", "Conversion", "Options", "convert_file", "convert_state", "names_in"]
