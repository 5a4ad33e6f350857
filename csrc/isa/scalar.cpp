// The scalar build: only the flags in CMakeLists.txt differ between these files.
#define GAUDI3_RT_TABLE gaudi3_rt_table_scalar
#include "body.h"
