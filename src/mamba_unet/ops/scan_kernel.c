/* The selective scan along paths through an image or a volume, forward and backward, in plain C for the compiler to
 * vectorise.
 *
 * What is computed. A path k visits the L pixels of a map one by one. Along it, for each channel d with its N states,
 *
 *     delta = softplus(dt + bias)                                 (or dt + bias itself)
 *     h     = exp(delta * A) * h + delta * u * B                  h, A, B: one value per state
 *     y    += sum over the states of C * h
 *
 * and the K paths' outputs and u * skip add up in y. dt is given as it is, or as R numbers r per pixel and direction of
 * which it is made, dt = weight * r: then neither it nor its gradient is ever held in memory.
 *
 * There is a path for each axis of the map, which goes along that axis fastest, and the same paths backwards. A path is
 * nothing but a rule for the next pixel: no tensor is re-ordered or copied. Two numbers give it, whatever the number of
 * axes: the extent of its fastest axis, and how many pixels lie between two neighbours along it. A row-major image of H
 * rows and W columns has the paths (W, 1), row by row, and (H, W), column by column.
 *
 * Layout. Channels are the last axis everywhere, so that LANES neighbouring channels, a block, fill the vector
 * registers. A block goes through its path by chunks of steps: what belongs to a chunk is gathered from its pixels, then a
 * few states at a time go through all its steps, in registers. Batch, pixel and direction have strides; the kernel does
 * not ask how the caller's tensors came to be. A sequence is a map of one axis.
 *
 * Backward. The forward pass keeps the states at every CHUNK-th step ("borders"); the backward pass goes through the
 * chunks from the last to the first, computes a few states at a time again, and follows the chunk's steps backwards:
 *
 *     gh     = C * gy + [exp(delta * A) * gh] of the next step
 *     gC    += sum over channels of h * gy           gB += sum over channels of gh * delta * u
 *     gdrive = sum over states of gh * B             (drive = delta * u)
 *     ga     = gh * exp(delta * A) * h of the step before
 *     gdelta = sum over states of ga * A, + gdrive * u;   gA += ga * delta;   gu += gdrive * delta
 *
 * Tasks. The work is a grid of batch x groups of blocks x parts, where part p takes the directions p, p + parts, ... .
 * Parts and groups never write to the same memory: y and gu have one copy per part, gB and gC one per group, and the
 * caller adds the copies up. So the result does not depend on which thread did what. Any number of threads may call a
 * worker with the same job at the same time; each takes the next task until none is left.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER)
#include <intrin.h>
#define EXPORT __declspec(dllexport)
#define INLINE static __forceinline
#define TAKE(counter) (_InterlockedExchangeAdd64(counter, 1))
#define PREFETCH(address) ((void)(address))
#else
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define TAKE(counter) (__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED))
#define PREFETCH(address) __builtin_prefetch(address)
#endif

/* Vectorise a loop as it stands. Without the order GCC unrolls these short loops first and leaves them scalar. */
#if defined(__clang__)
#define SIMD _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define SIMD _Pragma("omp simd") /* takes -fopenmp-simd */
#else
#define SIMD
#endif
#define FOR_LANES(j) SIMD for (int j = 0; j < LANES; j++)

enum { LANES = 16, CHUNK = 32, FEW = 2, MAX_STATES = 64, MAX_PATHS = 3 }; /* FEW states at a time in the backward pass */

/* As many floats as a register holds, up to LANES. GCC and clang compute with them as with numbers; to other compilers
 * they are numbers. */
#if !defined(__GNUC__)
#define VECTOR 1
typedef float Vector, Unaligned;
typedef uint32_t Bits;
#else
#if defined(__AVX512F__)
#define VECTOR 16
#elif defined(__AVX__)
#define VECTOR 8
#else
#define VECTOR 4
#endif
typedef float Vector __attribute__((vector_size(4 * VECTOR)));
typedef float Unaligned __attribute__((vector_size(4 * VECTOR), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * VECTOR)));
#endif

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Bits){__VA_ARGS__})
#endif

INLINE Vector load(const float *from) { return *(const Unaligned *)from; }

INLINE void keep(float *to, Vector values) { *(Unaligned *)to = values; }

#define LOG2E 1.44269504088896341f
#define LN2 0.69314718055994531f

typedef struct {
    int64_t batch, pixel, direction;
} Strides;

