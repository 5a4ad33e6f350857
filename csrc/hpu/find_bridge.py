"""Prints where Habana's PyTorch bridge and torch are: CMake lists of include folders, library folders and macros."""

from habana_frameworks.torch.utils import lib_utils  # type: ignore[import-not-found]
from torch import _C
from torch.utils import cpp_extension

print(";".join([lib_utils.get_include_dir(), "/usr/include/habanalabs", *cpp_extension.include_paths()]))
print(";".join([lib_utils.get_lib_dir(), *cpp_extension.library_paths()]))
print(f"_GLIBCXX_USE_CXX11_ABI={int(_C._GLIBCXX_USE_CXX11_ABI)}")
