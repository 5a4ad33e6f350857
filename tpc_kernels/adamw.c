/* AdamW; with AMSGRAD its variant. */
#include "adamw.h"

typedef AdamWConstants Constants;
#define CONSTANTS ADAMW_CONSTANTS
#define read_constants read_adamw_constants
#define step adamw_step

#include "step_main.h"
