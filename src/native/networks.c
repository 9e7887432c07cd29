/* The networks' inner loops on CPU. `native.py` calls them; the same in torch stands beside each call.
 *
 * Arrays are contiguous, reals are float, indices are int64. Nothing here allocates or keeps state. Loops over parts,
 * whose rows may come from anyone's encoder, end where one names a row that there is not, and give that part, else -1.
 */

#include "portable.h"

#define MOST_WIDTH 1024

/* exp(x) to 2 ulp for x in [-87, 20], beyond which mish(x) is 0 or x in float; NaN stays NaN. */
INLINE float exponential(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 20.0f ? 20.0f : x;
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float n = (x * 1.44269504f + magic) - magic;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    union { int32_t i; float f; } power = { ((int32_t)n + 127) << 23 };
    return y * power.f;
}

/* 1 / x to 1 ulp for positive x between 1e-18 and 1e18: a guess from the bits, then Newton; division takes twice as long. */
INLINE float reciprocal(float x)
{
    union { float f; int32_t i; } guess = { x };
    guess.i = 0x7EF311C7 - guess.i;
    float r = guess.f;
    r = r * (2.0f - x * r);
    r = r * (2.0f - x * r);
    r = r * (2.0f - x * r);
    return r;
}

/* mish(x) = x tanh(log(1 + e^x)) = x n / (n + 2) with n = e^x (e^x + 2), and its slope. */
INLINE float mish(float x)
{
    float e = exponential(x), n = e * (e + 2.0f);
    return x * (n * reciprocal(n + 2.0f));
}

INLINE float mish_slope(float x)
{
    float e = exponential(x), n = e * (e + 2.0f), r = reciprocal(n + 2.0f);
    return n * r + 4.0f * x * (e * r) * ((1.0f + e) * r);
}

/* Layer normalisation of one group; leaves the standardised values in `m` and returns 1 / deviation. */
INLINE float standardise(float *m, int64_t width)
{
    float sum = 0.0f, squares = 0.0f;
    SIMD_SUM(sum) for (int64_t k = 0; k < width; k++) sum += m[k];
    float mean = sum / (float)width;
    SIMD_SUM(squares) for (int64_t k = 0; k < width; k++) { m[k] -= mean; squares += m[k] * m[k]; }
    float scale = 1.0f / sqrtf(squares / (float)width + 1e-5f);
    SIMD for (int64_t k = 0; k < width; k++) m[k] *= scale;
    return scale;
}

INLINE void mish_norm_columns(const float *x, const float *gain, const float *shift, float *out, int64_t width,
                          int64_t group)
{
    float m[MOST_WIDTH];
    SIMD for (int64_t k = 0; k < width; k++) m[k] = mish(x[k]);
    for (int64_t g = 0; g < width; g += group) {
        standardise(m + g, group);
        SIMD for (int64_t k = g; k < g + group; k++) out[k] = m[k] * gain[k] + shift[k];
    }
}

/* From the gradient of the output of a row to that of its input, and, added up, of gain and shift. */
INLINE void mish_norm_columns_back(const float *x, const float *gain, const float *dy, float *dx, float *dgain,
                               float *dshift, int64_t width, int64_t group)
{
    float m[MOST_WIDTH], slope[MOST_WIDTH];
    SIMD for (int64_t k = 0; k < width; k++) {
        float e = exponential(x[k]), n = e * (e + 2.0f), r = reciprocal(n + 2.0f);
        m[k] = x[k] * (n * r);
        slope[k] = n * r + 4.0f * x[k] * (e * r) * ((1.0f + e) * r);
    }
    for (int64_t g = 0; g < width; g += group) {
        float scale = standardise(m + g, group), mean = 0.0f, along = 0.0f;
        SIMD_SUM(mean)
        for (int64_t k = g; k < g + group; k++) mean += dy[k] * gain[k];
        SIMD_SUM(along) for (int64_t k = g; k < g + group; k++) along += dy[k] * gain[k] * m[k];
        mean /= (float)group;
        along /= (float)group;
        SIMD for (int64_t k = g; k < g + group; k++) {
            dgain[k] += dy[k] * m[k];
            dshift[k] += dy[k];
            dx[k] = (dy[k] * gain[k] - mean - m[k] * along) * scale * slope[k];
        }
    }
}

