/* How kernels cut their tensors: included by the kernels (C99, TPC-C) and by everything in C++ that has to agree. */
#ifndef GAUDI3_RT_TPC_GEOMETRY_H
#define GAUDI3_RT_TPC_GEOMETRY_H

/* All kernels see a tensor as one row of elements. A member of the index space takes kMemberElements of them, so the
   last one may reach past the end: its loads are padded there, its stores dropped. */
#define G3RT_MEMBER_ELEMENTS 2048

/* Shards that are added up at once: rows of a tensor, 1 to so many. */
#define G3RT_MAX_SHARDS 64

/* Elements that share a scale in the int8 format. */
#define G3RT_BLOCK_ELEMENTS 256

#endif