typedef struct {
    int64_t next_task;
    int64_t batch, length, channels, states, directions;
    int64_t paths, extent[MAX_PATHS], inner[MAX_PATHS]; /* direction k walks path k, or path k - paths backwards */
    int64_t rank; /* R, or 0 where dt is given in full */
    int64_t groups, parts, softplus;
    /* inputs; the last axis (channels, states or R) has stride 1 */
    const float *u, *dt, *B, *C;
    Strides u_at, dt_at, B_at, C_at;
    const float *A, *skip, *bias, *weight; /* (K, D, N), (D), (K, D), (K, blocks, R, LANES), R and
                                               * channels filled up with zeros to multiples of 4 and LANES */
    /* forward: y (parts, batch, L, D); last state (batch, K, N, D);
     * borders (batch, blocks, K, chunks, N, LANES), or NULL where no backward pass will follow */
    float *y, *last, *borders;
    /* backward: gy (batch, L, D), glast like last, or NULL for zeros; gu like y; gB, gC (groups, batch, L, K, N); gA (batch, K, D, N);
     * gbias (batch, K, D); gskip (batch, D); gdt (1, batch, L, K, D), or (groups, batch, L, K, R) and gweight (batch, K,
     * blocks, R, LANES), filled up as weight is */
    const float *gy, *glast;
    float *gu, *gdt, *gB, *gC, *gA, *gbias, *gskip, *gweight;
} Job;

/* 2^f for f in [-0.5, 0.5]: minimax, 9e-8 */
#define EXP2_POLYNOMIAL(f)                                                                                          \
    (((((1.326472714e-03f * (f) + 9.671512640e-03f) * (f) + 5.550733743e-02f) * (f) + 2.402224209e-01f) * (f) +     \
      6.931469776e-01f) * (f) + 1.f)

/* 2^x for x in [-126, 126]: 2^round(x) by way of the exponent bits, 2^rest by the polynomial. */
INLINE float exp2_within(float x) {
    const float shifted = x + 12582912.f; /* 1.5 * 2^23: the sum's low bits hold the rounded x */
    const float f = x - (shifted - 12582912.f);
    float p = EXP2_POLYNOMIAL(f);
    uint32_t result, exponent;
    memcpy(&result, &p, 4);
    memcpy(&exponent, &shifted, 4);
    result += exponent << 23;
    memcpy(&p, &result, 4);
    return p;
}

/* 2^x for any x. The bounds are where the exponent bits come out as exactly 0 and infinity. */
INLINE float exp2_anywhere(float x) {
    const float above = x < -127.f ? -127.f : x;
    const float within = above > 128.f ? 128.f : above;
    return x == x ? exp2_within(within) : x;
}

/* 2^x of a vector; `tame` where all are in [-126, 126]. */
INLINE Vector exp2_of(Vector x, int tame) {
    if (!tame) {
        float lanes[VECTOR];
        keep(lanes, x);
        for (int j = 0; j < VECTOR; j++) lanes[j] = exp2_anywhere(lanes[j]);
        return load(lanes);
    }
    const Vector shifted = x + 12582912.f, f = x - (shifted - 12582912.f);
    Vector p = EXP2_POLYNOMIAL(f);
    Bits result, exponent;
    memcpy(&result, &p, sizeof p);
    memcpy(&exponent, &shifted, sizeof shifted);
    result += exponent << 23;
    memcpy(&p, &result, sizeof p);
    return p;
}

/* exp(-|x|), from which softplus and its derivative follow without overflow */
INLINE float exp_minus_abs(float x) {
    const float e = fabsf(x) * -LOG2E;
    return exp2_within(e < -126.f ? -126.f : e);
}

/* log(1 + exp(x)) = max(x, 0) + log(1 + t), t = exp(-|x|); log(1 + t) = 2 atanh(s), s = t / (2 + t), odd polynomial */
INLINE float softplus(float x, float t) {
    const float s = t / (t + 2.f), q = s * s;
    float p = 1.401245316e-01f;
    p = p * q + 1.399952367e-01f;
    p = p * q + 2.001085237e-01f;
    p = p * q + 3.333320653e-01f;
    p = p * q + 1.f;
    return (x < 0.f ? 0.f : x) + 2.f * s * p; /* in this order NaN stays NaN */
}

INLINE int64_t filled(int64_t rank) { return (rank + 3) / 4 * 4; }

INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* The pixels that direction k meets in `steps` steps from `first` on. */
INLINE void walk(const Job *job, int64_t *pixels, int64_t k, int64_t first, int steps) {
    const int64_t path = k % job->paths, way = k < job->paths ? 1 : -1;
    const int64_t extent = job->extent[path], inner = job->inner[path];
    const int64_t s = way > 0 ? first : job->length - 1 - first; /* along the forward path */
    if (inner == 1) {
        for (int t = 0; t < steps; t++) pixels[t] = s + way * t;
        return;
    }
    /* `lines` of pixels along the fastest axis lie side by side, `inner` of them, before the next `inner` begin */
    const int64_t on_line = s % extent, line = s / extent % inner;
    int64_t pixel = (s / extent / inner * extent + on_line) * inner + line;
    int64_t left = way > 0 ? extent - on_line : on_line + 1, lines = way > 0 ? inner - line : line + 1;
    for (int t = 0; t < steps; t++) {
        pixels[t] = pixel;
        pixel += way * inner;
        if (--left) continue;
        left = extent;
        if (--lines) pixel -= way * (extent * inner - 1);
        else pixel -= way * (inner - 1), lines = inner;
    }
}

/* A block's channels at a pixel, filled up with zeros if the block is not full. */
INLINE void copy_row(float *to, const float *from, int lanes) {
    if (lanes == LANES)
        for (int v = 0; v < LANES; v += VECTOR) keep(to + v, load(from + v));
    else
        for (int j = 0; j < LANES; j++) to[j] = j < lanes ? from[j] : 0.f;
}

INLINE void store(float *to, const float *row, int64_t count) {
    const int64_t whole = count / VECTOR * VECTOR;
    for (int64_t j = 0; j < whole; j += VECTOR) keep(to + j, load(row + j));
    for (int64_t j = whole; j < count; j++) to[j] = row[j];
}

INLINE void add(float *to, const float *row, int64_t count) {
    const int64_t whole = count / VECTOR * VECTOR;
    for (int64_t j = 0; j < whole; j += VECTOR) keep(to + j, load(to + j) + load(row + j));
    for (int64_t j = whole; j < count; j++) to[j] += row[j];
}

/* What one block needs to know of one direction. */
typedef struct {
    float A2[MAX_STATES][LANES]; /* A * log2(e), so that exp(delta * A) = 2^(delta * A2) */
    float bias[LANES];
    float limit[LANES]; /* the largest |delta| for which every delta * A2 is within exp2's bounds; negative: none is */
    const float *weight; /* (R, LANES), R filled up */
} Direction;

INLINE void prepare(const Job *job, Direction *dir, int64_t k, int64_t block, int lanes) {
    const int64_t N = job->states, R = job->rank, c0 = block * LANES, blocks = (job->channels + LANES - 1) / LANES;
    const float *A = job->A + (k * job->channels + c0) * N;
    for (int j = 0; j < LANES; j++) {
        float largest = 0.f;
        for (int64_t n = 0; n < N; n++) {
            const float a = dir->A2[n][j] = j < lanes ? A[j * N + n] * LOG2E : 0.f;
            if (!(fabsf(a) <= largest)) largest = a == a ? fabsf(a) : INFINITY;
        }
        dir->limit[j] = largest < INFINITY ? 126.f / largest : -1.f;
    }
    copy_row(dir->bias, job->bias + k * job->channels + c0, lanes);
    dir->weight = R ? job->weight + (k * blocks + block) * filled(R) * LANES : 0;
}

/* What one chunk of steps takes in, gathered from its pixels. */
typedef struct {
    int64_t pixel[CHUNK], next[CHUNK];
    const float *dt[CHUNK], *B[CHUNK], *C[CHUNK]; /* where a step's lie; dt: a row of channels, or R numbers */
    float u[CHUNK][LANES], delta[CHUNK][LANES], drive[CHUNK][LANES]; /* drive: delta * u */
    float g[CHUNK][LANES], slope[CHUNK][LANES]; /* gy, and d delta / d dt: for the backward pass */
    int tame; /* every delta is within its limit, as nearly always; not so a NaN: comparisons with it are false */
} Chunk;

