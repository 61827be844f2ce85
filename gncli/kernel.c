/* gncli_kernel: what numpy takes several passes for, in one; the same to the bit.

   Sums of float32 are exact: pairs of float64, and the caller uses them only where a pair holds all the
   digits. So it does not matter that numpy adds in another order. Sums of squares and of float64 are not,
   and are taken in numpy's own order, or by numpy. A product and a sum are two roundings, as they are for
   numpy: see the flags of the build. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <numpy/ndarrayobject.h>
#include <numpy/ufuncobject.h>

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* A build that fails is one that uses numpy. */
#if defined(__FAST_MATH__) || FLT_EVAL_METHOD != 0
#error "float64 is not rounded at every step here"
#endif

#define INLINE static inline __attribute__((always_inline))

/* Compiled for several processors; which one it is shows when the module is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define FAST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FAST
#endif

/* In place, too, no element needs another: the loop may be taken several at a time. */
#if defined(__clang__)
#define SIDE_BY_SIDE _Pragma("clang loop vectorize(assume_safety)")
#else
#define SIDE_BY_SIDE _Pragma("GCC ivdep")
#endif

enum {
    VERSION = 8,  /* gncli.kernel asks for it */
    DEPTH = 8,    /* values that are added up before their sum goes to a pair, if that is exact */
    WIDTH = 32,   /* lanes that a row is laid in: they fit the registers */
    STRIP = 256,  /* columns at a time: they fit the first cache */
    CHUNK = 8192, /* the most values of a dot product, as in gncli/tile.py */
    LONG = 16384  /* elements whose time is worth letting another thread have the interpreter */
};

static const double PIVOT = 262144; /* as in gncli/measure.py */

typedef npy_intp n_t;

