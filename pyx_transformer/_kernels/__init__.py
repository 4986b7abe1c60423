"""The compiled kernels: who calls whom.

    ops, layers, stacks, generation, training          Python: checks, allocates, makes one call
      |
      |   _runtime                                     asks cpu what the CPU runs, imports one of
      |                                                the four modules below, counts the threads
      v
    x86_64_v2  x86_64_v3  x86_64_v4  neon              the same source, once per instruction set:
      v
    entry.pyx                                          memoryviews to pointers, workspace, nogil
      |- layer.pxi      what a description compiles to, and the one function that runs it: norms,
      |                 projections, caches, attention, feed-forward, residuals
      |- blocks.pxi     the classes that hold it; passes of rows through blocks and whole stacks
      |- caches.pxi     keys and values in pages; steps that add to them, through layer.pxi
      |- hypotheses.pxi, steps.pxi, searching.pxi    the search: its rows, their logits, its choices
      |- gradients.pxi  what inputs and parameters get back; the optimizer's step
      v
    the .pxd files                                     loops over raw pointers, without the GIL;
                                                       each one calls those on lines below its own:

      attention  attention_gradient                    a block of keys at a time, packed; and back
      attention_step                                   one query, unpacked: a step of decoding
      weight_gradient                                  what a product's weight and bias get back
      attention_job  product                           what is asked for, bounds and masks; x w^T
      sampling  rules                                  next tokens: drawn, and banned
      candidates  loss  optimizer                      best next tokens; cross-entropy; AdamW
      norm  tile                                       norms, softmax, and back; a tile of x w^T
      activation  dropout  embedding  packing  philox  rotary
      shards                                           sums over rows in the order of a tree
      threads  scratch                                 shares of work; memory of a thread
      simd.pxd                                         declares simd.h
        simd.h                                         the one file that knows the instruction set

The functions of a .pxd are inlined into the module that includes them, so that every instruction
set has its own, compiled with its own flags; those called `apart`, see simd.h, are compiled once a
module: what threads share out, and attention's tiles. A kernel takes a struct that says all it is
asked for, with one constructor that sets every field; `in_parallel` hands it to each thread with
the number of its share. Sums are never split between threads.

cpu.pyx is compiled for the oldest CPU: it says which of the modules this one runs, and ends the
threads of OpenMP before a fork. _entry.pyi lists what every variant offers, and each one's stub is
all of it.

A new kernel is a .pxd at its level, an entry point in one of the .pxi files, a line in _entry.pyi,
and a checked function in Python. A new instruction set is a branch of simd.h, its name and flags in
setup.py, and a stub.
"""