/* delta before softplus: weight * r + bias, a product of (steps, R) and (R, LANES), four steps at a time. */
INLINE void project(const Job *job, const Direction *dir, Chunk *chunk, int steps) {
    for (int t = 0; t < steps; t += 4) {
        const float *rows[4]; /* beyond the last step its row again; what comes of it is never read */
        for (int i = 0; i < 4; i++) rows[i] = chunk->dt[t + i < steps ? t + i : steps - 1];
        for (int v = 0; v < LANES; v += VECTOR) {
            Vector sums[4];
            for (int i = 0; i < 4; i++) sums[i] = load(dir->bias + v);
            for (int64_t r = 0; r < job->rank; r++) {
                const Vector weight = load(dir->weight + r * LANES + v);
                for (int i = 0; i < 4; i++) sums[i] += weight * rows[i][r];
            }
            for (int i = 0; i < 4; i++) keep(chunk->delta[t + i] + v, sums[i]);
        }
    }
}

INLINE void gather(const Job *job, const Direction *dir, Chunk *chunk, int64_t b, int64_t k, int64_t c0, int64_t first,
                   int steps, int lanes, int backward) {
    const int64_t L = job->length;
    const float *u = job->u + b * job->u_at.batch + c0;
    const float *dt = job->dt + b * job->dt_at.batch + k * job->dt_at.direction + (job->rank ? 0 : c0);
    const float *B = job->B + b * job->B_at.batch + k * job->B_at.direction;
    const float *C = job->C + b * job->C_at.batch + k * job->C_at.direction;
    const float *gy = backward ? job->gy + b * L * job->channels + c0 : 0;
    const float *gu = backward ? job->gu + b * L * job->channels + c0 : 0;
    int32_t wild[LANES] = {0};
    walk(job, chunk->pixel, k, first, steps);
    if (backward && first > 0) { /* the chunk that comes next; worth 5 %, and nothing going forward */
        walk(job, chunk->next, k, first - CHUNK, CHUNK);
        for (int t = 0; t < CHUNK; t++) {
            PREFETCH(u + chunk->next[t] * job->u_at.pixel);
            PREFETCH(gy + chunk->next[t] * job->channels);
            PREFETCH(gu + chunk->next[t] * job->channels);
            if (!job->rank) PREFETCH(dt + chunk->next[t] * job->dt_at.pixel);
        }
    }
    for (int t = 0; t < steps; t++) {
        const int64_t pixel = chunk->pixel[t];
        chunk->dt[t] = dt + pixel * job->dt_at.pixel;
        chunk->B[t] = B + pixel * job->B_at.pixel;
        chunk->C[t] = C + pixel * job->C_at.pixel;
        copy_row(chunk->u[t], u + pixel * job->u_at.pixel, lanes);
        if (backward) copy_row(chunk->g[t], gy + pixel * job->channels, lanes);
        if (!job->rank) {
            copy_row(chunk->delta[t], chunk->dt[t], lanes);
            FOR_LANES(j) chunk->delta[t][j] += dir->bias[j];
        }
    }
    if (job->rank) project(job, dir, chunk, steps);
    for (int t = 0; t < steps; t++) {
        float *delta = chunk->delta[t], *slope = chunk->slope[t];
        if (job->softplus) {
            FOR_LANES(j) {
                const float x = delta[j], e = exp_minus_abs(x);
                delta[j] = softplus(x, e);
                if (backward) slope[j] = (x < 0.f ? e : 1.f) / (1.f + e);
            }
        } else if (backward) {
            FOR_LANES(j) slope[j] = 1.f;
        }
        FOR_LANES(j) {
            chunk->drive[t][j] = delta[j] * chunk->u[t][j];
            wild[j] |= !(fabsf(delta[j]) <= dir->limit[j]);
        }
    }
    int32_t any = 0;
    for (int j = 0; j < LANES; j++) any |= wild[j];
    chunk->tame = !any;
}

/* `count` states from n on go through a chunk; what they put out adds up in y. */
INLINE void forward_states(const Direction *dir, const Chunk *chunk, int64_t n, int count, int steps, int tame,
                           float (*h)[LANES], float (*y)[LANES]) {
    for (int v = 0; v < LANES; v += VECTOR) {
        Vector state[4], A2[4];
        for (int m = 0; m < count; m++) {
            state[m] = load(h[n + m] + v);
            A2[m] = load(dir->A2[n + m] + v);
        }
        for (int t = 0; t < steps; t++) {
            const float *B = chunk->B[t] + n, *C = chunk->C[t] + n;
            const Vector delta = load(chunk->delta[t] + v), drive = load(chunk->drive[t] + v);
            Vector sum = load(y[t] + v);
            for (int m = 0; m < count; m++) {
                state[m] = exp2_of(delta * A2[m], tame) * state[m] + drive * B[m];
                sum += state[m] * C[m];
            }
            keep(y[t] + v, sum);
        }
        for (int m = 0; m < count; m++) keep(h[n + m] + v, state[m]);
    }
}

