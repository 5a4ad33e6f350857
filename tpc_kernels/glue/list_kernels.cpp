// Prints the kernels of the registry, one a line: name, source and defines with tabs between. embed.py reads it.
#include <cstdio>

#include "../registry.h"

int main() {
  for (const auto& kernel : gaudi3_rt::tpc::kKernels) {
    std::printf("%s\t%s\t%s\n", kernel.name, kernel.source, kernel.defines);
  }
}
