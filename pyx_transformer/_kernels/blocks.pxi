"""Descriptions compiled: blocks, layers and stacks with their packed weights, and passes of rows
through them, each one call without the GIL. Included by entry.pyx."""

MOST_SUB_LAYERS = SUB_LAYERS


cdef Norm norm_of(NormParameters parameters) noexcept:
    """A norm as layers hold it; None: there is none."""
    if parameters is None:
        return Norm(NULL, NULL, 0.0, -1)
    return Norm(floats_of(parameters.weight), floats_of(parameters.bias), parameters.eps,
                parameters.norm)


cdef Projection projection_of(PackedLinear packed) noexcept:
    """Packed weights as layers hold them; None: there are none."""
    if packed is None:
        return Projection(NULL, NULL, 0, 0)
    return Projection(floats_of(packed.panels), floats_of(packed.padded_bias), packed.out_features,
                      packed.in_features)


cdef class Block:
    """Attention or feed-forward with its weights, and the norms of its sub-layer.

    What the struct points to is kept alive by `kept`.
    """
    cdef SubLayer sub_layer
    cdef object kept

    def with_norms(self, NormParameters before, NormParameters after, NormParameters sum):
        """The block with the norms of a sub-layer; each may be None."""
        cdef Block block = Block()
        block.sub_layer = self.sub_layer
        block.sub_layer.before = norm_of(before)
        block.sub_layer.after = norm_of(after)
        block.sub_layer.sum = norm_of(sum)
        block.kept = self.kept, before, after, sum
        return block


cdef Block empty_block(bint is_attention):
    """A block of that kind with nothing in it."""
    cdef Block block = Block()
    memset(&block.sub_layer, 0, sizeof(SubLayer))
    block.sub_layer.before = block.sub_layer.after = block.sub_layer.sum = norm_of(None)
    block.sub_layer.is_attention = is_attention
    return block


