// Causal attention on tensor cores: bf16 factors, f32 sums, no scores in the device's memory.
//
// The forward pass keeps the highest score and the sum of exponentials of each query (online soft-max, arXiv 2205.14135);
// the backward pass computes probabilities again from the logarithms of these sums, once with queries as rows for the
// gradient of queries, and once with keys as rows for those of keys and values. So nothing is added by several blocks to one
// place, and the order of all sums is fixed.
//
// HEAD_DIM, a multiple of 16, is an option of the compiler, and LITTLE_MEMORY for devices whose blocks have less than 104 KiB
// of shared memory (attention.rs knows how much each kernel takes). Rows of tiles are eight numbers longer than they need to be, so
// that the eight rows that a warp reads at once lie in different banks.

typedef unsigned int u32;
typedef unsigned short bf16;

#define WARPS 4
#define THREADS (WARPS * 32)
#define STRIDE (HEAD_DIM + 8)
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f
#define MINUS_INFINITY __int_as_float(0xff800000)

// Rows of queries for each warp (in pieces of 16), and keys of a step: forward, and gradient of queries.
#define FORWARD_PIECES 2
#define QUERY_PIECES 2
// Keys of a block, and queries of a step: gradients of keys and values.
#define KEY_ROWS (WARPS * 16)
#ifdef LITTLE_MEMORY
#define FORWARD_KEYS 32
#define QUERY_KEYS 16
#define KEY_QUERIES 32
#else
#define FORWARD_KEYS 64
#define QUERY_KEYS 32
#define KEY_QUERIES 64
#endif

__device__ __forceinline__ u32 shared_address(const void* pointer) {
    return (u32)__cvta_generic_to_shared(pointer);
}

// Copies 16 bytes to shared memory, or writes zeros.
__device__ __forceinline__ void copy_16(u32 to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0));
}

__device__ __forceinline__ void copy_4(u32 to, const void* from, bool there) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(there ? 4 : 0));
}

__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;"); }

__device__ __forceinline__ void wait_all() { asm volatile("cp.async.wait_group 0;"); }

__device__ __forceinline__ void load_matrices(u32 (&to)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from));
}

__device__ __forceinline__ void load_transposed(u32 (&to)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from));
}

__device__ __forceinline__ void multiply_add(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ u32 rounded(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ float exp_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Starts to load `ROWS` rows of HEAD_DIM numbers that are `row_stride` apart; those from `valid` on become zeros.
template <int ROWS>
__device__ __forceinline__ void load_tile(bf16* tile, const bf16* rows, size_t row_stride, int valid) {
    const int pieces = HEAD_DIM / 8;
#pragma unroll
    for (int at = threadIdx.x; at < ROWS * pieces; at += THREADS) {
        const int row = at / pieces, column = at % pieces * 8;
        const bool there = row < valid;
        copy_16(shared_address(tile + row * STRIDE + column), rows + (there ? row : 0) * row_stride + column, there);
    }
}

// sum[PIECES * 16, COLUMNS] += a[rows of this warp, HEAD_DIM] * b[COLUMNS, HEAD_DIM]^T
template <int PIECES, int COLUMNS>
__device__ __forceinline__ void multiply_rows(float (&sum)[PIECES][COLUMNS / 8][4], const bf16* a, const bf16* b) {
    const int lane = threadIdx.x % 32;
    const u32 from_a = shared_address(a + (lane & 15) * STRIDE + (lane >> 4) * 8);
    const u32 from_b = shared_address(b + ((lane & 7) + (lane >> 4) * 8) * STRIDE + (lane >> 3 & 1) * 8);
#pragma unroll
    for (int depth = 0; depth < HEAD_DIM / 16; ++depth) {
        u32 left[PIECES][4];
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece) {
            load_matrices(left[piece], from_a + (piece * 16 * STRIDE + depth * 16) * 2);
        }
#pragma unroll
        for (int column = 0; column < COLUMNS / 16; ++column) {
            u32 right[4];
            load_matrices(right, from_b + (column * 16 * STRIDE + depth * 16) * 2);
#pragma unroll
            for (int piece = 0; piece < PIECES; ++piece) {
                multiply_add(sum[piece][2 * column], left[piece], right[0], right[1]);
                multiply_add(sum[piece][2 * column + 1], left[piece], right[2], right[3]);
            }
        }
    }
}

// sum[PIECES * 16, HEAD_DIM] += a[PIECES * 16, DEPTH], rounded, * b[DEPTH, HEAD_DIM]
template <int PIECES, int DEPTH>
__device__ __forceinline__ void multiply_columns(
    float (&sum)[PIECES][HEAD_DIM / 8][4], const float (&a)[PIECES][DEPTH / 8][4], const bf16* b) {
    const int lane = threadIdx.x % 32;
    const u32 from_b = shared_address(b + (lane & 15) * STRIDE + (lane >> 4) * 8);
#pragma unroll
    for (int depth = 0; depth < DEPTH / 16; ++depth) {
        u32 left[PIECES][4];
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece) {
            const float(&first)[4] = a[piece][2 * depth], (&second)[4] = a[piece][2 * depth + 1];
            left[piece][0] = rounded(first[0], first[1]);
            left[piece][1] = rounded(first[2], first[3]);
            left[piece][2] = rounded(second[0], second[1]);
            left[piece][3] = rounded(second[2], second[3]);
        }
#pragma unroll
        for (int column = 0; column < HEAD_DIM / 16; ++column) {
            u32 right[4];
            load_transposed(right, from_b + (depth * 16 * STRIDE + column * 16) * 2);
#pragma unroll
            for (int piece = 0; piece < PIECES; ++piece) {
                multiply_add(sum[piece][2 * column], left[piece], right[0], right[1]);
                multiply_add(sum[piece][2 * column + 1], left[piece], right[2], right[3]);
            }
        }
    }
}

