/* The selective scan along paths through an image, forward and backward, in plain C for the compiler to vectorise.
 *
 * What is computed. A path k visits the L = H * W pixels of an image one by one. Along it, for each channel d with its
 * N states,
 *
 *     delta = softplus(dt + bias)                                 (or dt + bias itself)
 *     h     = exp(delta * A) * h + delta * u * B                  h, A, B: one value per state
 *     y    += sum over the states of C * h
 *
 * and the K paths' outputs and u * skip add up in y. Path 0 goes row by row, path 1 column by column, paths 2 and 3 are
 * these backwards. A path is nothing but a rule for the next pixel: no tensor is re-ordered or copied.
 *
 * Layout. Channels are the last axis everywhere, so that LANES neighbouring channels, a block, fill the vector
 * registers. A block's states stay in the level 1 cache while it walks its paths. Batch, pixel and direction have
 * strides; the kernel does not ask how the caller's tensors came to be. A sequence is an image of one row, K = 1.
 *
 * Backward. The forward pass keeps the states at every CHUNK-th step ("borders"); the backward pass goes through the
 * chunks from the last to the first, computes a chunk's states again, and then follows its steps backwards:
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

enum { LANES = 16, HALF = LANES / 2, CHUNK = 32, MAX_STATES = 64 };

#define LOG2E 1.44269504088896341f
#define LN2 0.69314718055994531f

typedef struct {
    int64_t batch, pixel, direction;
} Strides;

typedef struct {
    int64_t next_task;
    int64_t batch, height, width, channels, states, directions;
    int64_t groups, parts, softplus;
    /* inputs; the last axis (channels or states) has stride 1 */
    const float *u, *dt, *B, *C;
    Strides u_at, dt_at, B_at, C_at;
    const float *A, *skip, *bias; /* (K, D, N), (D), (K, D) */
    /* forward: y (parts, batch, L, D); last state (batch, K, N, D);
     * borders (batch, blocks, K, chunks, N, LANES), or NULL where no backward pass will follow */
    float *y, *last, *borders;
    /* backward: gy (batch, L, D), glast like last; gu like y; gdt (batch, L, K, D); gB, gC (groups, batch, L, K, N);
     * gA (batch, K, D, N); gbias (batch, K, D); gskip (batch, D) */
    const float *gy, *glast;
    float *gu, *gdt, *gB, *gC, *gA, *gbias, *gskip;
} Job;

