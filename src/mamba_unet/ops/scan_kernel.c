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
 * registers. A block's states stay in the level 1 cache while it walks its paths. The batch, the pixel and the direction
 * have strides; the kernel does not ask how the caller's tensors came to be. A sequence is an image of one row, K = 1.
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
#else
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define TAKE(counter) (__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED))
#endif

enum { LANES = 16, HALF = LANES / 2, CHUNK = 16, MAX_STATES = 64 };

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
    /* forward: y (parts, batch, L, D); last state (batch, K, N, D); borders (batch, blocks, K, chunks, N, LANES) or NULL */
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

/* Move a block's channels between memory and a full row of lanes. Lanes beyond the last channel are zero. */
INLINE void load(float *restrict row, const float *restrict from, int lanes) {
    for (int j = 0; j < lanes; j++) row[j] = from[j];
    for (int j = lanes; j < LANES; j++) row[j] = 0.f;
}

INLINE void store(float *restrict to, const float *restrict row, int lanes) {
    for (int j = 0; j < lanes; j++) to[j] = row[j];
}

INLINE void add(float *restrict to, const float *restrict row, int lanes) {
    for (int j = 0; j < lanes; j++) to[j] += row[j];
}

/* What one block needs to know of one direction. */
typedef struct {
    float A2[MAX_STATES][LANES]; /* A * log2(e), so that exp(delta * A) = 2^(delta * A2) */
    float bias[LANES];
    float largest_A2;
} Direction;

INLINE void prepare(const Job *job, Direction *dir, int64_t k, int64_t c0, int lanes) {
    const int64_t states = job->states;
    const float *A = job->A + (k * job->channels + c0) * states;
    load(dir->bias, job->bias + k * job->channels + c0, lanes);
    dir->largest_A2 = 0.f;
    for (int64_t n = 0; n < states; n++)
        for (int j = 0; j < LANES; j++) {
            const float a = j < lanes ? A[j * states + n] * LOG2E : 0.f;
            dir->A2[n][j] = a;
            /* a NaN counts as infinite: it must take the careful path below */
            dir->largest_A2 = fabsf(a) <= dir->largest_A2 ? dir->largest_A2 : a == a ? fabsf(a) : INFINITY;
        }
}

/* The inputs of one chunk of steps, gathered from their pixels. */
typedef struct {
    int64_t pixel[CHUNK];
    float delta[CHUNK][LANES], drive[CHUNK][LANES], slope[CHUNK][LANES]; /* slope: d delta / d dt, for the backward pass */
    float largest_delta;
} Chunk;

INLINE void gather(const Job *job, const Direction *dir, Chunk *chunk, int64_t b, int64_t k, int64_t c0, int64_t first,
                   int steps, int lanes, int with_slope) {
    const float *u = job->u + b * job->u_at.batch + c0;
    const float *dt = job->dt + b * job->dt_at.batch + k * job->dt_at.direction + c0;
    float largest[LANES] = {0.f};
    for (int t = 0; t < steps; t++) {
        const int64_t pixel = chunk->pixel[t] = pixel_at(job, k, first + t);
        float x[LANES], ux[LANES];
        load(x, dt + pixel * job->dt_at.pixel, lanes);
        load(ux, u + pixel * job->u_at.pixel, lanes);
        for (int j = 0; j < LANES; j++) x[j] += dir->bias[j];
        if (job->softplus) {
            for (int j = 0; j < LANES; j++) {
                const float e = exp_minus_abs(x[j]);
                if (with_slope) chunk->slope[t][j] = (x[j] < 0.f ? e : 1.f) / (1.f + e);
                x[j] = softplus(x[j], e);
            }
        } else if (with_slope) {
            for (int j = 0; j < LANES; j++) chunk->slope[t][j] = 1.f;
        }
        for (int j = 0; j < LANES; j++) {
            chunk->delta[t][j] = x[j];
            chunk->drive[t][j] = x[j] * ux[j];
            largest[j] = fabsf(x[j]) <= largest[j] ? largest[j] : fabsf(x[j]);
        }
    }
    chunk->largest_delta = 0.f;
    for (int j = 0; j < LANES; j++)
        chunk->largest_delta = largest[j] <= chunk->largest_delta ? chunk->largest_delta : largest[j];
}

/* Nearly every chunk can do without exp2's bounds. Not so a NaN: comparisons with it are false. */
INLINE int is_tame(const Direction *dir, const Chunk *chunk) {
    return chunk->largest_delta * dir->largest_A2 <= 126.f;
}

