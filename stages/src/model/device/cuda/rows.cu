// What stands between matrix products, each in one pass over its rows: factors are bf16, sums and the residual stream f32.
// Each block of threads has a row, or a few, and adds in a fixed order.

typedef unsigned int u32;
typedef unsigned short bf16;

#define THREADS 256
#define MINUS_INFINITY __int_as_float(0xff800000)

__device__ __forceinline__ float widened(bf16 x) { return __uint_as_float((u32)x << 16); }

__device__ __forceinline__ bf16 rounded(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ u32 rounded_pair(float low, float high) { return rounded(low) | (u32)rounded(high) << 16; }

// Eight numbers, 16 bytes.
struct Eight {
    u32 pair[4];
    __device__ __forceinline__ float get(int at) const {
        const u32 both = pair[at / 2];
        return __uint_as_float(at % 2 ? both & 0xffff0000u : both << 16);
    }
    __device__ __forceinline__ void set(const float (&x)[8]) {
#pragma unroll
        for (int at = 0; at < 4; ++at) pair[at] = rounded_pair(x[2 * at], x[2 * at + 1]);
    }
};

__device__ __forceinline__ Eight load_eight(const bf16* from) {
    const uint4 x = *(const uint4*)from;
    return {{x.x, x.y, x.z, x.w}};
}

__device__ __forceinline__ void store_eight(bf16* to, const Eight& x) {
    *(uint4*)to = make_uint4(x.pair[0], x.pair[1], x.pair[2], x.pair[3]);
}

// The sum over all threads of a block, for all of them.
__device__ __forceinline__ float sum_of_block(float x) {
    __shared__ float of_warps[THREADS / 32];
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < THREADS / 32; ++warp) sum += of_warps[warp];
    return sum;
}

__device__ __forceinline__ float highest_of_block(float x) {
    __shared__ float of_warps[THREADS / 32];
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
    __syncthreads();
    float highest = of_warps[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / 32; ++warp) highest = fmaxf(highest, of_warps[warp]);
    return highest;
}