INLINE void forward_chunk(const Direction *dir, const Chunk *chunk, int64_t N, int steps, int tame, float (*h)[LANES],
                          float (*y)[LANES]) {
    int64_t n = 0;
    memset(y, 0, sizeof y[0] * steps);
    for (; n + 4 <= N; n += 4) forward_states(dir, chunk, n, 4, steps, tame, h, y);
    for (; n < N; n++) forward_states(dir, chunk, n, 1, steps, tame, h, y);
}

INLINE void forward_block(const Job *job, int64_t b, int64_t block, int64_t part, int lanes) {
    const int64_t D = job->channels, N = job->states, K = job->directions, L = job->length;
    const int64_t c0 = block * LANES, blocks = (D + LANES - 1) / LANES, chunks = (L + CHUNK - 1) / CHUNK;
    float *y = job->y + (part * job->batch + b) * L * D + c0;
    float h[MAX_STATES][LANES], out[CHUNK][LANES], skip[LANES];
    Direction dir;
    Chunk chunk;

    copy_row(skip, job->skip + c0, lanes);
    for (int64_t k = part; k < K; k += job->parts) {
        prepare(job, &dir, k, block, lanes);
        memset(h, 0, sizeof h[0] * N);
        for (int64_t c = 0; c < chunks; c++) {
            const int steps = (int)min64(CHUNK, L - c * CHUNK);
            if (job->borders)
                memcpy(job->borders + (((b * blocks + block) * K + k) * chunks + c) * N * LANES, h, sizeof h[0] * N);
            gather(job, &dir, &chunk, b, k, c0, c * CHUNK, steps, lanes, 0);
            if (chunk.tame)
                forward_chunk(&dir, &chunk, N, steps, 1, h, out);
            else
                forward_chunk(&dir, &chunk, N, steps, 0, h, out);
            for (int t = 0; t < steps; t++) {
                float *to = y + chunk.pixel[t] * D;
                if (k == 0) /* the first direction brings the skip term */
                    FOR_LANES(j) out[t][j] += chunk.u[t][j] * skip[j];
                if (k == part)
                    store(to, out[t], lanes);
                else
                    add(to, out[t], lanes);
            }
        }
        for (int64_t n = 0; n < N; n++) store(job->last + ((b * K + k) * N + n) * D + c0, h[n], lanes);
    }
}

/* Sums over the lanes of a block, of four vectors at a time and in two stages. PARTIAL numbers per step lie between them:
 * four sums over every fourth lane, or where a vector is one number, the four sums. */
#define PARTIAL (VECTOR > 4 ? VECTOR : 4)