INLINE void forward_steps(const Direction *dir, const Chunk *chunk, const float *B, const float *C, int64_t B_pixel,
                          int64_t C_pixel, int64_t states, int steps, int tame, float (*restrict h)[LANES],
                          float (*restrict out)[LANES]) {
    for (int t = 0; t < steps; t++) {
        const float *Bt = B + chunk->pixel[t] * B_pixel, *Ct = C + chunk->pixel[t] * C_pixel;
        const float *delta = chunk->delta[t], *drive = chunk->drive[t];
        float sum[LANES] = {0.f};
        for (int64_t n = 0; n < states; n++) {
            const float Bn = Bt[n], Cn = Ct[n];
            for (int j = 0; j < LANES; j++) {
                const float x = delta[j] * dir->A2[n][j];
                const float a = tame ? exp2_within(x) : exp2_anywhere(x);
                h[n][j] = a * h[n][j] + drive[j] * Bn;
                sum[j] += h[n][j] * Cn;
            }
        }
        memcpy(out[t], sum, sizeof sum);
    }
}

INLINE void forward_block(const Job *job, int64_t b, int64_t block, int64_t part, int lanes) {
    const int64_t D = job->channels, N = job->states, K = job->directions, L = job->height * job->width;
    const int64_t c0 = block * LANES, blocks = (D + LANES - 1) / LANES, chunks = (L + CHUNK - 1) / CHUNK;
    const float *u = job->u + b * job->u_at.batch + c0;
    float *y = job->y + (part * job->batch + b) * L * D + c0;
    Direction dir;
    Chunk chunk;
    float h[MAX_STATES][LANES], out[CHUNK][LANES], skip[LANES];
    load(skip, job->skip + c0, lanes);

    for (int64_t k = part; k < K; k += job->parts) {
        const float *B = job->B + b * job->B_at.batch + k * job->B_at.direction;
        const float *C = job->C + b * job->C_at.batch + k * job->C_at.direction;
        float *borders = job->borders ? job->borders + ((b * blocks + block) * K + k) * chunks * N * LANES : NULL;
        prepare(job, &dir, k, c0, lanes);
        memset(h, 0, sizeof h[0] * N);
        for (int64_t first = 0; first < L; first += CHUNK) {
            const int steps = (int)min64(CHUNK, L - first);
            if (borders) {
                memcpy(borders, h, sizeof h[0] * N);
                borders += N * LANES;
            }
            gather(job, &dir, &chunk, b, k, c0, first, steps, lanes, 0);
            if (is_tame(&dir, &chunk))
                forward_steps(&dir, &chunk, B, C, job->B_at.pixel, job->C_at.pixel, N, steps, 1, h, out);
            else
                forward_steps(&dir, &chunk, B, C, job->B_at.pixel, job->C_at.pixel, N, steps, 0, h, out);
            for (int t = 0; t < steps; t++) {
                const int64_t pixel = chunk.pixel[t];
                if (k > part) {
                    add(y + pixel * D, out[t], lanes);
                } else {
                    float ux[LANES];
                    load(ux, u + pixel * job->u_at.pixel, lanes);
                    if (k == 0)
                        for (int j = 0; j < LANES; j++) out[t][j] += ux[j] * skip[j];
                    store(y + pixel * D, out[t], lanes);
                }
            }
        }
        for (int64_t n = 0; n < N; n++) store(job->last + ((b * K + k) * N + n) * D + c0, h[n], lanes);
    }
}

/* The states of a chunk again, and its decays exp(delta * A): states[0] is the border, states[t + 1] follows step t. */
INLINE void recompute_steps(const Direction *dir, const Chunk *chunk, const float *B, int64_t B_pixel, int64_t N, int steps,
                            int tame, float (*restrict decays)[LANES], float (*restrict states)[LANES]) {
    for (int t = 0; t < steps; t++) {
        const float *Bt = B + chunk->pixel[t] * B_pixel;
        const float *delta = chunk->delta[t], *drive = chunk->drive[t];
        for (int64_t n = 0; n < N; n++) {
            const float Bn = Bt[n];
            for (int j = 0; j < LANES; j++) {
                const float x = delta[j] * dir->A2[n][j];
                const float a = tame ? exp2_within(x) : exp2_anywhere(x);
                decays[t * N + n][j] = a;
                states[(t + 1) * N + n][j] = a * states[t * N + n][j] + drive[j] * Bn;
            }
        }
    }
}

/* Sum each row of HALF numbers: neighbours add up, three times over, and what is left lies side by side. */
INLINE void sum_rows(float *rows, int64_t count, float *restrict to, int accumulate) {
    for (int64_t left = count * HALF / 2; left >= count; left /= 2)
        for (int64_t i = 0; i < left; i++) rows[i] = rows[2 * i] + rows[2 * i + 1];
    for (int64_t i = 0; i < count; i++) to[i] = accumulate ? to[i] + rows[i] : rows[i];
}