/* The same with the usual widths known to the compiler, which then unrolls their loops. */
INLINE void mish_norm_row(const float *x, const float *gain, const float *shift, float *out, int64_t width,
                          int64_t group)
{
    if (width == 64 && group == 64)
        mish_norm_columns(x, gain, shift, out, 64, 64);
    else if (width == 128 && group == 64)
        mish_norm_columns(x, gain, shift, out, 128, 64);
    else
        mish_norm_columns(x, gain, shift, out, width, group);
}

INLINE void mish_norm_row_back(const float *x, const float *gain, const float *dy, float *dx, float *dgain,
                               float *dshift, int64_t width, int64_t group)
{
    if (width == 64 && group == 64)
        mish_norm_columns_back(x, gain, dy, dx, dgain, dshift, 64, 64);
    else if (width == 128 && group == 64)
        mish_norm_columns_back(x, gain, dy, dx, dgain, dshift, 128, 64);
    else
        mish_norm_columns_back(x, gain, dy, dx, dgain, dshift, width, group);
}

/* y = x w + bias for a few rows and columns, so few that all sums stay in registers. */
INLINE void tile(const float *x, const float *w, const float *bias, float *y, int64_t in, int64_t out, int rows,
                 int columns)
{
    float sums[4][64];
    for (int r = 0; r < rows; r++)
        SIMD for (int c = 0; c < columns; c++) sums[r][c] = bias ? bias[c] : 0.0f;
    for (int64_t k = 0; k < in; k++)
        for (int r = 0; r < rows; r++)
            SIMD for (int c = 0; c < columns; c++) sums[r][c] += x[r * in + k] * w[k * out + c];
    for (int r = 0; r < rows; r++)
        SIMD for (int c = 0; c < columns; c++) y[r * out + c] = sums[r][c];
}

INLINE void linear_rows(const float *x, const float *w, const float *bias, float *y, int64_t in, int64_t out, int rows)
{
    int64_t c = 0;
    for (; HAS_WIDEST && c + 64 <= out; c += 64) tile(x, w + c, bias ? bias + c : NULL, y + c, in, out, rows, 64);
    for (; c < out; c += 16) tile(x, w + c, bias ? bias + c : NULL, y + c, in, out, rows, 16);
}

/* linear: x w + bias into `linear`; then Mish of it and, if there is a gain, LayerNorm into `y`, if there is one.
 * `out` is a multiple of 16, `bias` may be missing, `linear` too if there is a `y`. */
HOT void dense_forward(const float *x, const float *w, const float *bias, const float *gain, const float *shift,
                       float *linear, float *y, int64_t rows, int64_t in, int64_t out)
{
    float scratch[4 * MOST_WIDTH];
    for (int64_t i = 0; i < rows; i += 4) {
        int64_t n = rows - i < 4 ? rows - i : 4;
        float *z = linear ? linear + i * out : scratch;
        if (n == 4)
            linear_rows(x + i * in, w, bias, z, in, out, 4);
        else
            for (int64_t r = 0; r < n; r++) linear_rows(x + (i + r) * in, w, bias, z + r * out, in, out, 1);
        if (y && gain)
            for (int64_t r = 0; r < n; r++) mish_norm_row(z + r * out, gain, shift, y + (i + r) * out, out, out);
        else if (y)
            SIMD for (int64_t k = 0; k < n * out; k++) y[i * out + k] = mish(z[k]);
    }
}

/* From the gradient of Mish, and of LayerNorm if there is a gain, to that of bias, gain and shift; then either to that
 * of `linear`, or, where there is an `x`, to that of its weight. */
HOT void dense_backward(const float *linear, const float *gain, const float *dy, const float *x, float *dlinear,
                        float *dw, float *dbias, float *dgain, float *dshift, int64_t rows, int64_t in, int64_t out)
{
    float scratch[MOST_WIDTH];
    for (int64_t i = 0; i < rows; i++) {
        const float *z = linear + i * out, *dyi = dy + i * out;
        float *dz = x ? scratch : dlinear + i * out;
        if (gain)
            mish_norm_row_back(z, gain, dyi, dz, dgain, dshift, out, out);
        else
            SIMD for (int64_t k = 0; k < out; k++) dz[k] = dyi[k] * mish_slope(z[k]);
        SIMD for (int64_t k = 0; k < out; k++) dbias[k] += dz[k];
        for (int64_t j = 0; x && j < in; j++)
            SIMD for (int64_t k = 0; k < out; k++) dw[j * out + k] += x[i * in + j] * dz[k];
    }
}

