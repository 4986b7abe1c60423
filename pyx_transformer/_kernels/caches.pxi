"""Keys and values of the tokens so far, in pages, and steps through all layers that add to them.
Included by entry.pyx."""

from libc.stdlib cimport realloc

cdef enum:
    FEWEST_PAGES = 8    # that are made at once


cdef class Pages:
    """Keys and values of a stack's layers, of its own tokens or of a memory, PAGE tokens a page.

    A page holds (layers, 2, heads, PAGE, row) floats: heads are those of the layer that has most,
    row is the largest size of keys and values. Sequences take pages and give them back; where none
    is left, there are soon half as many more. Pages never move, so that tables of places hold
    addresses, in floats.
    """
    cdef object __weakref__
    cdef readonly Py_ssize_t count      # pages, taken or not
    cdef Py_ssize_t row, heads, layers, free_count
    cdef list chunks
    cdef int64_t[::1] free_pages

    def __init__(self, CompiledStack stack not None, bint is_memory):
        cdef CompiledLayer layer
        cdef AttentionBlock* block
        self.row = self.heads = self.count = self.free_count = 0
        self.layers = len(stack.layers)
        self.chunks = []
        self.free_pages = np.empty(0, np.int64)
        for layer in stack.layers:
            block = attention_in(&layer.layer, is_memory)
            if block != NULL:
                self.heads = max(self.heads, block.job.heads // block.job.group)
                self.row = max(self.row, block.job.key_size, block.job.value_size)

    cdef Py_ssize_t page(self) noexcept:
        """Floats of a page."""
        return self.layers * 2 * self.heads * PAGE * self.row

    cdef Py_ssize_t offset(self, Py_ssize_t layer, int is_value) noexcept:
        """Where a layer's keys, or values, begin in a page."""
        return (2 * layer + is_value) * self.heads * PAGE * self.row

    cdef int64_t take(self) except -1:
        """The place of a page that nobody holds."""
        if self.free_count == 0:
            self.grow(max(<Py_ssize_t>FEWEST_PAGES, self.count // 2))
        self.free_count -= 1
        return self.free_pages[self.free_count]

    cdef void give(self, int64_t page) noexcept:
        """Take a page back."""
        self.free_pages[self.free_count] = page
        self.free_count += 1

    cdef int grow(self, Py_ssize_t more) except -1:
        """So many pages more."""
        cdef float[::1] chunk = aligned_floats(more * self.page())
        cdef int64_t first = <int64_t>(<uintptr_t>floats_of(chunk) // sizeof(float)), i
        free_pages = np.empty(self.count + more, np.int64)
        free_pages[:self.free_count] = self.free_pages[:self.free_count]
        self.free_pages = free_pages
        self.chunks.append(chunk)
        self.count += more
        for i in range(more - 1, -1, -1):
            self.give(first + i * self.page())
        return 0

    def bytes_of(self, Py_ssize_t length):
        """Bytes that a sequence of so many tokens takes."""
        return (length + PAGE - 1) // PAGE * self.page() * sizeof(float)

    @property
    def nbytes(self):
        """Bytes of all pages, taken or not."""
        return self.count * self.page() * sizeof(float)


cdef AttentionBlock* attention_in(Layer* layer, bint is_cross) noexcept:
    """A layer's self-attention or cross-attention; NULL where it has none."""
    cdef int i
    for i in range(layer.count):
        if layer.sub_layers[i].is_attention and layer.sub_layers[i].attention.is_cross == is_cross:
            return &layer.sub_layers[i].attention
    return NULL


cdef PageLayout layout_of(Pages pages, Py_ssize_t layer) noexcept:
    """Where a layer's keys and values lie in a page."""
    return PageLayout(pages.offset(layer, False), pages.offset(layer, True), PAGE * pages.row)


cdef class Past:
    """Where the keys and values of a sequence's tokens lie.

    Each is in a page of its own or, before it was copied, in one of the sequence that it was copied
    from.
    """
    cdef Pages pages
    cdef readonly Py_ssize_t length     # tokens held
    cdef Py_ssize_t room                # tokens that there are places for
    cdef int64_t* places                # (room)
    cdef int64_t* taken                 # (room / PAGE): a page for each PAGE tokens; 0: not yet

    def __cinit__(self, Pages pages not None):
        self.pages = pages
        self.length = self.room = 0
        self.places = self.taken = NULL

    def __dealloc__(self):
        free(self.places)
        free(self.taken)

    cdef int reserve(self, Py_ssize_t count) except -1:
        """Places for `count` tokens after those held."""
        cdef Py_ssize_t end = self.length + count, i, block
        self.widen(end)
        for i in range(self.length, end):
            block = i // PAGE
            if self.taken[block] == 0:
                self.taken[block] = self.pages.take()
            self.places[i] = self.taken[block] + i % PAGE * self.pages.row
        return 0

    cdef int widen(self, Py_ssize_t length) except -1:
        """Room for so many tokens."""
        cdef Py_ssize_t room = max(length + PAGE - 1, 2 * self.room) // PAGE * PAGE, i
        if length <= self.room:
            return 0
        self.places = <int64_t*>longer(self.places, room * sizeof(int64_t))
        self.taken = <int64_t*>longer(self.taken, room // PAGE * sizeof(int64_t))
        for i in range(self.room // PAGE, room // PAGE):
            self.taken[i] = 0
        self.room = room
        return 0

    cdef int copy(self, Past other) except -1:
        """Hold what another sequence holds, where that has it."""
        self.widen(other.length)
        memcpy(self.places, other.places, other.length * sizeof(int64_t))
        self.length = other.length
        return 0

    cdef void release(self) noexcept:
        """Hold nothing, and give all pages back: no sequence may hold a copy of it any more."""
        cdef Py_ssize_t i
        for i in range(self.room // PAGE):
            if self.taken[i] != 0:
                self.pages.give(self.taken[i])
                self.taken[i] = 0
        self.length = 0


cdef void* longer(void* array, Py_ssize_t size) except NULL:
    """An array with room for so many bytes, what was in it included."""
    cdef void* moved = realloc(array, size)
    if moved == NULL:
        raise MemoryError(f"an array of {size} bytes does not fit in memory")
    return moved


cdef class Cache:
    """A decoder's stack with the keys and values of the sequences that it decodes.

    embedding_of(positions) -> (table, scale, positions, norm, tables, reach) says how tokens at
    least up to that position are embedded, as norm(table[ids] scale + positions), positions and
    norm being None where there are none; what layers turn queries and keys by; and how far these
    reach.
    """
    cdef CompiledStack stack
    cdef readonly Pages own, memory
    cdef list arrays
    cdef object embedding_of
    cdef const float[:, ::1] table, positions
    cdef float scale
    cdef NormParameters embedding_norm
    cdef Tables tables
    cdef Py_ssize_t reach

    def __init__(self, CompiledStack stack not None, embedding_of):
        cdef LayerArrays arrays
        cdef Py_ssize_t i
        self.stack = stack
        self.own, self.memory = Pages(stack, False), Pages(stack, True)
        self.arrays = [LayerArrays() for _ in stack.layers]
        for i in range(len(self.arrays)):
            arrays = self.arrays[i]
            arrays.arrays.own = layout_of(self.own, i)
            arrays.arrays.memory = layout_of(self.memory, i)
        self.embedding_of = embedding_of
        self.reach = -1

    def sequence(self):
        """A new sequence that holds nothing."""
        return Past(self.own)

    def memories(self, const int64_t[::1] counts not None):
        """Memories of so many rows each, which `remember` fills."""
        cdef Past memory
        cdef Py_ssize_t pages = -self.memory.free_count, count
        made = []
        for count in counts:
            pages += (count + PAGE - 1) // PAGE
        if pages > 0:
            self.memory.grow(pages)
        for count in counts:
            memory = Past(self.memory)
            memory.reserve(count)
            memory.length = count
            made.append(memory)
        return made

    def remember(self, Py_ssize_t layer, list memories not None, const float[:, ::1] keys not None,
                 const float[:, ::1] values not None):
        """A layer's keys and values (N, Hkv K) of all rows of these memories, one after another."""
        cdef Py_ssize_t batch = len(memories), row = 0, b
        cdef Workspace numbers = Workspace(4 * batch * sizeof(int64_t))
        cdef int64_t* starts = <int64_t*>numbers.floats
        cdef int64_t* counts = starts + batch
        cdef int64_t* offsets = counts + batch
        cdef const int64_t** places = <const int64_t**>(offsets + batch)
        cdef Past memory
        cdef AttentionBlock* block
        for b in range(batch):
            memory = memories[b]
            starts[b], counts[b], offsets[b] = row, memory.length, 0
            places[b] = memory.places
            row += memory.length
        block = attention_in(&(<CompiledLayer>self.stack.layers[layer]).layer, True)
        scatter_heads(&(<LayerArrays>self.arrays[layer]).arrays.memory, floats_of(keys),
                      floats_of(values), starts, counts, places, offsets, batch, &block.job)

    cdef int embed(self, float* out, const int64_t* ids, const int64_t* position_ids, Py_ssize_t m,
                   Py_ssize_t positions, int n_threads) except -1:
        """out (m, d) = tokens at their positions, all below `positions`."""
        cdef Lookup lookup
        if positions > self.reach:
            (self.table, self.scale, self.positions, self.embedding_norm, self.tables,
             self.reach) = self.embedding_of(positions)
        lookup = Lookup(out, ids, floats_of(self.table), floats_of(self.positions), position_ids, m,
                        self.stack.d_model, self.scale)
        with nogil:
            embed_all(&lookup, n_threads)
        if self.embedding_norm is not None:
            self.embedding_norm.apply(out, out, m, self.stack.d_model, n_threads)
        return 0

    cpdef int append(
        self, float[:, ::1] out, const int64_t[::1] ids, list pasts, const int64_t[::1] counts,
        list memories, float[:, :, :, ::1] cross_weights, int n_threads,
    ) except -1:
        """out (N, d): the next tokens, ids (N), through embedding, all layers and the norm.

        counts[b] of them come after what sequence pasts[b] holds, which they are added to; its
        memory is memories[b], None for a stack without cross-attention. cross_weights (groups, H,
        rows, S) takes the last layer's weights of the memory, a group being a run of sequences with
        one memory.
        """
        cdef Py_ssize_t m = ids.shape[0], batch = len(pasts), row = 0, groups = 0, most = 0, b, i
        cdef Workspace numbers
        cdef int64_t* starts
        cdef int64_t* offsets
        cdef int64_t* totals
        cdef int64_t* position_ids
        cdef int64_t* group
        cdef const int64_t** places
        cdef Attention own = no_attention(0, 0, 0), cross
        cdef Run run
        cdef Past past, memory, before = None
        cdef double unheard = 0.0
        if m == 0:
            return 0
        numbers = Workspace((9 * batch + m) * sizeof(int64_t))
        starts = <int64_t*>numbers.floats
        offsets = starts + batch
        totals = offsets + batch
        places = <const int64_t**>(totals + batch)
        group = totals + 2 * batch  # starts, counts, zeros, the memory's lengths and its places
        position_ids = group + 5 * batch
        for b in range(batch):
            past, memory = pasts[b], memories[b]
            past.reserve(counts[b])
            starts[b] = row
            offsets[b] = past.length
            totals[b] = past.length + counts[b]
            places[b] = past.places
            most = max(most, totals[b])
            for i in range(offsets[b], totals[b]):
                position_ids[row] = i
                row += 1
            if memory is None:
                continue
            if memory is not before:
                group[groups] = starts[b]
                group[batch + groups] = 0
                group[2 * batch + groups] = 0
                group[3 * batch + groups] = memory.length
                group[4 * batch + groups] = <int64_t><uintptr_t>memory.places
                groups += 1
                before = memory
            group[batch + groups - 1] += counts[b]
        self.embed(floats_of(out), integers_of(ids), position_ids, m, most, n_threads)
        own.query_starts = own.key_starts = starts
        own.query_counts = integers_of(counts)
        own.key_counts = totals
        own.key_rows = places
        own.offsets = offsets
        own.batch = batch
        cross = own
        cross.query_starts = group
        cross.query_counts = group + batch
        cross.key_starts = cross.offsets = group + 2 * batch
        cross.key_counts = group + 3 * batch
        cross.key_rows = <const int64_t**>(group + 4 * batch)
        cross.batch = groups
        run = Run(own, cross, rotaries_of(self.tables), position_ids, n_threads, &unheard)
        if self.arrays:
            (<LayerArrays>self.arrays[len(self.arrays) - 1]).set_cross_attention(cross_weights)
        self.stack.run(floats_of(out), floats_of(out), m, &run, self.arrays, None)
        for b in range(batch):  # not before: an interrupted pass has added nothing
            past = pasts[b]
            past.length = totals[b]
        return 0