/* 2^x for x in [-126, 126]: 2^round(x) by way of the exponent bits, 2^rest by a minimax polynomial (9e-8). */
INLINE float exp2_within(float x) {
    const float shifted = x + 12582912.f; /* 1.5 * 2^23: the sum's low bits hold the rounded x */
    const float f = x - (shifted - 12582912.f);
    float p = 1.326472714e-03f;
    p = p * f + 9.671512640e-03f;
    p = p * f + 5.550733743e-02f;
    p = p * f + 2.402224209e-01f;
    p = p * f + 6.931469776e-01f;
    p = p * f + 1.f;
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

INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* The pixel that direction k meets at a step. */
INLINE int64_t pixel_at(const Job *job, int64_t k, int64_t step) {
    const uint32_t height = (uint32_t)job->height, width = (uint32_t)job->width;
    const uint32_t s = (uint32_t)(k < 2 ? step : (int64_t)height * width - 1 - step);
    return k & 1 ? (int64_t)(s % height) * width + s / height : s;
}

/* A block's channels at a pixel: where they lie if the block is full, else a copy filled up with zeros. */
INLINE const float *row_at(const float *from, float *copy, int lanes) {
    if (lanes == LANES) return from;
    for (int j = 0; j < LANES; j++) copy[j] = j < lanes ? from[j] : 0.f;
    return copy;
}

INLINE void store(float *to, const float *row, int lanes) {
    SIMD for (int j = 0; j < lanes; j++) to[j] = row[j];
}

INLINE void add(float *to, const float *row, int lanes) {
    SIMD for (int j = 0; j < lanes; j++) to[j] += row[j];
}

/* What one block needs to know of one direction. */
typedef struct {
    float A2[MAX_STATES][LANES]; /* A * log2(e), so that exp(delta * A) = 2^(delta * A2) */
    float bias[LANES];
    float limit[LANES]; /* the largest |delta| for which every delta * A2 is within exp2's bounds; negative: none is */
} Direction;

INLINE void prepare(const Job *job, Direction *dir, int64_t k, int64_t c0, int lanes) {
    const int64_t N = job->states;
    const float *A = job->A + (k * job->channels + c0) * N, *bias = job->bias + k * job->channels + c0;
    for (int j = 0; j < LANES; j++) {
        float largest = 0.f;
        for (int64_t n = 0; n < N; n++) {
            const float a = dir->A2[n][j] = j < lanes ? A[j * N + n] * LOG2E : 0.f;
            if (!(fabsf(a) <= largest)) largest = a == a ? fabsf(a) : INFINITY;
        }
        dir->limit[j] = largest < INFINITY ? 126.f / largest : -1.f;
        dir->bias[j] = j < lanes ? bias[j] : 0.f;
    }
}

/* The inputs of one chunk of steps, gathered from their pixels. */
typedef struct {
    int64_t pixel[CHUNK];
    float delta[CHUNK][LANES], drive[CHUNK][LANES]; /* drive: delta * u */
    float slope[CHUNK][LANES];                      /* d delta / d dt, for the backward pass */
    int tame; /* every delta is within its limit, as nearly always; not so a NaN: comparisons with it are false */
} Chunk;

INLINE void gather(const Job *job, const Direction *dir, Chunk *chunk, int64_t b, int64_t k, int64_t c0, int64_t first,
                   int steps, int lanes, int backward) {
    const float *u = job->u + b * job->u_at.batch + c0;
    const float *dt = job->dt + b * job->dt_at.batch + k * job->dt_at.direction + c0;
    int32_t wild[LANES] = {0};
    for (int t = 0; t < steps; t++) {
        const int64_t pixel = chunk->pixel[t] = pixel_at(job, k, first + t);
        if (backward && first + t >= CHUNK) { /* the chunk that comes next; worth 5 %, and nothing going forward */
            const int64_t next = pixel_at(job, k, first + t - CHUNK);
            PREFETCH(u + next * job->u_at.pixel);
            PREFETCH(dt + next * job->dt_at.pixel);
        }
        float u_copy[LANES], dt_copy[LANES];
        const float *ut = row_at(u + pixel * job->u_at.pixel, u_copy, lanes);
        const float *dtt = row_at(dt + pixel * job->dt_at.pixel, dt_copy, lanes);
        float *delta = chunk->delta[t], *drive = chunk->drive[t], *slope = chunk->slope[t];
        if (job->softplus) {
            FOR_LANES(j) {
                const float x = dtt[j] + dir->bias[j], e = exp_minus_abs(x);
                delta[j] = softplus(x, e);
                if (backward) slope[j] = (x < 0.f ? e : 1.f) / (1.f + e);
            }
        } else {
            FOR_LANES(j) {
                delta[j] = dtt[j] + dir->bias[j];
                if (backward) slope[j] = 1.f;
            }
        }
        FOR_LANES(j) {
            drive[j] = delta[j] * ut[j];
            wild[j] |= !(fabsf(delta[j]) <= dir->limit[j]);
        }
    }
    int32_t any = 0;
    for (int j = 0; j < LANES; j++) any |= wild[j];
    chunk->tame = !any;
}

/* One step of `count` states from n on. The sum over states is in memory between calls, hence several at a time. */
INLINE void step(float (*h)[LANES], float *y, const float *delta, const float *drive, const float (*A2)[LANES],
                 const float *B, const float *C, int64_t n, int count, int tame) {
    FOR_LANES(j) {
        float sum = y[j];
        for (int m = 0; m < count; m++) {
            const float x = delta[j] * A2[n + m][j];
            const float decay = tame ? exp2_within(x) : exp2_anywhere(x);
            h[n + m][j] = decay * h[n + m][j] + drive[j] * B[n + m];
            sum += h[n + m][j] * C[n + m];
        }
        y[j] = sum;
    }
}

INLINE void forward_steps(const Job *job, const Direction *dir, const Chunk *chunk, const float *B, const float *C,
                          int steps, int tame, float (*h)[LANES], float (*y)[LANES]) {
    for (int t = 0; t < steps; t++) {
        const float *Bt = B + chunk->pixel[t] * job->B_at.pixel, *Ct = C + chunk->pixel[t] * job->C_at.pixel;
        int64_t n = 0;
        FOR_LANES(j) y[t][j] = 0.f;
        for (; n + 4 <= job->states; n += 4)
            step(h, y[t], chunk->delta[t], chunk->drive[t], dir->A2, Bt, Ct, n, 4, tame);
        for (; n < job->states; n++)
            step(h, y[t], chunk->delta[t], chunk->drive[t], dir->A2, Bt, Ct, n, 1, tame);
    }
}

INLINE void forward_block(const Job *job, int64_t b, int64_t block, int64_t part, int lanes) {
    const int64_t D = job->channels, N = job->states, K = job->directions, L = job->height * job->width;
    const int64_t c0 = block * LANES, blocks = (D + LANES - 1) / LANES, chunks = (L + CHUNK - 1) / CHUNK;
    const float *u = job->u + b * job->u_at.batch + c0;
    float *y = job->y + (part * job->batch + b) * L * D + c0;
    float h[MAX_STATES][LANES], out[CHUNK][LANES], u_copy[LANES], skip_copy[LANES];
    const float *skip = row_at(job->skip + c0, skip_copy, lanes);
    Direction dir;
    Chunk chunk;

    for (int64_t k = part; k < K; k += job->parts) {
        const float *B = job->B + b * job->B_at.batch + k * job->B_at.direction;
        const float *C = job->C + b * job->C_at.batch + k * job->C_at.direction;
        prepare(job, &dir, k, c0, lanes);
        memset(h, 0, sizeof h[0] * N);
        for (int64_t c = 0; c < chunks; c++) {
            const int steps = (int)min64(CHUNK, L - c * CHUNK);
            if (job->borders)
                memcpy(job->borders + (((b * blocks + block) * K + k) * chunks + c) * N * LANES, h, sizeof h[0] * N);
            gather(job, &dir, &chunk, b, k, c0, c * CHUNK, steps, lanes, 0);
            if (chunk.tame)
                forward_steps(job, &dir, &chunk, B, C, steps, 1, h, out);
            else
                forward_steps(job, &dir, &chunk, B, C, steps, 0, h, out);
            for (int t = 0; t < steps; t++) {
                float *to = y + chunk.pixel[t] * D;
                if (k == 0) { /* the first direction brings the skip term */
                    const float *ut = row_at(u + chunk.pixel[t] * job->u_at.pixel, u_copy, lanes);
                    FOR_LANES(j) out[t][j] += ut[j] * skip[j];
                }
                if (k == part)
                    store(to, out[t], lanes);
                else
                    add(to, out[t], lanes);
            }
        }
        for (int64_t n = 0; n < N; n++) store(job->last + ((b * K + k) * N + n) * D + c0, h[n], lanes);
    }
}

/* The states of a chunk again, and its decays exp(delta * A): states[0] is the border, states[t + 1] follows step t. */
INLINE void recompute_steps(const Job *job, const Direction *dir, const Chunk *chunk, const float *B, int steps,
                            int tame, float (*decays)[LANES], float (*states)[LANES]) {
    const int64_t N = job->states;
    for (int t = 0; t < steps; t++) {
        const float *Bt = B + chunk->pixel[t] * job->B_at.pixel, *delta = chunk->delta[t], *drive = chunk->drive[t];
        for (int64_t n = 0; n < N; n++) {
            const float *before = states[t * N + n];
            float *decay = decays[t * N + n], *after = states[(t + 1) * N + n];
            FOR_LANES(j) {
                const float x = delta[j] * dir->A2[n][j];
                decay[j] = tame ? exp2_within(x) : exp2_anywhere(x);
                after[j] = decay[j] * before[j] + drive[j] * Bt[n];
            }
        }
    }
}

INLINE void add_pairs(float *restrict sums, const float *restrict pairs, int64_t count) {
    SIMD for (int64_t i = 0; i < count; i++) sums[i] = pairs[2 * i] + pairs[2 * i + 1];
}

/* Sum each row of HALF = 8 numbers: its two halves are added, then neighbours, twice. Rows are used up. */
INLINE void sum_rows(float *restrict sums, float *restrict rows, int64_t count) {
    float quarters[2 * MAX_STATES * 4];
    for (int64_t i = 0; i < count; i++)
        SIMD for (int j = 0; j < 4; j++) quarters[4 * i + j] = rows[8 * i + j] + rows[8 * i + 4 + j];
    add_pairs(rows, quarters, 2 * count);
    add_pairs(sums, rows, count);
}

/* What the backward pass adds up: over the steps of a direction, and within a step over the states or the channels. */
typedef struct {
    float gstate[MAX_STATES][LANES]; /* exp(delta * A) * gh of the next step */
    float gA[MAX_STATES][LANES], gbias[LANES];
    float gdrive[LANES], gexponent[LANES];
    float rows[2 * MAX_STATES * HALF]; /* the terms of gB, then those of gC */
} Sums;

/* One step backwards of `count` states from n on. */
INLINE void step_back(Sums *sums, const Direction *dir, const float *g, const float *delta, const float *drive,
                      const float (*decays)[LANES], const float (*states)[LANES], const float *B, const float *C,
                      int64_t n, int64_t N, int count) {
    float gh[2][LANES];
    FOR_LANES(j) {
        float gdrive = sums->gdrive[j], gexponent = sums->gexponent[j];
        for (int m = 0; m < count; m++) {
            gh[m][j] = C[n + m] * g[j] + sums->gstate[n + m][j];
            gdrive += gh[m][j] * B[n + m];
            sums->gstate[n + m][j] = gh[m][j] * decays[n + m][j];
            const float ga = sums->gstate[n + m][j] * states[n + m][j];
            gexponent += ga * dir->A2[n + m][j];
            sums->gA[n + m][j] += ga * delta[j];
        }
        sums->gdrive[j] = gdrive;
        sums->gexponent[j] = gexponent;
    }
    float *B_rows = sums->rows + n * HALF, *C_rows = B_rows + N * HALF;
    SIMD for (int j = 0; j < HALF; j++) {
        for (int m = 0; m < count; m++) {
            const float *h = states[N + n + m];
            B_rows[m * HALF + j] = gh[m][j] * drive[j] + gh[m][j + HALF] * drive[j + HALF];
            C_rows[m * HALF + j] = h[j] * g[j] + h[j + HALF] * g[j + HALF];
        }
    }
}

INLINE void backward_block(const Job *job, int64_t b, int64_t block, int64_t group, int64_t part, int first_of_group,
                           int lanes) {
    const int64_t D = job->channels, N = job->states, K = job->directions, L = job->height * job->width;
    const int64_t c0 = block * LANES, blocks = (D + LANES - 1) / LANES, chunks = (L + CHUNK - 1) / CHUNK;
    const float *u = job->u + b * job->u_at.batch + c0;
    const float *gy = job->gy + b * L * D + c0;
    float *gu = job->gu + (part * job->batch + b) * L * D + c0;
    float decays[CHUNK * MAX_STATES][LANES], states[(CHUNK + 1) * MAX_STATES][LANES];
    float u_copy[LANES], g_copy[LANES], skip_copy[LANES], gskip[LANES] = {0.f};
    const float *skip = row_at(job->skip + c0, skip_copy, lanes);
    Direction dir;
    Chunk chunk;
    Sums sums;

    for (int64_t k = part; k < K; k += job->parts) {
        const float *B = job->B + b * job->B_at.batch + k * job->B_at.direction;
        const float *C = job->C + b * job->C_at.batch + k * job->C_at.direction;
        const float *borders = job->borders + ((b * blocks + block) * K + k) * chunks * N * LANES;
        float *gdt = job->gdt + (b * L * K + k) * D + c0;
        float *gB = job->gB + ((group * job->batch + b) * L * K + k) * N;
        float *gC = job->gC + ((group * job->batch + b) * L * K + k) * N;
        prepare(job, &dir, k, c0, lanes);
        memset(sums.gA, 0, sizeof sums.gA[0] * N);
        memset(sums.gbias, 0, sizeof sums.gbias);
        for (int64_t n = 0; n < N; n++)
            for (int j = 0; j < LANES; j++)
                sums.gstate[n][j] = j < lanes ? job->glast[((b * K + k) * N + n) * D + c0 + j] : 0.f;

        for (int64_t c = chunks - 1; c >= 0; c--) {
            const int steps = (int)min64(CHUNK, L - c * CHUNK);
            gather(job, &dir, &chunk, b, k, c0, c * CHUNK, steps, lanes, 1);
            memcpy(states, borders + c * N * LANES, sizeof states[0] * N);
            if (chunk.tame)
                recompute_steps(job, &dir, &chunk, B, steps, 1, decays, states);
            else
                recompute_steps(job, &dir, &chunk, B, steps, 0, decays, states);

            for (int t = steps - 1; t >= 0; t--) {
                const int64_t pixel = chunk.pixel[t];
                const float *Bt = B + pixel * job->B_at.pixel, *Ct = C + pixel * job->C_at.pixel;
                const float *delta = chunk.delta[t], *drive = chunk.drive[t], *slope = chunk.slope[t];
                const float *ut = row_at(u + pixel * job->u_at.pixel, u_copy, lanes);
                const float *g = row_at(gy + pixel * D, g_copy, lanes);
                float gdtt[LANES], gut[LANES], gBC[2 * MAX_STATES];
                FOR_LANES(j) sums.gdrive[j] = sums.gexponent[j] = 0.f;
                int64_t n = 0;
                for (; n + 2 <= N; n += 2)
                    step_back(&sums, &dir, g, delta, drive, decays + t * N, states + t * N, Bt, Ct, n, N, 2);
                for (; n < N; n++)
                    step_back(&sums, &dir, g, delta, drive, decays + t * N, states + t * N, Bt, Ct, n, N, 1);
                FOR_LANES(j) {
                    gdtt[j] = (sums.gdrive[j] * ut[j] + sums.gexponent[j] * LN2) * slope[j];
                    gut[j] = sums.gdrive[j] * delta[j];
                    sums.gbias[j] += gdtt[j];
                }
                if (k == 0)
                    FOR_LANES(j) {
                        gut[j] += g[j] * skip[j];
                        gskip[j] += g[j] * ut[j];
                    }
                store(gdt + pixel * K * D, gdtt, lanes);
                sum_rows(gBC, sums.rows, 2 * N);
                if (first_of_group) {
                    store(gB + pixel * K * N, gBC, (int)N);
                    store(gC + pixel * K * N, gBC + N, (int)N);
                } else {
                    add(gB + pixel * K * N, gBC, (int)N);
                    add(gC + pixel * K * N, gBC + N, (int)N);
                }
                if (k == part)
                    store(gu + pixel * D, gut, lanes);
                else
                    add(gu + pixel * D, gut, lanes);
            }
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

EXPORT int64_t mamba_unet_scan_lanes(void) { return LANES; }

EXPORT int64_t mamba_unet_scan_chunk(void) { return CHUNK; }