/* Weights of four knots in a row for cubic interpolation at the part t of the way from the second to the third. */
INLINE void stencil(float t, float w[4])
{
    w[0] = -t * (t - 1.0f) * (t - 2.0f) / 6.0f;
    w[1] = (t + 1.0f) * (t - 1.0f) * (t - 2.0f) / 2.0f;
    w[2] = -(t + 1.0f) * t * (t - 2.0f) / 2.0f;
    w[3] = (t + 1.0f) * t * (t - 1.0f) / 6.0f;
}

/* out = rows of a table interpolated between four knots, the first of which is given. */
HOT void interpolate_forward(const float *knots, const int64_t *first, const float *t, float *out, int64_t rows,
                             int64_t width)
{
    float w[4];
    for (int64_t i = 0; i < rows; i++) {
        const float *k0 = knots + first[i] * width, *k1 = k0 + width, *k2 = k1 + width, *k3 = k2 + width;
        stencil(t[i], w);
        SIMD for (int64_t k = 0; k < width; k++)
            out[i * width + k] = w[0] * k0[k] + w[1] * k1[k] + w[2] * k2[k] + w[3] * k3[k];
    }
}

HOT void interpolate_backward(const int64_t *first, const float *t, const float *dout, float *dknots, int64_t rows,
                              int64_t width)
{
    float w[4];
    for (int64_t i = 0; i < rows; i++) {
        float *d0 = dknots + first[i] * width, *d1 = d0 + width, *d2 = d1 + width, *d3 = d2 + width;
        stencil(t[i], w);
        SIMD for (int64_t k = 0; k < width; k++) {
            float d = dout[i * width + k];
            d0[k] += w[0] * d;
            d1[k] += w[1] * d;
            d2[k] += w[2] * d;
            d3[k] += w[3] * d;
        }
    }
}

INLINE void triple_row(const float *center, const float *neighbor, const float *knots, const float w[4], float *x,
                       int64_t width)
{
    const float *k0 = knots, *k1 = k0 + width, *k2 = k1 + width, *k3 = k2 + width;
    SIMD for (int64_t k = 0; k < width; k++)
        x[k] = center[k] + neighbor[k] + (w[0] * k0[k] + w[1] * k1[k] + w[2] * k2[k] + w[3] * k3[k]);
}

/* The layer on each triple. Of its columns, the first `group` are summed into a logit, the rest kept. */
HOT void triples_forward(const float *center, const int64_t *of_center, const float *neighbor,
                         const int64_t *of_neighbor, const float *knots, const int64_t *first, const float *t,
                         const float *gain, const float *shift, float *logit, float *out, int64_t rows, int64_t width, int64_t group)
{
    float x[MOST_WIDTH], y[MOST_WIDTH], w[4];
    for (int64_t i = 0; i < rows; i++) {
        float sum = 0.0f;
        stencil(t[i], w);
        triple_row(center + of_center[i] * width, neighbor + of_neighbor[i] * width, knots + first[i] * width, w, x,
                   width);
        mish_norm_row(x, gain, shift, y, width, group);
        SIMD_SUM(sum) for (int64_t k = 0; k < group; k++) sum += y[k];
        logit[i] = sum;
        memcpy(out + i * (width - group), y + group, sizeof(float) * (size_t)(width - group));
    }
}

HOT void triples_backward(const float *center, const int64_t *of_center, const float *neighbor,
                          const int64_t *of_neighbor, const float *knots, const int64_t *first, const float *t,
                          const float *gain, const float *dlogit, const float *dout, float *dcenter, float *dneighbor, float *dknots,
                          float *dgain, float *dshift, int64_t rows, int64_t width, int64_t group)
{
    float x[MOST_WIDTH], dx[MOST_WIDTH], dy[MOST_WIDTH], w[4];
    for (int64_t i = 0; i < rows; i++) {
        int64_t c = of_center[i] * width, n = of_neighbor[i] * width, knot = first[i] * width;
        stencil(t[i], w);
        triple_row(center + c, neighbor + n, knots + knot, w, x, width);
        SIMD for (int64_t k = 0; k < group; k++) dy[k] = dlogit[i];
        memcpy(dy + group, dout + i * (width - group), sizeof(float) * (size_t)(width - group));
        mish_norm_row_back(x, gain, dy, dx, dgain, dshift, width, group);
        float *d0 = dknots + knot, *d1 = d0 + width, *d2 = d1 + width, *d3 = d2 + width;
        SIMD for (int64_t k = 0; k < width; k++) {
            dcenter[c + k] += dx[k];
            dneighbor[n + k] += dx[k];
            d0[k] += w[0] * dx[k];
            d1[k] += w[1] * dx[k];
            d2[k] += w[2] * dx[k];
            d3[k] += w[3] * dx[k];
        }
    }
}