// to = from, in f32. Grid: pieces of 8 * THREADS numbers.
extern "C" __global__ void widen(const bf16* from, float* to, long long count) {
    const long long first = ((long long)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (first + 8 <= count) {
        const Eight x = load_eight(from + first);
        *(float4*)(to + first) = make_float4(x.get(0), x.get(1), x.get(2), x.get(3));
        *(float4*)(to + first + 4) = make_float4(x.get(4), x.get(5), x.get(6), x.get(7));
    } else {
        for (long long at = first; at < count; ++at) to[at] = widened(from[at]);
    }
}

// to = from, rounded. Grid as above.
extern "C" __global__ void narrow(const float* from, bf16* to, long long count) {
    const long long first = ((long long)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (first + 8 <= count) {
        const float4 low = *(const float4*)(from + first), high = *(const float4*)(from + first + 4);
        const float all[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        Eight x;
        x.set(all);
        store_eight(to + first, x);
    } else {
        for (long long at = first; at < count; ++at) to[at] = rounded(from[at]);
    }
}

// to = stream + added. Grid as above.
extern "C" __global__ void add(const float* stream, const bf16* added, float* to, long long count) {
    const long long first = ((long long)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (first + 8 <= count) {
        const Eight x = load_eight(added + first);
        const float4 low = *(const float4*)(stream + first), high = *(const float4*)(stream + first + 4);
        *(float4*)(to + first) = make_float4(low.x + x.get(0), low.y + x.get(1), low.z + x.get(2), low.w + x.get(3));
        *(float4*)(to + first + 4) =
            make_float4(high.x + x.get(4), high.y + x.get(5), high.z + x.get(6), high.w + x.get(7));
    } else {
        for (long long at = first; at < count; ++at) to[at] = stream[at] + widened(added[at]);
    }
}

// RMSNorm of rows, rounded. Grid: rows.
extern "C" __global__ void rms_norm(const float* x, const float* weight, bf16* to, int width, float epsilon) {
    const float* row = x + (size_t)blockIdx.x * width;
    float squares = 0.0f;
    for (int at = threadIdx.x; at < width; at += THREADS) squares += row[at] * row[at];
    const float factor = rsqrtf(sum_of_block(squares) / width + epsilon);
    for (int at = threadIdx.x; at < width; at += THREADS) {
        to[(size_t)blockIdx.x * width + at] = rounded(row[at] * factor * weight[at]);
    }
}

// Rows for each block of `rms_norm_backward`.
#define NORM_ROWS 32

// Gradient of the rows of RMSNorm, f32, and of the weight, a row of sums for each block. Grid: blocks of NORM_ROWS rows.
extern "C" __global__ void rms_norm_backward(
    const float* x, const float* weight, const bf16* gradient, float* to, float* of_weight, int rows, int width,
    float epsilon) {
    extern __shared__ float sums[];
    for (int at = threadIdx.x; at < width; at += THREADS) sums[at] = 0.0f;
    const int first = blockIdx.x * NORM_ROWS;
    for (int number = first; number < min(first + NORM_ROWS, rows); ++number) {
        const size_t start = (size_t)number * width;
        float squares = 0.0f, along = 0.0f;
        for (int at = threadIdx.x; at < width; at += THREADS) {
            const float value = x[start + at];
            squares += value * value;
            along += value * widened(gradient[start + at]) * weight[at];
        }
        const float factor = rsqrtf(sum_of_block(squares) / width + epsilon);
        // The mean of unit * gradient * weight.
        const float mean = sum_of_block(along) * factor / width;
        for (int at = threadIdx.x; at < width; at += THREADS) {
            const float unit = x[start + at] * factor, inner = widened(gradient[start + at]);
            to[start + at] = (inner * weight[at] - unit * mean) * factor;
            sums[at] += inner * unit;
        }
    }
    for (int at = threadIdx.x; at < width; at += THREADS) of_weight[(size_t)blockIdx.x * width + at] = sums[at];
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

// silu(gate) * up for rows [gate, up]; `width`, a multiple of 8, is that of the result. Grid: rows, pieces of a row.
extern "C" __global__ void gated(const bf16* raised, bf16* to, int width) {
    const int column = (blockIdx.y * THREADS + threadIdx.x) * 8;
    if (column >= width) return;
    const bf16* row = raised + (size_t)blockIdx.x * 2 * width + column;
    const Eight gate = load_eight(row), up = load_eight(row + width);
    float all[8];
#pragma unroll
    for (int at = 0; at < 8; ++at) all[at] = gate.get(at) * sigmoid(gate.get(at)) * up.get(at);
    Eight result;
    result.set(all);
    store_eight(to + (size_t)blockIdx.x * width + column, result);
}

// The gradient of [gate, up] from that of the result. Grid as above.
extern "C" __global__ void gated_backward(const bf16* raised, const bf16* gradient, bf16* to, int width) {
    const int column = (blockIdx.y * THREADS + threadIdx.x) * 8;
    if (column >= width) return;
    const size_t start = (size_t)blockIdx.x * 2 * width + column;
    const Eight gate = load_eight(raised + start), up = load_eight(raised + start + width);
    const Eight inner = load_eight(gradient + (size_t)blockIdx.x * width + column);
    float of_gate[8], of_up[8];
#pragma unroll
    for (int at = 0; at < 8; ++at) {
        const float share = sigmoid(gate.get(at)), silu = gate.get(at) * share;
        of_gate[at] = inner.get(at) * up.get(at) * (share + silu - silu * share);
        of_up[at] = inner.get(at) * silu;
    }
    Eight result;
    result.set(of_gate);
    store_eight(to + start, result);
    result.set(of_up);
    store_eight(to + start + width, result);
}

// Rows of queries, keys and values to rotated queries and keys, and to values. Grid: rows, heads of all three.
extern "C" __global__ void rotate_and_split(
    const bf16* projected, const float* cos, const float* sin, bf16* both, bf16* values, int length, int heads, int shared,
    int head_dim, int rotary_dim) {
    const size_t row = blockIdx.x;
    const int head = blockIdx.y, all = heads + 2 * shared, rotated = heads + shared, half = rotary_dim / 2;
    const bf16* from = projected + (row * all + head) * head_dim;
    if (head >= rotated) {
        bf16* to = values + (row * shared + head - rotated) * head_dim;
        for (int at = threadIdx.x; at < head_dim; at += blockDim.x) to[at] = from[at];
        return;
    }
    bf16* to = both + (row * rotated + head) * head_dim;
    const size_t angle = row % length * half;
    for (int at = threadIdx.x; at < head_dim; at += blockDim.x) {
        if (at >= rotary_dim) {
            to[at] = from[at];
        } else if (at < half) {
            to[at] = rounded(widened(from[at]) * cos[angle + at] - widened(from[at + half]) * sin[angle + at]);
        } else {
            const float c = cos[angle + at - half], s = sin[angle + at - half];
            to[at] = rounded(widened(from[at]) * c + widened(from[at - half]) * s);
        }
    }
}

// The way back for gradients, by the opposite angles: of rotated queries, rotated keys and values to rows of all three.
extern "C" __global__ void rotate_back_and_join(
    const float* queries, const float* keys, const float* values, const float* cos, const float* sin, bf16* projected,
    int length, int heads, int shared, int head_dim, int rotary_dim) {
    const size_t row = blockIdx.x;
    const int head = blockIdx.y, all = heads + 2 * shared, rotated = heads + shared, half = rotary_dim / 2;
    bf16* to = projected + (row * all + head) * head_dim;
    const float* from = head < heads     ? queries + (row * heads + head) * head_dim
                        : head < rotated ? keys + (row * shared + head - heads) * head_dim
                                         : values + (row * shared + head - rotated) * head_dim;
    const size_t angle = row % length * half;
    for (int at = threadIdx.x; at < head_dim; at += blockDim.x) {
        if (head >= rotated || at >= rotary_dim) {
            to[at] = rounded(from[at]);
        } else if (at < half) {
            to[at] = rounded(from[at] * cos[angle + at] + from[at + half] * sin[angle + at]);
        } else {
            to[at] = rounded(from[at] * cos[angle + at - half] - from[at - half] * sin[angle + at - half]);
        }
    }
}

// Products of outputs and their gradients, [batch, length, heads, head_dim] both, as [batch, heads, length]. Grid: rows; a
// warp for each head, and for the next ones.
extern "C" __global__ void deltas(
    const bf16* outputs, const bf16* gradients, float* to, int length, int heads, int head_dim) {
    const size_t row = blockIdx.x;
    for (int head = threadIdx.x / 32; head < heads; head += THREADS / 32) {
        const size_t start = (row * heads + head) * head_dim;
        float sum = 0.0f;
        for (int at = threadIdx.x % 32; at < head_dim; at += 32) {
            sum += widened(outputs[start + at]) * widened(gradients[start + at]);
        }
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        if (threadIdx.x % 32 == 0) to[(row / length * heads + head) * length + row % length] = sum;
    }
}

// Logarithm of the sum of exponentials, loss of the target, and place of the first of the highest logits. Grid: rows.
extern "C" __global__ void read_logits(
    const bf16* logits, const u32* targets, float* log_sums, float* losses, u32* best, int width) {
    const bf16* row = logits + (size_t)blockIdx.x * width;
    float highest = MINUS_INFINITY, sum = 0.0f;
    int place = 0;
    for (int at = threadIdx.x; at < width; at += THREADS) {
        const float logit = widened(row[at]);
        if (logit > highest) {
            sum = sum * __expf(highest - logit) + 1.0f;
            highest = logit;
            place = at;
        } else if (logit > MINUS_INFINITY || isnan(logit)) {
            sum += __expf(logit - highest);
        }
    }
    const float of_all = highest_of_block(highest);
    const float whole = sum_of_block(sum * __expf(highest - of_all));
    __shared__ int first;
    if (threadIdx.x == 0) first = width;
    __syncthreads();
    if (highest == of_all) atomicMin(&first, place);
    __syncthreads();
    if (threadIdx.x == 0) {
        const float log_sum = of_all + logf(whole);
        log_sums[blockIdx.x] = log_sum;
        losses[blockIdx.x] = log_sum - widened(row[targets[blockIdx.x]]);
        best[blockIdx.x] = first < width ? first : 0;
    }
}

// coefficient * (soft-max - 1 at the target). Grid: rows, pieces of a row.
extern "C" __global__ void logit_gradients(
    const bf16* logits, const float* log_sums, const u32* targets, const float* coefficients, bf16* to, int width) {
    const int column = blockIdx.y * THREADS + threadIdx.x;
    if (column >= width) return;
    const size_t at = (size_t)blockIdx.x * width + column;
    const float share = __expf(widened(logits[at]) - log_sums[blockIdx.x]);
    to[at] = rounded(coefficients[blockIdx.x] * (share - (column == targets[blockIdx.x] ? 1.0f : 0.0f)));
}

// Sums of squares of pieces. Grid: as many pieces.
extern "C" __global__ void squares(const float* x, float* to, long long count) {
    float sum = 0.0f;
    for (long long at = (long long)blockIdx.x * THREADS + threadIdx.x; at < count; at += (long long)gridDim.x * THREADS) {
        sum += x[at] * x[at];
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) to[blockIdx.x] = sum;
}

// One step of AdamW, in place; `value` is the parameter as products take it. Grid: pieces of THREADS numbers.
extern "C" __global__ void adamw(
    const float* gradient, float* master, float* first, float* second, bf16* value, long long count, float clip,
    float beta1, float beta2, float epsilon, float keep, float step_size, float inverse_root_correction) {
    const long long at = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (at >= count) return;
    const float slope = gradient[at] * clip;
    const float mean = first[at] * beta1 + slope * (1.0f - beta1);
    const float square = second[at] * beta2 + slope * slope * (1.0f - beta2);
    const float changed = master[at] * keep - step_size * (mean / (sqrtf(square) * inverse_root_correction + epsilon));
    first[at] = mean;
    second[at] = square;
    master[at] = changed;
    value[at] = rounded(changed);
}