def attention_block(
    PackedLinear query not None, PackedLinear key not None, PackedLinear value not None,
    PackedLinear output not None, *, Py_ssize_t num_heads, Py_ssize_t num_kv_heads,
    bint is_cross=False, bint is_causal=False, Py_ssize_t left=-1, Py_ssize_t right=-1,
    float softcap=0.0, float scale, int rotary=-1, NormParameters query_norm=None,
    NormParameters key_norm=None, const float[:, ::1] distance_bias=None,
):
    """Multi-head attention between projections; rotary is the number of a pass's table, -1 for
    none, distance_bias a padded table: see `set_bias`."""
    cdef Block block = empty_block(True)
    cdef Attention job = no_attention(num_heads, query.out_features // num_heads,
                                      output.in_features // num_heads)
    job.group = num_heads // num_kv_heads
    job.is_causal = is_causal
    job.left = left
    job.right = right
    job.softcap = softcap
    job.scale = scale
    set_bias(&job, distance_bias)
    block.sub_layer.attention.query = projection_of(query)
    block.sub_layer.attention.key = projection_of(key)
    block.sub_layer.attention.value = projection_of(value)
    block.sub_layer.attention.output = projection_of(output)
    block.sub_layer.attention.query_norm = norm_of(query_norm)
    block.sub_layer.attention.key_norm = norm_of(key_norm)
    block.sub_layer.attention.rotary = rotary
    block.sub_layer.attention.is_cross = is_cross
    block.sub_layer.attention.job = job
    block.kept = query, key, value, output, query_norm, key_norm, distance_bias
    return block


def feed_forward_block(PackedLinear linear1 not None, PackedLinear linear2 not None,
                       PackedLinear linear3, int activation):
    """linear2(f(linear1(x))), or with linear3 linear2(f(linear1(x)) * linear3(x))"""
    cdef Block block = empty_block(False)
    block.sub_layer.feed_forward.linear1 = projection_of(linear1)
    block.sub_layer.feed_forward.linear2 = projection_of(linear2)
    block.sub_layer.feed_forward.linear3 = projection_of(linear3)
    block.sub_layer.feed_forward.activation = activation
    block.kept = linear1, linear2, linear3
    return block


cdef class CompiledLayer:
    """Sub-layers, one after another or side by side."""
    cdef Layer layer
    cdef object kept

    def __init__(self, blocks, bint side_by_side):
        cdef Block block
        memset(&self.layer, 0, sizeof(Layer))
        self.kept = tuple(blocks)
        self.layer.side_by_side = side_by_side
        self.layer.count = len(self.kept)
        for i, block in enumerate(self.kept):
            self.layer.sub_layers[i] = block.sub_layer


cdef class CompiledStack:
    """Layers one after another, and the norm after the last one or None; rows have d_model."""
    cdef list layers
    cdef NormParameters final_norm
    cdef readonly Py_ssize_t d_model

    def __init__(self, layers, NormParameters final_norm, Py_ssize_t d_model):
        self.layers = list(layers)
        self.final_norm = final_norm
        self.d_model = d_model

    def __len__(self):
        return len(self.layers)

    def workspace(self, Py_ssize_t m, int n_threads):
        """Bytes that a pass of m rows needs for itself."""
        cdef Attention none = no_attention(0, 0, 0)
        cdef Run run = Run(none, none, NULL, NULL, n_threads, NULL)
        return self.bytes(m, &run)

    cdef Py_ssize_t bytes(self, Py_ssize_t m, const Run* run) noexcept:
        """Bytes of workspace: room for the rows, and what the largest sub-layer needs."""
        cdef CompiledLayer layer
        cdef Py_ssize_t most = 0
        cdef int i
        for layer in self.layers:
            for i in range(layer.layer.count):
                most = max(most, sub_layer_floats(&layer.layer.sub_layers[i], m, self.d_model, run))
        return (m * self.d_model + LINE_FLOATS + most) * sizeof(float)

    cdef int run(self, float* out, const float* x, Py_ssize_t m, const Run* run, list arrays,
                 list hidden) except -1:
        """out (m, d) = all layers on x (m, d), and the final norm; arrays holds each layer's
        `LayerArrays`, hidden is None or takes the rows after each layer."""
        cdef Py_ssize_t d = self.d_model, i, sub_layers = 0
        cdef CompiledLayer layer
        cdef LayerArrays own
        cdef NormParameters final_norm = self.final_norm
        cdef Workspace workspace = Workspace(self.bytes(m, run))
        cdef float* free = lined_up(workspace.floats, m * d)
        cdef float* rows = out
        cdef float* room = workspace.floats
        cdef const float* current = x
        cdef float[:, ::1] after
        for layer in self.layers:
            sub_layers += layer.layer.count
        if sub_layers % 2:  # so that the last one writes to out
            rows, room = room, rows
        for i in range(len(self.layers)):
            layer, own = self.layers[i], arrays[i]
            with nogil:
                run_layer(&rows, &room, current, &layer.layer, m, d, run, &own.arrays, free)
            current = rows
            if hidden is not None:
                after = hidden[i]
                memcpy(floats_of(after), current, m * d * sizeof(float))
        if current != out:
            memcpy(out, current, m * d * sizeof(float))
        if final_norm is not None:
            with nogil:
                final_norm.apply(out, out, m, d, run.n_threads)
        return 0


cdef class LayerArrays:
    """What a layer has of its own in a pass: room for attention's weights (B, H, T, S), and its
    keys and values (N, Hkv K) of the memory; each may be None."""
    cdef Arrays arrays
    cdef object kept

    def __init__(
        self, float[:, ::1] memory_keys=None, float[:, ::1] memory_values=None,
        float[:, :, :, ::1] attention=None, float[:, :, :, ::1] cross_attention=None,
    ):
        self.arrays = no_arrays()
        self.kept = memory_keys, memory_values, attention, cross_attention
        self.arrays.memory_keys = floats_of(memory_keys)
        self.arrays.memory_values = floats_of(memory_values)
        self.arrays.weights = floats_of(attention)
        if attention is not None:
            self.arrays.weights_rows = attention.shape[2]
            self.arrays.weights_columns = attention.shape[3]
        self.set_cross_attention(cross_attention)

    cdef void set_cross_attention(self, float[:, :, :, ::1] weights) noexcept:
        self.arrays.memory_weights = floats_of(weights)
        if weights is not None:
            self.arrays.memory_weights_rows = weights.shape[2]
            self.arrays.memory_weights_columns = weights.shape[3]


cdef class Tables:
    """The tables that queries and keys turn by: pairs of cosines and sines (positions, pairs), each
    with whether pairs are interleaved."""
    cdef Workspace workspace
    cdef Rotary* rotaries
    cdef object kept

    def __init__(self, tables):
        cdef const float[:, ::1] cosines, sines
        self.kept = tuple(tables)
        self.workspace = Workspace(len(self.kept) * sizeof(Rotary))
        self.rotaries = <Rotary*>self.workspace.floats
        for i, (cosines, sines, is_interleaved) in enumerate(self.kept):
            self.rotaries[i] = Rotary(floats_of(cosines), floats_of(sines), cosines.shape[1],
                                      is_interleaved)

    def __len__(self):
        """Positions that all tables have."""
        return min([len(cosines) for cosines, _, _ in self.kept])


cdef const Rotary* rotaries_of(Tables tables) noexcept:
    """The tables as layers read them; NULL for None."""
    return NULL if tables is None else tables.rotaries


cdef class Pass:
    """One pass of the rows (N, d) of a batch: sequence b has counts[b] of them, from row starts[b]
    on, the first at place offsets[b] of its keys. Without a cache its keys are the same rows'.

    memory_starts, memory_counts: where each sequence's keys and values lie in the layers' arrays.
    """
    cdef Run run
    cdef list arrays
    cdef object kept

    def __init__(
        self, const int64_t[::1] starts, const int64_t[::1] counts, const int64_t[::1] offsets,
        list arrays, *, const int64_t[::1] position_ids=None, Tables tables=None,
        const int64_t[::1] memory_starts=None, const int64_t[::1] memory_counts=None, mask=None,
        memory_mask=None, bint memory_is_causal=False,
    ):
        cdef Attention own = no_attention(0, 0, 0), cross
        self.arrays = arrays
        self.kept = (starts, counts, offsets, position_ids, tables, memory_starts, memory_counts,
                     mask, memory_mask)
        own.query_starts = own.key_starts = integers_of(starts)
        own.query_counts = own.key_counts = integers_of(counts)
        own.offsets = integers_of(offsets)
        own.batch = counts.shape[0]
        cross = own
        cross.is_causal = memory_is_causal
        set_mask(&own, mask)
        set_mask(&cross, memory_mask)
        if memory_starts is not None:
            cross.key_starts = integers_of(memory_starts)
            cross.key_counts = integers_of(memory_counts)
        self.run = Run(own, cross, rotaries_of(tables), integers_of(position_ids), 1, NULL)


def run_stack(float[:, ::1] out, const float[:, ::1] x, CompiledStack stack not None,
              Pass passing not None, list hidden, int n_threads):
    """out (N, d) = the rows x (N, d) through all layers and the final norm; hidden, a list of
    arrays (N, d) or None, takes them after each layer."""
    cdef Run run = passing.run
    cdef double unheard = 0.0
    run.n_threads = n_threads
    run.unheard = &unheard
    stack.run(floats_of(out), floats_of(x), x.shape[0], &run, passing.arrays, hidden)


def run_block(float[:, ::1] out, const float[:, ::1] x, Block block not None,
              Pass passing, int n_threads):
    """out (N, d) = block(x (N, d)), without a residual; feed-forward needs no pass."""
    cdef Py_ssize_t m = x.shape[0], d = x.shape[1]
    cdef Attention none = no_attention(0, 0, 0)
    cdef Run run = Run(none, none, NULL, NULL, n_threads, NULL)
    cdef Arrays arrays = no_arrays()
    cdef Workspace workspace
    cdef double unheard = 0.0
    if passing is not None:
        run = passing.run
        arrays = (<LayerArrays>passing.arrays[0]).arrays
    run.n_threads = n_threads
    run.unheard = &unheard
    workspace = Workspace(sub_layer_floats(&block.sub_layer, m, d, &run) * sizeof(float))
    with nogil:
        run_rows(floats_of(out), floats_of(x), NULL, &block.sub_layer, m, d, &run, &arrays,
                 workspace.floats)


def project_memory(
    float[:, ::1] keys, float[:, ::1] values, const float[:, ::1] key_rows,
    const float[:, ::1] value_rows, Block block not None, int n_threads,
):
    """keys (N, Hkv K), values (N, Hkv Kv) = a cross-attention's of the memory's rows (N, d)."""
    cdef Py_ssize_t m = key_rows.shape[0]
    cdef Projection key = block.sub_layer.attention.key, value = block.sub_layer.attention.value
    cdef Attention job = block.sub_layer.attention.job
    cdef double unheard = 0.0
    cdef Product jobs[2]
    with nogil:
        jobs[0] = projected(floats_of(keys), floats_of(key_rows), &key, m)
        jobs[1] = projected(floats_of(values), floats_of(value_rows), &value, m)
        products(jobs, 2, n_threads, &unheard)
        apply_norm(jobs[0].out, jobs[0].out, &block.sub_layer.attention.key_norm,
                   m * (job.heads // job.group), job.key_size, n_threads)