INLINE void backward_block(const Job *job, int64_t b, int64_t block, int64_t group, int64_t part, int first_of_group,
                           int lanes) {
    const int64_t D = job->channels, N = job->states, K = job->directions, L = job->height * job->width;
    const int64_t c0 = block * LANES, blocks = (D + LANES - 1) / LANES, chunks = (L + CHUNK - 1) / CHUNK;
    const float *u = job->u + b * job->u_at.batch + c0;
    const float *gy = job->gy + b * L * D + c0;
    float *gu = job->gu + (part * job->batch + b) * L * D + c0;
    Direction dir;
    Chunk chunk;
    float decays[CHUNK * MAX_STATES][LANES], states[(CHUNK + 1) * MAX_STATES][LANES];
    float gstate[MAX_STATES][LANES], gA[MAX_STATES][LANES]; /* gstate: the next step's exp(delta * A) * gh */
    float B_rows[MAX_STATES][HALF], C_rows[MAX_STATES][HALF];
    float skip[LANES], gskip[LANES] = {0.f}, gbias[LANES];
    load(skip, job->skip + c0, lanes);

    for (int64_t k = part; k < K; k += job->parts) {
        const float *B = job->B + b * job->B_at.batch + k * job->B_at.direction;
        const float *C = job->C + b * job->C_at.batch + k * job->C_at.direction;
        const float *borders = job->borders + ((b * blocks + block) * K + k) * chunks * N * LANES;
        float *gdt = job->gdt + (b * L * K + k) * D + c0;
        float *gB = job->gB + ((group * job->batch + b) * L * K + k) * N;
        float *gC = job->gC + ((group * job->batch + b) * L * K + k) * N;
        prepare(job, &dir, k, c0, lanes);
        memset(gA, 0, sizeof gA[0] * N);
        memset(gbias, 0, sizeof gbias);
        for (int64_t n = 0; n < N; n++) load(gstate[n], job->glast + ((b * K + k) * N + n) * D + c0, lanes);

        for (int64_t c = chunks - 1; c >= 0; c--) {
            const int64_t first = c * CHUNK;
            const int steps = (int)min64(CHUNK, L - first);
            gather(job, &dir, &chunk, b, k, c0, first, steps, lanes, 1);
            memcpy(states, borders + c * N * LANES, sizeof states[0] * N);
            if (is_tame(&dir, &chunk))
                recompute_steps(&dir, &chunk, B, job->B_at.pixel, N, steps, 1, decays, states);
            else
                recompute_steps(&dir, &chunk, B, job->B_at.pixel, N, steps, 0, decays, states);

            for (int t = steps - 1; t >= 0; t--) {
                const int64_t pixel = chunk.pixel[t];
                const float *Bt = B + pixel * job->B_at.pixel, *Ct = C + pixel * job->C_at.pixel;
                const float *delta = chunk.delta[t], *drive = chunk.drive[t];
                float g[LANES], ux[LANES], gdrive[LANES] = {0.f}, gexponent[LANES] = {0.f};
                load(g, gy + pixel * D, lanes);
                load(ux, u + pixel * job->u_at.pixel, lanes);
                for (int64_t n = 0; n < N; n++) {
                    const float Bn = Bt[n], Cn = Ct[n];
                    const float *decay = decays[t * N + n], *before = states[t * N + n], *h = states[(t + 1) * N + n];
                    float gh[LANES];
                    for (int j = 0; j < LANES; j++) {
                        gh[j] = Cn * g[j] + gstate[n][j];
                        gdrive[j] += gh[j] * Bn;
                        gstate[n][j] = gh[j] * decay[j];
                        const float ga = gstate[n][j] * before[j];
                        gexponent[j] += ga * dir.A2[n][j];
                        gA[n][j] += ga * delta[j];
                    }
                    for (int j = 0; j < HALF; j++) {
                        B_rows[n][j] = gh[j] * drive[j] + gh[j + HALF] * drive[j + HALF];
                        C_rows[n][j] = h[j] * g[j] + h[j + HALF] * g[j + HALF];
                    }
                }
                sum_rows(B_rows[0], N, gB + pixel * K * N, !first_of_group);
                sum_rows(C_rows[0], N, gC + pixel * K * N, !first_of_group);
                float gx[LANES], gux[LANES];
                for (int j = 0; j < LANES; j++) {
                    gx[j] = (gdrive[j] * ux[j] + gexponent[j] * LN2) * chunk.slope[t][j];
                    gux[j] = gdrive[j] * delta[j];
                    gbias[j] += gx[j];
                }
                store(gdt + pixel * K * D, gx, lanes);
                if (k > part) {
                    add(gu + pixel * D, gux, lanes);
                } else {
                    if (k == 0)
                        for (int j = 0; j < LANES; j++) {
                            gux[j] += g[j] * skip[j];
                            gskip[j] += g[j] * ux[j];
                        }
                    store(gu + pixel * D, gux, lanes);
                }
            }
        }
        for (int j = 0; j < lanes; j++)
            for (int64_t n = 0; n < N; n++) job->gA[((b * K + k) * D + c0 + j) * N + n] = gA[n][j];
        store(job->gbias + (b * K + k) * D + c0, gbias, lanes);
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

static void backward_partial(const Job *job, int64_t b, int64_t block, int64_t group, int64_t part, int first, int lanes) {
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
