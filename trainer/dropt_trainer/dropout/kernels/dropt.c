/* Kernels of the trainer: the dropout op and the optimizers of a pack.
 *
 * Plain C behind ctypes: no torch headers, no OpenMP (threads come from packs), no libm call. The
 * order of every floating-point operation is fixed and contraction is off (see native.py), so that
 * a machine's vector width never shows in a result.
 */
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) /* glibc resolves the clones when the library loads */
#define CLONED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONED
#endif
#define INLINED static inline __attribute__((always_inline))

#define GOLDEN 0x9e3779b9u
#define LANES 16 /* partial sums of a norm: fixed, whatever the machine's vectors hold */

enum { DROPT_OK = 0, DROPT_NEGATIVE_STEP = 1, DROPT_RATE_OUT_OF_RANGE = 2 };

/* The murmur3 finalizer (Appleby, 2011). */
INLINED uint32_t mix(uint32_t h) {
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    h *= 0xc2b2ae35u;
    return h ^ (h >> 16);
}

/* Half types are numbers of 16 bits, widened and narrowed here by integer arithmetic: compilers know
 * them under several names, and not everywhere. Both narrow to the nearest, ties to even. */
typedef struct {
    uint16_t bits;
} BFloat16;
typedef struct {
    uint16_t bits;
} Float16;

INLINED uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

INLINED float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

INLINED float widen_float(float x) { return x; }
INLINED double widen_double(double x) { return x; }
INLINED float widen_bfloat16(BFloat16 x) { return float_of((uint32_t)x.bits << 16); }

INLINED float widen_float16(Float16 x) {
    const uint32_t sign = (uint32_t)(x.bits & 0x8000u) << 16;
    const uint32_t shifted = (uint32_t)(x.bits & 0x7fffu) << 13; /* exponent and fraction */
    const uint32_t exponent = shifted & 0x0f800000u;
    const uint32_t normal = shifted + (112u << 23); /* biases: 127 against 15 */
    const uint32_t special = normal + (112u << 23); /* infinities and NaN have all bits set */
    const uint32_t tiny = bits_of(float_of(normal + (1u << 23)) - 0x1p-14f);
    return float_of(sign | (exponent == 0x0f800000u ? special : exponent == 0 ? tiny : normal));
}

INLINED float narrow_float(float f) { return f; }
INLINED double narrow_double(double f) { return f; }