template <int PIECES, int COLUMNS>
__device__ __forceinline__ void clear(float (&sum)[PIECES][COLUMNS][4]) {
#pragma unroll
    for (int piece = 0; piece < PIECES; ++piece) {
#pragma unroll
        for (int column = 0; column < COLUMNS; ++column) {
#pragma unroll
            for (int at = 0; at < 4; ++at) sum[piece][column][at] = 0.0f;
        }
    }
}

__device__ __forceinline__ void write_pair(float* to, float first, float second) {
    *(float2*)to = make_float2(first, second);
}

__device__ __forceinline__ void write_pair(bf16* to, float first, float second) { *(u32*)to = rounded(first, second); }

// Writes rows of HEAD_DIM numbers that are `row_stride` apart; `first` is the number of this warp's first row.
template <int PIECES, typename Number>
__device__ __forceinline__ void write_rows(
    Number* to, size_t row_stride, const float (&sum)[PIECES][HEAD_DIM / 8][4], const float (&factor)[PIECES][2],
    int first, int length) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int piece = 0; piece < PIECES; ++piece) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first + piece * 16 + half * 8 + lane / 4;
            if (row >= length) continue;
            Number* place = to + row * row_stride + lane % 4 * 2;
#pragma unroll
            for (int column = 0; column < HEAD_DIM / 8; ++column) {
                const float(&four)[4] = sum[piece][column];
                const float first_of_pair = four[half * 2] * factor[piece][half];
                write_pair(place + column * 8, first_of_pair, four[half * 2 + 1] * factor[piece][half]);
            }
        }
    }
}

// Where a sequence's rows start: rotated queries and keys [batch, length, heads + shared, HEAD_DIM], values [batch, length,
// shared, HEAD_DIM], outputs [batch, length, heads, HEAD_DIM]; numbers of queries [batch, heads, length].
struct Places {
    size_t both_stride, value_stride, output_stride, queries, keys, values, outputs, numbers;
    __device__ Places(int batch, int head, int shared_head, int length, int heads, int shared) {
        both_stride = (size_t)(heads + shared) * HEAD_DIM;
        value_stride = (size_t)shared * HEAD_DIM;
        output_stride = (size_t)heads * HEAD_DIM;
        queries = batch * length * both_stride + head * HEAD_DIM;
        keys = batch * length * both_stride + (heads + shared_head) * HEAD_DIM;
        values = batch * length * value_stride + shared_head * HEAD_DIM;
        outputs = batch * length * output_stride + head * HEAD_DIM;
        numbers = ((size_t)batch * heads + head) * length;
    }
};

