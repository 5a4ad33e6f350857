// The avx2 build: only the flags in CMakeLists.txt differ between these files.
#define GAUDI3_RT_TABLE gaudi3_rt_table_avx2
#include "body.h"
