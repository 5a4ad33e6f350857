/* Included first by a kernel that steps elements one by one, after it has said how many STATES it keeps: what its
   step() takes and gives back. It then defines Constants, read_constants() and step(), and ends with step_main.h. */
#ifndef GAUDI3_RT_TPC_STEP_H
#define GAUDI3_RT_TPC_STEP_H

#include "elements.h"
#include "roots.h"

#if STATES == 0
#define EACH_STATE(X)
#elif STATES == 1
#define EACH_STATE(X) X(0)
#elif STATES == 2
#define EACH_STATE(X) X(0) X(1)
#elif STATES == 3
#define EACH_STATE(X) X(0) X(1) X(2)
#endif

#define STATE_FIELD(k) float64 state##k;
typedef struct {
  float64 param, grad;
  EACH_STATE(STATE_FIELD)
} Elements;

#endif
