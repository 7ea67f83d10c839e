/* What kernels depend on besides their arguments. This is the default; a generated project has its recipe's. */
#ifndef ODL_CONFIG_H
#define ODL_CONFIG_H

#ifndef ODL_ACCUMULATE_FP16
#define ODL_ACCUMULATE_FP16 0 /* sums of products: 0 binary32, 1 two binary16 lanes */
#endif

#endif