#if VECTOR > 1
/* (a0 + a1, a2 + a3, b0 + b1, b2 + b3) in each four lanes */
INLINE Vector add_neighbours(Vector a, Vector b) {
#if VECTOR == 16
    return SHUFFLE(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
           SHUFFLE(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
#elif VECTOR == 8
    return SHUFFLE(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + SHUFFLE(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
#else
    return SHUFFLE(a, b, 0, 2, 4, 6) + SHUFFLE(a, b, 1, 3, 5, 7);
#endif
}

/* the same with fours for numbers */
INLINE Vector add_fours(Vector a, Vector b) {
#if VECTOR == 16
    return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#elif VECTOR == 8
    return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
#else
    return a + b; /* never: there is one four */
#endif
}
#endif

/* The first stage, of one vector's worth of lanes; `more` if these lanes are not the block's first. */
INLINE void sum_lanes(float *partial, Vector a, Vector b, Vector c, Vector d, int more) {
#if VECTOR > 1
    const Vector sums = add_neighbours(add_neighbours(a, b), add_neighbours(c, d));
    keep(partial, more ? load(partial) + sums : sums);
#else
    partial[0] = more ? partial[0] + a : a;
    partial[1] = more ? partial[1] + b : b;
    partial[2] = more ? partial[2] + c : c;
    partial[3] = more ? partial[3] + d : d;
#endif
}

/* The second stage, in place: four sums per step. Works on beyond `steps`, up to a multiple of four. */
INLINE void finish_sums(float *partial, int steps) {
    for (int t = 0; VECTOR == 8 && t < steps; t += 2)
        keep(partial + 4 * t, add_fours(load(partial + 8 * t), load(partial + 8 * t + 8)));
    for (int t = 0; VECTOR == 16 && t < steps; t += 4) {
        const float *from = partial + 16 * t;
        const Vector first = add_fours(load(from), load(from + VECTOR));
        keep(partial + 4 * t, add_fours(first, add_fours(load(from + 2 * VECTOR), load(from + 3 * VECTOR))));
    }
}

/* What the backward pass adds up: over the steps of a direction, over the states of a step, over its channels. */
typedef struct {
    float gstate[MAX_STATES][LANES]; /* exp(delta * A) * gh of the next step */
    float gA[MAX_STATES][LANES], gbias[LANES];
    float gdrive[CHUNK][LANES], gexponent[CHUNK][LANES];
    float gB[CHUNK * MAX_STATES], gC[CHUNK * MAX_STATES];
} Sums;

/* `count` states from n on go through a chunk again, from its border, and then back. */
INLINE void backward_states(const Direction *dir, const Chunk *chunk, Sums *sums, const float *border, int64_t N,
                            int64_t n, int count, int steps, int tame) {
    float sums_BC[CHUNK * PARTIAL]; /* of each step, two of gB and two of gC */
    for (int v = 0; v < LANES; v += VECTOR) {
        Vector state[FEW], A2[FEW], gstate[FEW], gA[FEW];
        Vector decays[CHUNK * FEW], before[CHUNK * FEW];
        for (int m = 0; m < count; m++) {
            state[m] = load(border + (n + m) * LANES + v);
            A2[m] = load(dir->A2[n + m] + v);
            gstate[m] = load(sums->gstate[n + m] + v);
            gA[m] = load(sums->gA[n + m] + v);
        }
        for (int t = 0; t < steps; t++) {
            const float *B = chunk->B[t] + n;
            const Vector delta = load(chunk->delta[t] + v), drive = load(chunk->drive[t] + v);
            for (int m = 0; m < count; m++) {
                const Vector decay = exp2_of(delta * A2[m], tame);
                decays[t * count + m] = decay;
                before[t * count + m] = state[m];
                state[m] = decay * state[m] + drive * B[m];
            }
        }
        for (int t = steps - 1; t >= 0; t--) {
            const float *B = chunk->B[t] + n, *C = chunk->C[t] + n;
            const Vector delta = load(chunk->delta[t] + v), drive = load(chunk->drive[t] + v);
            const Vector g = load(chunk->g[t] + v);
            Vector gdrive = load(sums->gdrive[t] + v), gexponent = load(sums->gexponent[t] + v);
            Vector gB[FEW] = {g - g, g - g}, gC[FEW] = {g - g, g - g};
            for (int m = 0; m < count; m++) {
                const Vector gh = g * C[m] + gstate[m];
                gB[m] = gh * drive;
                gC[m] = state[m] * g;
                gdrive += gh * B[m];
                gstate[m] = gh * decays[t * count + m];
                state[m] = before[t * count + m];
                const Vector ga = gstate[m] * state[m];
                gexponent += ga * A2[m];
                gA[m] += ga * delta;
            }
            sum_lanes(sums_BC + t * PARTIAL, gB[0], gB[1], gC[0], gC[1], v > 0);
            keep(sums->gdrive[t] + v, gdrive);
            keep(sums->gexponent[t] + v, gexponent);
        }
        for (int m = 0; m < count; m++) {
            keep(sums->gstate[n + m] + v, gstate[m]);
            keep(sums->gA[n + m] + v, gA[m]);
        }
    }
    finish_sums(sums_BC, steps);
    for (int t = 0; t < steps; t++) {
        memcpy(sums->gB + t * N + n, sums_BC + 4 * t, sizeof(float) * count);
        memcpy(sums->gC + t * N + n, sums_BC + 4 * t + FEW, sizeof(float) * count);
    }
}

INLINE void backward_chunk(const Direction *dir, const Chunk *chunk, Sums *sums, const float *border, int64_t N,
                           int steps, int tame) {
    int64_t n = 0;
    memset(sums->gdrive, 0, sizeof sums->gdrive);
    memset(sums->gexponent, 0, sizeof sums->gexponent);
    for (; n + FEW <= N; n += FEW) backward_states(dir, chunk, sums, border, N, n, FEW, steps, tame);
    for (; n < N; n++) backward_states(dir, chunk, sums, border, N, n, 1, steps, tame);
}

/* gweight += gdt * r over the steps of a chunk, for `count` of the R numbers. */
INLINE void add_gweight(const Chunk *chunk, float (*gdt)[LANES], float *gweight, int64_t r, int count, int steps) {
    for (int v = 0; v < LANES; v += VECTOR) {
        Vector sums[4];
        for (int i = 0; i < count; i++) sums[i] = load(gweight + (r + i) * LANES + v);
        for (int t = 0; t < steps; t++) {
            const Vector gdt_t = load(gdt[t] + v);
            for (int i = 0; i < count; i++) sums[i] += gdt_t * chunk->dt[t][r + i];
        }
        for (int i = 0; i < count; i++) keep(gweight + (r + i) * LANES + v, sums[i]);
    }
}

/* The gradients of r, added to `gr` or, the first time, stored there, and of weight, from that of dt. */
INLINE void project_back(const Job *job, const Direction *dir, const Chunk *chunk, float (*gdt)[LANES], float *gr,
                         float *gweight, int steps, int first_of_group) {
    const int64_t R = job->rank;
    float sums[CHUNK * PARTIAL];
    int64_t r = 0;
    for (; r + 4 <= R; r += 4) add_gweight(chunk, gdt, gweight, r, 4, steps);
    for (; r < R; r++) add_gweight(chunk, gdt, gweight, r, 1, steps);
    for (r = 0; r < R; r += 4) {
        const float *weight = dir->weight + r * LANES;
        const int64_t count = min64(4, R - r);
        for (int v = 0; v < LANES; v += VECTOR) {
            const Vector a = load(weight + v), b = load(weight + LANES + v);
            const Vector c = load(weight + 2 * LANES + v), d = load(weight + 3 * LANES + v);
            for (int t = 0; t < steps; t++) {
                const Vector gdt_t = load(gdt[t] + v);
                sum_lanes(sums + t * PARTIAL, a * gdt_t, b * gdt_t, c * gdt_t, d * gdt_t, v > 0);
            }
        }
        finish_sums(sums, steps);
        for (int t = 0; t < steps; t++) {
            float *to = gr + chunk->pixel[t] * job->directions * R + r;
            for (int i = 0; i < count; i++) to[i] = first_of_group ? sums[4 * t + i] : to[i] + sums[4 * t + i];
        }
    }
}

INLINE void backward_block(const Job *job, int64_t b, int64_t block, int64_t group, int64_t part, int first_of_group,
                           int lanes) {
    const int64_t D = job->channels, N = job->states, K = job->directions, L = job->length;
    const int64_t R = job->rank;
    const int64_t c0 = block * LANES, blocks = (D + LANES - 1) / LANES, chunks = (L + CHUNK - 1) / CHUNK;
    float *gu = job->gu + (part * job->batch + b) * L * D + c0;
    float gdt[CHUNK][LANES], gut[LANES], skip[LANES], gskip[LANES] = {0.f};
    Direction dir;
    Chunk chunk;
    Sums sums;

    copy_row(skip, job->skip + c0, lanes);
    for (int64_t k = part; k < K; k += job->parts) {
        const float *borders = job->borders + ((b * blocks + block) * K + k) * chunks * N * LANES;
        const int64_t image = group * job->batch + b;
        float *gB = job->gB + (image * L * K + k) * N, *gC = job->gC + (image * L * K + k) * N;
        float *gdt_out = R ? job->gdt + (image * L * K + k) * R : job->gdt + (b * L * K + k) * D + c0;
        float *gweight = R ? job->gweight + ((b * K + k) * blocks + block) * filled(R) * LANES : 0;
        prepare(job, &dir, k, block, lanes);
        if (R) memset(gweight, 0, sizeof(float) * filled(R) * LANES);
        memset(sums.gA, 0, sizeof sums.gA[0] * N);
        memset(sums.gbias, 0, sizeof sums.gbias);
        memset(sums.gstate, 0, sizeof sums.gstate[0] * N);
        for (int64_t n = 0; job->glast && n < N; n++)
            copy_row(sums.gstate[n], job->glast + ((b * K + k) * N + n) * D + c0, lanes);

        for (int64_t c = chunks - 1; c >= 0; c--) {
            const int steps = (int)min64(CHUNK, L - c * CHUNK);
            gather(job, &dir, &chunk, b, k, c0, c * CHUNK, steps, lanes, 1);
            if (chunk.tame)
                backward_chunk(&dir, &chunk, &sums, borders + c * N * LANES, N, steps, 1);
            else
                backward_chunk(&dir, &chunk, &sums, borders + c * N * LANES, N, steps, 0);

            for (int t = 0; t < steps; t++) {
                const int64_t pixel = chunk.pixel[t];
                const float *u = chunk.u[t], *g = chunk.g[t], *gdrive = sums.gdrive[t];
                FOR_LANES(j) {
                    gdt[t][j] = (gdrive[j] * u[j] + sums.gexponent[t][j] * LN2) * chunk.slope[t][j];
                    gut[j] = gdrive[j] * chunk.delta[t][j];
                    sums.gbias[j] += gdt[t][j];
                }
                if (k == 0)
                    FOR_LANES(j) {
                        gut[j] += g[j] * skip[j];
                        gskip[j] += g[j] * u[j];
                    }
                if (k == part)
                    store(gu + pixel * D, gut, lanes);
                else
                    add(gu + pixel * D, gut, lanes);
                if (!R) store(gdt_out + pixel * K * D, gdt[t], lanes);
                if (first_of_group) {
                    store(gB + pixel * K * N, sums.gB + t * N, N);
                    store(gC + pixel * K * N, sums.gC + t * N, N);
                } else {
                    add(gB + pixel * K * N, sums.gB + t * N, N);
                    add(gC + pixel * K * N, sums.gC + t * N, N);
                }
            }
            if (R) project_back(job, &dir, &chunk, gdt, gdt_out, gweight, steps, first_of_group);
        }
        for (int j = 0; j < lanes; j++)
            for (int64_t n = 0; n < N; n++) job->gA[((b * K + k) * D + c0 + j) * N + n] = sums.gA[n][j];
        store(job->gbias + (b * K + k) * D + c0, sums.gbias, lanes);
    }
    if (part == 0) store(job->gskip + b * D + c0, gskip, lanes);
}

/* Full blocks get a constant number of lanes, which is what lets the compiler turn a row of lanes into vectors. */
static void forward_full(const Job *job, int64_t b, int64_t block, int64_t part) {
    forward_block(job, b, block, part, LANES);
}

static void forward_partial(const Job *job, int64_t b, int64_t block, int64_t part, int lanes) {
    forward_block(job, b, block, part, lanes);
}

static void backward_full(const Job *job, int64_t b, int64_t block, int64_t group, int64_t part, int first) {
    backward_block(job, b, block, group, part, first, LANES);
}

static void backward_partial(const Job *job, int64_t b, int64_t block, int64_t group, int64_t part, int first,
                             int lanes) {
    backward_block(job, b, block, group, part, first, lanes);
}

typedef void Worker(int64_t, int64_t, void *); /* torch_parallel_for's signature; begin and end are of no use here */

INLINE void work(Job *job, int backward) {
    const int64_t blocks = (job->channels + LANES - 1) / LANES;
    const int64_t tasks = job->batch * job->groups * job->parts;
    for (int64_t task = TAKE(&job->next_task); task < tasks; task = TAKE(&job->next_task)) {
        const int64_t part = task % job->parts, group = task / job->parts % job->groups;
        const int64_t b = task / job->parts / job->groups;
        const int64_t begin = group * blocks / job->groups, end = (group + 1) * blocks / job->groups;
        for (int64_t block = begin; block < end; block++) {
            const int lanes = (int)min64(LANES, job->channels - block * LANES);
            if (backward) {
                if (lanes == LANES) backward_full(job, b, block, group, part, block == begin);
                else backward_partial(job, b, block, group, part, block == begin, lanes);
            } else {
                if (lanes == LANES) forward_full(job, b, block, part);
                else forward_partial(job, b, block, part, lanes);
            }
        }
    }
}

EXPORT void mamba_unet_scan_forward(int64_t begin, int64_t end, void *job) { (void)begin, (void)end, work(job, 0); }

EXPORT void mamba_unet_scan_backward(int64_t begin, int64_t end, void *job) { (void)begin, (void)end, work(job, 1); }

// what Python checks before it hands over a job: a library that an older version built has another record
EXPORT int64_t mamba_unet_scan_job_bytes(void) { return sizeof(Job); }

EXPORT int64_t mamba_unet_scan_lanes(void) { return LANES; }

EXPORT int64_t mamba_unet_scan_chunk(void) { return CHUNK; }
