// The only list of weight formats. Counterpart: formats.h.
#include "quant/formats.h"