// outputs [batch, length, heads, HEAD_DIM], rounded; log_sums [batch, heads, length]. Grid: blocks of queries, heads, batch.
extern "C" __global__ void __launch_bounds__(THREADS) attention_forward(
    const bf16* both, const bf16* value, bf16* outputs, float* log_sums, int length, int heads, int shared, float scale) {
    const int rows = WARPS * FORWARD_PIECES * 16;
    extern __shared__ __align__(16) bf16 memory[];
    bf16* queries = memory;
    bf16* keys = queries + rows * STRIDE;
    bf16* values = keys + 2 * FORWARD_KEYS * STRIDE;
    // Those that see the most keys start first.
    const int first = (gridDim.x - 1 - blockIdx.x) * rows, head = blockIdx.y;
    const Places at(blockIdx.z, head, head / (heads / shared), length, heads, shared);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = first + warp * FORWARD_PIECES * 16;
    const int steps = (min(first + rows, length) + FORWARD_KEYS - 1) / FORWARD_KEYS;
    const float exponent = scale * LOG2_E;

    load_tile<rows>(queries, both + at.queries + first * at.both_stride, at.both_stride, length - first);
    load_tile<FORWARD_KEYS>(keys, both + at.keys, at.both_stride, length);
    load_tile<FORWARD_KEYS>(values, value + at.values, at.value_stride, length);
    commit();

    float output[FORWARD_PIECES][HEAD_DIM / 8][4], highest[FORWARD_PIECES][2], sum[FORWARD_PIECES][2];
    clear(output);
#pragma unroll
    for (int piece = 0; piece < FORWARD_PIECES; ++piece) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            highest[piece][half] = MINUS_INFINITY;
            sum[piece][half] = 0.0f;
        }
    }
    for (int step = 0; step < steps; ++step) {
        const int start = step * FORWARD_KEYS, here = (step & 1) * FORWARD_KEYS * STRIDE;
        wait_all();
        __syncthreads();
        if (step + 1 < steps) {
            const int next = start + FORWARD_KEYS, place = ((step + 1) & 1) * FORWARD_KEYS * STRIDE;
            load_tile<FORWARD_KEYS>(
                keys + place, both + at.keys + next * at.both_stride, at.both_stride, length - next);
            load_tile<FORWARD_KEYS>(
                values + place, value + at.values + next * at.value_stride, at.value_stride, length - next);
            commit();
        }
        float scores[FORWARD_PIECES][FORWARD_KEYS / 8][4];
        clear(scores);
        multiply_rows<FORWARD_PIECES, FORWARD_KEYS>(
            scores, queries + warp * FORWARD_PIECES * 16 * STRIDE, keys + here);
        if (start + FORWARD_KEYS - 1 > own) {
#pragma unroll
            for (int piece = 0; piece < FORWARD_PIECES; ++piece) {
#pragma unroll
                for (int column = 0; column < FORWARD_KEYS / 8; ++column) {
#pragma unroll
                    for (int of = 0; of < 4; ++of) {
                        const int key = start + column * 8 + lane % 4 * 2 + of % 2;
                        const int query = own + piece * 16 + of / 2 * 8 + lane / 4;
                        if (key > query) scores[piece][column][of] = MINUS_INFINITY;
                    }
                }
            }
        }
#pragma unroll
        for (int piece = 0; piece < FORWARD_PIECES; ++piece) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float higher = highest[piece][half];
#pragma unroll
                for (int column = 0; column < FORWARD_KEYS / 8; ++column) {
                    higher = fmaxf(higher, fmaxf(scores[piece][column][half * 2], scores[piece][column][half * 2 + 1]));
                }
                higher = fmaxf(higher, __shfl_xor_sync(0xffffffffu, higher, 1));
                higher = fmaxf(higher, __shfl_xor_sync(0xffffffffu, higher, 2));
                // The first step has a key for every query, so it is finite.
                const float shrink = exp_2((highest[piece][half] - higher) * exponent), offset = higher * exponent;
                float added = 0.0f;
#pragma unroll
                for (int column = 0; column < FORWARD_KEYS / 8; ++column) {
#pragma unroll
                    for (int of = half * 2; of < half * 2 + 2; ++of) {
                        const float probability = exp_2(scores[piece][column][of] * exponent - offset);
                        scores[piece][column][of] = probability;
                        added += probability;
                    }
                }
                sum[piece][half] = sum[piece][half] * shrink + added;
                highest[piece][half] = higher;
#pragma unroll
                for (int column = 0; column < HEAD_DIM / 8; ++column) {
                    output[piece][column][half * 2] *= shrink;
                    output[piece][column][half * 2 + 1] *= shrink;
                }
            }
        }
        multiply_columns<FORWARD_PIECES, FORWARD_KEYS>(output, scores, values + here);
    }
    float inverse[FORWARD_PIECES][2];
#pragma unroll
    for (int piece = 0; piece < FORWARD_PIECES; ++piece) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float whole = sum[piece][half];
            whole += __shfl_xor_sync(0xffffffffu, whole, 1);
            whole += __shfl_xor_sync(0xffffffffu, whole, 2);
            inverse[piece][half] = 1.0f / whole;
            const int row = own + piece * 16 + half * 8 + lane / 4;
            if (lane % 4 == 0 && row < length) {
                log_sums[at.numbers + row] = highest[piece][half] * scale + __log2f(whole) * LN_2;
            }
        }
    }
    write_rows<FORWARD_PIECES>(outputs + at.outputs, at.output_stride, output, inverse, own, length);
}