INLINE int is_outside(int64_t row, int64_t rows) { return (uint64_t)row >= (uint64_t)rows; }

/* Softmax of the logits of each site's pairs, where a pair counts `count` times, and with it the mean of their values.
 * Pairs are grouped by center; sites without pairs keep zeros. */
HOT int64_t attention_forward(const float *logit, const float *values, const int64_t *row, const int64_t *center,
                              const float *count, float *share, float *out, int64_t pairs, int64_t width, int64_t rows,
                              int64_t centers)
{
    for (int64_t begin = 0, end; begin < pairs; begin = end) {
        if (is_outside(center[begin], centers)) return begin;
        float top = -INFINITY, total = 0.0f, *sum = out + center[begin] * width;
        for (end = begin; end < pairs && center[end] == center[begin]; end++) {
            if (is_outside(row[end], rows)) return end;
            top = logit[row[end]] > top ? logit[row[end]] : top;
        }
        for (int64_t p = begin; p < end; p++) share[p] = logit[row[p]] - top;
        SIMD_SUM(total) for (int64_t p = begin; p < end; p++) {
            share[p] = count[p] * exponential(share[p]);
            total += share[p];
        }
        for (int64_t p = begin; p < end; p++) {
            const float *value = values + row[p] * width;
            share[p] /= total;
            SIMD for (int64_t k = 0; k < width; k++) sum[k] += share[p] * value[k];
        }
    }
    return -1;
}

HOT void attention_backward(const float *share, const float *values, const int64_t *row, const int64_t *center,
                            const float *dout, float *dlogit, float *dvalues, float *scratch, int64_t pairs,
                            int64_t width)
{
    for (int64_t begin = 0, end; begin < pairs; begin = end) {
        const float *d = dout + center[begin] * width;
        float mean = 0.0f;
        for (end = begin; end < pairs && center[end] == center[begin]; end++) {
            const float *value = values + row[end] * width;
            float *dvalue = dvalues + row[end] * width, along = 0.0f;
            SIMD_SUM(along) for (int64_t k = 0; k < width; k++) along += d[k] * value[k];
            SIMD for (int64_t k = 0; k < width; k++) dvalue[k] += share[end] * d[k];
            scratch[end] = along;
            mean += share[end] * along;
        }
        for (int64_t p = begin; p < end; p++) dlogit[row[p]] += share[p] * (scratch[p] - mean);
    }
}

/* Rows in no order come from far away: ask for one some steps before it is needed. */
INLINE void fetch(const float *table, const int64_t *row, int64_t at, int64_t n, int64_t width)
{
    const float *next = table + row[at + 8 < n ? at + 8 : n - 1] * width;
    for (int64_t k = 0; k < width; k += 16) __builtin_prefetch(next + k);
}

HOT int64_t weighted_sum(const float *values, const int64_t *row, const float *weight, const int64_t *owner, float *out,
                         int64_t parts, int64_t width, int64_t rows, int64_t owners)
{
    for (int64_t p = 0; p < parts; p++) {
        if (is_outside(row[p], rows) || is_outside(owner[p], owners)) return p;
        const float *value = values + row[p] * width;
        float *sum = out + owner[p] * width, w = weight[p];
        fetch(values, row, p, parts, width);
        fetch(out, owner, p, parts, width);
        SIMD for (int64_t k = 0; k < width; k++) sum[k] += w * value[k];
    }
    return -1;
}

HOT int64_t paired_dot(const float *left, const float *right, const int64_t *left_row, const int64_t *right_row,
                       float *out, int64_t parts, int64_t width, int64_t lefts, int64_t rights)
{
    for (int64_t p = 0; p < parts; p++) {
        if (is_outside(left_row[p], lefts) || is_outside(right_row[p], rights)) return p;
        const float *a = left + left_row[p] * width, *b = right + right_row[p] * width;
        float dot = 0.0f;
        fetch(left, left_row, p, parts, width);
        fetch(right, right_row, p, parts, width);
        SIMD_SUM(dot) for (int64_t k = 0; k < width; k++) dot += a[k] * b[k];
        out[p] = dot;
    }
    return -1;
}
