from pyx_transformer._kernels._entry import *