// Gradient of rotated queries, [batch, length, heads, HEAD_DIM]. `output` is the gradient of outputs, and `deltas` its product with the outputs for each query. Grid as above.
extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_queries(
    const bf16* both, const bf16* value, const bf16* output, const float* log_sums, const float* deltas,
    float* gradients, int length, int heads, int shared, float scale) {
    const int rows = WARPS * QUERY_PIECES * 16;
    extern __shared__ __align__(16) bf16 memory[];
    bf16* queries = memory;
    bf16* outputs = queries + rows * STRIDE;
    bf16* keys = outputs + rows * STRIDE;
    bf16* values = keys + 2 * QUERY_KEYS * STRIDE;
    const int first = (gridDim.x - 1 - blockIdx.x) * rows, head = blockIdx.y;
    const Places at(blockIdx.z, head, head / (heads / shared), length, heads, shared);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = first + warp * QUERY_PIECES * 16;
    const int steps = (min(first + rows, length) + QUERY_KEYS - 1) / QUERY_KEYS;
    const float exponent = scale * LOG2_E;

    load_tile<rows>(queries, both + at.queries + first * at.both_stride, at.both_stride, length - first);
    load_tile<rows>(outputs, output + at.outputs + first * at.output_stride, at.output_stride, length - first);
    load_tile<QUERY_KEYS>(keys, both + at.keys, at.both_stride, length);
    load_tile<QUERY_KEYS>(values, value + at.values, at.value_stride, length);
    commit();

    float gradient[QUERY_PIECES][HEAD_DIM / 8][4], offset[QUERY_PIECES][2], delta[QUERY_PIECES][2];
    clear(gradient);
#pragma unroll
    for (int piece = 0; piece < QUERY_PIECES; ++piece) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = own + piece * 16 + half * 8 + lane / 4;
            offset[piece][half] = row < length ? log_sums[at.numbers + row] * LOG2_E : 0.0f;
            delta[piece][half] = row < length ? deltas[at.numbers + row] : 0.0f;
        }
    }
    for (int step = 0; step < steps; ++step) {
        const int start = step * QUERY_KEYS, here = (step & 1) * QUERY_KEYS * STRIDE;
        wait_all();
        __syncthreads();
        if (step + 1 < steps) {
            const int next = start + QUERY_KEYS, place = ((step + 1) & 1) * QUERY_KEYS * STRIDE;
            load_tile<QUERY_KEYS>(keys + place, both + at.keys + next * at.both_stride, at.both_stride, length - next);
            load_tile<QUERY_KEYS>(
                values + place, value + at.values + next * at.value_stride, at.value_stride, length - next);
            commit();
        }
        float scores[QUERY_PIECES][QUERY_KEYS / 8][4], inner[QUERY_PIECES][QUERY_KEYS / 8][4];
        clear(scores);
        clear(inner);
        multiply_rows<QUERY_PIECES, QUERY_KEYS>(scores, queries + warp * QUERY_PIECES * 16 * STRIDE, keys + here);
        multiply_rows<QUERY_PIECES, QUERY_KEYS>(inner, outputs + warp * QUERY_PIECES * 16 * STRIDE, values + here);
        const bool cut = start + QUERY_KEYS - 1 > own;
#pragma unroll
        for (int piece = 0; piece < QUERY_PIECES; ++piece) {
#pragma unroll
            for (int column = 0; column < QUERY_KEYS / 8; ++column) {
#pragma unroll
                for (int of = 0; of < 4; ++of) {
                    const int key = start + column * 8 + lane % 4 * 2 + of % 2;
                    const int query = own + piece * 16 + of / 2 * 8 + lane / 4;
                    const float probability =
                        cut && key > query ? 0.0f : exp_2(scores[piece][column][of] * exponent - offset[piece][of / 2]);
                    scores[piece][column][of] = probability * (inner[piece][column][of] - delta[piece][of / 2]);
                }
            }
        }
        multiply_columns<QUERY_PIECES, QUERY_KEYS>(gradient, scores, keys + here);
    }
    float factor[QUERY_PIECES][2];
#pragma unroll
    for (int piece = 0; piece < QUERY_PIECES; ++piece) factor[piece][0] = factor[piece][1] = scale;
    write_rows<QUERY_PIECES>(gradients + at.outputs, at.output_stride, gradient, factor, own, length);
}

