// Which ISA builds can run on this machine.
#pragma once
#include <vector>

#include "table.h"

namespace gaudi3_rt {

// The builds that this CPU can run, fastest first; never empty.
const std::vector<const IsaTable*>& isa_tables();

}  // namespace gaudi3_rt