/* Of each lane: least and most, the magnitude's bits of the least that is not 0, the sum and its rest. */
typedef struct {
    float least[STRIP], most[STRIP];
    uint32_t bits[STRIP];
    double sum[STRIP], rest[STRIP];
} Lanes;

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint64_t wide_bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE double double_of(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint32_t magnitude(float value) {
    return (bits_of(value) << 1) - 1; /* ordered as magnitudes are, but that 0 comes last */
}

INLINE void add(double *sum, double *rest, double term) {
    double total = *sum + term, part = total - *sum;
    *rest += (*sum - (total - part)) + (term - part);
    *sum = total;
}

/* The state before any row: `x` is the first. */
INLINE void begin(Lanes *all, const float *restrict x, n_t lanes) {
    for (n_t j = 0; j < lanes; j++) {
        all->least[j] = all->most[j] = x[j];
        all->bits[j] = UINT32_MAX;
        all->sum[j] = all->rest[j] = 0;
    }
}

/* `rows` rows, `pitch` values apart: several only where so many values add up exactly. */
INLINE void take(Lanes *all, const float *restrict x, n_t rows, n_t pitch, n_t lanes) {
    double term[STRIP];
    for (n_t r = 0; r < rows; r++)
        for (n_t j = 0; j < lanes; j++) {
            float value = x[r * pitch + j];
            all->least[j] = value < all->least[j] ? value : all->least[j];
            all->most[j] = value > all->most[j] ? value : all->most[j];
        }
    for (n_t r = 0; r < rows; r++)
        for (n_t j = 0; j < lanes; j++) {
            uint32_t bits = magnitude(x[r * pitch + j]);
            all->bits[j] = bits < all->bits[j] ? bits : all->bits[j];
        }
    for (n_t j = 0; j < lanes; j++)
        term[j] = x[j];
    for (n_t r = 1; r < rows; r++)
        for (n_t j = 0; j < lanes; j++)
            term[j] += x[r * pitch + j];
    for (n_t j = 0; j < lanes; j++)
        add(&all->sum[j], &all->rest[j], term[j]);
}

/* Two lanes as one, the first. */
INLINE void merge(Lanes *all, n_t to, n_t from) {
    all->least[to] = all->least[from] < all->least[to] ? all->least[from] : all->least[to];
    all->most[to] = all->most[from] > all->most[to] ? all->most[from] : all->most[to];
    all->bits[to] = all->bits[from] < all->bits[to] ? all->bits[from] : all->bits[to];
    add(&all->sum[to], &all->rest[to], all->sum[from]);
    all->rest[to] += all->rest[from];
}

/* Whether DEPTH values of a lane do add up exactly: whether they span 53 bits or fewer. */
INLINE int is_exact(const Lanes *all, n_t lanes) {
    int exact = 1;
    for (n_t j = 0; j < lanes; j++) {
        uint32_t low = magnitude(all->least[j]) + 1, high = magnitude(all->most[j]) + 1;
        uint32_t most = (low > high ? low : high) >> 24, least = (all->bits[j] + 1) >> 24;
        exact &= most <= (least ? least : 1) + 26;
    }
    return exact;
}

INLINE void lay_row(Lanes *all, const float *restrict x, n_t count, n_t depth) {
    n_t at = 0, lanes = count < WIDTH ? 1 : WIDTH;
    begin(all, x, lanes);
    for (; at + depth * WIDTH <= count; at += depth * WIDTH)
        take(all, x + at, depth, WIDTH, WIDTH);
    for (; at + WIDTH <= count; at += WIDTH)
        take(all, x + at, 1, 0, WIDTH);
    for (; at < count; at++)
        take(all, x + at, 1, 0, 1);
    for (n_t j = 1; j < lanes; j++)
        merge(all, 0, j);
}

/* Of a whole row, in the first lane. */
INLINE void survey_row(Lanes *all, const float *restrict x, n_t count) {
    lay_row(all, x, count, DEPTH);
    if (!is_exact(all, 1))
        lay_row(all, x, count, 1);
}

INLINE void survey_strip(Lanes *all, const float *restrict x, n_t rows, n_t pitch, n_t lanes, n_t depth) {
    n_t r = 0;
    begin(all, x, lanes);
    for (; r + depth <= rows; r += depth)
        take(all, x + r * pitch, depth, pitch, lanes);
    for (; r < rows; r++)
        take(all, x + r * pitch, 1, 0, lanes);
}

INLINE const float *gather(float *restrict row, const char *x, n_t step, n_t lanes) {
    for (n_t j = 0; j < lanes; j++)
        row[j] = *(const float *)(x + j * step);
    return row;
}

/* What there is of a lane, to entry `at` of five outputs. */
INLINE void put(const Lanes *all, n_t j, char **out, n_t at, const n_t *steps) {
    *(double *)(out[0] + at * steps[0]) = all->least[j] + 0.0; /* not -0 */
    *(double *)(out[1] + at * steps[1]) = all->most[j] + 0.0;
    *(uint32_t *)(out[2] + at * steps[2]) = all->bits[j];
    *(double *)(out[3] + at * steps[3]) = all->sum[j];
    *(double *)(out[4] + at * steps[4]) = all->rest[j];
}

static int refuse(const char *why) {
    NPY_ALLOW_C_API_DEF
    NPY_ALLOW_C_API;
    PyErr_SetString(PyExc_ValueError, why);
    NPY_DISABLE_C_API;
    return 0;
}

/* Core axes have elements, and are contiguous where it says so; or an error is set. */
static int filled(n_t count) {
    return count > 0 || refuse("an axis is empty");
}

static int packed(n_t count, n_t step, size_t size) {
    return filled(count) && (count == 1 || step == (n_t)size || refuse("an axis is not contiguous"));
}

static const char survey_types[] = {NPY_FLOAT, NPY_DOUBLE, NPY_DOUBLE, NPY_UINT32, NPY_DOUBLE, NPY_DOUBLE};

FAST static void survey(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    Lanes all;
    if (!packed(dims[1], steps[6], sizeof(float)))
        return;
    for (n_t i = 0; i < dims[0]; i++) {
        survey_row(&all, (const float *)(args[0] + i * steps[0]), dims[1]);
        put(&all, 0, args + 1, i, steps + 1);
    }
}

FAST static void survey_columns(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    n_t rows = dims[1], columns = dims[2], pitch = steps[6] / (n_t)sizeof(float), lanes;
    Lanes all;
    if (!filled(rows) || !packed(columns, steps[7], sizeof(float)))
        return;
    for (n_t i = 0; i < dims[0]; i++) {
        char *line[5];
        for (int k = 0; k < 5; k++)
            line[k] = args[k + 1] + i * steps[k + 1];
        for (n_t at = 0; at < columns; at += lanes) {
            const float *x = (const float *)(args[0] + i * steps[0]) + at;
            lanes = columns - at < STRIP ? columns - at : STRIP;
            if (lanes == STRIP)
                survey_strip(&all, x, rows, pitch, STRIP, DEPTH);
            else
                survey_strip(&all, x, rows, pitch, lanes, DEPTH);
            if (!is_exact(&all, lanes))
                survey_strip(&all, x, rows, pitch, lanes, 1);
            for (n_t j = 0; j < lanes; j++)
                put(&all, j, line, at + j, steps + 8);
        }
    }
}

static const char total_types[] = {NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE};

static void total(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    for (n_t i = 0; i < dims[0]; i++) {
        double sum = 0, rest = 0;
        for (n_t j = 0; j < dims[1]; j++) {
            add(&sum, &rest, *(const double *)(args[0] + i * steps[0] + j * steps[4]));
            rest += *(const double *)(args[1] + i * steps[1] + j * steps[5]);
        }
        *(double *)(args[2] + i * steps[2]) = sum;
        *(double *)(args[3] + i * steps[3]) = rest;
    }
}

static const char moments_types[] = {NPY_FLOAT,  NPY_DOUBLE, NPY_DOUBLE, NPY_UINT32,
                                     NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE};

/* The mean in two parts, of a sum in two: see _divide and _settle in gncli/measure.py. */
INLINE void divide(double *high, double *low, float least, float most, double count) {
    double sum = *high, lower = 0;
    add(&sum, &lower, *low);
    double middle = sum / count, cut = middle * PIVOT, pivot = (middle + cut) - cut;
    *high = least == most ? -(0.0 - least) : pivot;
    *low = least == most ? 0 : ((sum - pivot * count) + lower) / count;
}

/* A strip of sets, a lane each: see Form.about in gncli/tile.py, too. */
INLINE void moments_strip(Lanes *all, double *restrict squares, const char *x, n_t step, n_t lanes,
                          n_t count, n_t next) {
    double *restrict mean = all->sum, *restrict rest = all->rest, each = count;
    float row[STRIP];
    begin(all, gather(row, x, step, lanes), lanes);
    for (n_t k = 0; k < count; k++)
        take(all, gather(row, x + k * next, step, lanes), 1, 0, lanes);
    for (n_t j = 0; j < lanes; j++) {
        divide(&mean[j], &rest[j], all->least[j], all->most[j], each);
        squares[j] = 0;
    }
    for (n_t k = 0; k < count; k++) {
        gather(row, x + k * next, step, lanes);
        for (n_t j = 0; j < lanes; j++) {
            double off = row[j] - mean[j];
            squares[j] += off * off;
        }
    }
    for (n_t j = 0; j < lanes; j++) {
        double about = squares[j] - each * (rest[j] * rest[j]);
        squares[j] = about < 0 ? 0 : about;
    }
}

FAST static void moments(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    Lanes all;
    double squares[STRIP];
    n_t lanes;
    if (!filled(dims[1]))
        return;
    for (n_t at = 0; at < dims[0]; at += lanes) {
        lanes = dims[0] - at < STRIP ? dims[0] - at : STRIP;
        moments_strip(&all, squares, args[0] + at * steps[0], steps[0], lanes, dims[1], steps[7]);
        for (n_t j = 0; j < lanes; j++) {
            put(&all, j, args + 1, at + j, steps + 1);
            *(double *)(args[6] + (at + j) * steps[6]) = squares[j];
        }
    }
}

/* numpy's own dot product of float64: in what order BLAS adds up, only BLAS knows. */
static PyUFuncGenericFunction dot;
static void *dot_data;
static const char dot_types[] = {NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE};
static double ones[CHUNK];

/* The sum of products of a chunk, as numpy takes it. */
INLINE void put_dot(double *a, double *b, n_t size, char *to) {
    const n_t one[2] = {1, size}, apart[5] = {0, 0, 0, sizeof(double), sizeof(double)};
    char *both[3] = {(char *)a, (char *)b, to};
    dot(both, one, apart, dot_data);
}

INLINE int fits(n_t chunks, n_t size, const n_t *steps, size_t each) {
    return filled(chunks) && packed(size, steps[1], each) && packed(chunks, steps[0], size * each) &&
           (size <= CHUNK || refuse("the last axis is too long"));
}

FAST static void moments_rows(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    const n_t chunks = dims[1], size = dims[2];
    double off[CHUNK];
    Lanes all;
    if (!fits(chunks, size, steps + 7, sizeof(float)))
        return;
    for (n_t i = 0; i < dims[0]; i++) {
        const float *restrict x = (const float *)(args[0] + i * steps[0]);
        survey_row(&all, x, chunks * size);
        divide(all.sum, all.rest, all.least[0], all.most[0], (double)(chunks * size));
        put(&all, 0, args + 1, i, steps + 1);
        for (n_t k = 0; k < chunks; k++, x += size) {
            double mean = all.sum[0];
            for (n_t j = 0; j < size; j++)
                off[j] = x[j] - mean;
            put_dot(off, off, size, args[6] + i * steps[6] + k * steps[9]);
        }
    }
}

static const char deviate_types[] = {NPY_FLOAT, NPY_DOUBLE, NPY_DOUBLE};

FAST static void deviate(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    n_t count = dims[0];
    if (steps[0] == sizeof(float) && steps[1] == 0 && steps[2] == sizeof(double)) {
        const float *restrict x = (const float *)args[0];
        double *restrict out = (double *)args[2], mean = *(const double *)args[1];
        for (n_t i = 0; i < count; i++)
            out[i] = x[i] - mean;
        return;
    }
    for (n_t i = 0; i < count; i++)
        *(double *)(args[2] + i * steps[2]) =
            *(const float *)(args[0] + i * steps[0]) - *(const double *)(args[1] + i * steps[1]);
}

/* numpy adds up rows in the same order, where there are several columns. */
INLINE void squares_strip(double *restrict sums, const float *restrict x, const double *restrict mean,
                          n_t rows, n_t pitch, n_t lanes) {
    for (n_t j = 0; j < lanes; j++)
        sums[j] = 0;
    for (n_t r = 0; r < rows; r++, x += pitch)
        for (n_t j = 0; j < lanes; j++) {
            double off = x[j] - mean[j];
            sums[j] += off * off;
        }
}

FAST static void squares_columns(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    n_t rows = dims[1], columns = dims[2], pitch = steps[3] / (n_t)sizeof(float), lanes;
    double sums[STRIP];
    if (!packed(columns, steps[4], sizeof(float)) || !packed(columns, steps[5], sizeof(double)))
        return;
    for (n_t i = 0; i < dims[0]; i++)
        for (n_t at = 0; at < columns; at += lanes) {
            const float *x = (const float *)(args[0] + i * steps[0]) + at;
            const double *mean = (const double *)(args[1] + i * steps[1]) + at;
            lanes = columns - at < STRIP ? columns - at : STRIP;
            if (lanes == STRIP)
                squares_strip(sums, x, mean, rows, pitch, STRIP);
            else
                squares_strip(sums, x, mean, rows, pitch, lanes);
            for (n_t j = 0; j < lanes; j++)
                *(double *)(args[2] + i * steps[2] + (at + j) * steps[6]) = sums[j];
        }
}

static const char widen_types[] = {NPY_HALF, NPY_FLOAT};

/* float16 as float32. The smallest are small for float32, too, until they are multiplied. */
INLINE float widened(uint16_t half) {
    uint32_t low = (uint32_t)(half & 0x7fff) << 13, sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t bits = bits_of(float_of(low) * 0x1p112f);
    return float_of((low < 0x7c00u << 13 ? bits : low | 0x7f800000) | sign);
}

FAST static void widen(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    if (steps[0] == sizeof(uint16_t) && steps[1] == sizeof(float)) {
        const uint16_t *restrict x = (const uint16_t *)args[0];
        float *restrict out = (float *)args[1];
        for (n_t i = 0; i < dims[0]; i++)
            out[i] = widened(x[i]);
        return;
    }
    for (n_t i = 0; i < dims[0]; i++)
        *(float *)(args[1] + i * steps[1]) = widened(*(const uint16_t *)(args[0] + i * steps[0]));
}

/* float64 as float16, rounded to nearest, ties to even. */
INLINE uint16_t halved(double value) {
    const double unit = 0x1p28; /* whose last place is that of the smallest float16 */
    uint64_t bits = wide_bits_of(value), sign = bits >> 48 & 0x8000, rest = bits >> 42 & 0x3ff;
    bits &= INT64_MAX;
    uint64_t small = wide_bits_of(double_of(bits) + unit) - wide_bits_of(unit);
    uint64_t out = ((bits + 0x1ffffffffff + (bits >> 42 & 1)) >> 42) - (1008 << 10);
    out = out > 0x7c00 ? 0x7c00 : out;
    out = bits < (uint64_t)1009 << 52 ? small : out;
    out = bits > (uint64_t)0x7ff << 52 ? 0x7c00 | (rest ? rest : 1) : out; /* NaN */
    return (uint16_t)(sign | out);
}

static const char apply_types[] = {NPY_FLOAT, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_FLOAT};
static const char apply_half_types[] = {NPY_FLOAT, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_HALF};

INLINE double affine(float x, double mean, double scale, double shift) {
    return (x - mean) * scale + shift;
}

/* To float32 or, `half`, to float16: a constant where these are called, as are the `at_*`. */
INLINE void round_to(char *out, double value, int half) {
    if (half)
        *(uint16_t *)out = halved(value);
    else
        *(float *)out = (float)value;
}

INLINE void apply_apart(char **args, n_t count, const n_t *steps, int half) {
    const char *x = args[0], *mean = args[1], *scale = args[2], *shift = args[3];
    char *out = args[4];
    for (n_t i = 0; i < count; i++) {
        round_to(out, affine(*(const float *)x, *(const double *)mean, *(const double *)scale,
                             *(const double *)shift), half);
        x += steps[0], mean += steps[1], scale += steps[2], shift += steps[3], out += steps[4];
    }
}

/* `at_*` is 0 or 1: whether every element has its own. */
INLINE void apply_line(char **args, n_t count, n_t at_mean, n_t at_scale, n_t at_shift, int half) {
    const float *x = (const float *)args[0];
    const double *mean = (const double *)args[1], *scale = (const double *)args[2];
    const double *shift = (const double *)args[3];
    const n_t size = half ? sizeof(uint16_t) : sizeof(float);
    SIDE_BY_SIDE
    for (n_t i = 0; i < count; i++)
        round_to(args[4] + i * size,
                 affine(x[i], mean[i * at_mean], scale[i * at_scale], shift[i * at_shift]), half);
}

INLINE void apply_to(char **args, n_t count, const n_t *steps, int half) {
    const n_t each = sizeof(double), size = half ? sizeof(uint16_t) : sizeof(float);
    const n_t *own = steps + 1;
    if (steps[0] != sizeof(float) || steps[4] != size)
        apply_apart(args, count, steps, half);
    else if (own[0] == 0 && own[1] == 0 && own[2] == 0)
        apply_line(args, count, 0, 0, 0, half);
    else if (own[0] == 0 && own[1] == 0 && own[2] == each)
        apply_line(args, count, 0, 0, 1, half);
    else if (own[0] == 0 && own[1] == each && own[2] == each)
        apply_line(args, count, 0, 1, 1, half);
    else if (own[0] == each && own[1] == each && own[2] == each)
        apply_line(args, count, 1, 1, 1, half);
    else
        apply_apart(args, count, steps, half);
}

FAST static void apply(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    apply_to(args, dims[0], steps, 0);
}

FAST static void apply_half(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    apply_to(args, dims[0], steps, 1);
}

FAST static void apply_sets(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    const n_t inner[5] = {steps[5], 0, steps[6], steps[7], steps[8]};
    for (n_t i = 0; i < dims[0]; i++) {
        char *set[5];
        for (int k = 0; k < 5; k++)
            set[k] = args[k] + i * steps[k];
        apply_apart(set, dims[1], inner, 0);
    }
}

static const char near_types[] = {NPY_FLOAT, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_BOOL};

/* `at_*`: bytes to an element's own, or 0. */
INLINE int near_line(char **args, n_t count, n_t at_mean, n_t at_scale, n_t at_shift, double bound) {
    const float *x = (const float *)args[0];
    const char *mean = args[1], *scale = args[2], *shift = args[3];
    int found = 0;
    for (n_t j = 0; j < count; j++) {
        double value = affine(x[j], *(const double *)(mean + j * at_mean),
                              *(const double *)(scale + j * at_scale),
                              *(const double *)(shift + j * at_shift));
        found |= (value < bound) & (value > -bound);
    }
    return found;
}

/* The least float that is no less. */
INLINE float at_least(double bound) {
    float value = (float)bound;
    return value >= bound ? value : nextafterf(value, INFINITY);
}

/* Where all of a row have one mean, scale and shift, what comes near 0 is of an interval: no wider than by
   some 2^-52 of these for each rounding, the four of `affine` and those that are made here. */
INLINE int near_row(char **args, n_t count, double bound) {
    const float *restrict x = (const float *)args[0];
    double mean = *(const double *)args[1], scale = *(const double *)args[2];
    double off = -*(const double *)args[3] / scale, reach = bound / fabs(scale);
    double room = (fabs(mean) + fabs(off) + reach) * 0x1p-48;
    double from = mean + off - reach - room, to = mean + off + reach + room;
    int found = 0;
    if (!(from > -FLT_MAX && to < FLT_MAX && bound > 0x1p-1000)) /* beyond it, roundings are larger */
        return near_line(args, count, 0, 0, 0, bound);
    float least = at_least(from), most = -at_least(-to);
    for (n_t j = 0; j < count; j++)
        found |= (x[j] >= least) & (x[j] <= most);
    return found;
}

FAST static void near(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    const n_t each = sizeof(double);
    n_t own[3];
    if (!packed(dims[1], steps[6], sizeof(float)))
        return;
    for (int k = 0; k < 3; k++) {
        own[k] = dims[2 + k] == 1 ? 0 : steps[7 + k];
        if (dims[2 + k] != 1 && dims[2 + k] != dims[1]) {
            refuse("an axis is neither 1 nor that of x");
            return;
        }
    }
    for (n_t i = 0; i < dims[0]; i++) {
        char *line[4];
        int found;
        double bound = *(const double *)(args[4] + i * steps[4]);
        for (int k = 0; k < 4; k++)
            line[k] = args[k] + i * steps[k];
        if (own[0] == 0 && own[1] == 0 && own[2] == 0)
            found = near_row(line, dims[1], bound);
        else if (own[0] == each && own[1] == each && own[2] == each)
            found = near_line(line, dims[1], each, each, each, bound);
        else
            found = near_line(line, dims[1], own[0], own[1], own[2], bound);
        *(npy_bool *)(args[5] + i * steps[5]) = (npy_bool)found;
    }
}

/* Steps in two parts, as gncli/pairs.py has them. Operand k of element i: */
INLINE double in(char **args, const n_t *steps, int k, n_t i) {
    return *(const double *)(args[k] + i * steps[k]);
}

INLINE void out(char **args, const n_t *steps, int k, n_t i, double value) {
    *(double *)(args[k] + i * steps[k]) = value;
}

/* A pass of `name##_line`, compiled thrice: for the steps that are given, of which 0 is one value for all;
   for operands that are all contiguous; for any. */
#define PAIRED(name, operands, ...)                                                                  \
    FAST static void name(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {   \
        static const n_t one[operands] = {__VA_ARGS__}, each[] = {8, 8, 8, 8, 8, 8, 8, 8, 8};        \
        if (memcmp(steps, one, sizeof one) == 0)                                                     \
            name##_line(args, dims[0], one);                                                         \
        else if (memcmp(steps, each, sizeof one) == 0)                                               \
            name##_line(args, dims[0], each);                                                        \
        else                                                                                         \
            name##_line(args, dims[0], steps);                                                       \
    }

static const char pairs_types[] = {NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE,
                                   NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE};

INLINE double cut_off(double x, double anchor) {
    return (x + anchor) - anchor;
}

/* x, anchor -> upper, lower */
INLINE void cut_line(char **args, n_t count, const n_t *steps) {
    SIDE_BY_SIDE
    for (n_t i = 0; i < count; i++) {
        double x = in(args, steps, 0, i), upper = cut_off(x, in(args, steps, 1, i));
        out(args, steps, 2, i, upper);
        out(args, steps, 3, i, x - upper);
    }
}

PAIRED(cut, 4, 8, 0, 8, 8)

INLINE void center_at(double x, double anchor, double pivot, double rest, double *upper, double *lower) {
    double cut = cut_off(x, anchor);
    *upper = cut - pivot;
    *lower = (x - cut) - rest;
}

/* Of element i, whose first operands are x, anchor, pivot and rest. */
INLINE void center_of(char **args, const n_t *steps, n_t i, double *upper, double *lower) {
    center_at(in(args, steps, 0, i), in(args, steps, 1, i), in(args, steps, 2, i), in(args, steps, 3, i),
              upper, lower);
}

/* x, anchor, pivot, rest -> upper, lower */
INLINE void center_line(char **args, n_t count, const n_t *steps) {
    SIDE_BY_SIDE
    for (n_t i = 0; i < count; i++) {
        double upper, lower;
        center_of(args, steps, i, &upper, &lower);
        out(args, steps, 4, i, upper);
        out(args, steps, 5, i, lower);
    }
}

PAIRED(center, 6, 8, 0, 0, 0, 8, 8)

INLINE void square_at(double upper, double lower, double anchor, double *head, double *terms) {
    double rest;
    *head = cut_off(upper, anchor);
    rest = (upper - *head) + lower;
    *terms = ((*head + *head) + rest) * rest;
}

/* upper, lower, anchor -> head, terms */
INLINE void square_line(char **args, n_t count, const n_t *steps) {
    SIDE_BY_SIDE
    for (n_t i = 0; i < count; i++) {
        double head, terms;
        square_at(in(args, steps, 0, i), in(args, steps, 1, i), in(args, steps, 2, i), &head, &terms);
        out(args, steps, 3, i, head);
        out(args, steps, 4, i, terms);
    }
}

PAIRED(square, 5, 8, 8, 0, 8, 8)

INLINE double scaled(double upper, double lower, double scale, double head, double rest) {
    return (lower * scale + upper * rest) + upper * head;
}

INLINE double shifted(double upper, double lower, double scale, double head, double rest, double shift) {
    double sum = upper * head, lost = 0;
    add(&sum, &lost, shift);
    return ((lower * scale + upper * rest) + lost) + sum;
}

/* upper, lower, scale, its head, its rest -> y */
INLINE void scale_line(char **args, n_t count, const n_t *steps) {
    SIDE_BY_SIDE
    for (n_t i = 0; i < count; i++)
        out(args, steps, 5, i, scaled(in(args, steps, 0, i), in(args, steps, 1, i), in(args, steps, 2, i),
                                      in(args, steps, 3, i), in(args, steps, 4, i)));
}

PAIRED(scale, 6, 8, 8, 0, 0, 0, 8)

/* The same, and shift -> y */
INLINE void shift_line(char **args, n_t count, const n_t *steps) {
    SIDE_BY_SIDE
    for (n_t i = 0; i < count; i++)
        out(args, steps, 6, i, shifted(in(args, steps, 0, i), in(args, steps, 1, i), in(args, steps, 2, i),
                                       in(args, steps, 3, i), in(args, steps, 4, i), in(args, steps, 5, i)));
}

PAIRED(shift, 7, 8, 8, 0, 0, 0, 0, 8)

/* x, anchor, pivot, rest; scale, its head, its rest -> y: `center` and `scale` in one */
INLINE void center_scale_line(char **args, n_t count, const n_t *steps) {
    SIDE_BY_SIDE
    for (n_t i = 0; i < count; i++) {
        double upper, lower;
        center_of(args, steps, i, &upper, &lower);
        out(args, steps, 7, i, scaled(upper, lower, in(args, steps, 4, i), in(args, steps, 5, i),
                                      in(args, steps, 6, i)));
    }
}

PAIRED(center_scale, 8, 8, 0, 0, 0, 0, 0, 0, 8)

/* The same, and shift */
INLINE void center_shift_line(char **args, n_t count, const n_t *steps) {
    SIDE_BY_SIDE
    for (n_t i = 0; i < count; i++) {
        double upper, lower;
        center_of(args, steps, i, &upper, &lower);
        out(args, steps, 8, i, shifted(upper, lower, in(args, steps, 4, i), in(args, steps, 5, i),
                                       in(args, steps, 6, i), in(args, steps, 7, i)));
    }
}

PAIRED(center_shift, 9, 8, 0, 0, 0, 0, 0, 0, 0, 8)

/* Long rows of float64. NaN may go unseen: sums show it. */
FAST static void extremes(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    n_t count = dims[1];
    if (!packed(count, steps[3], sizeof(double)))
        return;
    for (n_t i = 0; i < dims[0]; i++) {
        const double *restrict x = (const double *)(args[0] + i * steps[0]);
        double least[WIDTH], most[WIDTH];
        n_t at = 0, lanes = count < WIDTH ? 1 : WIDTH;
        for (n_t j = 0; j < lanes; j++)
            least[j] = most[j] = x[j];
        for (; at + WIDTH <= count; at += WIDTH)
            for (n_t j = 0; j < WIDTH; j++) {
                double value = x[at + j];
                least[j] = value < least[j] ? value : least[j];
                most[j] = value > most[j] ? value : most[j];
            }
        for (; at < count; at++) {
            least[0] = x[at] < least[0] ? x[at] : least[0];
            most[0] = x[at] > most[0] ? x[at] : most[0];
        }
        for (n_t j = 1; j < lanes; j++) {
            least[0] = least[j] < least[0] ? least[j] : least[0];
            most[0] = most[j] > most[0] ? most[j] : most[0];
        }
        *(double *)(args[1] + i * steps[1]) = least[0] + 0.0;
        *(double *)(args[2] + i * steps[2]) = most[0] + 0.0;
    }
}

/* x, two anchors -> in each chunk, the sums of what is above the one cut, above the other, and of the rest */
FAST static void cut_rows(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    const n_t chunks = dims[1], size = dims[2];
    double part[CHUNK], left[CHUNK];
    if (!fits(chunks, size, steps + 6, sizeof(double)))
        return;
    for (n_t i = 0; i < dims[0]; i++) {
        const double *restrict x = (const double *)(args[0] + i * steps[0]);
        double anchor = *(const double *)(args[1] + i * steps[1]);
        double then = *(const double *)(args[2] + i * steps[2]);
        for (n_t k = 0; k < chunks; k++, x += size) {
            for (n_t j = 0; j < size; j++) {
                part[j] = cut_off(x[j], anchor);
                left[j] = x[j] - part[j];
            }
            put_dot(part, ones, size, args[3] + i * steps[3] + k * steps[8]);
            for (n_t j = 0; j < size; j++) {
                part[j] = cut_off(left[j], then);
                left[j] = left[j] - part[j];
            }
            put_dot(part, ones, size, args[4] + i * steps[4] + k * steps[9]);
            put_dot(left, ones, size, args[5] + i * steps[5] + k * steps[10]);
        }
    }
}

/* x, mean -> the squares of x - mean in each chunk */
FAST static void squares_rows(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    const n_t chunks = dims[1], size = dims[2];
    double off[CHUNK];
    if (!fits(chunks, size, steps + 3, sizeof(double)))
        return;
    for (n_t i = 0; i < dims[0]; i++) {
        const double *restrict x = (const double *)(args[0] + i * steps[0]);
        double mean = *(const double *)(args[1] + i * steps[1]);
        for (n_t k = 0; k < chunks; k++, x += size) {
            for (n_t j = 0; j < size; j++)
                off[j] = x[j] - mean;
            put_dot(off, off, size, args[2] + i * steps[2] + k * steps[5]);
        }
    }
}

/* x, anchor, pivot, rest, anchor of the squares -> the sums of head² and of the terms in each chunk */
FAST static void center_rows(char **args, const n_t *dims, const n_t *steps, void *Py_UNUSED(data)) {
    const n_t chunks = dims[1], size = dims[2];
    double head[CHUNK], terms[CHUNK];
    if (!fits(chunks, size, steps + 7, sizeof(double)))
        return;
    for (n_t i = 0; i < dims[0]; i++) {
        const double *restrict x = (const double *)(args[0] + i * steps[0]);
        double of[5];
        for (int k = 1; k < 5; k++)
            of[k] = *(const double *)(args[k] + i * steps[k]);
        for (n_t k = 0; k < chunks; k++, x += size) {
            for (n_t j = 0; j < size; j++) {
                double upper, lower;
                center_at(x[j], of[1], of[2], of[3], &upper, &lower);
                square_at(upper, lower, of[4], &head[j], &terms[j]);
            }
            put_dot(head, head, size, args[5] + i * steps[5] + k * steps[9]);
            put_dot(terms, ones, size, args[6] + i * steps[6] + k * steps[10]);
        }
    }
}

typedef struct {
    const char *name, *signature;
    int cores; /* lengths in `dims` behind the number of rows */
    PyUFuncGenericFunction loop;
    const char *types;
    int inputs, outputs;
    const char *doc;
} Pass;

static const Pass passes[] = {
    {"survey", "(n)->(),(),(),(),()", 1, survey, survey_types, 1, 5,
     "Of each row: least, most, magnitude's bits of the least but 0, less 1; sum, and its rest."},
    {"survey_columns", "(m,n)->(n),(n),(n),(n),(n)", 2, survey_columns, survey_types, 1, 5,
     "The same of columns."},
    {"total", "(n),(n)->(),()", 1, total, total_types, 2, 2, "The sum of pairs."},
    {"moments", "(n)->(),(),(),(),(),()", 1, moments, moments_types, 1, 6,
     "Of each of many small sets: least, most, bits as of `survey`; mean, and its rest; m2."},
    {"moments_rows", "(c,k)->(),(),(),(),(),(c)", 2, moments_rows, moments_types, 1, 6,
     "Of each long row, in chunks: the same; in place of m2, the squares of x - mean in each chunk."},
    {"deviate", NULL, 0, deviate, deviate_types, 2, 1, "x - mean"},
    {"squares_columns", "(m,n),(n)->(n)", 2, squares_columns, deviate_types, 2, 1,
     "Of each column, the squares of x - mean, added up."},
    {"apply", NULL, 0, apply, apply_types, 4, 1, "(x - mean) * scale + shift"},
    {"apply_half", NULL, 0, apply_half, apply_half_types, 4, 1, "The same, as float16."},
    {"widen", NULL, 0, widen, widen_types, 1, 1, "float16 as float32."},
    {"apply_sets", "(n),(),(n),(n)->(n)", 1, apply_sets, apply_types, 4, 1, "As `apply`, of many small sets."},
    {"near", "(n),(p),(q),(r),()->()", 1, near, near_types, 5, 1,
     "Whether some magnitude of what `apply` gives is below the bound, or may be. p, q and r are 1 or n."},
    {"extremes", "(n)->(),()", 1, extremes, pairs_types, 1, 2, "Of each row of float64: least, most."},
    {"cut_rows", "(c,k),(),()->(c),(c),(c)", 2, cut_rows, pairs_types, 3, 3,
     "Of long rows of float64, the sums of what `cut` gives in each chunk, done twice."},
    {"squares_rows", "(c,k),()->(c)", 2, squares_rows, pairs_types, 2, 1,
     "Of the same, the squares of x - mean."},
    {"center_rows", "(c,k),(),(),(),()->(c),(c)", 2, center_rows, pairs_types, 5, 2,
     "Of the same, the squares about the mean: of what `center` gives, the sums of what `square` does."},
    {"cut", NULL, 0, cut, pairs_types, 2, 2, "As in gncli/pairs.py."},
    {"center", NULL, 0, center, pairs_types, 4, 2, "The same."},
    {"square", NULL, 0, square, pairs_types, 3, 2, "The same."},
    {"scale", NULL, 0, scale, pairs_types, 5, 1, "The same."},
    {"shift", NULL, 0, shift, pairs_types, 6, 1, "The same, with a shift."},
    {"center_scale", NULL, 0, center_scale, pairs_types, 7, 1, "`center` and `scale`."},
    {"center_shift", NULL, 0, center_shift, pairs_types, 8, 1, "`center` and `shift`."},
};

/* Whether this thread has the interpreter's lock. PyGILState_Check says that it has, whether or not it does,
   once there was a second interpreter. */
static int is_locked(void) {
#if PY_VERSION_HEX >= 0x030D0000
    PyThreadState *running = PyThreadState_GetUnchecked();
#else
    PyThreadState *running = _PyThreadState_UncheckedGet(); /* until 3.11, of whichever thread has it */
#endif
    return running && running == PyGILState_GetThisThreadState();
}

/* A pass without the interpreter's lock. numpy lets go of it itself, but for generalized ufuncs only where
   they have 500 rows or more, however long these are; and ours are few and long. */
static void unlocked(char **args, const n_t *dims, const n_t *steps, void *data) {
    const Pass *pass = data;
    n_t size = dims[0];
    for (int k = 1; k <= pass->cores; k++)
        size *= dims[k];
    PyThreadState *held = size >= LONG && is_locked() ? PyEval_SaveThread() : NULL;
    pass->loop(args, dims, steps, NULL);
    if (held)
        PyEval_RestoreThread(held);
}

static PyUFuncGenericFunction loop = unlocked;
static void *selves[sizeof passes / sizeof *passes];

static int find_dot(void) {
    PyObject *numpy = PyImport_ImportModule("numpy");
    PyObject *vecdot = numpy ? PyObject_GetAttrString(numpy, "vecdot") : NULL;
    Py_XDECREF(numpy);
    if (!vecdot)
        return -1;
    if (PyObject_TypeCheck(vecdot, &PyUFunc_Type)) {
        const PyUFuncObject *found = (PyUFuncObject *)vecdot;
        for (int k = 0; k < found->ntypes && !dot; k++)
            if (memcmp(found->types + 3 * k, dot_types, sizeof dot_types) == 0) {
                dot = found->functions[k];
                dot_data = found->data ? found->data[k] : NULL;
            }
    }
    if (!dot)
        PyErr_SetString(PyExc_ImportError, "numpy.vecdot is not as expected");
    Py_DECREF(vecdot); /* numpy keeps it, for as long as there is an interpreter */
    return dot ? 0 : -1;
}

static int execute(PyObject *module) {
    for (n_t j = 0; j < CHUNK; j++)
        ones[j] = 1;
    if (PyArray_ImportNumPyAPI() < 0 || PyUFunc_ImportUFuncAPI() < 0 || find_dot() < 0)
        return -1;
    for (size_t k = 0; k < sizeof passes / sizeof *passes; k++) {
        const Pass *pass = &passes[k];
        selves[k] = (void *)pass;
        PyObject *made = PyUFunc_FromFuncAndDataAndSignature(
            &loop, &selves[k], pass->types, 1, pass->inputs, pass->outputs, PyUFunc_None, pass->name,
            pass->doc, 0, pass->signature);
        int status = PyModule_AddObjectRef(module, pass->name, made);
        Py_XDECREF(made);
        if (status < 0)
            return -1;
    }
    return PyModule_AddIntConstant(module, "VERSION", VERSION);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#ifdef Py_mod_gil /* 3.13: or else a Python without a GIL gets one, and says so */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "gncli_kernel", .m_slots = slots};

PyMODINIT_FUNC PyInit_gncli_kernel(void) {
    return PyModuleDef_Init(&definition);
}
