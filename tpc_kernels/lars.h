/* Where the constants of csrc/kernels/lars.h stand among the scalars. */
#ifndef GAUDI3_RT_TPC_LARS_H
#define GAUDI3_RT_TPC_LARS_H

#define RATE 0
#define TRUST_COEFF 1
#define DECAY 2
#define EPS_NORM 3
#define LR 4
#define MOMENTUM 5
#define ONE_MINUS_DAMPENING 6
#define WEIGHT_DECAY 7
/* Number 8 is the ratio of before the norms are known. */
#define CLIPS 9
#define ADAPTS 10
#define CONSTANTS 11

#endif