// Gradients of rotated keys and of values, [batch, length, shared, HEAD_DIM]: sums over all queries of all heads that share them. Grid: blocks of keys, shared heads, batch.
extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_keys(
    const bf16* both, const bf16* value, const bf16* output, const float* log_sums, const float* deltas,
    float* gradients, float* value_gradients, int length, int heads, int shared, float scale) {
    extern __shared__ __align__(16) bf16 memory[];
    bf16* keys = memory;
    bf16* values = keys + KEY_ROWS * STRIDE;
    bf16* queries = values + KEY_ROWS * STRIDE;
    bf16* outputs = queries + 2 * KEY_QUERIES * STRIDE;
    float* numbers = (float*)(outputs + 2 * KEY_QUERIES * STRIDE);
    // Those that are seen by the most queries start first.
    const int first = blockIdx.x * KEY_ROWS, group = heads / shared;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = first + warp * 16;
    const float exponent = scale * LOG2_E;
    const Places at(blockIdx.z, blockIdx.y * group, blockIdx.y, length, heads, shared);
    // No earlier query sees any of these keys.
    const int begin = first / KEY_QUERIES, blocks = (length + KEY_QUERIES - 1) / KEY_QUERIES - begin;

    auto load = [&](int step) {
        const int head = step / blocks, start = (begin + step % blocks) * KEY_QUERIES, place = step & 1;
        const int here = place * KEY_QUERIES * STRIDE;
        load_tile<KEY_QUERIES>(
            queries + here, both + at.queries + head * HEAD_DIM + start * at.both_stride, at.both_stride, length - start);
        load_tile<KEY_QUERIES>(
            outputs + here, output + at.outputs + head * HEAD_DIM + start * at.output_stride, at.output_stride,
            length - start);
        const size_t from = at.numbers + (size_t)head * length;
        const int query = threadIdx.x % KEY_QUERIES;
        const bool there = start + query < length;
        const float* source = threadIdx.x < KEY_QUERIES ? log_sums : deltas;
        if (threadIdx.x < 2 * KEY_QUERIES) {
            const u32 to = shared_address(numbers + place * 2 * KEY_QUERIES + threadIdx.x);
            copy_4(to, source + from + (there ? start + query : 0), there);
        }
        commit();
    };

    load_tile<KEY_ROWS>(keys, both + at.keys + first * at.both_stride, at.both_stride, length - first);
    load_tile<KEY_ROWS>(values, value + at.values + first * at.value_stride, at.value_stride, length - first);
    load(0);
    float key_gradient[1][HEAD_DIM / 8][4], value_gradient[1][HEAD_DIM / 8][4];
    clear(key_gradient);
    clear(value_gradient);
    const int steps = group * blocks;
    for (int step = 0; step < steps; ++step) {
        const int start = (begin + step % blocks) * KEY_QUERIES, place = step & 1, here = place * KEY_QUERIES * STRIDE;
        wait_all();
        __syncthreads();
        if (step + 1 < steps) load(step + 1);
        const float* offsets = numbers + place * 2 * KEY_QUERIES;
        const float* delta = offsets + KEY_QUERIES;
        float scores[1][KEY_QUERIES / 8][4];
        clear(scores);
        multiply_rows<1, KEY_QUERIES>(scores, keys + warp * 16 * STRIDE, queries + here);
        const bool cut = start < own + 15;
#pragma unroll
        for (int column = 0; column < KEY_QUERIES / 8; ++column) {
#pragma unroll
            for (int of = 0; of < 4; ++of) {
                const int query = column * 8 + lane % 4 * 2 + of % 2, key = own + of / 2 * 8 + lane / 4;
                const float score = scores[0][column][of] * exponent - offsets[query] * LOG2_E;
                scores[0][column][of] = cut && key > start + query ? 0.0f : exp_2(score);
            }
        }
        multiply_columns<1, KEY_QUERIES>(value_gradient, scores, outputs + here);
        float inner[1][KEY_QUERIES / 8][4];
        clear(inner);
        multiply_rows<1, KEY_QUERIES>(inner, values + warp * 16 * STRIDE, outputs + here);
#pragma unroll
        for (int column = 0; column < KEY_QUERIES / 8; ++column) {
#pragma unroll
            for (int of = 0; of < 4; ++of) {
                scores[0][column][of] *= inner[0][column][of] - delta[column * 8 + lane % 4 * 2 + of % 2];
            }
        }
        multiply_columns<1, KEY_QUERIES>(key_gradient, scores, queries + here);
    }
    const float of_keys[1][2] = {{scale, scale}}, of_values[1][2] = {{1.0f, 1.0f}};
    write_rows<1>(gradients + at.values, at.value_stride, key_gradient, of_keys, own, length);
    write_rows<1>(value_gradients + at.values, at.value_stride, value_gradient, of_values, own, length);
}
