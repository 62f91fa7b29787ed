"""Hardware raises 2 to powers, not e: kernels measure exponents in units of ln 2."""

import math

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
