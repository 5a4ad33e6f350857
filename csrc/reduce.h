// Reductions over lists of tensors: equal bits for any number of threads and any way of cutting the list into calls.
#pragma once
#include <vector>

#include "chunks.h"
#include "formulas.h"
#include "table.h"

namespace gaudi3_rt {

// One number per tensor. chunks describes the lengths of the tensors whose memory `tensors` gives.
std::vector<double> reduce(const IsaTable& table, ReductionId reduction, const Chunks& chunks,
                           const std::vector<Operand>& tensors, int n_threads);

// One partial result per chunk to one result per tensor, in order.
std::vector<double> fold(ReductionId reduction, const Chunks& chunks, const std::vector<double>& partial);

}  // namespace gaudi3_rt
