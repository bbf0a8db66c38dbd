/* The peaks of smoothed maps and their gradient, as smoothing.py defines them. It compiles this file where it finds a
   compiler, for `real` float or double, and does without elsewhere. Maps are [n, h, w], row by row; a kernel of size
   2r + 1 is given as weights[0..r], from its middle outwards. */
#include <math.h>
#include <stdint.h>
#include <string.h>

static int64_t reflect(int64_t i, int64_t size) {
    if (i < 0) i = -i;
    return i < size ? i : 2 * (size - 1) - i;
}

static inline void find_with(const real *maps, int64_t n, int64_t h, int64_t w, const real *weights, int64_t r,
                             real *peaks, int64_t *pixels) {
    const int64_t wide = w + 2 * r;
    real columns[h * wide], smoothed[w]; /* smoothed vertically, with room for the reflection; a row smoothed both ways */
    for (int64_t m = 0; m < n; m++, maps += h * w) {
        for (int64_t y = 0; y < h; y++) {
            real *row = columns + y * wide + r;
            for (int64_t x = 0; x < w; x++) row[x] = weights[0] * maps[y * w + x];
            for (int64_t i = 1; i <= r; i++) {
                const real *above = maps + reflect(y - i, h) * w, *below = maps + reflect(y + i, h) * w;
                for (int64_t x = 0; x < w; x++) row[x] += weights[i] * (above[x] + below[x]);
            }
            for (int64_t i = 1; i <= r; i++) {
                row[-i] = row[i];
                row[w - 1 + i] = row[w - 1 - i];
            }
        }
        real peak = -INFINITY;
        int64_t pixel = 0;
        int infinite = 0;
        for (int64_t y = 0; y < h; y++) {
            const real *row = columns + y * wide + r;
            int higher = 0;
            for (int64_t x = 0; x < w; x++) smoothed[x] = weights[0] * row[x];
            for (int64_t i = 1; i <= r; i++)
                for (int64_t x = 0; x < w; x++) smoothed[x] += weights[i] * (row[x - i] + row[x + i]);
            for (int64_t x = 0; x < w; x++) {
                higher |= smoothed[x] > peak;
                infinite |= smoothed[x] - smoothed[x] != 0;
            }
            for (int64_t x = 0; higher && x < w; x++)
                if (smoothed[x] > peak) {
                    peak = smoothed[x];
                    pixel = y * w + x;
                }
        }
        peaks[m] = infinite ? NAN : peak;
        pixels[m] = pixel;
    }
}

/* The largest smoothed value of each map and the first pixel that has it; NaN for a map that is not finite. */
void find(const real *maps, int64_t n, int64_t h, int64_t w, const real *weights, int64_t r, real *peaks,
          int64_t *pixels) {
    if (r == 1)
        find_with(maps, n, h, w, weights, 1, peaks, pixels); /* the usual kernel, its loops unrolled */
    else
        find_with(maps, n, h, w, weights, r, peaks, pixels);
}

/* What the peaks' slopes, `stride` apart, are for the maps: non-zero on the pixels that the kernel reaches. */
void spread(const int64_t *pixels, const real *slopes, int64_t stride, int64_t n, int64_t h, int64_t w,
            const real *weights, int64_t r, real *gradients) {
    memset(gradients, 0, n * h * w * sizeof(real));
    for (int64_t m = 0; m < n; m++, gradients += h * w) {
        const int64_t y = pixels[m] / w, x = pixels[m] % w;
        for (int64_t i = -r; i <= r; i++) {
            real *row = gradients + reflect(y + i, h) * w;
            const real slope = slopes[m * stride] * weights[i < 0 ? -i : i];
            for (int64_t j = -r; j <= r; j++) row[reflect(x + j, w)] += slope * weights[j < 0 ? -j : j];
        }
    }
}