INLINED BFloat16 narrow_bfloat16(float f) {
    const uint32_t u = bits_of(f);
    const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const uint32_t quiet = (u >> 16) | 0x40u; /* rounding could carry a NaN into another number */
    return (BFloat16){(uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}

INLINED Float16 narrow_float16(float f) {
    const uint32_t sign = bits_of(f) & 0x80000000u, u = bits_of(f) ^ sign;
    const uint32_t special = u > 0x7f800000u ? 0x7e00u : 0x7c00u; /* NaN; infinity */
    const uint32_t tiny = bits_of(float_of(u) + 0.5f) - 0x3f000000u; /* the sum does the rounding */
    const uint32_t normal = (u - (112u << 23) + 0xfffu + ((u >> 13) & 1u)) >> 13;
    const uint32_t half = u >= 0x47800000u ? special : u < 0x38800000u ? tiny : normal;
    return (Float16){(uint16_t)(half | sign >> 16)};
}

/* One run of `n` elements of one slot, the first of them number `first` inside the slot. */
#define DEFINE_DROP_RUN(NAME, NUMBER, WIDE)                                                       \
    CLONED static void drop_##NAME(const NUMBER *x, NUMBER *y, int64_t n, uint32_t first,         \
                                   uint32_t a, uint32_t b, int32_t threshold, WIDE scale) {       \
        for (int64_t i = 0; i < n; i++) {                                                         \
            uint32_t h = mix(mix(((first + (uint32_t)i) * GOLDEN) ^ a) + b);                      \
            WIDE kept = widen_##NAME(x[i]) * scale;                                               \
            y[i] = narrow_##NAME((int32_t)(h >> 8) >= threshold ? kept : (WIDE)0);                \
        }                                                                                         \
    }
DEFINE_DROP_RUN(float, float, float)
DEFINE_DROP_RUN(double, double, double)
DEFINE_DROP_RUN(bfloat16, BFloat16, float)
DEFINE_DROP_RUN(float16, Float16, float)

/* The types of numbers that the op knows, as its caller numbers them, and their sizes in bytes. */
enum { FLOAT32 = 0, FLOAT64 = 1, BFLOAT16 = 2, FLOAT16 = 3 };
static const int64_t SIZES[] = {4, 8, 2, 2};

/* x, y: [O, K, I] of the type; rate, seed, step: [K], the rates `stride` numbers apart. A rate of 0
 * copies its slot. Returns DROPT_OK or why not. */
int32_t dropt_drop(const char *x, char *y, const float *rates, const int64_t *seed,
                   const int32_t *step, int64_t stride, int32_t site, int32_t call, int64_t O,
                   int64_t K, int64_t I, int32_t type) {
    const uint32_t s = (uint32_t)site, c = (uint32_t)call * GOLDEN;
    const int64_t n_bytes = I * SIZES[type];
    for (int64_t k = 0; k < K; k++) {
        const float rate = rates[k * stride];
        if (step[k] < 0) return DROPT_NEGATIVE_STEP;
        if (!(rate >= 0.0f && rate < 1.0f)) return DROPT_RATE_OUT_OF_RANGE;
        const uint32_t lo = (uint32_t)seed[k], hi = (uint32_t)((uint64_t)seed[k] >> 32);
        const uint32_t a = mix(mix(mix(lo ^ (s * GOLDEN)) + (uint32_t)step[k] * GOLDEN) + c);
        const uint32_t b = mix(mix(hi + s) ^ a);
        const int32_t threshold = (int32_t)(rate * 16777216.0f);
        const float scale = 1.0f / (1.0f - rate);
        for (int64_t o = 0; o < O; o++) {
            const void *from = x + (o * K + k) * n_bytes;
            void *to = y + (o * K + k) * n_bytes;
            const uint32_t first = (uint32_t)(o * I);
            if (rate == 0.0f)
                memcpy(to, from, (size_t)n_bytes);
            else if (type == FLOAT32)
                drop_float(from, to, I, first, a, b, threshold, scale);
            else if (type == FLOAT64)
                drop_double(from, to, I, first, a, b, threshold, 1.0 / (1.0 - (double)rate));
            else if (type == BFLOAT16)
                drop_bfloat16(from, to, I, first, a, b, threshold, scale);
            else
                drop_float16(from, to, I, first, a, b, threshold, scale);
        }
    }
    return DROPT_OK;
}

/* Gradient of loss + l1 * sum|w| + l2 * sum w^2, the penalties on decayed parameters alone. */
INLINED float penalised(float g, float w, uint8_t decayed, float l1, float twice_l2) {
    float sign = (float)(w > 0.0f) - (float)(w < 0.0f);
    float penalty = l1 * sign + twice_l2 * w;
    return decayed ? g + penalty : g;
}

CLONED static double squared_norm(const float *g, const float *w, const uint8_t *decayed, float l1,
                                  float twice_l2, int64_t P) {
    double sums[LANES] = {0.0}, total = 0.0;
    int64_t p = 0;
    for (; p + LANES <= P; p += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            double d = penalised(g[p + lane], w[p + lane], decayed[p + lane], l1, twice_l2);
            sums[lane] += d * d;
        }
    for (; p < P; p++) {
        double d = penalised(g[p], w[p], decayed[p], l1, twice_l2);
        sums[p % LANES] += d * d;
    }
    for (int lane = 0; lane < LANES; lane++) total += sums[lane];
    return total;
}

/* min(1, clip / norm) of one row; 1 where clip is not positive or infinite; NaN stays NaN. */
INLINED float clip_scale(const float *g, const float *w, const uint8_t *decayed, float l1,
                         float twice_l2, float clip, int64_t P) {
    if (!(clip > 0.0f) || clip == __builtin_inff()) return 1.0f;
    double norm = __builtin_sqrt(squared_norm(g, w, decayed, l1, twice_l2, P));
    return norm <= (double)clip ? 1.0f : (float)((double)clip / norm);
}

/* base to the power of n >= 0 by squaring: libm's pow may round differently elsewhere. */
INLINED double power(double base, int32_t n) {
    double result = 1.0;
    for (; n > 0; n >>= 1, base *= base)
        if (n & 1) result *= base;
    return result;
}

/* All that one row of an optimizer shares. */
typedef struct {
    float keep, scale, l1, twice_l2, step_size, root_correction;
} Row;

CLONED static void adamw_row(float *restrict w, const float *restrict g, float *restrict m,
                             float *restrict v, const uint8_t *restrict decayed, Row row,
                             int64_t P) {
    for (int64_t p = 0; p < P; p++) {
        float d = row.scale * penalised(g[p], w[p], decayed[p], row.l1, row.twice_l2);
        float first = m[p] + 0.1f * (d - m[p]);
        float second = 0.999f * v[p] + 0.001f * d * d;
        float denominator = __builtin_sqrtf(second) / row.root_correction + 1e-8f;
        m[p] = first;
        v[p] = second;
        w[p] = row.keep * w[p] - row.step_size * (first / denominator);
    }
}

CLONED static void sgd_row(float *restrict w, const float *restrict g, float *restrict m,
                           const uint8_t *restrict decayed, Row row, int64_t P) {
    for (int64_t p = 0; p < P; p++) {
        float d = row.scale * penalised(g[p], w[p], decayed[p], row.l1, row.twice_l2);
        float velocity = 0.9f * m[p] + d;
        m[p] = velocity;
        w[p] = row.keep * w[p] - row.step_size * (d + 0.9f * velocity);
    }
}

/* AdamW (betas .9 and .999, eps 1e-8, Loshchilov and Hutter 2019) on w, g, m, v: [K, P].
 *
 * lr, wd, l1, l2, clip, age, active: [K]; age counts this step, so it is 1 at the first; decayed:
 * [P], 1 where l1 and l2 act. The decay itself acts on every parameter. An inactive row is left. */
void dropt_adamw(float *w, const float *g, float *m, float *v, const float *lr, const float *wd,
                 const float *l1, const float *l2, const float *clip, const int32_t *age,
                 const uint8_t *decayed, const uint8_t *active, int64_t K, int64_t P) {
    for (int64_t k = 0; k < K; k++) {
        if (!active[k]) continue;
        const int64_t at = k * P;
        const float twice_l2 = 2.0f * l2[k];
        Row row = {
            .keep = (float)(1.0 - (double)lr[k] * wd[k]),
            .scale = clip_scale(g + at, w + at, decayed, l1[k], twice_l2, clip[k], P),
            .l1 = l1[k],
            .twice_l2 = twice_l2,
            .step_size = (float)(lr[k] / (1.0 - power(0.9, age[k]))),
            .root_correction = (float)__builtin_sqrt(1.0 - power(0.999, age[k])),
        };
        adamw_row(w + at, g + at, m + at, v + at, decayed, row, P);
    }
}

/* SGD with Nesterov momentum .9 and decoupled decay on w, g, m: [K, P]; the rest as dropt_adamw.
 *
 * m starts at zero, which makes the first velocity the gradient, as in torch.optim.SGD. */
void dropt_sgd(float *w, const float *g, float *m, const float *lr, const float *wd,
               const float *l1, const float *l2, const float *clip, const uint8_t *decayed,
               const uint8_t *active, int64_t K, int64_t P) {
    for (int64_t k = 0; k < K; k++) {
        if (!active[k]) continue;
        const int64_t at = k * P;
        const float twice_l2 = 2.0f * l2[k];
        Row row = {
            .keep = (float)(1.0 - (double)lr[k] * wd[k]),
            .scale = clip_scale(g + at, w + at, decayed, l1[k], twice_l2, clip[k], P),
            .l1 = l1[k],
            .twice_l2 = twice_l2,
            .step_size = lr[k],
            .root_correction = 1.0f,
        };
        sgd_row(w + at, g + at, m + at, decayed, row, P);
    }
}

typedef float Four __attribute__((vector_size(16)));

INLINED Four load_four(const float *from) {
    Four four;
    memcpy(&four, from, sizeof four);
    return four;
}

/* Four rows of four, turned. */
INLINED void turn_block(float *to, int64_t to_stride, const float *from, int64_t from_stride) {
    Four a = load_four(from), b = load_four(from + from_stride);
    Four c = load_four(from + 2 * from_stride), d = load_four(from + 3 * from_stride);
    Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    Four cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    Four cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    Four turned[4] = {
        __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5),
        __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
        __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5),
        __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7),
    };
    for (int64_t i = 0; i < 4; i++) memcpy(to + i * to_stride, &turned[i], sizeof turned[i]);
}

/* to: [K, R, C], its matrices contiguous and `to_stride` apart; from: [K, C, R], contiguous, so that
 * to[k, r, c] = from[k, c, r]. */
void dropt_turn(float *to, const float *from, int64_t to_stride, int64_t K, int64_t R, int64_t C) {
    const int64_t R4 = R - R % 4, C4 = C - C % 4;
    for (int64_t k = 0; k < K; k++, to += to_stride, from += R * C) {
        for (int64_t r = 0; r < R4; r += 4)
            for (int64_t c = 0; c < C4; c += 4) turn_block(to + r * C + c, C, from + c * R + r, R);
        for (int64_t r = 0; r < R; r++)
            for (int64_t c = r < R4 ? C4 : 0; c < C; c++) to[r * C + c] = from[c * R + r];
    }
}
